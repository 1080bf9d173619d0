"""Overlapping windows of one video in, maps over all its frames out. Pure functions of numpy arrays.

A later window is aligned to the earlier ones in scale and coordinates, and then overwrites the frames they share (L4P, arXiv
2502.13078). Alignment errors accumulate over the windows, so a long video drifts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from schemas.errors import BadInput
from teacher_cache.geometry.rays import (
    IDENTITY,
    DoubleArray,
    Similarity,
    camera_centres,
    robust_similarity,
    rotation_between,
    unit,
)

Values = np.ndarray[Any, Any]
Alignment = Literal["disparity", "scale", "joint", "none"]
ALIGNMENTS: tuple[Alignment, ...] = ("disparity", "scale", "joint", "none")

STITCHED = ("depth", "flow", "motion", "camray")
"""The signals that can be stitched: those with a frame axis."""

_FEWEST_POINTS = 10


def stitch(
    windows: Mapping[str, Sequence[Values]], starts: Sequence[int], *, align: Alignment = "disparity", seed: int = 0
) -> dict[str, Values]:
    """Stitch each signal's windows (frame, …): signal → one array over all frames.

    ``starts`` is each window's first frame, ascending; a window must overlap or directly follow the one before. ``align``:

    * ``disparity``: depth by scale and shift of its inverse, fitted over the overlap; rays by their cameras' poses.
    * ``scale``: depth by the median ratio over the overlap; rays as above.
    * ``joint``: depth and rays by one similarity of their surface points, so that they stay consistent. Needs both.
    * ``none``: neither; a window keeps its own scale and its own first camera's coordinates.

    ``seed`` is for the random samples of ``joint``: equal seeds give equal bytes. Raises `BadInput`.
    """
    _require(windows, starts, align)
    stitched: dict[str, Values] = {}
    if align == "joint" and windows.keys() & {"depth", "camray"}:
        stitched["depth"], stitched["camray"] = stitch_jointly(windows["depth"], windows["camray"], starts, seed=seed)
    for name, parts in windows.items():
        if name in stitched:
            continue
        if name == "depth" and align in ("disparity", "scale"):
            stitched[name] = stitch_depth(parts, starts, by_disparity=align == "disparity")
        elif name == "camray" and align != "none":
            stitched[name] = stitch_rays(parts, starts)
        else:
            stitched[name] = overwrite(parts, starts, skip=1 if name == "flow" else 0)
    return {name: stitched[name] for name in windows}


def _require(windows: Mapping[str, Sequence[Values]], starts: Sequence[int], align: Alignment) -> None:
    if align not in ALIGNMENTS:
        raise BadInput(f"no alignment is called {align!r}; use one of {', '.join(ALIGNMENTS)}")
    if unknown := windows.keys() - set(STITCHED):
        raise BadInput(f"{min(unknown)!r} has no frame axis to stitch along; {', '.join(STITCHED)} have")
    if align == "joint" and (missing := {"depth", "camray"} - windows.keys()) and missing != {"depth", "camray"}:
        raise BadInput(f"the alignment `joint` needs depth and camray together; {min(missing)} is missing")
    for name, parts in windows.items():
        stops = [start + len(part) for start, part in zip(starts, parts, strict=True)]
        if starts[0] != 0 or any(b <= a or b > stop for a, b, stop in zip(starts, starts[1:], stops, strict=False)):
            raise BadInput(f"windows of {name} start at frames {list(starts)}; each must overlap or follow the one before")


def overwrite(
    windows: Sequence[Values],
    starts: Sequence[int],
    aligned: Callable[[int, Values, Values], Values] = lambda _number, window, _overlap: window,
    *,
    skip: int = 0,
) -> Values:
    """Write windows (frame, …) over each other: (frames, …).

    ``aligned(number, window, overlap)`` aligns a window to the result so far, of which ``overlap`` are the frames they share.
    The first ``skip`` shared frames keep the earlier window's values: flow is not defined in a window's frame 0.
    """
    whole = np.empty((starts[-1] + len(windows[-1]), *windows[0].shape[1:]), windows[0].dtype)
    end = 0
    for number, (window, start) in enumerate(zip(windows, starts, strict=True)):
        if number == 0:
            whole[: len(window)] = window
        else:
            first = min(skip, end - start)
            whole[start + first : start + len(window)] = aligned(number, window, whole[start:end])[first:]
        end = max(end, start + len(window))
    return whole


def stitch_depth(windows: Sequence[Values], starts: Sequence[int], *, by_disparity: bool = True) -> Values:
    """Stitch depth windows (frame, y, x), positive and each in its own scale, in the scale of the first: (frames, y, x)."""

    def aligned(_number: int, window: Values, overlap: Values) -> Values:
        if not len(overlap):
            return window
        if by_disparity:
            return rescaled(window, *disparity_fit(window[: len(overlap)], overlap))
        return (window * median_scale(window[: len(overlap)], overlap)).astype(window.dtype)

    return overwrite(windows, starts, aligned)


def disparity_fit(depth: Values, target: Values) -> tuple[float, float]:
    """The least-squares (scale s, shift b): min ‖s · 1/depth + b − 1/target‖² over all pixels. No shift for constant depth."""
    x, y = safe_inverse(depth).ravel(), safe_inverse(target).ravel()
    middle, aim = x.mean(), y.mean()
    spread = float(((x - middle) ** 2).mean())
    if spread <= 1e-12 * middle**2:
        return (float(aim / middle) if middle > 0 else 1.0), 0.0
    scale = float(((x - middle) * (y - aim)).mean()) / spread
    return scale, float(aim - scale * middle)


def rescaled(depth: Values, scale: float, shift: float) -> Values:
    """1 / (scale / depth + shift); 0 where the denominator is not positive, as in `safe_inverse`."""
    return safe_inverse(scale * safe_inverse(depth) + shift).astype(depth.dtype)


def safe_inverse(values: Values) -> DoubleArray:
    """1 / values in float64; 0 where they are not positive."""
    wide = values.astype(np.float64)
    return np.divide(1.0, wide, out=np.zeros_like(wide), where=wide > 0)


def median_scale(depth: Values, target: Values) -> float:
    """The median of target / depth over the pixels where both are positive; 1 if there are none."""
    known = (depth > 0) & (target > 0)
    return float(np.median(target[known].astype(np.float64) / depth[known])) if known.any() else 1.0


def stitch_rays(windows: Sequence[Values], starts: Sequence[int]) -> Values:
    """Stitch ray windows (frame, ray_y, ray_x, 6), each in its own first camera's coordinates, in those of the first window."""

    def aligned(_number: int, window: Values, overlap: Values) -> Values:
        return camera_similarity(window[: len(overlap)], overlap).rays(window) if len(overlap) else window

    return overwrite(windows, starts, aligned)


