"""Ray casting with exact truth. In: a scene, times and a size. Out: frames, and the depth, flow, motion, rays and visibility behind them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from teacher_cache.scenes.geometry import (
    BoolArray,
    DoubleArray,
    Float,
    FloatArray,
    IntArray,
    Pose,
    exit_box,
    plucker_rays,
    rays_near,
)
from teacher_cache.scenes.scene import Scene, SceneObject
from teacher_cache.scenes.texture import Texture, albedo

ROOM = -1
"""The object number of floor, walls and ceiling."""

# Rotated-grid supersampling: four samples of a pixel that share no row and no column.
_SUBPIXELS = np.array([[-0.375, -0.125], [0.125, -0.375], [0.375, 0.125], [-0.125, 0.375]], Float)
# Of the way from light or camera to a surface point; what lies nearer than this is in between. Float32 errs by about 1e-6.
_REACHED = Float(1 - 1e-3)

_AMBIENT_UP = np.array([0.34, 0.36, 0.40], Float)
_AMBIENT_DOWN = np.array([0.20, 0.18, 0.16], Float)
_LAMP = np.array([1.12, 1.06, 0.96], Float)
_LAMP_REACH_METRES = 5.5


@dataclass(frozen=True, eq=False)
class SceneTruth:
    """A rendered clip and everything that is true of it. Axes are (frame, y, x) and the like; lengths are metres."""

    rgb: npt.NDArray[np.uint8]
    """(frame, y, x, 3) sRGB."""
    depth: FloatArray
    """(frame, y, x) distance along the optical axis."""
    flow: FloatArray
    """(frame, y, x, 2) backward flow from frame t to t-1 in pixels, (u right, v down). Frame 0 is zero and means nothing.

    A point that lies behind the camera of t-1 has NaN.
    """
    motion: BoolArray
    """(frame, y, x) whether the pixel shows an object that moves in the world."""
    camray: FloatArray
    """(frame, ray_y, ray_x, 6) Plücker rays, unit direction then moment, in the frame of the clip's first camera."""
    visible: BoolArray
    """(frame, y, x) whether the pixel's surface point could be seen in frame t-1. False throughout frame 0."""
    instance: npt.NDArray[np.int16]
    """(frame, y, x) index into ``scene.objects``, or `ROOM`."""
    camera_to_first: DoubleArray
    """(frame, 4, 4) camera poses in the frame of the clip's first camera."""
    intrinsics: DoubleArray
    """(3, 3) pinhole matrix in image widths and heights."""
    times_seconds: DoubleArray
    """(frame,) seconds since the scene's start."""


@dataclass(frozen=True, eq=False)
class _Instant:
    """A scene, held still."""

    scene: Scene
    camera: Pose
    poses: tuple[Pose, ...]


@dataclass(frozen=True, eq=False)
class _Hits:
    """The surface point each ray meets first, for N rays."""

    t: FloatArray
    """(N,) ray parameter."""
    point: FloatArray
    """(3, N) world position."""
    instance: npt.NDArray[np.int16]
    """(N,) object number or `ROOM`."""


def frame_times(frames: int, fps: float) -> DoubleArray:
    """Presentation times (frame,) in seconds of ``frames`` frames at ``fps`` frames per second."""
    return np.arange(frames) / fps


def render_scene(
    scene: Scene, times_seconds: DoubleArray, *, height: int, width: int, ray_grid: tuple[int, int] = (16, 16)
) -> SceneTruth:
    """Draw a scene at the given times and size, with its truth.

    ``times_seconds`` (frame,) need not be evenly spaced: the flow of a frame leads to the time before it in this list, so a clip
    sampled from a longer video gets the flow between its own frames. ``ray_grid`` is (rows, columns). The whole field of view
    is drawn at any ``height`` and ``width``; another shape than the camera's aspect squeezes it.
    """
    instants = [_freeze(scene, float(t)) for t in times_seconds]
    intrinsics = scene.camera.intrinsics
    pixels = np.diag([width, height, 1.0]) @ intrinsics
    frames = [_render_frame(now, before, pixels, height, width) for now, before in zip(instants, [None, *instants], strict=False)]
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
    """One frame of a `SceneTruth`, same names and axes without the first."""

    rgb: npt.NDArray[np.uint8]
    depth: FloatArray
    flow: FloatArray
    motion: BoolArray
    visible: BoolArray
    instance: npt.NDArray[np.int16]


def _freeze(scene: Scene, time: float) -> _Instant:
    return _Instant(scene, scene.camera.pose(time), tuple(o.trajectory.pose(time) for o in scene.objects))


def _render_frame(now: _Instant, before: _Instant | None, pixels: DoubleArray, height: int, width: int) -> _Frame:
    shape = (height, width)
    y, x = (a.ravel().astype(Float) + Float(0.5) for a in np.indices(shape))
    eye, rays = now.camera.translation.astype(Float), _pixel_rays(now.camera, pixels, x, y)
    hits = _first_hits(now, eye, rays)
    color, edge_key = _shade(now, eye, hits, pixels)
    edges = _edges(edge_key.reshape(shape)).ravel().nonzero()[0]
    color[:, edges] = _supersample(now, pixels, x[edges], y[edges])

    flow, visible = np.zeros((2, x.size), Float), np.zeros(x.size, np.bool_)
    if before is not None:
        flow, visible = _backward_flow(now, before, hits, pixels, x, y, shape)
    moves = np.array([*(o.trajectory.moving for o in now.scene.objects), False])  # the last is ROOM, which is -1
    return _Frame(
        rgb=_to_srgb(color).T.reshape(*shape, 3),
        # The rays have z = 1 in the camera's frame, so their parameter is the depth.
        depth=hits.t.reshape(shape),
        flow=flow.T.reshape(*shape, 2),
        motion=moves[hits.instance].reshape(shape),
        visible=visible.reshape(shape),
        instance=hits.instance.reshape(shape),
    )


