"""A frame and a clip's objects in; the frame with the objects outlined and numbered out: Set-of-Mark (arXiv 2310.11441)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from schemas.regions import Box, RegionObject
from schemas.report import MarkStyle
from teacher_cache.geometry.boxes import Mask, box_of

Frame = np.ndarray[Any, np.dtype[np.uint8]]
Labels = np.ndarray[Any, np.dtype[np.uint8]]
_Rectangle = tuple[int, int, int, int]
_Color = tuple[int, int, int]

COLORS: tuple[_Color, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (240, 228, 66),
    (204, 121, 167),
    (0, 158, 115),
    (213, 94, 0),
    (0, 114, 178),
)
"""Okabe and Ito's, which people who see fewer colours tell apart too; the brightest first."""
_HALO: _Color = (0, 0, 0)
_SMALLEST_TEXT, _LARGEST_TEXT = 9, 72


@dataclass(frozen=True)
class _Pen:
    """Sizes in pixels, for a frame's shorter side."""

    line: int
    halo: int
    text: int

    @classmethod
    def of(cls, height: int, width: int) -> _Pen:
        side = min(height, width)
        line = max(1, round(side / 120))
        return cls(line, max(1, line // 2), min(_LARGEST_TEXT, max(_SMALLEST_TEXT, round(side / 16))))


def color_of(number: int) -> _Color:
    """The colour of object ``number``, from 1, the same in every picture. After seven, colours come again."""
    return COLORS[(number - 1) % len(COLORS)]


def boxes_of(labels: Labels) -> dict[int, Box]:
    """Where the objects of a label map (y, x) are: number → box."""
    boxes = ((number, box_of(labels == number)) for number in np.unique(labels[labels > 0]).tolist())
    return {number: box for number, box in boxes if box is not None}


def draw_marks(
    frame: Frame, objects: Sequence[RegionObject], labels: Labels | None = None, *, style: MarkStyle = "box"
) -> Frame:
    """The frame with each object outlined, and its number beside it.

    ``frame``: uint8 (y, x, RGB). ``labels``: uint8 (y', x'), of any size, the frame's label map, k = object k; without it,
    objects are where their ``box`` says, which is in the clip's first frame, and ``style`` can only be ``box``. Of ``objects``,
    those that are not in this frame are left out. Returns uint8 (y, x, RGB), a copy. Raises `ValueError` for contours without
    labels.
    """
    if labels is None and style == "contour":
        raise ValueError("contours need a label map")
    height, width = frame.shape[:2]
    pen = _Pen.of(height, width)
    found = boxes_of(labels) if labels is not None else {one.number: one.box for one in objects if one.box is not None}
    shown = [one.number for one in objects if one.number in found]
    places = {number: _rectangle(found[number], height, width) for number in shown}
    picture = Image.fromarray(frame).convert("RGB")
    draw = ImageDraw.Draw(picture)
    # Large ones first, so that a small one before them is not crossed by their lines.
    for number in sorted(shown, key=lambda number: -_area(places[number])):
        if style == "box" or labels is None:
            _outline(draw, places[number], color_of(number), pen)
        else:
            _contour(picture, labels == number, places[number], color_of(number), pen)
    masks = {number: labels == number for number in shown} if style == "contour" and labels is not None else {}
    _numbers(draw, places, masks, pen, (height, width))
    return np.asarray(picture)


def _rectangle(box: Box, height: int, width: int) -> _Rectangle:
    """Its first and last column and row: at least one pixel."""
    left, top = min(width - 1, round(box.left * width)), min(height - 1, round(box.top * height))
    return left, top, max(left, round(box.right * width) - 1), max(top, round(box.bottom * height) - 1)


def _area(place: _Rectangle) -> int:
    return (place[2] - place[0] + 1) * (place[3] - place[1] + 1)


def _grown(place: _Rectangle, by: int) -> _Rectangle:
    return place[0] - by, place[1] - by, place[2] + by, place[3] + by


def _outline(draw: ImageDraw.ImageDraw, place: _Rectangle, color: _Color, pen: _Pen) -> None:
    """A line around the box, dark at both sides, so that it is seen on its own colour."""
    draw.rectangle(_grown(place, pen.line + pen.halo), outline=_HALO, width=pen.line + 2 * pen.halo)
    draw.rectangle(_grown(place, pen.line), outline=color, width=pen.line)


def _contour(picture: Image.Image, mask: Mask, place: _Rectangle, color: _Color, pen: _Pen) -> None:
    """A line around the mask's pixels, dark at both sides."""
    # Only what is near the object is looked at, and a map smaller than the frame gets a smooth edge.
    margin = pen.line + 2 * pen.halo + 2
    left, top = max(0, place[0] - margin), max(0, place[1] - margin)
    right, bottom = min(picture.width, place[2] + margin + 1), min(picture.height, place[3] + margin + 1)
    scale = mask.shape[1] / picture.width, mask.shape[0] / picture.height
    source = (left * scale[0], top * scale[1], right * scale[0], bottom * scale[1])
    grey = Image.fromarray(mask.astype(np.uint8) * 255)
    inside = np.asarray(grey.resize((right - left, bottom - top), Image.Resampling.BILINEAR, box=source)) > 127
    line = _dilated(inside, pen.line)
    rings = ((_HALO, _dilated(line, pen.halo) & _dilated(~inside, pen.halo)), (color, line & ~inside))
    for fill, ring in rings:
        picture.paste(fill, (left, top), Image.fromarray(ring.astype(np.uint8) * 255))


def _dilated(mask: Mask, by: int) -> Mask:
    """Every pixel that has one of the mask's within ``by`` rows and columns."""
    padded = np.pad(mask, by)
    rows = np.logical_or.reduce([padded[shift : shift + mask.shape[0]] for shift in range(2 * by + 1)])
    return np.asarray(np.logical_or.reduce([rows[:, shift : shift + mask.shape[1]] for shift in range(2 * by + 1)]))


def _numbers(
    draw: ImageDraw.ImageDraw,
    places: Mapping[int, _Rectangle],
    masks: Mapping[int, Mask],
    pen: _Pen,
    shape: tuple[int, int],
) -> None:
    """Each object's number on a plate of its colour, at its mask or at a corner of its box, where no other plate is."""
    font = ImageFont.load_default(size=pen.text)
    pad = max(1, pen.text // 6)
    taken: list[_Rectangle] = []
    for number, place in sorted(places.items(), key=lambda item: _area(item[1])):
        text = str(number)
        left, top, right, bottom = (round(side) for side in draw.textbbox((0, 0), text, font=font))
        size = right - left + 2 * pad, bottom - top + 2 * pad
        corners = chain(_tips(masks[number], place, size, pen, shape) if number in masks else (), _corners(place, size, pen))
        at = _free(corners, size, taken, shape)
        plate = (at[0], at[1], at[0] + size[0] - 1, at[1] + size[1] - 1)
        taken.append(plate)
        draw.rectangle(_grown(plate, pen.halo), fill=_HALO)
        draw.rectangle(plate, fill=color_of(number))
        draw.text((at[0] + pad - left, at[1] + pad - top), text, fill=ink_on(color_of(number)), font=font)


def _tips(mask: Mask, place: _Rectangle, size: tuple[int, int], pen: _Pen, shape: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Where a plate's left top corner may be: at the mask's highest, lowest, leftmost and rightmost pixel.

    An object of several parts may have none of them near a corner of its box.
    """
    gap = pen.line + 2 * pen.halo
    left, top, right, bottom = place
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    for line, edge in ((mask[rows[0]], top - size[1] - gap), (mask[rows[-1]], bottom + 1 + gap)):
        yield _middle(line, shape[1]) - size[0] // 2, edge
    for line, edge in ((mask[:, columns[0]], left - size[0] - gap), (mask[:, columns[-1]], right + 1 + gap)):
        yield edge, _middle(line, shape[0]) - size[1] // 2


def _middle(line: Mask, length: int) -> int:
    """The middle one of a line's pixels in the mask, in a frame of that length."""
    found = np.flatnonzero(line)
    return int((found[len(found) // 2] + 0.5) * length / len(line))


def _corners(place: _Rectangle, size: tuple[int, int], pen: _Pen) -> Iterator[tuple[int, int]]:
    """Where a plate's left top corner may be, the best first: above the box, below it, beside it, then within."""
    gap = pen.line + 2 * pen.halo
    left, top, right, bottom = place
    above, below = top - size[1] - gap, bottom + 1 + gap
    yield from ((left, above), (right + 1 - size[0], above), (left, below), (right + 1 - size[0], below))
    yield from ((left - size[0] - gap, top), (right + 1 + gap, top))
    yield from ((left + gap, top + gap), (right - size[0] - gap, top + gap), (left + gap, bottom - size[1] - gap))


def _free(
    corners: Iterator[tuple[int, int]], size: tuple[int, int], taken: Sequence[_Rectangle], shape: tuple[int, int]
) -> tuple[int, int]:
    """The first corner whose plate is in the frame and on no other plate; else the first one, moved into the frame."""
    height, width = shape
    found = list(corners)
    for left, top in found:
        is_inside = left >= 1 and top >= 1 and left + size[0] < width and top + size[1] < height
        if is_inside and not any(_overlap((left, top, left + size[0], top + size[1]), other) for other in taken):
            return left, top
    left, top = found[0]
    return max(1, min(left, width - size[0] - 1)), max(1, min(top, height - size[1] - 1))


def _overlap(one: _Rectangle, other: _Rectangle) -> bool:
    return one[0] <= other[2] and other[0] <= one[2] and one[1] <= other[3] and other[1] <= one[3]


def ink_on(color: _Color) -> _Color:
    """Black or white, whichever has more contrast with the colour (WCAG 2.2, relative luminance)."""
    linear = [value / 12.92 if (value := part / 255) <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for part in color]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if (luminance + 0.05) / 0.05 >= 1.05 / (luminance + 0.05) else (255, 255, 255)
