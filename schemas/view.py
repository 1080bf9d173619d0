"""A view of a clip: which part of the picture is seen, and whether in a mirror."""

from __future__ import annotations

from pydantic import Field

from schemas.base import Frozen
from schemas.errors import BadInput


class Crop(Frozen):
    """A rectangle of the picture, in pixels at the teacher's size."""

    top: int = Field(ge=0)
    left: int = Field(ge=0)
    height: int = Field(ge=1)
    width: int = Field(ge=1)

    def require_within(self, height: int, width: int) -> None:
        """Raises `BadInput` where the rectangle leaves a picture of that many pixels."""
        if self.top + self.height > height or self.left + self.width > width:
            raise BadInput(
                f"the crop of rows {self.top} to {self.top + self.height} and columns {self.left} to {self.left + self.width} "
                f"leaves the picture, which has {height} rows and {width} columns; crops are in pixels at the teacher's size"
            )


class View(Frozen):
    """First the crop, then the mirror. Nothing is resized."""

    crop: Crop | None = None
    """None for the whole picture."""
    flip: bool = False
    """Whether left and right are swapped."""

    def then(self, other: View, size: int) -> View:
        """This view and ``other`` of what it shows, as one. ``size``: the teacher's, in pixels. Raises `BadInput`."""
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