def _pixel_rays(camera: Pose, pixels: DoubleArray, x: FloatArray, y: FloatArray) -> FloatArray:
    """World directions (3, N) through image points, of length 1 along the optical axis."""
    (fx, _, cx), (_, fy, cy), _ = pixels
    rotation = camera.rotation.astype(Float)
    right, down = (x - Float(cx)) / Float(fx), (y - Float(cy)) / Float(fy)
    return rotation[:, :1] * right + rotation[:, 1:2] * down + rotation[:, 2:]


def _first_hits(now: _Instant, origin: FloatArray, direction: FloatArray) -> _Hits:
    room = now.scene.room
    t, _ = exit_box(np.asarray(room.half, Float), origin - np.asarray(room.centre, Float), direction)
    instance = np.full(t.shape, ROOM, np.int16)
    square = np.einsum("ij,ij->j", direction, direction)
    for number, (thing, pose) in enumerate(zip(now.scene.objects, now.poses, strict=True)):
        near, found = _object_hits(thing, pose, origin, direction, square)
        nearer = found < t[near]
        t[near[nearer]] = found[nearer]
        instance[near[nearer]] = number
    return _Hits(t, origin[:, None] + t * direction, instance)


def _object_hits(
    thing: SceneObject, pose: Pose, origin: FloatArray, direction: FloatArray, square: FloatArray
) -> tuple[IntArray, FloatArray]:
    """Indices of the rays that come near an object, and the ray parameter at which each of those meets it."""
    near = rays_near(pose.translation.astype(Float) - origin, thing.solid.bounding_radius, direction, square)
    rotation = pose.rotation.T.astype(Float)
    local_origin = rotation @ (origin - pose.translation.astype(Float))
    return near, thing.solid.hit(local_origin, rotation @ direction[:, near])


def _blocked(now: _Instant, origin: FloatArray, direction: FloatArray) -> BoolArray:
    """Whether an object lies between ``origin`` (3,) and ``origin + direction`` (3, N). The room never does: it is convex."""
    blocked = np.zeros(direction.shape[1], np.bool_)
    square = np.einsum("ij,ij->j", direction, direction)
    for thing, pose in zip(now.scene.objects, now.poses, strict=True):
        near, found = _object_hits(thing, pose, origin, direction, square)
        blocked[near[found < _REACHED]] = True
    return blocked


def _backward_flow(
    now: _Instant, before: _Instant, hits: _Hits, pixels: DoubleArray, x: FloatArray, y: FloatArray, shape: tuple[int, int]
) -> tuple[FloatArray, BoolArray]:
    """Flow (2, N) to the instant before, and whether each point could be seen then (N,)."""
    point = hits.point.copy()
    for number, (pose, old_pose) in enumerate(zip(now.poses, before.poses, strict=True)):
        here = np.flatnonzero(hits.instance == number)
        point[:, here] = old_pose.to_world(pose.to_local(point[:, here]))
    (fx, _, cx), (_, fy, cy), _ = pixels.astype(Float)
    right, down, ahead = before.camera.to_local(point)
    ahead = np.where(ahead > Float(1e-3), ahead, Float(np.nan))
    old_x, old_y = fx * right / ahead + cx, fy * down / ahead + cy
    inside = (old_x >= 0) & (old_x < shape[1]) & (old_y >= 0) & (old_y < shape[0])
    eye = before.camera.translation.astype(Float)
    return np.stack([old_x - x, old_y - y]), inside & ~_blocked(before, eye, point - eye[:, None])


def _shade(now: _Instant, eye: FloatArray, hits: _Hits, pixels: DoubleArray) -> tuple[FloatArray, npt.NDArray[np.int32]]:
    """Linear-light colours (3, N), and a key (N,) that changes across every outline, crease and shadow edge."""
    color = np.empty_like(hits.point)
    key = np.zeros(hits.t.shape, np.int32)
    for number in np.unique(hits.instance):
        here = np.flatnonzero(hits.instance == number)
        view = hits.point[:, here] - eye[:, None]
        shade = _shade_room if number == ROOM else _shade_object
        color[:, here], key[here] = shade(now, int(number), hits.point[:, here], view, hits.t[here] / Float(pixels[0, 0]))
    lit_key = np.zeros(hits.t.shape, np.int32)
    return color, key + lit_key


def _shade_object(
    now: _Instant, number: int, point: FloatArray, view: FloatArray, size: FloatArray
) -> tuple[FloatArray, npt.NDArray[np.int32]]:
    thing, pose = now.scene.objects[number], now.poses[number]
    local = pose.to_local(point)
    normal, uv, face = thing.solid.surface(local)
    normal = pose.rotation.astype(Float) @ normal
    base = albedo(thing.texture, uv, local, _footprint(size, normal, view))
    light, lit = _lighting(now, point, normal, view, thing.texture.gloss)
    return base * light[:3] + light[3], ((number + 1) * 8 + face) * 2 + lit


def _shade_room(
    now: _Instant, number: int, point: FloatArray, view: FloatArray, size: FloatArray
) -> tuple[FloatArray, npt.NDArray[np.int32]]:
    del number
    room = now.scene.room
    half = np.asarray(room.half, Float)
    local = point - np.asarray(room.centre, Float)[:, None]
    ...
