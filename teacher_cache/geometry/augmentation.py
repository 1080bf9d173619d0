"""Signals and frames in the teacher's view in; cropped and mirrored ones out, geometrically consistent with each other.

A mirrored picture shows a mirrored world: with M = diag(-1, 1, 1) in the first camera's coordinates, points and camera centres
become M p. So a ray's direction becomes M d, and its moment o × d, a pseudovector, becomes M o × M d = det(M) M m = -M m; the
flow's u changes sign; depth and motion do not change. A crop changes no values: rays, and depth along the camera's optical
axis, stay the same; only the principal point moves.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from schemas.errors import ViewRefused
from schemas.signal import SIGNALS, SignalName
from schemas.view import WHOLE, Crop, View

Values = np.ndarray[Any, Any]
Frames = np.ndarray[Any, np.dtype[np.uint8]]

_MIRRORED: dict[SignalName, tuple[int, ...]] = {
    "depth": (1,),
    "motion": (1,),
    "flow": (-1, 1),
    "camray": (-1, 1, 1, 1, -1, -1),
    "regions": (1,),
    "frames": (1, 1, 1),
}
"""Signal → sign of each component under mirroring; `f4d` cannot be mirrored."""


def view_signal(signal: SignalName, values: Values, view: View, size: int) -> Values:
    """A signal's values (…, its axes in `SIGNALS`), transformed to ``view``. ``size`` is the teacher's frame size, in pixels.

    Raises `ViewRefused` for `f4d`, and for a crop that cuts through cells of the camera rays; `BadInput` for a crop that
    reaches outside the picture.
    """
    if view == WHOLE:
        return values
    if signal not in _MIRRORED:
        raise ViewRefused(
            f"{signal} has no other view than the teacher's: the features of a mirrored or cropped video are not its mirrored "
            "or cropped features. Run the teacher on the videos in that view, into another store, or read only the maps."
        )
    dims = SIGNALS[signal].dims
    x = next(i for i, name in enumerate(dims) if name in ("x", "ray_x", "student_x")) - len(dims)  # y is the axis before
    if view.crop is not None:
        top, left, height, width = _in_cells(signal, view.crop, values.shape[x - 1], values.shape[x], size)
        values = values.take(range(top, top + height), axis=x - 1).take(range(left, left + width), axis=x)
    if view.flip:
        factors = np.array(_MIRRORED[signal], values.dtype)
        values = np.ascontiguousarray(np.flip(values, axis=x) * factors)
    return values


def _in_cells(signal: str, crop: Crop, rows: int, columns: int, size: int) -> tuple[int, ...]:
    """The crop's top, left, height and width in cells of a rows × columns grid over the picture. Raises `ViewRefused`."""
    crop.require_within(size, size)
    scaled = [crop.top * rows, crop.left * columns, crop.height * rows, crop.width * columns]
    if any(position % size for position in scaled):
        raise ViewRefused(
            f"{signal} has {rows} × {columns} cells over {size} × {size} pixels, and the crop {crop!r} cuts through them; "
            f"use multiples of {size / columns:g} pixels, or resample the whole picture's {signal} yourself"
        )
    return tuple(position // size for position in scaled)


def view_frames(frames: Frames, view: View, size: int, shape: tuple[int, int] | None = None) -> Frames:
    """Frames of the whole picture, uint8 (frame, height, width, RGB) at any resolution, transformed to ``view`` as the signals.

    The crop is in pixels of the teacher's ``size``, to which the whole picture was squashed. Here it is the same part of the
    picture, to sub-pixel precision, resized to ``shape`` (height, width), bicubic with antialiasing; by default to its own
    size, rounded. Raises `BadInput` for a crop that reaches outside the picture.
    """
    height, width = frames.shape[1:3]
    box = (0.0, 0.0, float(width), float(height))
    if view.crop is not None:
        view.crop.require_within(size, size)
        left, top = view.crop.left * width / size, view.crop.top * height / size
        box = (left, top, left + view.crop.width * width / size, top + view.crop.height * height / size)
    rows, columns = shape or (max(1, round(box[3] - box[1])), max(1, round(box[2] - box[0])))
    seen = [np.asarray(Image.fromarray(f).resize((columns, rows), Image.Resampling.BICUBIC, box=box)) for f in frames]
    return np.ascontiguousarray(np.stack(seen)[:, :, ::-1] if view.flip else np.stack(seen))
