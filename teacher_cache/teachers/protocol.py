"""The teacher interface: uint8 frames in, raw signals out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from schemas.base import Frozen
from schemas.clip import FrameClock
from schemas.job import TeacherJob
from schemas.prompt import Prompt
from schemas.recipe import TeacherIdentity
from schemas.signal import Shape, SignalName
from teacher_cache.teachers.heads import RawSignals

if TYPE_CHECKING:
    import torch  # planning and verifying need only a teacher's description, and should not wait for torch

__all__ = ["ForwardBytes", "Prompted", "RawSignals", "Teacher", "TeacherDescription", "TeacherFamily"]


class Teacher(Protocol):
    """A frozen expert on one device. Not thread-safe."""

    identity: TeacherIdentity
    """Everything that determines its outputs."""
    image_size: int
    """Height and width of its input frames, in pixels."""
    frames: int
    """Frames per clip."""
    shapes: Mapping[SignalName, Shape]
    """Shape of one clip, for every signal it can compute; axes as in `schemas.signal.SIGNALS`."""

    def raw(self, frames: torch.Tensor, signals: Collection[SignalName], told: Sequence[Any] = ()) -> RawSignals:
        """Compute ``signals`` of a batch.

        ``frames``: uint8 (batch, frame, height, width, RGB) on any device. ``told`` has what `Prompted.prepare` gave for each
        clip, if the teacher's identity takes something, and is empty otherwise. Returns tensors (batch, …) on the teacher's
        device, in the axes, units and dtypes of `schemas.signal.SIGNALS`, but depth as its natural log. Raises `BadInput` for
        frames of another shape or dtype, `SignalMissing` for a signal that it cannot compute.
        """

    def heads(self) -> tuple[bytes, bytes] | None:
        """The frozen heads as (safetensors file, card as JSON), or None if it has none. Equal weights give equal bytes."""


@runtime_checkable
class Prompted(Protocol):
    """A `Teacher` that takes more than frames, as its identity's ``takes`` says: words, or masks of the set.

    Its identity has a ``takes`` in its configuration, so that the recipe says it; what it is given lies in the rows.
    """

    def prepare(self, prompt: Prompt, clock: FrameClock, *, flipped: bool) -> Any:
        """What `Teacher.raw` is to be told of one clip. Thread-safe; may read files, while the device works on other clips.

        ``flipped``: the clip's frames have left and right swapped, and the prompt is of the video as it is.

        Raises `VideoError` (prompt_missing, prompt_unusable) for what cannot be read or does not fit: the clip's row fails.
        """


class TeacherDescription(Frozen):
    """What planning needs to know about a teacher, available without loading it."""

    identity: TeacherIdentity
    image_size: int
    """Height and width of its input frames, in pixels."""
    frames: int
    """Frames per clip."""
    shapes: dict[SignalName, Shape]
    """Shape of one clip, for every signal it can compute; axes as in `schemas.signal.SIGNALS`."""


class ForwardBytes(Frozen):
    """Memory that one forward pass takes on its device, in bytes."""

    weights: int
    working: int
    """Peak memory besides the weights: frames, activations, signals."""


class TeacherFamily(Protocol):
    """A kind of teacher, found by name among the entry points of ``teacher_cache.teachers``."""

    presets: tuple[str, ...]
    """Valid values of ``TeacherJob.preset``."""

    def identify(self, job: TeacherJob) -> TeacherDescription:
        """Describe the teacher that ``load`` would return, without loading its weights into memory.

        Raises `BadInput` if the job does not describe a teacher of this family.
        """

    def load(self, job: TeacherJob, device: str) -> Teacher:
        """Load the teacher on a device (``cpu``, ``cuda``, ``cuda:1``), with the identity that ``identify`` returns.

        Raises `BadInput` for weights that do not fit, `CouldNotRun` if the machine lacks the device.
        """

    def forward_bytes(self, job: TeacherJob, batch: int, signals: Collection[SignalName]) -> ForwardBytes:
        """Predict the memory of `Teacher.raw` on ``batch`` clips, without loading anything."""
