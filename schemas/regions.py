"""The objects of a clip that its phrases name: what the numbers in a label map of the signal ``regions`` stand for."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from schemas.base import Frozen

MOST_OBJECTS = 255
"""The most objects of one clip: label maps are uint8, and 0 is no object."""

NotFound = Literal[
    "no_box",  # nothing in the first frame is it: none scores above the thresholds, or no truth mask has it
    "no_mask",  # it has a box, and the segmenter gives no pixel to it in any frame
    "too_many",  # the clip has as many objects as a label map can tell apart
]

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Box(Frozen):
    """A rectangle, in shares of the frame's width and height: the same in the video, the teacher's frame and the student's."""

    left: Share
    top: Share
    right: Share
    bottom: Share


class RegionObject(Frozen):
    """One object of a clip, found or not."""

    number: int = Field(ge=1, le=MOST_OBJECTS)
    """k: its value in the label map, the same in all frames, and the k of ``<obj_k>``."""
    phrase: str
    """What named it."""
    box: Box | None
    """Where it is in the clip's first frame; null if it was not found there."""
    score: Share
    """The grounding model's confidence in the box; 0 without one."""
    frames: tuple[int, ...]
    """Frames of the clip in which it has a pixel, ascending."""
    reason: NotFound | None = None
    """Why it has no pixel in any frame; null if it has."""
