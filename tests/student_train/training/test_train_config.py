"""TRAIN.yaml: recipes by name, changes to them, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.errors import BadInput
from schemas.train import RECIPES, LossConfig, TrainConfig
from teacher_cache.io.config import load_yaml


def write(folder: Path, text: str) -> Path:
    path = folder / "train.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_two_keys_are_enough(tmp_path: Path) -> None:
    config = load_yaml(write(tmp_path, "store: s3://bucket/store\noutput: run\n"), TrainConfig)
    assert config.loss.resolved() == RECIPES["paper"]
    assert (config.mode, config.decoder.kind, config.decoder.hidden) == ("heads", "mlp3", 2560)


def test_the_papers_weights() -> None:
    paper = LossConfig(recipe="paper").resolved()
    assert (paper.alpha, paper.beta, paper.reduction) == (0.5, 0.1, "frame_sum")
    assert paper.weights == {"depth": 1.0, "flow": 0.1, "motion": 0.05, "camray": 0.05}


def test_the_released_codes_weights() -> None:
    released = LossConfig(recipe="released").resolved()
    assert (released.alpha, released.beta, released.reduction) == (0.01, 1.0, "mean")
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
        ("store: s\noutput: o\nkeep_checkpoints: 0", "keep_checkpoints"),
        ("store: s\noutput: o\nprecision: fp16", "precision"),
        ("store: s\noutput: o\nfsdp: full_shard\nmodel: {dtype: bfloat16}", "shards weights in float32"),
        ("store: s\noutput: o\nmode: latent\nloss: {alpha: 0}", "nothing would be distilled"),
        ("store: s\noutput: o\nloss: {alpha: 0, beta: 0}", "nothing would be distilled"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(BadInput, match=expected):
        load_yaml(write(tmp_path, text), TrainConfig)
