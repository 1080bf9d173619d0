"""P4D as one module: which signals it wants, how it weighs them, what it does without them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import pytest
import torch
from torch import nn

from schemas.errors import BadInput
from schemas.train import RECIPES, DecoderConfig, LossConfig, LossRecipe
from student_train.p4d import P4D
from student_train.perception import LinearDecoder
from student_train.targets import TargetReader
from teacher_cache import open_cache

F4D = (2, 8, 4, 4, 6)
SHAPES = {"f4d": F4D, "depth": (16, 8, 8), "flow": (16, 8, 8, 2), "motion": (16, 8, 8), "camray": (16, 4, 4, 6)}


class LinearHeads(nn.Module):
    """Frozen heads small enough to reason about: each map is one number of F4D, spread over the map's shape."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5), requires_grad=False)

    def raw(self, f4d: torch.Tensor, signals: Collection[str]) -> dict[str, torch.Tensor]:
        value = self.scale * f4d.flatten(1).mean(1)  # (clip,)
        return {s: value.view(-1, *[1] * len(SHAPES[s])).expand(-1, *SHAPES[s]) for s in SHAPES if s in signals}


@pytest.fixture
def hidden() -> torch.Tensor:
    return torch.randn(3, 16, 4, 4, 10, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def targets() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.rand(3, *shape, generator=generator) + 0.5 for name, shape in SHAPES.items()}


def p4d(recipe: LossRecipe = RECIPES["paper"], heads: nn.Module | None = None) -> P4D:
    torch.manual_seed(2)
    return P4D(LinearDecoder(10, F4D), recipe, heads)


def test_without_heads_there_is_latent_distillation_alone(hidden: torch.Tensor, targets: dict[str, torch.Tensor]) -> None:
    losses = p4d()(hidden, {"f4d": targets["f4d"]})
    assert list(losses.parts) == ["ld"]
    torch.testing.assert_close(losses.total.detach(), 0.5 * losses.parts["ld"])


def test_the_total_is_the_weighted_sum_of_the_parts(hidden: torch.Tensor, targets: dict[str, torch.Tensor]) -> None:
    losses = p4d(heads=LinearHeads())(hidden, targets)
    parts = losses.parts
    explicit = parts["ed_depth"] + 0.1 * parts["ed_flow"] + 0.05 * parts["ed_motion"] + 0.05 * parts["ed_camray"]
    torch.testing.assert_close(losses.total.detach(), 0.5 * parts["ld"] + 0.1 * explicit)


def test_the_released_total(hidden: torch.Tensor, targets: dict[str, torch.Tensor]) -> None:
    losses = p4d(RECIPES["released"], LinearHeads())(hidden, targets)
    parts = losses.parts
    explicit = 0.1 * parts["ed_depth"] + 0.001 * parts["ed_flow"] + 0.01 * parts["ed_motion"] + 1e-5 * parts["ed_camray"]
    torch.testing.assert_close(losses.total.detach(), 0.01 * parts["ld"] + explicit)


@pytest.mark.parametrize(
    ("changes", "signals"),
    [
        ({}, ("f4d", "depth", "flow", "motion", "camray")),
        ({"alpha": 0.0}, ("depth", "flow", "motion", "camray")),
        ({"beta": 0.0}, ("f4d",)),
        ({"weights": {"flow": 0.0, "camray": 0.0}}, ("f4d", "depth", "motion")),
    ],
)
def test_what_weighs_nothing_is_not_asked_for(changes: dict[str, object], signals: tuple[str, ...]) -> None:
    assert p4d(LossConfig.model_validate(changes).resolved(), LinearHeads()).signals == signals


def test_gradients_reach_the_decoder_through_the_frozen_heads(hidden: torch.Tensor, targets: dict[str, torch.Tensor]) -> None:
    heads = LinearHeads()
    module = p4d(LossConfig(alpha=0).resolved(), heads)
    module(hidden.requires_grad_(), targets).total.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.decoder.parameters())
    assert hidden.grad is not None
    assert heads.scale.grad is None


def test_a_missing_target_is_left_out_and_reported_as_nan(hidden: torch.Tensor, targets: dict[str, torch.Tensor]) -> None:
    module = p4d(heads=LinearHeads())
    valid = {name: torch.tensor([True, True, False]) for name in targets} | {"flow": torch.tensor([False] * 3)}
    holed = {
        name: value.masked_fill(~valid[name].view(-1, *[1] * (value.dim() - 1)), torch.nan) for name, value in targets.items()
    }
    losses = module(hidden, holed, valid)
    assert losses.parts["ed_flow"].isnan()
    without_flow = p4d(LossConfig(weights={"flow": 0}).resolved(), LinearHeads())
    two = without_flow(hidden[:2], {name: value[:2] for name, value in targets.items()})
    torch.testing.assert_close(losses.total, two.total)


def test_two_batches_of_a_step_add_up_to_one(hidden: torch.Tensor, targets: dict[str, torch.Tensor]) -> None:
    module = p4d(heads=LinearHeads())
    counts = dict.fromkeys(SHAPES, 3.0)
    pieces = [
        module(hidden[i], {name: value[i] for name, value in targets.items()}, clips=counts) for i in (slice(2), slice(2, 3))
    ]
    torch.testing.assert_close(pieces[0].total + pieces[1].total, module(hidden, targets).total)


def test_a_batch_without_any_target_keeps_the_graph_and_gives_no_gradient(hidden: torch.Tensor) -> None:
    module = p4d()
    losses = module(hidden, {"f4d": torch.full((3, *F4D), torch.nan)}, {"f4d": torch.tensor([False] * 3)})
    losses.total.backward()
    assert losses.parts["ld"].isnan()
    assert all(p.grad is not None and p.grad.eq(0).all() for p in module.decoder.parameters())


def test_heads_of_another_teacher_are_named(hidden: torch.Tensor, targets: dict[str, torch.Tensor]) -> None:
    targets["depth"] = torch.ones(3, 16, 14, 14)
    with pytest.raises(BadInput, match=r"student's depth is \(3, 16, 8, 8\), the target is \(3, 16, 14, 14\)"):
        p4d(heads=LinearHeads())(hidden, targets)


def test_it_drops_into_a_loop_of_ones_own(tiny_store: Path) -> None:
    cache = open_cache(str(tiny_store))
    torch.manual_seed(0)
    student = nn.Linear(3, 32)  # whatever gives hidden states for a clip's video tokens
    p4d = P4D.for_store(cache, hidden_size=32, mode="latent", decoder=DecoderConfig(hidden=64))
    read_targets = TargetReader(cache, p4d.signals)
    optimizer = torch.optim.AdamW([*student.parameters(), *p4d.parameters()], lr=1e-3)
    losses = []
    for _ in range(5):
        hidden = student(torch.ones(2, 16, 4, 4, 3))  # (clip, frame, y, x, hidden)
        losses.append(p4d(hidden, *read_targets(cache.committed_ids()[:2])).total)
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0]


def test_it_loads_no_transformers() -> None:
    code = "from student_train import P4D, TargetReader, perception_decoder\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"transformers", "av", "decord", "ray"} & set(done.stdout.split())
