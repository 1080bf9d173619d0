"""A view of a clip: a crop of the frames, and whether they are flipped."""

from __future__ import annotations

from pydantic import Field

from schemas.base import Frozen
from schemas.errors import BadInput


class Crop(Frozen):
    """A rectangle of the frames, in pixels at the teacher's size."""

    top: int = Field(ge=0)
    """First row."""
    left: int = Field(ge=0)
    """First column."""
    height: int = Field(ge=1)
    """Rows."""
    width: int = Field(ge=1)
    """Columns."""

    def require_within(self, height: int, width: int) -> None:
        """Raise `BadInput` if the rectangle does not fit in frames of ``height`` × ``width`` pixels."""
        if self.top + self.height > height or self.left + self.width > width:
            raise BadInput(
                f"the crop of rows {self.top} to {self.top + self.height} and columns {self.left} to {self.left + self.width} "
                f"leaves the picture, which has {height} rows and {width} columns; crops are in pixels at the teacher's size"
            )


class View(Frozen):
    """A crop, then a horizontal flip. Nothing is resized."""

    crop: Crop | None = None
    """The part of the frames to keep; null for all of it."""
    flip: bool = False
    """Whether to swap left and right."""

    def then(self, other: View, size: int) -> View:
        """This view followed by ``other``, as one view. ``size``: height and width of the teacher's frames, in pixels.

        Raises `BadInput` if the other's crop does not fit in this view.
        """
        crop = self.crop
        if other.crop is not None:
            outer = self.crop or Crop(top=0, left=0, height=size, width=size)
            inner = other.crop
            inner.require_within(outer.height, outer.width)
            left = outer.width - inner.left - inner.width if self.flip else inner.left
            crop = Crop(top=outer.top + inner.top, left=outer.left + left, height=inner.height, width=inner.width)
        return View(crop=crop, flip=self.flip != other.flip)


WHOLE = View()
"""The clip as the teacher saw it."""
