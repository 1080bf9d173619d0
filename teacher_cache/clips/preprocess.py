"""From a decoded frame to the teacher's size, by a named recipe. uint8 in, uint8 out: the teacher normalises."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from schemas.errors import BadInput
from schemas.recipe import ClipRecipe

Frame = np.ndarray[Any, np.dtype[np.uint8]]


def preprocess(frames: Frame, recipe: ClipRecipe) -> Frame:
    """(frame, height, width, RGB) uint8 → (frame, size, size, RGB) uint8. The aspect ratio is squashed, never cropped."""
    if recipe.preprocessing == "l4p":
        resized = [_l4p(frame, recipe.size) for frame in frames]
    else:
        if recipe.student_size is None:
            raise BadInput("the preprocessing `student` needs `student_size`, the student's square input size in pixels")
        resized = [_student(frame, recipe.student_size, recipe.size) for frame in frames]
    return np.stack(resized)


def _l4p(frame: Frame, size: int) -> Frame:
    """As L4P's own loader (arXiv 2502.13078): antialiased to size² and back, then bilinear without antialiasing."""
    height, width = frame.shape[:2]
    smooth = Image.fromarray(frame).resize((size, size), Image.Resampling.BILINEAR)
    back = np.asarray(smooth.resize((width, height), Image.Resampling.BILINEAR), dtype=np.float32)
    rows = _interpolate(back, size, axis=0)
    return np.asarray(_interpolate(rows, size, axis=1).round().clip(0, 255), dtype=np.uint8)


def _student(frame: Frame, student_size: int, size: int) -> Frame:
    """As the released 4D-RGPT: to the student's square size (bicubic, its image processor), then to the teacher's."""
    square = Image.fromarray(frame).resize((student_size, student_size), Image.Resampling.BICUBIC)
    return np.asarray(square.resize((size, size), Image.Resampling.BILINEAR))


def _interpolate(values: np.ndarray[Any, Any], size: int, axis: int) -> np.ndarray[Any, Any]:
    """Linear interpolation of one axis at half-pixel centres, without antialiasing (align_corners false)."""
    length = values.shape[axis]
    position = ((np.arange(size) + 0.5) * length / size - 0.5).clip(0, length - 1)
    low = np.floor(position).astype(np.intp)
    high = np.minimum(low + 1, length - 1)
    shape = [1] * values.ndim
    shape[axis] = size
    weight = (position - low).astype(np.float32).reshape(shape)
    blended: np.ndarray[Any, Any] = values.take(low, axis) * (1 - weight) + values.take(high, axis) * weight
    return blended
