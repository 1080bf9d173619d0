"""From a decoded frame to the teacher's size, by a named recipe. uint8 in, uint8 out: the teacher normalises."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
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
    """As L4P's own loader (arXiv 2502.13078): antialiased to size² and back, then bilinear without antialiasing.

    The last step looks at two rows and two columns for each of its own, and only those become floating point.
    """
    height, width = frame.shape[:2]
    smooth = Image.fromarray(frame).resize((size, size), Image.Resampling.BILINEAR)
    back = np.asarray(smooth.resize((width, height), Image.Resampling.BILINEAR))
    columns, rows = _taps(width, size), _taps(height, size)
    wanted = back.take(rows.indices, 0).take(columns.indices, 1).astype(np.float32)
    blended = _blend(_blend(wanted, rows.weight[:, None, None], axis=0), columns.weight[:, None], axis=1)
    return np.asarray(blended.round().clip(0, 255), dtype=np.uint8)


def _student(frame: Frame, student_size: int, size: int) -> Frame:
    """As the released 4D-RGPT: to the student's square size (bicubic, its image processor), then to the teacher's."""
    square = Image.fromarray(frame).resize((student_size, student_size), Image.Resampling.BICUBIC)
    return np.asarray(square.resize((size, size), Image.Resampling.BILINEAR))


class _Taps(NamedTuple):
    """Linear interpolation of one axis at half-pixel centres, without antialiasing (align_corners false)."""

    indices: NDArray[np.intp]
    """For each value wanted, the index before it, and then for each the index after it."""
    weight: NDArray[np.float32]
    """Of the value after."""


@functools.lru_cache(maxsize=64)
def _taps(length: int, size: int) -> _Taps:
    position = ((np.arange(size) + 0.5) * length / size - 0.5).clip(0, length - 1)
    low = np.floor(position).astype(np.intp)
    return _Taps(np.concatenate([low, np.minimum(low + 1, length - 1)]), (position - low).astype(np.float32))


def _blend(values: NDArray[np.float32], weight: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """The two halves of an axis into one: the values before, and those after by their weight."""
    low, high = np.split(values, 2, axis)
    return low * (1 - weight) + high * weight
