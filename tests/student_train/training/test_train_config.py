"""TRAIN.yaml: recipes by name, changes to them, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.errors import BadInput
from schemas.train import RECIPES, LossConfig, OptimConfig, TrainConfig
from student_train.training.fit import optimizer_steps
from teacher_cache.io.config import load_yaml


def write(folder: Path, text: str) -> Path:
    path = folder / "train.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_two_keys_are_enough(tmp_path: Path) -> None:
    config = load_yaml(write(tmp_path, "store: s3://bucket/store\noutput: run\n"), TrainConfig)
    assert config.loss.resolved() == RECIPES["paper"]
    assert (config.mode, config.decoder.kind, config.decoder.hidden) == ("heads", "mlp3", 2560)


def test_a_recipe_is_whole() -> None:
    paper = TrainConfig(store="s", output="o")
    assert (paper.epochs, paper.steps, paper.decoder.kind, paper.model.freeze) == (5, None, "mlp3", ("vision_tower",))
    released = TrainConfig.model_validate({"store": "s", "output": "o", "recipe": "released"})
    assert released.loss.resolved() == RECIPES["released"]
    assert (released.epochs, released.decoder.kind, released.model.freeze) == (10, "linear", ("vision_tower", "projector"))
    assert released.optim == paper.optim == OptimConfig(learning_rate=1e-5, warmup=0.03, schedule="cosine", weight_decay=0)


def test_what_is_given_comes_before_the_recipe() -> None:
    given = {"recipe": "released", "steps": 3, "decoder": {"hidden": 64}, "loss": {"alpha": 0.5}, "model": {"freeze": []}}
    config = TrainConfig.model_validate({"store": "s", "output": "o", **given})
    assert (config.steps, config.epochs, config.model.freeze) == (3, None, ())
    assert (config.decoder.kind, config.decoder.hidden) == ("linear", 64)
    assert (config.loss.resolved().alpha, config.loss.resolved().weights["flow"]) == (0.5, 0.001)
    built = TrainConfig(store="s", output="o", recipe="released", loss=LossConfig(beta=0.5))
    assert built.loss == LossConfig(recipe="released", beta=0.5)
    for one in (config, built):  # as a run's config.json is read again
        assert TrainConfig.model_validate_json(one.model_dump_json()) == one


def test_epochs_are_counted_in_steps_of_all_processes() -> None:
    config = TrainConfig(store="s", output="o", epochs=1.5, batch=2, accumulate=2)
    assert [optimizer_steps(config, samples, processes) for samples, processes in ((16, 1), (17, 1), (16, 3))] == [6, 7, 2]
    assert optimizer_steps(config.model_copy(update={"steps": 9}), 16, 1) == 9


def test_the_papers_weights() -> None:
    paper = LossConfig(recipe="paper").resolved()
    assert (paper.alpha, paper.beta, paper.reduction) == (0.5, 0.1, "frame_sum")
    assert paper.weights == {"depth": 1.0, "flow": 0.1, "motion": 0.05, "camray": 0.05}


def test_the_released_codes_weights() -> None:
    released = LossConfig(recipe="released").resolved()
    assert (released.alpha, released.beta, released.reduction) == (0.01, 1.0, "mean")
    assert not released.mask_first_flow_frame
    assert released.weights == {"depth": 0.1, "flow": 0.001, "motion": 0.01, "camray": 1e-5}


def test_changes_keep_the_rest_of_the_recipe() -> None:
    changed = LossConfig(recipe="released", alpha=0.0, weights={"camray": 0.0}, depth="linear").resolved()
    assert changed.alpha == 0
    assert changed.weights == {**RECIPES["released"].weights, "camray": 0.0}
    assert (changed.reduction, changed.depth) == ("mean", "linear")
    assert RECIPES["released"].weights["camray"] == 1e-5


def test_one_conversation_file_needs_no_list(tmp_path: Path) -> None:
    config = load_yaml(write(tmp_path, "store: s\noutput: o\ndata: {conversations: train.json}\n"), TrainConfig)
    assert config.data.conversations == ("train.json",)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("store: s\noutput: o\nlearning_rat: 1", "learning_rat"),
        ("store: s\noutput: o\noptim: {learning_rat: 1}", "did you mean `learning_rate`"),
        ("store: s\noutput: o\nloss: {recipe: papr}", "loss.recipe"),
        ("store: s\noutput: o\nloss: {weights: {dept: 1}}", "dept"),
        ("store: s\noutput: o\nloss: {weights: {depth: -1}}", "negative: depth"),
        ("output: o", "store: missing"),
        ("store: s\noutput: o\nsteps: 0", "steps"),
        ("store: s\noutput: o\nsteps: 5\nepochs: 2", "`steps` is 5 and `epochs` is 2; give one of them"),
        ("store: s\noutput: o\nmodel: {dtype: bfloat16}", "weights in two dtypes need `precision: bf16`"),
        ("store: s\noutput: o\nrecipe: papr", "recipe"),
        ("store: s\noutput: o\noptim: {part_learning_rates: {tower: 1}}", "tower"),
        ("store: s\noutput: o\nkeep_checkpoints: 0", "keep_checkpoints"),
        ("store: s\noutput: o\nprecision: fp16", "precision"),
        ("store: s\noutput: o\nfsdp: full_shard\nprecision: bf16\nmodel: {dtype: bfloat16}", "shards weights in float32"),
        ("store: s\noutput: o\nmode: latent\nloss: {alpha: 0}", "nothing would be distilled"),
        ("store: s\noutput: o\nloss: {alpha: 0, beta: 0}", "nothing would be distilled"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(BadInput, match=expected):
        load_yaml(write(tmp_path, text), TrainConfig)
