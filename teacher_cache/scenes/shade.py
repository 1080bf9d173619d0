"""Surface points hit by rays in; linear-light colours, and keys that differ across the picture's edges, out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from teacher_cache.scenes.geometry import BoolArray, Box, Float, FloatArray, IntArray, dot
from teacher_cache.scenes.scene import Room
from teacher_cache.scenes.texture import Texture, albedo
from teacher_cache.scenes.trace import ROOM, Hits, Instant, blocked

KeyArray = npt.NDArray[np.int32]

_SKY = np.array([[0.40], [0.42], [0.46]], Float)
_GROUND_BOUNCE = np.array([[0.26], [0.23], [0.20]], Float)
_LAMP = np.array([[2.1], [1.95], [1.72]], Float)
_LAMP_REACH_METRES = 3.2
_CORNER_METRES = 0.45
_FLOOR_FACE, _CEILING_FACE = 3, 2  # the two sides of axis 1; y points down


@dataclass(frozen=True, eq=False)
class _Surface:
    """Optical properties of N surface points."""

    albedo: FloatArray
    normal: FloatArray
    gloss: FloatArray
    openness: FloatArray
    """(N,) share of the ambient light that is not blocked by corners and objects nearby."""
    key: KeyArray
    """(N,) different for every face of every object."""


def shade(now: Instant, eye: FloatArray, hits: Hits, pixel_angle: float) -> tuple[FloatArray, KeyArray]:
    """Colours (3, N) in linear light, and a key (N,) that changes across every outline, crease and shadow edge.

    ``eye`` (3,) is the camera's centre; ``pixel_angle`` is a pixel's width at depth 1. Light is one lamp with hard shadows, an
    ambient term from above and below, and a small highlight on glossy objects.
    """
    view = hits.point - eye[:, None]
    view /= np.sqrt(dot(view, view))
    surface = _surfaces(now, hits, view, hits.t * Float(pixel_angle))
    lamp = np.asarray(now.scene.light, Float)
    to_lamp = lamp[:, None] - hits.point
    square = dot(to_lamp, to_lamp)
    to_lamp /= np.sqrt(square)
    cosine = dot(surface.normal, to_lamp)
    lit = _lit(now, lamp, hits.point, cosine)
    direct = lit / (1 + square / Float(_LAMP_REACH_METRES**2))
    up = (1 - surface.normal[1]) / 2  # up is -y
    ambient = surface.openness * (_GROUND_BOUNCE + (_SKY - _GROUND_BOUNCE) * up)
    # Half of the openness also dims the lamp: a real lamp has a size, and corners see less of it.
    color = surface.albedo * (ambient + _LAMP * (direct * cosine * (1 + surface.openness) / 2))
    mirrored = dot(view - 2 * dot(view, surface.normal) * surface.normal, to_lamp)
    color += surface.gloss * direct * np.maximum(mirrored, 0) ** 24
    return color, surface.key * 2 + lit


def _lit(now: Instant, lamp: FloatArray, point: FloatArray, cosine: FloatArray) -> BoolArray:
    """Whether the lamp shines on each point (N,)."""
    lit = cosine > 0
    facing = np.flatnonzero(lit)
    lit[facing] = ~blocked(now, lamp, point[:, facing] - lamp[:, None])
    return lit


def _surfaces(now: Instant, hits: Hits, view: FloatArray, width: FloatArray) -> _Surface:
    """Surface properties of all hits; ``view`` (3, N) are unit directions, ``width`` (N,) a pixel's width there in metres."""
    numbers = [n for n in range(ROOM, len(now.poses)) if (hits.instance == n).any()]
    groups = [np.flatnonzero(hits.instance == n) for n in numbers]
    parts = [
        (_room_surface if number == ROOM else _object_surface)(now, number, hits.point[:, here], view[:, here], width[here])
        for number, here in zip(numbers, groups, strict=True)
    ]
    back = np.argsort(np.concatenate(groups), kind="stable")
    return _Surface(
        albedo=np.concatenate([p.albedo for p in parts], axis=1)[:, back],
        normal=np.concatenate([p.normal for p in parts], axis=1)[:, back],
        gloss=np.concatenate([p.gloss for p in parts])[back],
        openness=np.concatenate([p.openness for p in parts])[back],
        key=np.concatenate([p.key for p in parts])[back],
    )


