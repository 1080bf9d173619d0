"""What a forward costs, by arithmetic: against the published model's figures, and against what PyTorch counts."""

from __future__ import annotations

import functools
import json

import live_bytes
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

import teacher_cache.teachers.heads.dpt
from schemas.job import TeacherJob
from schemas.signal import P4D_SIGNALS
from teacher_cache.teachers.heads.precision import autocast, convert_weights
from teacher_cache.teachers.l4p.config import MAPS
from teacher_cache.teachers.l4p.cost import clip_flops, encoder_flops, forward_bytes, head_flops, published_flops
from teacher_cache.teachers.l4p.network import L4P
from teacher_cache.teachers.l4p.teacher import FAMILY, PRESETS, normalise

GIANT = PRESETS["giant"]


def test_the_published_model_costs_what_is_known_of_it():
    assert encoder_flops(GIANT) == pytest.approx(5.086e12, rel=1e-4)
    for signal in ("depth", "flow", "motion"):
        assert head_flops(GIANT, signal, published_order=True) == pytest.approx(2.839e12, rel=2e-4)
    assert head_flops(GIANT, "camray", published_order=True) == pytest.approx(0.269e12, rel=1e-3)
    assert published_flops(GIANT) == pytest.approx(13.871e12, rel=1e-4)


def test_only_what_is_asked_for_costs():
    assert clip_flops(GIANT) == encoder_flops(GIANT, 36) + sum(head_flops(GIANT, s) for s in MAPS)
    assert clip_flops(GIANT, ["f4d"]) == encoder_flops(GIANT, 36)
    assert clip_flops(GIANT) < 0.96 * published_flops(GIANT)


class Fake:
    """A network of any size, whose tensors have shapes but no memory."""

    def __init__(self, preset: str, dtype: str):
        with torch.device("meta"):
            self.model = L4P(PRESETS[preset])
        convert_weights(self.model, dtype)
        self.size, self.dtype, self.mode = PRESETS[preset].image_size, dtype, FakeTensorMode(allow_non_fake_inputs=True)
        with self.mode:
            state = {name: torch.empty(t.shape, dtype=t.dtype) for name, t in self.model.state_dict().items()}
        self.model.load_state_dict(state, assign=True)

    def raw(self, batch: int, signals=P4D_SIGNALS):
        """As `L4PTeacher.raw`, frames included."""
        frames = torch.zeros(batch, 16, self.size, self.size, 3, dtype=torch.uint8)
        with torch.no_grad(), autocast("cpu", self.dtype):
            return self.model.raw(normalise(frames), signals)


fake_of = functools.cache(Fake)


@pytest.fixture
def _no_onednn_by_name(monkeypatch):
    """The call that names oneDNN takes real tensors alone; PyTorch's own convolution holds the same."""
    monkeypatch.setattr(teacher_cache.teachers.heads.dpt, "_left_to_slow_kernel", lambda _: False)


@pytest.mark.usefixtures("_no_onednn_by_name")
@pytest.mark.parametrize("preset", ["giant", "tiny"])
def test_operations_are_those_that_pytorch_counts(preset):
    config, fake = PRESETS[preset], fake_of(preset, "float32")
    with fake.mode, FlopCounterMode(display=False) as counter:
        fake.raw(2)
    tokens = config.f4d[1] * config.f4d[2] * config.f4d[3]
    attention = max(config.hooks) * 4 * tokens**2 * config.embed_dim  # PyTorch does not count a CPU's fused attention
    assert counter.get_total_flops() == 2 * (clip_flops(config) - attention)


@pytest.mark.usefixtures("_no_onednn_by_name")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("signals", [P4D_SIGNALS, ("f4d",), ("flow", "camray")], ids=["all", "f4d", "flow+camray"])
@pytest.mark.parametrize("preset", ["giant", "tiny"])
def test_memory_is_what_the_tensors_take(preset, dtype, signals):
    predicted = {n: forward_bytes(PRESETS[preset], dtype, n, signals) for n in (1, 8)}
    fake = fake_of(preset, dtype)
    with fake.mode:
        for batch, bytes_ in predicted.items():
            measured = live_bytes.peak_live_bytes(lambda n=batch: fake.raw(n, signals))
            assert bytes_.peak - bytes_.weights == pytest.approx(measured, rel=0.01 if preset == "giant" else 0.05)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_memory_is_what_a_real_forward_takes(request, dtype):
    forward = request.getfixturevalue(dtype)
    predicted = forward_bytes(PRESETS["tiny"], dtype, 1)
    assert predicted.peak - predicted.weights == pytest.approx(forward.peak, rel=0.05)
    held = [*forward.teacher.model.parameters(), *forward.teacher.model.buffers()]
    assert predicted.weights == sum(t.numel() * t.element_size() for t in held)


def test_giant_fits_well_within_its_goal():
    assert forward_bytes(GIANT, "bfloat16", 8).peak < 8 * 2**30


def test_live_bytes_are_counted_until_nothing_holds_them():
    def run():
        a = torch.ones(1000)  # 4000 bytes
        b = a.view(10, 100).add(1)  # 4000 more; the view is not counted
        del a
        b.mul_(2)  # nothing new
        return torch.cat([b, b])  # 8000 beside b

    assert live_bytes.peak_live_bytes(run) == 12000


# --- the benchmark itself ---


def test_the_plain_forward_is_the_same_network():
    from plain_l4p import plain_raw

    teacher = FAMILY.load(TeacherJob(preset="tiny"), "cpu")
    frames = torch.randint(0, 256, (1, 16, 112, 112, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    raw, plain = teacher.raw(frames, P4D_SIGNALS), plain_raw(teacher.model, normalise(frames))
    for signal, x in raw.items():
        assert (x - plain[signal]).abs().max() < 1e-4 * x.abs().max(), signal


def test_the_benchmark_runs_and_its_result_is_whole(tmp_path):
    import teacher as benchmark

    options = benchmark.parse(["--preset", "tiny", "--repetitions", "2", "--out", str(tmp_path / "out.json")])
    result = json.loads(json.dumps(benchmark.run_benchmark(options)))
    assert [v["name"] for v in result["variants"]] == ["ours, float32", "plain, float32"]
    for variant in result["variants"]:
        assert len(variant["clips_per_second"]["all"]) == 2
        assert 0 < variant["share_of_matmul"] < 1.5
        assert variant["peak_bytes"] > 0
    assert result["variants"][0]["peak_bytes"] < result["variants"][1]["peak_bytes"]
    assert benchmark.table(result).row_count == 2
