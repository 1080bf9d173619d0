"""P4D as one module: which signals it wants, how it weighs them, what it does without them."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
from collections.abc import Collection
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import Jobs
from torch import nn

from schemas.errors import BadInput
from schemas.job import Job
from schemas.train import RECIPES, DecoderConfig, LossConfig, LossRecipe, Mode
from student_train.distill.losses import explicit_loss, latent_loss
from student_train.distill.p4d import P4D
from student_train.distill.perception import DirectPerception, FrozenPerception, LatentPerception, LinearDecoder
from student_train.distill.targets import TargetReader
from teacher_cache import open_cache
from teacher_cache.jobs.run import run_job

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


class WideHeads(LinearHeads):
    """Each clip's map keeps a megabyte for its backward pass."""

    KEPT = 2**20

    def raw(self, f4d: torch.Tensor, signals: Collection[str]) -> dict[str, torch.Tensor]:
        wide = f4d.flatten(1).mean(1)[:, None].expand(-1, self.KEPT // 4)  # (clip, number)
        value = wide.exp().mean(1)
        return {s: value.view(-1, *[1] * len(SHAPES[s])) * torch.ones(SHAPES[s]) for s in SHAPES if s in signals}


@pytest.fixture
def hidden() -> torch.Tensor:
    return torch.randn(3, 16, 4, 4, 10, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def targets() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.rand(3, *shape, generator=generator) + 0.5 for name, shape in SHAPES.items()}


def p4d(recipe: LossRecipe = RECIPES["paper"], heads: nn.Module | None = None) -> P4D:
    torch.manual_seed(2)
    decoder = LinearDecoder(10, F4D)
    maps = [name for name in SHAPES if name != "f4d"]
    return P4D(LatentPerception(decoder) if heads is None else FrozenPerception(decoder, heads, maps), recipe)


def test_pixels_are_weighed_in_the_maps_that_have_weights(hidden: torch.Tensor, targets: dict[str, torch.Tensor]) -> None:
    student = p4d(heads=LinearHeads())
    plain = student(hidden, targets).parts
    halves = {"depth": torch.full((3, 16, 8, 8), 0.5), "camray": torch.ones(3, 16, 4, 4)}
    weighed = student(hidden, targets, weights=halves).parts
    torch.testing.assert_close(weighed, {**plain, "ed_depth": plain["ed_depth"] / 2})
    with pytest.raises(BadInput, match="depth's weights"):
        student(hidden, targets, weights={"depth": torch.ones(3, 16, 4, 4)})


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
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parts["perception_decoder"].parameters())
    assert hidden.grad is not None
    assert heads.scale.grad is None


class Held:
    """Counts the bytes that the graph keeps for its backward pass, and their most."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self._known: dict[int, int] = {}

    def pack(self, tensor: torch.Tensor) -> Kept:
        return Kept(self, tensor)


class Kept:
    def __init__(self, held: Held, tensor: torch.Tensor) -> None:
        self.held, self.tensor = held, tensor
        held.now += tensor.nbytes
        held.most = max(held.most, held.now)

    def __del__(self) -> None:
        self.held.now -= self.tensor.nbytes


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_heads_are_run_one_by_one_and_the_gradient_is_that_of_all_together(
    at_once: int, hidden: torch.Tensor, targets: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clip at a time on a GPU, and all of them on a CPU."""
    monkeypatch.setattr("student_train.distill.p4d._clips_at_once", lambda _: at_once)
    module = p4d(heads=WideHeads())
    valid = {name: torch.tensor([True, name != "flow", True]) for name in targets}
    held = Held()
    with torch.autograd.graph.saved_tensors_hooks(held.pack, lambda kept: kept.tensor):
        losses = module(hidden.requires_grad_(), targets, valid)
    assert at_once * WideHeads.KEPT <= held.most < (at_once + 0.5) * WideHeads.KEPT
    (2 * losses.total).backward()
    found = hidden.grad, [p.grad for p in module.parameters() if p.requires_grad]
    expected = torch.zeros(())
    raw = module.perception(hidden, module.signals)
    for name in module.signals:
        weight = 0.5 if name == "f4d" else 0.1 * RECIPES["paper"].weights[name]
        loss = latent_loss if name == "f4d" else partial(explicit_loss, name)
        counts = {"valid": valid[name], "clips": valid[name].sum(), "recipe": RECIPES["paper"]}
        expected = expected + weight * loss(raw[name], targets[name], **counts)
    torch.testing.assert_close(losses.total, expected)
    hidden.grad = None
    module.zero_grad()
    (2 * expected).backward()
    torch.testing.assert_close(found, (hidden.grad, [p.grad for p in module.parameters() if p.requires_grad]))


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
    assert all(p.grad is not None and p.grad.eq(0).all() for p in module.parts["perception_decoder"].parameters())


