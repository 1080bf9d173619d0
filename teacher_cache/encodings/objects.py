"""The objects of a clip in, the array of the signal ``objects`` out, and back: the one place that knows its columns.

A row is an object, its index the number in the label map less one. Columns: `PROPERTIES`, then the frames that show it, as bits
of whole numbers below 2^16, `_FRAMES` a column, which float32 holds exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from schemas.errors import StoreDamaged, first_line
from schemas.regions import Box, NotFound, RegionObject
from schemas.signal import Shape

PROPERTIES = ("phrase", "left", "top", "right", "bottom", "score", "reason")
"""``phrase``: index into the phrases of the row's prompt, or beyond them where none named it; -1 where there is no object.
``left`` … ``bottom``: its box in the clip's first frame, in shares of width and height; all -1 without one. ``score``: as
`RegionObject.score`. ``reason``: 0 for an object with pixels, or 1 and more for `NotFound`, in that order."""

NO_OBJECT = -1.0
_REASONS: tuple[NotFound, ...] = get_args(NotFound)
_FRAMES = 16


def objects_shape(objects: int, frames: int) -> Shape:
    """Shape of the array of a clip of so many frames, with room for so many objects."""
    return objects, len(PROPERTIES) + -(-frames // _FRAMES)


def packed_objects(found: Sequence[tuple[int, RegionObject]], shape: Shape) -> NDArray[np.float32]:
    """The array of a clip's objects, float32 (object, property), each with the index of its phrase. Numbers must ascend."""
    values = np.zeros(shape, np.float32)
    values[:, : len(PROPERTIES)] = NO_OBJECT
    for phrase, one in found:
        box = (-1.0,) * 4 if one.box is None else (one.box.left, one.box.top, one.box.right, one.box.bottom)
        reason = 0 if one.reason is None else 1 + _REASONS.index(one.reason)
        row = values[one.number - 1]
        row[: len(PROPERTIES)] = (phrase, *box, one.score, reason)
        for frame in one.frames:
            row[len(PROPERTIES) + frame // _FRAMES] += 2.0 ** (frame % _FRAMES)
    return values


def unpacked_objects(values: NDArray[Any], phrases: Sequence[str]) -> tuple[RegionObject, ...]:
    """The objects of one clip's array, float32 (object, property), by the phrases of its row's prompt.

    Raises `StoreDamaged` for an array that `packed_objects` does not make.
    """
    if not np.isfinite(values).all():
        raise StoreDamaged("a clip's objects cannot be read: not all of their numbers are finite")
    try:
        return tuple(_object(int(row) + 1, values[row], phrases) for row in np.flatnonzero(values[:, 0] >= 0))
    except (ValueError, IndexError) as error:  # pydantic's are among them
        raise StoreDamaged(f"a clip's objects cannot be read: {first_line(error)}") from None


def _object(number: int, values: NDArray[Any], phrases: Sequence[str]) -> RegionObject:
    phrase, left, top, right, bottom, score, reason = (float(value) for value in values[: len(PROPERTIES)])
    masks = values[len(PROPERTIES) :]
    if not ((masks >= 0) & (masks < 2**_FRAMES) & (masks % 1 == 0)).all():
        raise ValueError(f"the frames that show object {number} are no numbers of {_FRAMES} bits")
    shown = (masks[:, None].astype(np.int64) >> np.arange(_FRAMES)) & 1
    return RegionObject(
        number=number,
        phrase=phrases[int(phrase)] if phrase < len(phrases) else f"object {number}",
        box=None if left < 0 else Box(left=left, top=top, right=right, bottom=bottom),
        score=score,
        frames=tuple(np.flatnonzero(shown).tolist()),
        reason=None if reason < 1 else _REASONS[int(reason) - 1],
    )


def frames_shown(labels: NDArray[np.uint8], objects: int) -> NDArray[np.bool_]:
    """Which frames of a label map (frame, y, x) show each object: bool (object, frame), by their numbers less one."""
    shown = np.zeros((256, len(labels)), bool)
    for frame, picture in enumerate(labels):
        shown[np.unique(picture), frame] = True
    return shown[1 : objects + 1]
