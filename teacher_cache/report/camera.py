"""Plücker rays per frame in, a small SVG of the camera's path from above out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from teacher_cache.geometry.rays import DoubleArray, FloatArray, camera_centres

_WIDTH, _HEIGHT, _MARGIN = 240.0, 120.0, 30.0
_CONE_PIXELS = 26.0


@dataclass(frozen=True)
class CameraPath:
    """An SVG of the path, with one ``<g class="cone">`` per frame, and the path's length in the scale of depth."""

    svg: str
    length: float


def camera_path(camray: FloatArray, *, least_extent: float) -> CameraPath:
    """The path from above: x to the right, z (the first camera's viewing direction) upwards.

    ``camray`` is (frame, ray_y, ray_x, 6). The drawing covers at least ``least_extent``, in the scale of depth, so that a
    static camera's noise does not look like motion.
    """
    centres = camera_centres(camray)
    known = np.isfinite(centres).all(-1)
    steps = np.linalg.norm(np.diff(centres[known], axis=0), axis=-1)
    to_chart = _placement(centres[known][:, [0, 2]], least_extent)
    points = {int(f): to_chart(centres[f, [0, 2]]) for f in np.flatnonzero(known)}
    line = "L".join(f"{x:.1f} {y:.1f}" for x, y in points.values())
    dots = "".join(f'<circle class="path-dot" cx="{x:.1f}" cy="{y:.1f}" r="1.6"/>' for x, y in points.values())
    cones = "".join(_cone(f, points.get(f), camray[f]) for f in range(len(camray)))
    length = float(steps.sum())
    svg = (
        f'<svg class="path" viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" role="img" '
        f'aria-label="Camera path from above, length {length:.3g} in the scale of depth">'
        f'<path class="path-line" d="{f"M{line}" if line else ""}"/>{dots}{cones}</svg>'
    )
    return CameraPath(svg, length)


class _Placement:
    """Maps world (x, z) to SVG pixels: centred, one scale for both axes, z upwards."""

    def __init__(self, middle: DoubleArray, scale: float) -> None:
        self._middle, self._scale = middle, scale

    def __call__(self, point: DoubleArray) -> tuple[float, float]:
        x, z = (point - self._middle) * self._scale
        return float(_WIDTH / 2 + x), float(_HEIGHT / 2 + _CONE_PIXELS / 3 - z)


def _placement(points: DoubleArray, least_extent: float) -> _Placement:
    if not len(points):
        return _Placement(np.zeros(2), 1.0)
    low, high = points.min(0), points.max(0)
    extent = np.maximum(high - low, least_extent)
    scale = min((_WIDTH - 2 * _MARGIN) / extent[0], (_HEIGHT - 2 * _MARGIN) / extent[1])
    return _Placement((low + high) / 2, float(scale))


def _cone(frame: int, centre: tuple[float, float] | None, rays: FloatArray) -> str:
    """One frame's field of view from above: a triangle between the mean rays of its left and right edges."""
    if centre is None:
        return f'<g class="cone" data-frame="{frame}"></g>'
    x, y = centre
    corners = []
    for column in (0, -1):
        edge = rays[:, column, :3]
        right, _, forward = edge[np.isfinite(edge).all(-1)].sum(0)
        size = float(np.hypot(right, forward)) or 1.0
        corners.append(f"{x + _CONE_PIXELS * right / size:.1f} {y - _CONE_PIXELS * forward / size:.1f}")
    return (
        f'<g class="cone" data-frame="{frame}"><path d="M{x:.1f} {y:.1f}L{corners[0]}L{corners[1]}Z"/>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/></g>'
    )
