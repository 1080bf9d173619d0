"""A scene, times and a size in; ray-cast frames, with exact depth, flow, motion, rays and visibility, out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from teacher_cache.scenes.geometry import BoolArray, DoubleArray, Float, FloatArray, Pose, plucker_rays
from teacher_cache.scenes.scene import Scene
from teacher_cache.scenes.shade import KeyArray, shade
from teacher_cache.scenes.trace import Hits, Instant, blocked, first_hits, freeze

# Rotated-grid supersampling: four samples per pixel, no two in one row or column, as (x, y) offsets in pixels.
_SUBPIXELS = ((-0.375, -0.125), (0.125, -0.375), (0.375, 0.125), (-0.125, 0.375))
_EXPOSURE = 1.5


@dataclass(frozen=True, eq=False)
class SceneTruth:
    """A rendered clip and its ground truth. Lengths are in metres."""

    rgb: npt.NDArray[np.uint8]
    """(frame, y, x, 3) sRGB."""
    depth: FloatArray
    """(frame, y, x) distance along the optical axis."""
    flow: FloatArray
    """(frame, y, x, 2) backward flow from frame t to t-1 in pixels, (u right, v down). Frame 0 is zero and has no meaning.

    NaN for points behind the camera of frame t-1.
    """
    motion: BoolArray
    """(frame, y, x) whether the pixel shows an object that moves in the world."""
    camray: FloatArray
    """(frame, ray_y, ray_x, 6) Plücker rays, unit direction then moment, in the first camera's coordinates."""
    visible: BoolArray
    """(frame, y, x) whether the pixel's surface point was visible in frame t-1. All False in frame 0."""
    instance: npt.NDArray[np.int16]
    """(frame, y, x) index into ``scene.objects``, or `ROOM`."""
    camera_to_first: DoubleArray
    """(frame, 4, 4) camera poses in the first camera's coordinates."""
    intrinsics: DoubleArray
    """(3, 3) pinhole matrix in image widths and heights."""
    times_seconds: DoubleArray
    """(frame,) seconds since the scene's start."""


def frame_times(frames: int, fps: float) -> DoubleArray:
    """Presentation times (frame,) in seconds of ``frames`` frames at ``fps`` frames per second."""
    return np.arange(frames) / fps


def render_scene(
    scene: Scene, times_seconds: DoubleArray, *, height: int, width: int, ray_grid: tuple[int, int] = (16, 16)
) -> SceneTruth:
    """Render a scene and its ground truth at the given times and size.

    ``times_seconds`` (frame,) need not be evenly spaced: a frame's flow leads to the previous time in this list, so a clip
    sampled from a longer video gets the flow between its own frames. ``ray_grid`` is (rows, columns). The whole field of view
    is rendered at any ``height`` and ``width``; another aspect ratio than the camera's squeezes it.
    """
    instants = [freeze(scene, float(t)) for t in times_seconds]
    intrinsics = scene.camera.intrinsics
    pixels = np.diag([width, height, 1.0]) @ intrinsics
    frames = [
        _render_frame(now, before, pixels, height, width) for now, before in zip(instants, [None, *instants], strict=False)
    ]
    relative = [now.camera.relative_to(instants[0].camera) for now in instants]
    return SceneTruth(
        rgb=np.stack([f.rgb for f in frames]),
        depth=np.stack([f.depth for f in frames]),
        flow=np.stack([f.flow for f in frames]),
        motion=np.stack([f.motion for f in frames]),
        camray=np.stack([plucker_rays(pose, intrinsics, ray_grid) for pose in relative]),
        visible=np.stack([f.visible for f in frames]),
        instance=np.stack([f.instance for f in frames]),
        camera_to_first=np.stack([pose.matrix() for pose in relative]),
        intrinsics=intrinsics,
        times_seconds=np.asarray(times_seconds, np.float64),
    )


@dataclass(frozen=True, eq=False)
class _Frame:
    """One frame of a `SceneTruth`: the same names, without the frame axis."""

    rgb: npt.NDArray[np.uint8]
    depth: FloatArray
    flow: FloatArray
    motion: BoolArray
    visible: BoolArray
    instance: npt.NDArray[np.int16]


