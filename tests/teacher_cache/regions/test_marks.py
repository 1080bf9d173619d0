"""Set-of-Mark pictures: seen on any background, at any size, and only where the objects are."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.regions import Box, RegionObject
from teacher_cache.regions.marks import COLORS, Frame, boxes_of, color_of, draw_marks


def thing(number: int, left: float, top: float, right: float, bottom: float) -> RegionObject:
    box = Box(left=left, top=top, right=right, bottom=bottom)
    return RegionObject(number=number, phrase="cup", box=box, score=1, frames=(0,))


def contrast(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    """WCAG 2.2."""

    def luminance(color: tuple[int, ...]) -> float:
        parts = [part / 255 for part in color]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("background", [(0, 0, 0), (255, 255, 255), (128, 128, 128), *COLORS])
def test_a_mark_stands_out_from_any_background(background: tuple[int, int, int]) -> None:
    frame = np.full((240, 320, 3), background, np.uint8)
    drawn = draw_marks(frame, [thing(1, 0.3, 0.3, 0.7, 0.7)])
    changed = drawn[(drawn != frame).any(-1)]
    assert max(contrast(tuple(color), background) for color in np.unique(changed, axis=0)) >= 3
    assert (frame == background).all()  # the frame itself is as it was


@pytest.mark.parametrize(("height", "width"), [(24, 32), (64, 96), (448, 448), (1080, 1920)])
@pytest.mark.parametrize("style", ["box", "contour"])
def test_every_object_has_its_line_and_its_number_in_the_picture(height: int, width: int, style: str) -> None:
    labels = np.zeros((30, 40), np.uint8)
    labels[3:12, 2:14], labels[18:29, 20:39], labels[0:1, 39:40] = 1, 2, 9
    objects = [thing(number, 0, 0, 1, 1) for number in (1, 2, 9)]
    frame = np.full((height, width, 3), 60, np.uint8)
    drawn = draw_marks(frame, objects, labels, style=style)  # type: ignore[arg-type]
    for number in (1, 2, 9):
        assert (drawn == color_of(number)).all(-1).sum() > 40, number
    alone: Frame = draw_marks(frame, objects[:1], labels, style=style)  # type: ignore[arg-type]
    assert not (alone == color_of(2)).all(-1).any()
    inside = labels == 1
    inside[:5] = inside[10:] = inside[:, :4] = inside[:, 12:] = False  # well within it
    assert height != 1080 or (drawn[np.kron(inside, np.ones((height // 30, width // 40))).astype(bool)] == 60).mean() > 0.9


def test_the_number_of_an_object_of_two_parts_stands_at_one_of_them() -> None:
    labels = np.zeros((40, 60), np.uint8)
    labels[5:11, 30:36] = labels[25:31, 8:14] = 1
    drawn = draw_marks(np.full((240, 360, 3), 60, np.uint8), [thing(1, 0, 0, 1, 1)], labels, style="contour")
    rows, columns = np.nonzero((drawn != 60).any(-1))
    near = np.zeros((240, 360), bool)
    for top, left, bottom, right in ((5, 30, 11, 36), (25, 8, 31, 14)):
        near[6 * top - 30 : 6 * bottom + 6, max(0, 6 * left - 6) : 6 * right + 6] = True
    assert near[rows, columns].all()


def test_boxes_are_where_the_label_map_says() -> None:
    labels = np.zeros((4, 8), np.uint8)
    labels[1:3, 2:7] = 3
    assert boxes_of(labels) == {3: Box(left=0.25, top=0.25, right=0.875, bottom=0.75)}
    assert boxes_of(np.zeros((4, 8), np.uint8)) == {}


def test_plates_of_objects_in_one_place_do_not_cover_each_other() -> None:
    frame = np.zeros((240, 320, 3), np.uint8)
    drawn = draw_marks(frame, [thing(number, 0.4, 0.4, 0.5, 0.5) for number in (1, 2, 3)])
    for number in (1, 2, 3):  # of their lines, one hides the others
        assert (drawn == color_of(number)).all(-1).sum() > 80


def test_an_object_that_is_not_in_the_frame_is_not_drawn() -> None:
    frame = np.zeros((40, 60, 3), np.uint8)
    unseen = RegionObject(number=1, phrase="cup", box=None, score=0, frames=(), reason="no_box")
    assert (draw_marks(frame, [unseen]) == frame).all()
    assert (draw_marks(frame, [thing(1, 0, 0, 1, 1)], np.zeros((4, 6), np.uint8)) == frame).all()
    with pytest.raises(ValueError, match="contours need a label map"):
        draw_marks(frame, [unseen], style="contour")
