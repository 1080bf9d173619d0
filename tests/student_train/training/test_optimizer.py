"""Muon for the matrices of linear layers and AdamW for the rest, as one optimizer that schedules and checkpoints know."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from schemas.train import TrainConfig
from student_train.models.nvila import tiny
from student_train.training.fit import fit
from student_train.training.optimizer import layer_matrices, with_learning_rates, with_muon


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(7, 8), nn.Linear(8, 12), nn.LayerNorm(12), nn.Linear(12, 7))


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(torch.arange(7)), torch.arange(7)).backward()
    optimizer.step()


def joined(model: nn.Sequential) -> torch.optim.Optimizer:
    adamw = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    return with_muon(adamw, layer_matrices(model, model[3]), learning_rate=0.01, weight_decay=0.1)


def test_each_weight_moves_by_its_own_rule() -> None:
    model = make_model()
    by_hand = copy.deepcopy(model)
    muon = torch.optim.Muon([by_hand[1].weight], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW([p for p in by_hand.parameters() if p is not by_hand[1].weight], lr=0.01, weight_decay=0.1)
    optimizer = joined(model)
    for _ in range(3):
        step(model, optimizer)
        muon.zero_grad()
        step(by_hand, adamw)
        muon.step()
    assert all(a.equal(b) for a, b in zip(model.parameters(), by_hand.parameters(), strict=True))


@pytest.mark.parametrize("by_muon", [False, True])
def test_weights_with_a_learning_rate_of_their_own_move_by_it(by_muon: bool) -> None:
    models = [make_model() for _ in range(2)]
    begun = copy.deepcopy(models[0])
    for model, rate in zip(models, (0.01, 0.03), strict=True):
        adamw = torch.optim.AdamW(model.parameters(), lr=0.01)
        muon = with_muon(adamw, layer_matrices(model, model[3]), learning_rate=0.01, weight_decay=0.0)
        optimizer = with_learning_rates(muon if by_muon else adamw, dict.fromkeys(model[1].parameters(), rate))
        assert {group["lr"] for group in optimizer.param_groups} == {0.01, rate}
        step(model, optimizer)
    for name, start in begun.named_parameters():
        slow, fast = (model.get_parameter(name) - start for model in models)
        torch.testing.assert_close(fast, slow * (3 if name.startswith("1.") else 1), rtol=1e-2, atol=1e-6)


def test_what_was_saved_goes_on_the_same() -> None:
    model = make_model()
    optimizer = joined(model)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    step(model, optimizer)
    schedule.step()
    assert {group["lr"] for group in optimizer.param_groups} == {0.005}
    other = copy.deepcopy(model)
    again = joined(other)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    torch.optim.lr_scheduler.ExponentialLR(again, 0.5).load_state_dict(schedule.state_dict())
    for _ in range(2):
        step(model, optimizer)
        step(other, again)
    assert all(a.equal(b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_embeddings_convolutions_and_the_head_are_not_muons() -> None:
    student = tiny("before_projector").model
    student.vision_tower.requires_grad_(False)
    chosen = layer_matrices(student, student.get_output_embeddings())
    names = {name for name, weight in student.named_parameters() if any(weight is matrix for matrix in chosen)}
    assert len(names) == len(chosen)
    assert names == {
        name
        for name, weight in student.named_parameters()
        if weight.dim() == 2 and not name.startswith("vision_tower") and "embed" not in name and "lm_head" not in name
    }


def test_a_fit_by_muon_resumes_exactly(tiny_store: Path, tmp_path: Path) -> None:
    def run() -> tuple[list[float], bytes]:
        settings = {
            "store": str(tiny_store), "output": str(tmp_path), "mode": "latent", "decoder": {"hidden": 64},
            "optim": {"optimizer": "muon", "learning_rate": 5e-3}, "steps": 5, "batch": 2, "checkpoint_every": 3,
            "data": {"video_root": "/"},
        }  # fmt: skip
        fit(TrainConfig.model_validate(settings), resume=True)
        lines = map(json.loads, (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
        return [line["loss"] for line in lines], (tmp_path / "student" / "model.safetensors").read_bytes()

    whole = run()
    (tmp_path / "result.json").unlink()  # as it was before its last steps
    assert run() == whole


def test_muon_and_sharding_exclude_each_other() -> None:
    with pytest.raises(ValidationError, match="whole matrices, and `fsdp` shards them"):
        TrainConfig.model_validate({"store": "s", "output": "o", "optim": {"optimizer": "muon"}, "fsdp": "full_shard"})
