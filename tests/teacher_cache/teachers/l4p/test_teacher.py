"""L4P as a teacher: uint8 frames in, raw signals out, under an identity that says what was computed."""

from __future__ import annotations

import hashlib
import json
import time

import pytest
import torch
from seeded_weights import seed_weights
from small_l4p import SMALL, moving_square

from schemas.errors import BadInput, CouldNotRun, SignalMissing
from schemas.heads import HeadsCard
from schemas.job import TeacherJob
from schemas.recipe import TeacherIdentity
from schemas.signal import P4D_SIGNALS
from teacher_cache.teachers.heads.frozen import load_heads
from teacher_cache.teachers.heads.tensors import file_digest
from teacher_cache.teachers.l4p.config import PACKAGED
from teacher_cache.teachers.l4p.network import L4P
from teacher_cache.teachers.l4p.teacher import FAMILY, PRESETS, L4PTeacher, normalise

DIGEST = "sha256:8f06160d578af1f472f100c213d6b991fff93181730fd4077769b26115f604fa"
TINY = TeacherJob(family="l4p", preset="tiny")


@pytest.fixture(scope="module")
def tiny():
    return FAMILY.load(TINY, "cpu")


@pytest.fixture
def tiny_checkpoint(tmp_path):
    model = L4P(PRESETS["tiny"])
    seed_weights(model, seed=7)
    path = tmp_path / "tiny.ckpt"
    torch.save({"state_dict": {f"l4p_model.{name}": t for name, t in model.state_dict().items()}}, path)
    return path


def test_a_teacher_gives_the_signals_it_describes(tiny):
    described = FAMILY.identify(TINY)
    assert tiny.identity == described.identity
    assert (tiny.image_size, tiny.frames) == (described.image_size, described.frames) == (112, 16)
    raw = tiny.raw(moving_square(clips=2), P4D_SIGNALS)
    assert {s: tuple(x.shape) for s, x in raw.items()} == {s: (2, *shape) for s, shape in described.shapes.items()}
    assert {x.dtype for x in raw.values()} == {torch.float32}
    assert not any(x.requires_grad for x in raw.values())


def test_the_packaged_teacher_looks_at_the_video(tiny):
    raw = tiny.raw(moving_square(), P4D_SIGNALS)
    still = tiny.raw(moving_square()[:, :1].repeat(1, 16, 1, 1, 1), P4D_SIGNALS)
    for signal, x in raw.items():
        assert x.isfinite().all(), signal
        assert x.std() > 0.05, signal
        assert (x - still[signal]).abs().max() > 0.05, signal
    depth = raw["depth"].exp()
    assert depth.min() > 0.01
    assert depth.max() < 100


def test_the_packaged_teacher_is_the_same_everywhere():
    """Pinned: a store made with it on another machine or release keeps its fingerprint."""
    weights = PACKAGED["tiny"]
    assert FAMILY.identify(TINY).identity.weights == file_digest(weights) == DIGEST
    assert weights.stat().st_size < 10e6


def test_one_clip_of_the_packaged_teacher_is_cheap(tiny):
    clip = moving_square()

    def seconds() -> float:
        start = time.process_time()
        tiny.raw(clip, P4D_SIGNALS)
        return time.process_time() - start

    assert min(seconds() for _ in range(3)) < 1  # 0.3 s on one core of a small server; the margin is for slower ones


def test_frames_are_normalised_as_imagenet():
    frames = torch.randint(0, 256, (1, 2, 3, 4, 3), dtype=torch.uint8)
    wanted = [
        (frames[..., c].double() / 255 - m) / s for c, (m, s) in enumerate([(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)])
    ]
    assert normalise(frames).dtype == torch.float32
    assert (normalise(frames) - torch.stack(wanted, 1)).abs().max() < 1e-6


def test_only_the_signals_asked_for_are_computed(tiny):
    ran = []
    hooks = [head.register_forward_hook(lambda *_args, s=s: ran.append(s)) for s, head in tiny.model.heads.items()]
    assert set(tiny.raw(moving_square(), ["f4d", "camray"])) == {"f4d", "camray"}
    assert ran == ["camray"]
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize(
    "frames",
    [
        torch.zeros(1, 16, 112, 112, 3),
        torch.zeros(1, 16, 224, 224, 3, dtype=torch.uint8),
        torch.zeros(1, 8, 112, 112, 3, dtype=torch.uint8),
        torch.zeros(1, 3, 16, 112, 112, dtype=torch.uint8),
        torch.zeros(16, 112, 112, 3, dtype=torch.uint8),
        torch.zeros(0, 16, 112, 112, 3, dtype=torch.uint8),
    ],
    ids=["float", "size", "frames", "axes", "no batch", "empty batch"],
)
def test_frames_of_another_kind_are_refused(tiny, frames):
    with pytest.raises(BadInput, match=r"takes uint8 frames of shape \(batch, 16, 112, 112, 3\), got (uint8|float32) \("):
        tiny.raw(frames, ["f4d"])


def test_a_signal_it_does_not_give_is_refused(tiny):
    with pytest.raises(SignalMissing, match="does not give normals; it gives f4d, depth"):
        tiny.raw(moving_square(), ["normals"])


# --- precision ---


