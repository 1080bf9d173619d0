"""A batch in; an error if the teacher cannot process it."""

from __future__ import annotations

from collections.abc import Collection

import torch

from schemas.errors import BadInput, SignalMissing
from schemas.signal import SignalName
from teacher_cache.teachers.protocol import Teacher


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
