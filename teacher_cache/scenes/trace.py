"""A scene at one time and rays in; what each ray hits first, or whether it is blocked, out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from teacher_cache.scenes.geometry import BoolArray, Float, FloatArray, IntArray, Pose, dot, exit_box, rays_near
from teacher_cache.scenes.scene import Scene, SceneObject

ROOM = -1
"""The object number of floor, walls and ceiling."""

# The part of a ray to a surface point that must be free for the point to be visible. float32 errors are about 1e-6 of it.
_REACHED = Float(1 - 1e-3)


@dataclass(frozen=True, eq=False)
class Instant:
    """A scene at one time."""

    scene: Scene
    camera: Pose
    poses: tuple[Pose, ...]
    """Poses of ``scene.objects``, in order."""


@dataclass(frozen=True, eq=False)
class Hits:
    """The first surface point that each of N rays hits."""

    t: FloatArray
    """(N,) ray parameter."""
    point: FloatArray
    """(3, N) world position, metres."""
    instance: npt.NDArray[np.int16]
    """(N,) index into ``scene.objects``, or `ROOM`."""


def freeze(scene: Scene, time: float) -> Instant:
    """The scene at ``time`` seconds."""
    return Instant(scene, scene.camera.pose(time), tuple(o.trajectory.pose(time) for o in scene.objects))


def first_hits(now: Instant, origin: FloatArray, direction: FloatArray) -> Hits:
    """First hits of rays from ``origin`` (3,) along ``direction`` (3, N). Inside the room, every ray hits something."""
    room = now.scene.room
    t = exit_box(np.asarray(room.half, Float), origin - np.asarray(room.centre, Float), direction)
    instance = np.full(t.shape, ROOM, np.int16)
    square = dot(direction, direction)
    for number, (thing, pose) in enumerate(zip(now.scene.objects, now.poses, strict=True)):
        near, found = _object_hits(thing, pose, origin, direction, square)
        nearer = found < t[near]
        t[near[nearer]] = found[nearer]
        instance[near[nearer]] = number
    return Hits(t, origin[:, None] + t * direction, instance)


def blocked(now: Instant, origin: FloatArray, direction: FloatArray) -> BoolArray:
    """Whether an object is between ``origin`` (3,) and ``origin + direction`` (3, N). The room never is, since it is convex."""
    result = np.zeros(direction.shape[1], np.bool_)
    square = dot(direction, direction)
    for thing, pose in zip(now.scene.objects, now.poses, strict=True):
        near, found = _object_hits(thing, pose, origin, direction, square)
        result[near[found < _REACHED]] = True
    return result


def _object_hits(
    thing: SceneObject, pose: Pose, origin: FloatArray, direction: FloatArray, square: FloatArray
) -> tuple[IntArray, FloatArray]:
    """Indices of the rays that pass near an object, and the ray parameter at which each of them hits it."""
    near = rays_near(pose.translation.astype(Float) - origin, thing.solid.bounding_radius, direction, square)
    rotation = pose.rotation.T.astype(Float)
    local_origin = rotation @ (origin - pose.translation.astype(Float))
    return near, thing.solid.hit(local_origin, rotation @ direction[:, near])
