"""What a teacher is, to the rest of the system: uint8 frames in, raw signals out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Protocol

from schemas.base import Frozen
from schemas.job import TeacherJob
from schemas.recipe import TeacherIdentity
from schemas.signal import Shape, SignalName
from teacher_cache.teachers.heads import RawSignals

if TYPE_CHECKING:
    import torch  # planning and verifying go by a teacher's description alone, and do not wait for torch

__all__ = ["ForwardBytes", "RawSignals", "Teacher", "TeacherDescription", "TeacherFamily"]


class Teacher(Protocol):
    """A frozen expert on one device. Not safe to share between threads."""

    identity: TeacherIdentity
    image_size: int
    """Height and width of the frames it takes, in pixels."""
    frames: int
    """Frames in one clip."""
    shapes: Mapping[SignalName, Shape]
    """One clip's array shape for every signal it can give, axes as in `schemas.signal.SIGNALS`."""

    def raw(self, frames: torch.Tensor, signals: Collection[SignalName]) -> RawSignals:
        """Teach a batch.

        ``frames``: uint8 (batch, frame, height, width, RGB) on any device. Returns float32 tensors on the teacher's
        device, only the signals asked for.
        """

    def heads(self) -> tuple[bytes, bytes] | None:
        """The frozen heads as (safetensors file, card as JSON), or None for a family that has none. Equal for equal weights."""


class TeacherDescription(Frozen):
    """What planning needs to know of a teacher, known without loading it."""

    identity: TeacherIdentity
    image_size: int
    """Height and width of the frames it takes, in pixels."""
    frames: int
    """Frames in one clip."""
    shapes: dict[SignalName, Shape]
    """One clip's array shape for every signal it can give, axes as in `schemas.signal.SIGNALS`."""


class ForwardBytes(Frozen):
    """What one forward takes of its device's memory, in bytes."""

    weights: int
    working: int
    """The most that is live at once besides the weights: frames, activations, signals."""


class TeacherFamily(Protocol):
    """A kind of teacher, found by its name among the entry points of ``teacher_cache.teachers``."""

    presets: tuple[str, ...]
    """Names that ``TeacherJob.preset`` may have."""

    def identify(self, job: TeacherJob) -> TeacherDescription:
        """Describe the teacher that ``load`` would give, without loading its weights into memory.

        Raises BadInput where the job names no teacher of this family.
        """

    def load(self, job: TeacherJob, device: str) -> Teacher:
        """The teacher on a device (``cpu``, ``cuda``, ``cuda:1``), ready to teach, under the identity that ``identify`` gives.

        Raises BadInput for weights that do not fit, CouldNotRun where the machine lacks the device.
        """

    def forward_bytes(self, job: TeacherJob, batch: int, signals: Collection[SignalName]) -> ForwardBytes:
        """Predict the memory of `Teacher.raw` on ``batch`` clips, without loading anything."""