def test_a_loss_scale_beyond_float16_scales_the_gradient(hidden: torch.Tensor, targets: dict[str, torch.Tensor]) -> None:
    module = p4d(heads=LinearHeads())
    gradients = []
    for scale, is_half in ((1.0, False), (65536.0, True)):  # `torch.amp.GradScaler` begins with this one
        states = hidden.clone().requires_grad_()
        with torch.autocast("cpu", torch.float16, enabled=is_half):
            total = module(states, targets).total
        (gradient,) = torch.autograd.grad(total * scale, states)
        gradients.append(gradient / scale)
    plain, scaled = gradients
    assert (scaled - plain).norm() < 0.01 * plain.norm()


def test_heads_of_another_teacher_are_named(hidden: torch.Tensor, targets: dict[str, torch.Tensor]) -> None:
    targets["depth"] = torch.ones(3, 16, 14, 14)
    with pytest.raises(BadInput, match=r"depth is \(16, 8, 8\) by the student, its target is \(16, 14, 14\)"):
        p4d(heads=LinearHeads())(hidden, targets)


@pytest.mark.parametrize("clips", [1, 2, 4])
def test_targets_of_fewer_or_more_clips_are_refused(hidden: torch.Tensor, targets: dict[str, torch.Tensor], clips: int) -> None:
    targets["depth"] = targets["depth"][[0, 1, 2, 0][:clips]]
    with pytest.raises(
        BadInput, match=rf"are of 3 clips, the targets of depth are of {clips}: needed one row in both for each"
    ):
        p4d(heads=LinearHeads())(hidden, targets)


@pytest.mark.parametrize("heads", [None, LinearHeads()])
def test_a_batch_without_videos_gives_every_weight_a_gradient_of_zero(
    hidden: torch.Tensor, targets: dict[str, torch.Tensor], heads: nn.Module | None
) -> None:
    module = p4d(heads=heads)
    losses = module(hidden[:0], {signal: values[:0] for signal, values in targets.items()})
    losses.total.backward()
    assert losses.total == 0
    assert all(loss.isnan() for loss in losses.parts.values())
    assert all(p.grad is not None and p.grad.eq(0).all() for p in module.parts["perception_decoder"].parameters())


def direct(**changes: object) -> P4D:
    torch.manual_seed(2)
    recipe = LossConfig.model_validate({"recipe": "released", **changes}).resolved()
    shapes = {name: shape for name, shape in SHAPES.items() if name != "f4d" and recipe.weights[name] > 0}
    decoder = LinearDecoder(10, F4D) if recipe.alpha > 0 else None
    return P4D(DirectPerception(10, (8, 4, 4), shapes, decoder), recipe)


