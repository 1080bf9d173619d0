"""Masks in, the boxes around them out."""

from __future__ import annotations

from typing import Any

import numpy as np

from schemas.regions import Box

Mask = np.ndarray[Any, np.dtype[np.bool_]]


def box_of(mask: Mask) -> Box | None:
    """The box around a mask (y, x), half-open, in shares of height and width; None if it is empty."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not len(rows):
        return None
    height, width = mask.shape
    return Box(left=columns[0] / width, top=rows[0] / height, right=(columns[-1] + 1) / width, bottom=(rows[-1] + 1) / height)
