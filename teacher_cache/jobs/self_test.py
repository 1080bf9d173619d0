"""A teacher's settings and a device in; nothing out, or an error that names this machine, the device and what is wrong with it.

A worker does these before it loads its teacher, and `doctor` on request.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from platform import node

import numpy as np
import torch

from schemas.errors import TeacherFailed, VideoError, first_line
from schemas.job import EngineJob, TeacherJob
from schemas.recipe import ClipRecipe
from teacher_cache.clips.decoder import Decoder
from teacher_cache.clips.video import Device
from teacher_cache.scenes.encode import encode_video
from teacher_cache.teachers.heads.precision import TORCH_DTYPES

_SIDE = 256
"""Of the test's matrices. Products of as many numbers -1, 0 and 1 are whole numbers up to 256: exact in bfloat16 as well."""


def self_test(teacher: TeacherJob, engine: EngineJob, device: str) -> None:
    """Try what this job will use of a device. Raises `TeacherFailed`."""
    for _, check in self_tests(teacher, engine, device):
        check()


def self_tests(teacher: TeacherJob, engine: EngineJob, device: str) -> Iterator[tuple[str, Callable[[], None]]]:
    """Name → a check of what this job will use of a device, which raises `TeacherFailed`."""
    yield "arithmetic", lambda: _arithmetic(teacher, device)
    if teacher.compile:
        yield "compiler", lambda: _compiles(device)
    if engine.decode_device == "cuda":
        yield "video decoder", lambda: _decodes(device)


def _arithmetic(teacher: TeacherJob, device: str) -> None:
    """A matrix product in the teacher's dtype, against integers' own."""
    a, b = (np.random.default_rng(seed).integers(-1, 2, (_SIDE, _SIDE), dtype=np.int32) for seed in range(2))
    dtype = TORCH_DTYPES[teacher.dtype]
    try:
        on_device = (torch.from_numpy(one).to(device, dtype) for one in (a, b))
        found = torch.mm(*on_device).to("cpu", torch.int32).numpy()
    except (RuntimeError, AssertionError) as error:  # the latter of a PyTorch without CUDA
        raise _failed(device, f"cannot multiply in {teacher.dtype}: {first_line(error)}", _REPLACE) from error
    if wrong := int((found != a @ b).sum()):
        raise _failed(device, f"multiplies wrongly in {teacher.dtype}: {wrong} of {found.size} sums differ", _REPLACE)


_REPLACE = "Check the driver against PyTorch's CUDA and the system log for Xid or ECC errors, or leave this machine out."


def _compiles(device: str) -> None:
    """A small compiled function: inductor needs a C++ compiler on a CPU, Triton a C compiler on a GPU."""
    values = torch.arange(64, dtype=torch.float32, device=device)
    try:
        found = torch.compile(_twice_and_one)(values)
    except Exception as error:  # PyTorch's compiler raises whatever its parts do
        advice = "Install a C and C++ compiler (gcc, g++) there, or leave `teacher.compile` out."
        raise _failed(device, f"cannot compile: {first_line(error)}", advice) from error
    if not torch.equal(found, _twice_and_one(values)):
        raise _failed(device, "gives another result once compiled", "Leave `teacher.compile` out.")


def _twice_and_one(values: torch.Tensor) -> torch.Tensor:
    return values * 2 + 1


def _decodes(device: str) -> None:
    """A small H.264 video through a decoder process, which says what decoded it."""
    from teacher_cache.clips.av_video import DECODERS  # noqa: PLC0415  # of the extra `teach`

    advice = (
        "The container needs the driver's video part (NVIDIA_DRIVER_CAPABILITIES=compute,utility,video); "
        "or set `engine.decode_device: cpu`."
    )
    found = decoded_by("cuda")
    if isinstance(found, VideoError):
        raise _failed(device, f"decodes no video: {found}", advice)
    if not found.startswith(DECODERS["cuda"]):
        raise _failed(device, f"does not decode H.264 by the GPU; {found} did", advice)


def decoded_by(device: Device) -> str | VideoError:
    """What decoded a small H.264 video in a decoder process for ``device``: name and version, and protections that it lacks."""
    frames = np.random.default_rng(0).integers(0, 256, (2, _SIDE, _SIDE, 3), dtype=np.uint8)
    recipe = ClipRecipe(frames=2, sampling="uniform", preprocessing="l4p", size=_SIDE, student_size=None)
    with tempfile.TemporaryDirectory(prefix="teacher-cache-self-test-") as folder:
        video = Path(folder) / "video.mp4"
        encode_video(video, frames)
        with Decoder(recipe, 30, device) as decoder:
            (found,) = decoder.clips(str(video), [None])
    return found if isinstance(found, VideoError) else found.decoder


def _failed(device: str, what: str, advice: str) -> TeacherFailed:
    return TeacherFailed(f"{node()}: {device} {what}. {advice}")