def test_direct_losses_by_hand(hidden: torch.Tensor) -> None:
    module = direct(weights={"camray": 0})
    for head, raw in (("depth", 1.0), ("flow", 0.25), ("motion", -3.0)):
        nn.init.zeros_(module.perception.heads[head].pixels.weight)
        nn.init.constant_(module.perception.heads[head].pixels.bias, raw)
    targets = {
        "f4d": torch.zeros(3, *F4D),
        "depth": torch.full((3, *SHAPES["depth"]), math.e**3),  # its logarithm is 2 away: SmoothL1 1.5
        "flow": torch.zeros(3, *SHAPES["flow"]),  # 0.25 away: 0.03125
        "motion": torch.full((3, *SHAPES["motion"]), 1.0),  # 4 away: 3.5
    }
    losses = module(hidden, targets)
    assert losses.parts["ed_depth"].item() == pytest.approx(1.5)
    assert losses.parts["ed_flow"].item() == pytest.approx(0.03125)
    assert losses.parts["ed_motion"].item() == pytest.approx(3.5)
    explicit = 0.1 * 1.5 + 0.001 * 0.03125 + 0.01 * 3.5
    assert losses.total.item() == pytest.approx(0.01 * losses.parts["ld"].item() + explicit)


def test_every_direct_weight_gets_a_gradient(hidden: torch.Tensor, targets: dict[str, torch.Tensor]) -> None:
    module = direct()
    module(hidden, targets).total.backward()
    assert set(module.parts) == {"direct_heads", "perception_decoder"}
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


def test_direct_without_alpha_needs_neither_f4d_nor_a_decoder(hidden: torch.Tensor, targets: dict[str, torch.Tensor]) -> None:
    module = direct(alpha=0)
    assert module.signals == ("depth", "flow", "motion", "camray")
    assert set(module.parts) == {"direct_heads"}
    losses = module(hidden, {name: value for name, value in targets.items() if name != "f4d"})
    assert sorted(losses.parts) == ["ed_camray", "ed_depth", "ed_flow", "ed_motion"]


def test_maps_are_in_the_stores_units(hidden: torch.Tensor) -> None:
    for module in (direct(), p4d(heads=LinearHeads())):
        maps = module.maps(hidden)
        raw = module.perception(hidden, ["depth", "flow", "motion", "camray"])
        assert {name: tuple(values.shape[1:]) for name, values in maps.items()} == {
            n: s for n, s in SHAPES.items() if n != "f4d"
        }
        torch.testing.assert_close(maps["depth"], raw["depth"].exp())
        for name in ("flow", "motion", "camray"):
            torch.testing.assert_close(maps[name], raw[name])
        assert not any(values.requires_grad for values in maps.values())
        assert list(module.maps(hidden, ["flow", "f4d"])) == ["flow", "f4d"]


def test_a_latent_p4d_says_where_its_maps_are(hidden: torch.Tensor) -> None:
    assert p4d().maps(hidden) == {}
    with pytest.raises(BadInput, match=r"gives no depth, only f4d;.*mode `heads`"):
        p4d().maps(hidden, ["depth"])


@pytest.mark.parametrize("mode", ["latent", "heads", "direct"])
def test_what_was_saved_loads_into_another_and_is_the_same(
    tiny_store: Path, tmp_path: Path, mode: Mode, targets: dict[str, torch.Tensor]
) -> None:
    cache = open_cache(str(tiny_store))
    hidden = torch.randn(1, 16, 4, 4, 10)
    targets = {name: torch.from_numpy(values) for name, values in cache.read(cache.signals, cache.committed_ids()[:1]).items()}
    recipe = LossConfig(weights={"depth": 0, "flow": 0, "motion": 0}).resolved()  # the rays' head is the quick one
    modules = [P4D.for_store(cache, 10, recipe, mode=mode, decoder=DecoderConfig(hidden=16)) for _ in range(2)]
    modules[0].save(tmp_path)
    assert not list(tmp_path.glob("*frozen*"))
    assert modules[0](hidden, targets).total != modules[1](hidden, targets).total
    modules[1].load(tmp_path)
    assert modules[0](hidden, targets).total == modules[1](hidden, targets).total


def test_what_a_latent_run_learnt_is_seen_through_the_frozen_heads(tiny_store: Path, tmp_path: Path) -> None:
    cache = open_cache(str(tiny_store))
    latent, heads = (P4D.for_store(cache, 10, mode=mode, decoder=DecoderConfig(hidden=16)) for mode in ("latent", "heads"))
    latent.save(tmp_path)
    heads.load(tmp_path)
    hidden = torch.randn(1, 16, 4, 4, 10)
    f4d = latent.perception(hidden, ["f4d"])["f4d"]
    torch.testing.assert_close(heads.maps(hidden)["flow"], cache.heads().raw(f4d, ["flow"])["flow"])


