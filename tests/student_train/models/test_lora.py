"""Adapters in the language model: they alone train in it, and merged they leave the model as it was built."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from schemas.errors import BadInput
from schemas.train import FitReport, LoraConfig, ModelConfig, TrainConfig
from student_train.models.build import build_student, load_student
from student_train.models.lora import add_adapters, merge_adapters
from student_train.training.fit import fit


def config(store: Path, output: Path) -> TrainConfig:
    base = {"store": str(store), "output": str(output), "mode": "latent", "steps": 2, "batch": 2, "decoder": {"hidden": 64}}
    return TrainConfig.model_validate(
        base | {"data": {"video_root": "/"}, "lora": {"rank": 4, "dropout": 0.1}, "optim": {"learning_rate": 2e-3}}
    )


def test_merged_adapters_give_the_same_logits() -> None:
    torch.manual_seed(0)
    student = build_student(ModelConfig()).eval()
    llm = student.parts()["llm"]
    before = {name: tuple(weight.shape) for name, weight in llm.named_parameters()}
    ids = torch.randint(3, 100, (2, 12))
    mask = torch.ones_like(ids)
    with torch.no_grad():
        plain = student(ids, mask).logits
        adapters = add_adapters(llm, LoraConfig(rank=4))
        torch.testing.assert_close(student(ids, mask).logits, plain, rtol=0, atol=0)  # they begin at nothing
        for name, weight in llm.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(weight, std=0.5)
        adapted = student(ids, mask).logits
        assert not torch.allclose(adapted, plain, atol=1e-2)
        merge_adapters(adapters)
        torch.testing.assert_close(student(ids, mask).logits, adapted, rtol=1e-4, atol=1e-4)
    assert {name: tuple(weight.shape) for name, weight in llm.named_parameters()} == before


@pytest.fixture(scope="module")
def adapted(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> FitReport:
    return fit(config(tiny_store, tmp_path_factory.mktemp("lora") / "run"))


def test_the_adapters_train_in_the_place_of_the_language_model(adapted: FitReport) -> None:
    parts = adapted.parameters
    assert adapted.trained_parameters == parts["adapters"] + parts["projector"] + parts["perception_decoder"]
    torch.manual_seed(0)
    began = build_student(ModelConfig()).model.state_dict()
    ended = load_student(Path(adapted.output) / "student").model.state_dict()
    changed = {name for name in began if not torch.equal(began[name], ended[name])}
    assert {name.split(".")[-2] for name in changed if name.startswith("llm.")} == set(LoraConfig().targets)


def test_the_saved_student_is_as_without_adapters(adapted: FitReport) -> None:
    plain = build_student(ModelConfig()).model
    saved = load_student(Path(adapted.output) / "student").model
    assert {n: p.shape for n, p in saved.named_parameters()} == {n: p.shape for n, p in plain.named_parameters()}
    assert "peft" not in json.dumps(saved.config.to_dict()).lower()
    assert not list(Path(adapted.output).rglob("adapter*"))


def test_a_target_that_the_model_lacks_is_named(tiny_store: Path, tmp_path: Path) -> None:
    wrong = config(tiny_store, tmp_path / "run").model_copy(update={"lora": LoraConfig(targets=("q_proj", "query"))})
    with pytest.raises(BadInput, match=r"no linear layer called query, .*q_proj"):
        fit(wrong)
    assert not (tmp_path / "run").exists()


def test_adapters_in_a_frozen_model_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"leave `llm` out of `model.freeze`"):
        TrainConfig.model_validate({"store": "s", "output": "o", "lora": {}, "model": {"freeze": ["llm"]}})