def _object_surface(now: Instant, number: int, point: FloatArray, view: FloatArray, width: FloatArray) -> _Surface:
    thing, pose = now.scene.objects[number], now.poses[number]
    local = pose.to_local(point)
    local_normal, uv, face = thing.solid.surface(local)
    normal = pose.rotation.astype(Float) @ local_normal
    # Ambient light fades towards the ground the object stands on.
    height = np.maximum(-point[1], 0)
    openness = 1 - Float(0.45) * np.exp(-height / Float(0.6 * thing.solid.height)) * (1 + normal[1]) / 2
    color = albedo(thing.texture, uv, local, _footprint(width, normal, view))
    gloss = np.full(width.shape, thing.texture.gloss, Float)
    return _Surface(color, normal, gloss, openness, (8 * (number + 1) + face).astype(np.int32))


def _room_surface(now: Instant, number: int, point: FloatArray, view: FloatArray, width: FloatArray) -> _Surface:
    room = now.scene.room
    local = point - np.asarray(room.centre, Float)[:, None]
    # The room is a box seen from inside: its normals point inwards.
    outward, uv, face = Box(room.half).surface(local)
    normal = -outward
    footprint = _footprint(width, normal, view)
    color = np.empty_like(point)
    for texture, here in _painted(room, face):
        color[:, here] = albedo(texture, uv[:, here], point[:, here], footprint[here])
    openness = _corner_openness(local, np.asarray(room.half, Float))
    floor = np.flatnonzero(face == _FLOOR_FACE)
    openness[floor] *= _contact_openness(now, point[:, floor])
    return _Surface(color, normal, np.zeros_like(width), openness, (8 * (number + 1) + face).astype(np.int32))


def _painted(room: Room, face: npt.NDArray[np.int8]) -> list[tuple[Texture, IntArray]]:
    """Each texture of the room with the indices of the points it covers."""
    is_floor, is_ceiling = face == _FLOOR_FACE, face == _CEILING_FACE
    masks = ((room.walls, ~(is_floor | is_ceiling)), (room.floor, is_floor), (room.ceiling, is_ceiling))
    return [(texture, np.flatnonzero(mask)) for texture, mask in masks if mask.any()]


def _corner_openness(local: FloatArray, half: FloatArray) -> FloatArray:
    """Openness of points on the room's inside: lower near the edges where two faces meet."""
    gaps = np.sort(half[:, None] - np.abs(local), axis=0)
    # The smallest gap is zero: the distance to the point's own face.
    shadow = Float(0.35) * np.exp(-gaps[1:] / Float(_CORNER_METRES))
    return np.asarray((1 - shadow[0]) * (1 - shadow[1]), Float)


def _contact_openness(now: Instant, floor_point: FloatArray) -> FloatArray:
    """Openness of floor points (3, N) under the objects, each approximated by a ball: a soft contact shadow."""
    openness = np.ones(floor_point.shape[1], Float)
    for thing, pose in zip(now.scene.objects, now.poses, strict=True):
        radius = Float(0.5 * (thing.solid.bounding_radius + thing.solid.height))
        x, y, z = pose.translation.astype(Float)
        square = (floor_point[0] - x) ** 2 + (floor_point[2] - z) ** 2 + y * y
        # The share of the hemisphere that a ball covers, weighted by the cosine at its centre.
        openness *= 1 - np.minimum(Float(0.9), -y * radius**2 / (square * np.sqrt(square)))
    return openness


def _footprint(width: FloatArray, normal: FloatArray, view: FloatArray) -> FloatArray:
    """A pixel's width on the surface, metres: stretched where the surface is seen edge-on, as a geometric mean of both axes."""
    return np.asarray(width / np.sqrt(np.maximum(np.abs(dot(normal, view)), Float(0.02))), Float)