def _render_frame(now: Instant, before: Instant | None, pixels: DoubleArray, height: int, width: int) -> _Frame:
    shape = (height, width)
    y, x = (a.ravel().astype(Float) + Float(0.5) for a in np.indices(shape))
    hits, color, key = _look(now, pixels, x, y)
    edges = np.flatnonzero(_edges(key.reshape(shape)))
    color[:, edges] = _supersample(now, pixels, x[edges], y[edges])
    flow, visible = np.zeros((2, x.size), Float), np.zeros(x.size, np.bool_)
    if before is not None:
        position, visible = _seen_before(now, before, hits, pixels, shape)
        flow = position - np.stack([x, y])
    moves = np.array([*(o.trajectory.moving for o in now.scene.objects), False])  # the last is for ROOM, whose index is -1
    return _Frame(
        rgb=np.moveaxis(_to_srgb(color).reshape(3, *shape), 0, -1),
        # The rays have length 1 along the optical axis, so their parameter is the depth.
        depth=hits.t.reshape(shape),
        flow=np.moveaxis(flow.reshape(2, *shape), 0, -1),
        motion=moves[hits.instance].reshape(shape),
        visible=visible.reshape(shape),
        instance=hits.instance.reshape(shape),
    )


def _look(now: Instant, pixels: DoubleArray, x: FloatArray, y: FloatArray) -> tuple[Hits, FloatArray, KeyArray]:
    """Cast rays through image points (N,), in pixels. Returns hits, colours (3, N) and edge keys (N,)."""
    eye = now.camera.translation.astype(Float)
    hits = first_hits(now, eye, _pixel_rays(now.camera, pixels, x, y))
    return hits, *shade(now, eye, hits, pixel_angle=float(1 / np.sqrt(pixels[0, 0] * pixels[1, 1])))


def _pixel_rays(camera: Pose, pixels: DoubleArray, x: FloatArray, y: FloatArray) -> FloatArray:
    """World directions (3, N) through image points, with length 1 along the optical axis."""
    (fx, _, cx), (_, fy, cy), _ = pixels.astype(Float)
    local = np.stack([(x - cx) / fx, (y - cy) / fy, np.ones_like(x)])
    return np.asarray(camera.rotation.astype(Float) @ local, Float)


def _edges(key: KeyArray) -> BoolArray:
    """Pixels (y, x) whose key differs from that of a neighbour to the left, right, above or below."""
    edge = np.zeros(key.shape, np.bool_)
    across, down = key[:, 1:] != key[:, :-1], key[1:] != key[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    return edge


def _supersample(now: Instant, pixels: DoubleArray, x: FloatArray, y: FloatArray) -> FloatArray:
    """Colours (3, N), averaged over four points per pixel. Only edges need it, since textures are filtered analytically."""
    if not x.size:
        return np.empty((3, 0), Float)
    dx, dy = np.asarray(_SUBPIXELS, Float).T[:, :, None]
    _, color, _ = _look(now, pixels, (x + dx).ravel(), (y + dy).ravel())
    return np.asarray(color.reshape(3, len(_SUBPIXELS), x.size).mean(axis=1))


def _seen_before(
    now: Instant, before: Instant, hits: Hits, pixels: DoubleArray, shape: tuple[int, int]
) -> tuple[FloatArray, BoolArray]:
    """Positions (2, N) of the hit points in the previous picture, in pixels, and whether they were visible there (N,)."""
    point = hits.point.copy()
    for number, (pose, old_pose) in enumerate(zip(now.poses, before.poses, strict=True)):
        here = np.flatnonzero(hits.instance == number)
        point[:, here] = old_pose.to_world(pose.to_local(point[:, here]))
    (fx, _, cx), (_, fy, cy), _ = pixels.astype(Float)
    right, down, ahead = before.camera.to_local(point)
    ahead = np.where(ahead > Float(1e-3), ahead, Float(np.nan))
    x, y = fx * right / ahead + cx, fy * down / ahead + cy
    inside = (x >= 0) & (x < shape[1]) & (y >= 0) & (y < shape[0])  # NaN compares false
    eye = before.camera.translation.astype(Float)
    return np.stack([x, y]), inside & ~blocked(before, eye, point - eye[:, None])


def _to_srgb(linear: FloatArray) -> npt.NDArray[np.uint8]:
    """Convert linear light to sRGB bytes: exposure, tone mapping without clipping, and the sRGB curve."""
    exposed = np.maximum(linear, 0) * Float(_EXPOSURE)
    mapped = exposed * (1 + exposed / 4) / (1 + exposed)  # extended Reinhard: 2 becomes white
    curve = np.where(mapped <= Float(0.0031308), Float(12.92) * mapped, Float(1.055) * mapped ** Float(1 / 2.4) - Float(0.055))
    return (np.clip(curve, 0, 1) * 255 + Float(0.5)).astype(np.uint8)
