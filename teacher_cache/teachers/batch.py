"""A batch in; an error if the teacher cannot process it. A clip in; what the teacher is told of it beside its frames out."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, TypeVar

import torch
from pydantic import ValidationError

from schemas.base import Frozen
from schemas.clip import Clip, FrameClock
from schemas.errors import BadInput, SignalMissing, VideoError
from schemas.job import TeacherJob
from schemas.signal import SignalName
from teacher_cache.clips.prompts import prompt_in
from teacher_cache.teachers.protocol import Prompted, Teacher


def require_fit(teacher: Teacher, name: str, frames: torch.Tensor, signals: Collection[SignalName]) -> None:
    """Check a batch's frames and signals for ``teacher``, which messages call ``name``.

    Raises `BadInput` for frames that are not uint8 (batch, frame, size, size, RGB), `SignalMissing` for an unknown signal.
    """
    needed = (teacher.frames, teacher.image_size, teacher.image_size, 3)
    if frames.dtype != torch.uint8 or frames.dim() != 5 or tuple(frames.shape[1:]) != needed or not len(frames):
        raise BadInput(
            f"this teacher takes uint8 frames of shape (batch, {', '.join(map(str, needed))}), "
            f"got {str(frames.dtype).removeprefix('torch.')} {tuple(frames.shape)}. Resize and sample the clip first."
        )
    unknown = [s for s in signals if s not in teacher.shapes]
    if unknown:
        raise SignalMissing(f"{name} does not give {', '.join(unknown)}; it gives {', '.join(teacher.shapes)}")


def told_of(teacher: Teacher, clip: Clip, clock: FrameClock) -> list[Any]:
    """What `Teacher.raw` is to be told of the clip, in a list of one; an empty list for a teacher that takes frames alone.

    Raises `VideoError` if the clip's row does not give it, or gives what the teacher cannot use.
    """
    if not isinstance(teacher, Prompted):
        return []
    if clip.prompt is None:
        raise VideoError("prompt_missing", "the masks that the list of videos names for it were not there")
    return [teacher.prepare(prompt_in(clip.prompt), clock, flipped=clip.flipped)]


def require_no_options(job: TeacherJob, name: str) -> None:
    """Raises `BadInput` if the job has options, of a family that has none, which messages call ``name``."""
    if job.options:
        raise BadInput(f"{name} has no options; found `teacher.options: {job.options}`. Leave them out.")


Options = TypeVar("Options", bound=Frozen)


def options_of(job: TeacherJob, kind: type[Options]) -> Options:
    """The job's options, as those of its family. Raises `BadInput` that names the one that is wrong."""
    try:
        return kind.model_validate(job.options)
    except ValidationError as error:
        wrong = "; ".join(f"`{'.'.join(map(str, one['loc']))}`: {one['msg']}" for one in error.errors())
        raise BadInput(
            f"`teacher.options` of the family {job.family!r}: {wrong}; it has {', '.join(kind.model_fields)}"
        ) from None
