"""A teacher that holds its device for a set time a batch, as a GPU would, and leaves the cores to the rest of the job.

With this folder on PYTHONPATH it is an installed family: ``teacher: {family: synthetic, preset: giant@2}`` teaches two clips a
second, and ``tiny@2`` gives signals of a small network's shapes. What it gives are tensors of the sizes and the statistics of
L4P's, which are encoded, compressed and written like them; they show nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection

import torch

from schemas.errors import BadInput
from schemas.job import TeacherJob
from schemas.recipe import TeacherIdentity
from schemas.signal import Shape, SignalName
from teacher_cache.teachers.heads import RawSignals
from teacher_cache.teachers.l4p.config import FRAMES, PRESETS
from teacher_cache.teachers.protocol import ForwardBytes, TeacherDescription


class SyntheticTeacher:
    """See `teacher_cache.teachers.protocol.Teacher`."""

    def __init__(self, description: TeacherDescription, clips_per_second: float) -> None:
        self.identity = description.identity
        self.image_size, self.frames, self.shapes = description.image_size, description.frames, description.shapes
        self._seconds_per_clip = 1 / clips_per_second
        self._signals = {signal: _signal(signal, shape) for signal, shape in description.shapes.items()}

    def raw(self, frames: torch.Tensor, signals: Collection[SignalName]) -> RawSignals:
        time.sleep(len(frames) * self._seconds_per_clip)
        return {signal: self._signals[signal].expand(len(frames), *self._signals[signal].shape) for signal in signals}

    def heads(self) -> None:
        return None


def _signal(name: SignalName, shape: Shape) -> torch.Tensor:
    """Gaussian features, as wide as they come; maps that are smooth, with a network's noise."""
    generator = torch.Generator().manual_seed(0)
    if name in {"f4d", "camray"}:
        return torch.randn(shape, generator=generator)
    frames, height, width, *vector = shape
    coarse = torch.rand(frames, max(1, *vector, 1), 6, 6, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic") + 1
    smooth = smooth + 1e-3 * torch.rand(smooth.shape, generator=generator)
    smooth = smooth.permute(0, 2, 3, 1)
    return (smooth if vector else smooth[..., 0]).contiguous()


class SyntheticFamily:
    """See `teacher_cache.teachers.protocol.TeacherFamily`. A preset is a network's size and a pace: ``giant@2``."""

    presets = ("giant@1", "tiny@1")

    def identify(self, job: TeacherJob) -> TeacherDescription:
        size, config = job.preset.partition("@")[0], None
        if size not in PRESETS:
            raise BadInput(f"the synthetic teacher has {', '.join(PRESETS)}, as in giant@2; found {job.preset!r}")
        config = PRESETS[size]
        identity = TeacherIdentity(family="synthetic", config={"size": size}, weights=f"sha256:{'0' * 64}", dtype=job.dtype)
        return TeacherDescription(identity=identity, image_size=config.image_size, frames=FRAMES, shapes=dict(config.shapes))

    def forward_bytes(self, job: TeacherJob, batch: int, signals: Collection[SignalName]) -> ForwardBytes:
        shapes = self.identify(job).shapes
        return ForwardBytes(weights=0, working=4 * sum(math.prod(shapes[signal]) for signal in signals) * batch)

    def load(self, job: TeacherJob, device: str) -> SyntheticTeacher:  # noqa: ARG002  # it holds none
        return SyntheticTeacher(self.identify(job), float(job.preset.partition("@")[2]))


FAMILY = SyntheticFamily()
