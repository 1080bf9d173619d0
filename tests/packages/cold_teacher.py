"""A teacher that takes a set time for each batch and much longer for its first one, as networks do.

With this folder on PYTHONPATH it is an installed family, `cold`; its preset is the time in milliseconds. What it gives is
worked out from the frames.
"""

from __future__ import annotations

import time
from collections.abc import Collection

import torch

from schemas.job import TeacherJob
from schemas.recipe import TeacherIdentity
from schemas.signal import Shape, SignalName
from teacher_cache.teachers.heads import RawSignals
from teacher_cache.teachers.protocol import ForwardBytes, TeacherDescription

SIZE = 56
WARM_UP_BATCHES = 5
"""How many batches' time the first one takes besides."""
SHAPES: dict[SignalName, Shape] = {"depth": (16, SIZE, SIZE), "flow": (16, SIZE, SIZE, 2), "motion": (16, SIZE, SIZE)}


class ColdTeacher:
    def __init__(self, description: TeacherDescription, batch_seconds: float) -> None:
        self.identity, self.shapes = description.identity, description.shapes
        self.image_size, self.frames = description.image_size, description.frames
        self._batch_seconds, self._is_warm = batch_seconds, False

    def raw(self, frames: torch.Tensor, signals: Collection[SignalName]) -> RawSignals:
        start = time.perf_counter()
        light = frames.float().mean(-1) / 255
        ahead, behind = light.roll(1, 1), light.roll(1, 2)
        raw: RawSignals = {"depth": light - 0.5, "flow": torch.stack([ahead, behind], -1), "motion": 4 * (light - ahead)}
        # The first forward of a network is slow everywhere.
        held = self._batch_seconds * (1 if self._is_warm else 1 + WARM_UP_BATCHES)
        self._is_warm = True
        time.sleep(max(0.0, held - (time.perf_counter() - start)))
        return {signal: values for signal, values in raw.items() if signal in signals}

    def heads(self) -> None:
        return None


class ColdFamily:
    presets = ("0",)

    def identify(self, _: TeacherJob) -> TeacherDescription:
        identity = TeacherIdentity(family="cold", config={}, weights="none", dtype="float32")
        return TeacherDescription(identity=identity, image_size=SIZE, frames=16, shapes=SHAPES)

    def forward_bytes(self, _: TeacherJob, batch: int, signals: Collection[SignalName]) -> ForwardBytes:
        return ForwardBytes(weights=0, working=batch * (4 + len(signals)) * 16 * SIZE**2 * 3 * 4)

    def load(self, job: TeacherJob, _: str) -> ColdTeacher:
        return ColdTeacher(self.identify(job), float(job.preset) / 1000)


FAMILY = ColdFamily()