def camera_similarity(camray: Values, target: Values) -> Similarity:
    """The similarity that maps cameras to the same cameras in another coordinate frame, from their rays alone.

    The rotation is Kabsch's over all pairs of directions, since a pixel has the same ray in both, whatever the intrinsics.
    Scale and translation are the least-squares fit of the camera centres; a static camera does not determine the scale, which
    is then 1.
    """
    rotation = rotation_between(camray[..., :3], target[..., :3])
    centres, aims = camera_centres(camray), camera_centres(target)
    known = np.isfinite(centres).all(-1) & np.isfinite(aims).all(-1)
    if not known.any():
        return Similarity(1.0, rotation, np.zeros(3))
    turned, aims = centres[known] @ rotation.T, aims[known]
    a, b = turned - turned.mean(0), aims - aims.mean(0)
    spread, product = float((a * a).sum()), float((a * b).sum())
    scale = product / spread if spread > 1e-12 and product > 0 else 1.0
    return Similarity(scale, rotation, aims.mean(0) - scale * turned.mean(0))


def stitch_jointly(
    depth: Sequence[Values], camray: Sequence[Values], starts: Sequence[int], *, seed: int = 0
) -> tuple[Values, Values]:
    """Stitch depth and ray windows in scale and coordinates of the first, each aligned by one similarity of its surface points.

    L4P samples pixels of every third shared frame, unseeded. Here, the points are those of all rays of all shared frames, and
    RANSAC is seeded with ``seed``.
    """
    depths, rays = list(depth[0]), list(camray[0])
    for number, start in enumerate(starts[1:], start=1):
        shared, move = len(rays) - start, IDENTITY
        if shared > 0:
            source = depth[number][:shared], camray[number][:shared]
            target = np.stack(depths[start:]), np.stack(rays[start:])
            move = joint_similarity(*source, *target, np.random.default_rng([seed, number]))
        depths[start:] = (depth[number] * move.scale).astype(depth[number].dtype)
        rays[start:] = move.rays(camray[number])
    return np.stack(depths), np.stack(rays)


def joint_similarity(
    depth: Values, camray: Values, target_depth: Values, target_camray: Values, rng: np.random.Generator
) -> Similarity:
    """The similarity that maps surface points to the same points in another coordinate frame, robust to outliers.

    An outlier is off by more than a hundredth of the target's 98th-percentile depth. With fewer than ten points known in both,
    falls back to `camera_similarity`.
    """
    source, target = surface_points(depth, camray), surface_points(target_depth, target_camray)
    known = np.isfinite(source).all(-1) & np.isfinite(target).all(-1)
    if known.sum() < _FEWEST_POINTS:
        return camera_similarity(camray, target_camray)
    threshold = 0.01 * float(np.percentile(target_depth, 98))
    return robust_similarity(source[known], target[known], threshold, rng, sample=_FEWEST_POINTS)


def surface_points(depth: Values, camray: Values) -> DoubleArray:
    """The surface point of each ray, (ray, 3), from depth (frame, y, x) and rays, in the rays' coordinates. NaN if unknown.

    Depth is along the optical axis, which is the mean ray if the principal point is the image's centre, as in L4P.
    """
    rows, columns = camray.shape[1:3]
    height, width = depth.shape[1:]
    y, x = ((np.arange(count) * 2 + 1) * size // (2 * count) for count, size in ((rows, height), (columns, width)))
    direction = unit(camray[..., :3])
    axis = unit(direction.mean(axis=(1, 2), keepdims=True))
    along = (direction * axis).sum(-1)
    distance = depth[:, y[:, None], x].astype(np.float64) / np.where(along > 0, along, np.nan)
    centres = camera_centres(camray)[:, None, None]
    points = centres + direction * np.where(distance > 0, distance, np.nan)[..., None]
    return np.asarray(points.reshape(-1, 3))
