"""Decoded uint8 frames in, uint8 frames of the teacher's size, or of one that a reader asked for, out. Models normalise."""

from __future__ import annotations

import functools
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from schemas.errors import BadInput
from schemas.recipe import ClipRecipe

BAD_PICTURE = (OSError, EOFError, ValueError, TypeError, SyntaxError, NotImplementedError, Image.DecompressionBombError)
"""What Pillow raises for a damaged picture, or one that it cannot read."""

Frame = np.ndarray[Any, np.dtype[np.uint8]]


def preprocess(frames: Frame, recipe: ClipRecipe) -> Frame:
    """Resize uint8 (frame, height, width, RGB) to uint8 (frame, size, size, RGB). Squashes to a square and never crops.

    Raises `BadInput` if the recipe lacks the `student_size` that it needs.
    """
    if recipe.preprocessing == "l4p":
        resized = [_l4p(frame, recipe.size) for frame in frames]
    else:
        if recipe.student_size is None:
            raise BadInput("the preprocessing `student` needs `student_size`, the student's square input size in pixels")
        resized = [_student(frame, recipe.student_size, recipe.size) for frame in frames]
    return np.stack(resized)


def _l4p(frame: Frame, size: int) -> Frame:
    """As L4P's loader (arXiv 2502.13078): resize to size² and back with antialiasing, then bilinear without antialiasing.

    The last step reads two rows and two columns per output row and column, so only those are converted to floating point.
    """
    height, width = frame.shape[:2]
    smooth = Image.fromarray(frame).resize((size, size), Image.Resampling.BILINEAR)
    back = np.asarray(smooth.resize((width, height), Image.Resampling.BILINEAR))
    columns, rows = _taps(width, size), _taps(height, size)
    wanted = back.take(rows.indices, 0).take(columns.indices, 1).astype(np.float32)
    blended = _blend(_blend(wanted, rows.weight[:, None, None], axis=0), columns.weight[:, None], axis=1)
    return np.asarray(blended.round().clip(0, 255), dtype=np.uint8)


def _student(frame: Frame, student_size: int, size: int) -> Frame:
    """As the released 4D-RGPT: to the student's square size (bicubic, as its image processor), then to the teacher's."""
    square = Image.fromarray(resize(frame, FrameSize(student_size)))
    return np.asarray(square.resize((size, size), Image.Resampling.BILINEAR))


_HIGHEST = 4
"""The height of a frame in its own shape, over its width, beyond which it is scaled by its height."""


class FrameSize(NamedTuple):
    """The size in which frames that are asked for by number come."""

    side: int
    """Pixels."""
    shape: Literal["square", "own"] = "square"
    """``square``: height and width are ``side``, whatever the video's. ``own``: the video's own shape, at most ``side`` wide
    and four times as high, and never enlarged."""

    @property
    def most_pixels(self) -> int:
        """Pixels of the largest frame of this size."""
        return self.side**2 * (1 if self.shape == "square" else _HIGHEST)

    def allows(self, height: int, width: int) -> bool:
        """Whether a frame of this size may have these sides."""
        if self.shape == "square":
            return height == width == self.side
        return 0 < width <= self.side and 0 < height <= _HIGHEST * self.side


def resize(frame: Frame, size: FrameSize) -> Frame:
    """uint8 (height, width, RGB) to that size. A square is bicubic with antialiasing, as SigLIP's image processor makes it."""
    if size.shape == "square":
        return np.asarray(Image.fromarray(frame).resize((size.side, size.side), Image.Resampling.BICUBIC))
    height, width = frame.shape[:2]
    scale = min(1.0, size.side / width, _HIGHEST * size.side / height)
    wanted = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(frame).resize(wanted, Image.Resampling.BILINEAR))


class _Taps(NamedTuple):
    """Linear interpolation of one axis at half-pixel centres, without antialiasing (align_corners false)."""

    indices: NDArray[np.intp]
    """The index before each output position, for all positions, followed by the index after each."""
    weight: NDArray[np.float32]
    """Weight of the value after."""


@functools.lru_cache(maxsize=64)
def _taps(length: int, size: int) -> _Taps:
    position = ((np.arange(size) + 0.5) * length / size - 0.5).clip(0, length - 1)
    low = np.floor(position).astype(np.intp)
    return _Taps(np.concatenate([low, np.minimum(low + 1, length - 1)]), (position - low).astype(np.float32))


def _blend(values: NDArray[np.float32], weight: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Interpolate the two halves of an axis: the values before and, by ``weight``, the values after."""
    low, high = np.split(values, 2, axis)
    return low * (1 - weight) + high * weight
