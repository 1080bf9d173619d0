"""Plücker rays in; camera centres, rotations, intrinsics, and rays in another coordinate frame out.

Rays are (frame, ray_y, ray_x, 6): direction d, of any length, then moment m = o × d, where o is the camera's centre.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]
DoubleArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Similarity:
    """x ↦ scale · rotation @ x + translation."""

    scale: float
    rotation: DoubleArray
    """(3, 3)."""
    translation: DoubleArray
    """(3,)."""

    def points(self, points: FloatArray) -> DoubleArray:
        """Transform points (…, 3)."""
        return np.asarray(self.scale * points @ self.rotation.T + self.translation)

    def rays(self, camray: FloatArray) -> FloatArray:
        """Transform rays (…, 6): d' = R d, and m' = o' × d' = s R m + t × R d, for directions of any length."""
        direction, moment = camray[..., :3] @ self.rotation.T, camray[..., 3:] @ self.rotation.T
        moved = self.scale * moment + np.cross(self.translation, direction)
        return np.concatenate([direction, moved], axis=-1).astype(camray.dtype)


IDENTITY = Similarity(1.0, np.eye(3), np.zeros(3))


def camera_centres(camray: FloatArray) -> DoubleArray:
    """The point closest to all rays of each frame: (frame, 3) from (frame, ray_y, ray_x, 6). NaN if rays do not determine it.

    A ray with unit direction d and moment m passes through d × m; the sum of squared distances to all rays is minimal where
    Σ (I − d dᵀ) c = Σ d × m. Directions need not have unit length.
    """
    rays = camray.reshape(len(camray), -1, 6).astype(np.float64)
    direction, moment = rays[..., :3], rays[..., 3:]
    with np.errstate(invalid="ignore", divide="ignore"):
        size = np.linalg.norm(direction, axis=-1, keepdims=True)
        direction, moment = direction / size, moment / size
    valid = np.isfinite(direction).all(-1) & np.isfinite(moment).all(-1)
    centres = np.full((len(rays), 3), np.nan)
    for frame, keep in enumerate(valid):
        d, m = direction[frame][keep], moment[frame][keep]
        normal = len(d) * np.eye(3) - d.T @ d
        if len(d) > 1 and np.linalg.cond(normal) < 1e8:
            centres[frame] = np.linalg.solve(normal, np.cross(d, m).sum(0))
    return centres


def camera_rotations(camray: FloatArray, intrinsics: FloatArray) -> DoubleArray:
    """Each frame's camera-to-reference rotation (frame, 3, 3), by Kabsch from the ideal rays K⁻¹[x, y, 1] to the directions.

    ``intrinsics`` (3, 3) is in image widths and heights, with pixel centres at half integers.
    """
    rows, columns = camray.shape[1:3]
    y, x = np.meshgrid((np.arange(rows) + 0.5) / rows, (np.arange(columns) + 0.5) / columns, indexing="ij")
    ideal = np.stack([x, y, np.ones_like(x)], axis=-1) @ np.linalg.inv(intrinsics).T
    return np.stack([rotation_between(ideal, rays[..., :3]) for rays in camray])


def pinhole_intrinsics(rays: FloatArray) -> DoubleArray:
    """The pinhole matrix (3, 3), in image widths and heights, that fits the directions (ray_y, ray_x, ≥ 3) of one camera.

    Directions must be in the camera's own coordinates, as those of a clip's first frame are. Least squares on
    u = f d_x / d_z + c, and likewise v, over the rays that point forward. Raises ValueError if fewer than two do.
    """
    rows, columns = rays.shape[:2]
    v, u = np.meshgrid((np.arange(rows) + 0.5) / rows, (np.arange(columns) + 0.5) / columns, indexing="ij")
    ahead = np.isfinite(rays[..., :3]).all(-1) & (rays[..., 2] > 0.05 * np.abs(rays[..., :3]).sum(-1))
    if ahead.sum() < 2:
        raise ValueError(f"{int(ahead.sum())} of {ahead.size} rays point forward; a camera needs at least two")
    x, y = (rays[ahead][:, axis].astype(np.float64) / rays[ahead][:, 2] for axis in (0, 1))
    (fx, cx), (fy, cy) = (np.polyfit(slope, pixel[ahead], 1) for slope, pixel in ((x, u), (y, v)))
    return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])


def rays_on_grid(camray: FloatArray, height: int, width: int) -> FloatArray:
    """Resample rays (frame, ray_y, ray_x, 6) on a finer grid, (frame, height, width, 6), linearly, extrapolating at the border.

    For a pinhole camera, the ray through pixel (u, v) is linear in u and v before normalisation, and so is its moment.
    """
    return _stretched(_stretched(camray, height, axis=1), width, axis=2)


def _stretched(values: FloatArray, count: int, *, axis: int) -> FloatArray:
    cells = values.shape[axis]
    if cells == 1:
        return np.repeat(values, count, axis)
    position = (np.arange(count) + 0.5) * cells / count - 0.5
    low = np.clip(np.floor(position), 0, cells - 2).astype(np.intp)
    share = (position - low).astype(values.dtype).reshape([-1 if i == axis else 1 for i in range(values.ndim)])
    return np.asarray(values.take(low, axis) * (1 - share) + values.take(low + 1, axis) * share)


def rotation_between(source: FloatArray, target: FloatArray) -> DoubleArray:
    """The rotation R (3, 3) that best maps directions ``source`` (…, 3) to ``target``, by Kabsch. Lengths are ignored."""
    a, b = unit(source).reshape(-1, 3), unit(target).reshape(-1, 3)
    return _nearest_rotation(b.T @ a)


def similarity_between(source: FloatArray, target: FloatArray) -> Similarity:
    """The least-squares similarity that maps points ``source`` (N, 3) to ``target`` (Umeyama 1991)."""
    middle, aim = source.mean(0), target.mean(0)
    a, b = source - middle, target - aim
    rotation = _nearest_rotation(b.T @ a)
    spread = float((a * a).sum())
    scale = float((b * (a @ rotation.T)).sum()) / spread if spread > 0 else 1.0
    return Similarity(scale, rotation, aim - scale * rotation @ middle)


def robust_similarity(
    source: FloatArray, target: FloatArray, threshold: float, rng: np.random.Generator, *, sample: int = 10, trials: int = 100
) -> Similarity:
    """`similarity_between` over the largest set of points that agree within ``threshold``, found by RANSAC with ``rng``."""
    best = np.ones(len(source), np.bool_)
    agreeing = 0
    for _ in range(trials if len(source) > sample else 0):
        chosen = rng.choice(len(source), sample, replace=False)
        moved = similarity_between(source[chosen], target[chosen]).points(source)
        inliers = np.linalg.norm(moved - target, axis=1) < threshold
        if inliers.sum() > max(agreeing, sample - 1):
            best, agreeing = inliers, int(inliers.sum())
    return similarity_between(source[best], target[best])


def unit(vectors: FloatArray) -> DoubleArray:
    """Vectors (…, 3), normalised to length 1."""
    wide = vectors.astype(np.float64)
    return np.asarray(wide / np.maximum(np.linalg.norm(wide, axis=-1, keepdims=True), 1e-12))


def _nearest_rotation(matrix: DoubleArray) -> DoubleArray:
    """The rotation R that maximises trace(Rᵀ matrix); never a reflection."""
    left, _, right = np.linalg.svd(matrix)
    sign = np.sign(np.linalg.det(left @ right)) or 1.0
    return np.asarray(left @ np.diag([1.0, 1.0, sign]) @ right)