def test_weights_of_another_size_are_named(tiny_store: Path, tmp_path: Path) -> None:
    cache = open_cache(str(tiny_store))
    P4D.for_store(cache, 10, mode="latent", decoder=DecoderConfig(hidden=16)).save(tmp_path)
    wider = P4D.for_store(cache, 10, mode="latent", decoder=DecoderConfig(hidden=32))
    with pytest.raises(BadInput, match=r"mlp.0.bias is \(16,\), needed \(32,\).*was trained with"):
        wider.load(tmp_path)
    with pytest.raises(BadInput, match=r"cannot read the trained direct_heads.*was the run of this mode"):
        P4D.for_store(cache, 10, mode="direct").load(tmp_path)


def test_a_p4d_is_fitted_to_a_store_without_reading_a_clip(tiny_store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "store"
    shutil.copytree(tiny_store, copy)
    for shard in [*copy.glob("*/c")]:
        shutil.rmtree(shard)
    cache = open_cache(str(copy))
    for mode in ("latent", "heads", "direct"):
        p4d = P4D.for_store(cache, 10, mode=mode, decoder=DecoderConfig(hidden=16))
        assert p4d.signals == ("f4d", "depth", "flow", "motion", "camray")[: 1 if mode == "latent" else 5]
    direct = P4D.for_store(cache, 10, mode="direct").perception
    assert direct.grid == (8, 8, 8)
    assert direct.heads["flow"].patch == (2, 14, 14)
    assert direct.heads["camray"].patch == (2, 1, 1)


@pytest.fixture(scope="module")
def maps_only(tmp_path_factory: pytest.TempPathFactory, videos: Path) -> str:
    """A store with depth and camera rays, and no F4D."""
    folder = tmp_path_factory.mktemp("maps")
    job = Jobs(folder, videos).value(folder / "store", signals=["depth", "camray"])
    return run_job(Job.model_validate(job)).store


def test_a_store_of_maps_alone_serves_every_mode_that_asks_for_no_f4d(maps_only: str) -> None:
    cache = open_cache(maps_only)
    recipe = LossConfig(alpha=0, weights={"flow": 0, "motion": 0}).resolved()
    targets, valid = TargetReader(cache, ["depth", "camray"])(cache.committed_ids()[:2])
    for mode in ("heads", "direct"):
        p4d = P4D.for_store(cache, 10, recipe, mode=mode, decoder=DecoderConfig(hidden=16))
        losses = p4d(torch.randn(2, 16, 4, 4, 10), targets, valid)
        assert sorted(losses.parts) == ["ed_camray", "ed_depth"]
        assert all(value.isfinite() for value in losses.parts.values())
    for mode in ("heads", "direct"):
        with pytest.raises(BadInput, match=r"losses need f4d, flow, motion, but the store .* holds depth, camray"):
            P4D.for_store(cache, 10, mode=mode)
    with pytest.raises(BadInput, match="no f4d, whose shape the perception decoder needs"):
        P4D.for_store(cache, 10, mode="latent")


def test_a_mode_without_a_loss_is_refused(tiny_store: Path) -> None:
    cache = open_cache(str(tiny_store))
    nothing = {"alpha": 0, "weights": {"depth": 0, "flow": 0, "motion": 0, "camray": 0}}
    for mode, changes in (("latent", {"alpha": 0}), ("heads", nothing), ("direct", nothing)):
        with pytest.raises(BadInput, match=f"nothing would be distilled.*`{mode}`"):
            P4D.for_store(cache, 10, LossConfig.model_validate(changes).resolved(), mode=mode)


def test_it_loads_no_transformers() -> None:
    code = "from student_train import P4D, TargetCollator, TargetReader, perception_decoder\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"transformers", "av", "decord", "ray"} & set(done.stdout.split())