@pytest.mark.parametrize(
    ("dtype", "tolerance", "signals"),
    [("bfloat16", 0.1, P4D_SIGNALS), ("float16", 0.01, ("f4d", "camray"))],  # CPUs are slow at float16's large maps
)
def test_reduced_precision_stays_close_and_comes_back_as_float32(request, tiny, dtype, tolerance, signals):
    if dtype == "bfloat16":
        forward = request.getfixturevalue("bfloat16")
        reduced, rounded = forward.teacher, forward.raw
    else:
        reduced = FAMILY.load(TINY.model_copy(update={"dtype": dtype}), "cpu")
        rounded = reduced.raw(moving_square(), signals)
    assert reduced.identity == tiny.identity.model_copy(update={"dtype": dtype})
    assert set(rounded) == set(signals)
    exact = tiny.raw(moving_square(), signals)
    for signal, x in rounded.items():
        assert x.dtype == torch.float32
        assert 0 < (x - exact[signal]).abs().max() < tolerance * exact[signal].abs().max(), signal


def test_the_residual_stream_and_the_last_layer_are_not_rounded(bfloat16):
    for signal, x in bfloat16.raw.items():
        assert (x != x.bfloat16()).float().mean() > 0.9, signal


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")  # PyTorch's own, as it imports its compiler
def test_compiling_is_the_jobs_choice_and_not_in_the_identity(tiny):
    compiled = FAMILY.load(TINY.model_copy(update={"compile": True}), "cpu")
    assert compiled.identity == tiny.identity
    for teacher, wanted in ((compiled, True), (tiny, False)):
        parts = [teacher.model.video_encoder, *teacher.model.heads.values()]
        assert {part._compiled_call_impl is not None for part in parts} == {wanted}


# --- heads ---


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_exported_heads_give_the_teachers_maps(small, dtype):
    identity = TeacherIdentity(family="l4p", config=SMALL.model_dump(mode="json"), weights="sha256:0", dtype=dtype)
    teacher = L4PTeacher(small, identity, "cpu")
    raw = teacher.raw(moving_square(SMALL.image_size), P4D_SIGNALS)
    file, card = teacher.heads()
    assert HeadsCard.model_validate_json(card).dtype == dtype
    heads = load_heads(file, card)
    decoded = heads.raw(raw.pop("f4d"), list(raw))
    assert all(torch.equal(decoded[signal], x) for signal, x in raw.items())


def test_equal_weights_export_equal_heads(tiny):
    assert tiny.heads() == FAMILY.load(TINY, "cpu").heads()


# --- identity and loading ---


def test_a_weights_file_is_identified_by_its_bytes(tiny_checkpoint, tmp_path):
    job = TINY.model_copy(update={"weights": str(tiny_checkpoint)})
    identity = FAMILY.identify(job).identity
    assert identity.weights == "sha256:" + hashlib.sha256(tiny_checkpoint.read_bytes()).hexdigest()
    assert identity.config == json.loads(PRESETS["tiny"].model_dump_json())
    copy = tmp_path / "moved.ckpt"
    copy.write_bytes(tiny_checkpoint.read_bytes())
    assert FAMILY.identify(job.model_copy(update={"weights": str(copy)})).identity == identity

    teacher = FAMILY.load(job, "cpu")
    model = L4P(PRESETS["tiny"]).load_checkpoint(tiny_checkpoint)
    assert teacher.identity == identity
    assert torch.equal(teacher.raw(moving_square(), ["depth"])["depth"], model.raw(normalise(moving_square()))["depth"])


def test_a_network_is_built_once_to_say_what_it_holds(monkeypatch):
    def say():
        FAMILY.identify(TINY)
        FAMILY.forward_bytes(TINY, 1, P4D_SIGNALS)

    say()
    for module in ("teacher", "cost"):
        monkeypatch.setattr(f"teacher_cache.teachers.l4p.{module}.L4P", None)
    say()


def test_a_replaced_weights_file_is_identified_anew(tiny_checkpoint):
    job = TINY.model_copy(update={"weights": str(tiny_checkpoint)})
    before = FAMILY.identify(job).identity.weights
    content = torch.load(tiny_checkpoint, weights_only=True)
    content["state_dict"]["l4p_model.video_encoder.norm.bias"][0] = 1
    torch.save(content, tiny_checkpoint)
    assert FAMILY.identify(job).identity.weights != before


def test_a_file_for_another_preset_is_refused_before_it_is_loaded(tiny_checkpoint):
    job = TeacherJob(preset="giant", weights=str(tiny_checkpoint))
    with pytest.raises(BadInput, match="does not hold this L4P configuration"):
        FAMILY.identify(job)
    with pytest.raises(BadInput, match="does not hold this L4P configuration"):
        FAMILY.load(job, "cpu")


def test_giant_needs_weights():
    with pytest.raises(
        BadInput, match=r"'giant' needs weights: give `teacher.weights` .*l4p_depth_flow.*Without weights there is tiny"
    ):
        FAMILY.identify(TeacherJob(preset="giant"))


def test_a_missing_weights_file_is_one_clear_error(tmp_path):
    with pytest.raises(BadInput, match=r"cannot read the teacher's weights .*none.ckpt: No such file"):
        FAMILY.identify(TeacherJob(preset="giant", weights=str(tmp_path / "none.ckpt")))


def test_an_unknown_preset_gets_a_suggestion():
    with pytest.raises(BadInput, match=r"no preset 'gaint'; it has giant, tiny. Did you mean 'giant'\?"):
        FAMILY.identify(TeacherJob(preset="gaint"))
    with pytest.raises(BadInput, match=r"no preset 'xyz'; it has giant, tiny\.$"):
        FAMILY.identify(TeacherJob(preset="xyz"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_named():
    with pytest.raises(CouldNotRun, match="is to run on 'cuda', but PyTorch finds no GPU here"):
        FAMILY.load(TINY, "cuda")
