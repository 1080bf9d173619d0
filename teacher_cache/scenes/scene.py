"""A seed in; a frozen, comparable description of a moving scene out, which `render` draws at any size and time."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from teacher_cache.scenes.geometry import Box, DoubleArray, Pose, Solid, Sphere, Vector, look_at, rotation_about
from teacher_cache.scenes.texture import Pattern, Texture

COLORS: dict[str, str] = {
    "red": "d93a3f",
    "orange": "f0801e",
    "yellow": "f5c63a",
    "green": "3aa655",
    "blue": "2f66d0",
    "purple": "8450b8",
    "pink": "e77fb0",
    "white": "eeeeea",
}
"""Name → sRGB colour; objects are named by their colours."""

_WALLS = ("cfc8bb", "b9c4c9", "d8cfc0", "a9b3a2", "c7b8b0", "9fb0bd")
_WALL_ACCENTS = ("b8ae9d", "9aa9b1", "bfae94", "8a967f", "a8948a", "7f93a3")
_FLOORS = (("8a6a4a", "b58d63"), ("6f747a", "9aa0a5"), ("5b4636", "8d6e54"), ("a39a8c", "cfc7b8"), ("4d5a57", "8fa09a"))
_WALL_PATTERNS: tuple[tuple[Pattern, tuple[float, float]], ...] = (
    ("stripes", (0.5, 1.0)),
    ("bricks", (0.46, 0.2)),
    ("dots", (0.5, 0.5)),
    ("plain", (1.0, 1.0)),
)
_FLOOR_PATTERNS: tuple[tuple[Pattern, tuple[float, float]], ...] = (
    ("checker", (1.0, 1.0)),
    ("planks", (0.5, 0.24)),
    ("bricks", (0.6, 0.6)),
)


@dataclass(frozen=True)
class Trajectory:
    """An object's motion: the sum of a straight course, a circle, hops and a spin."""

    start: Vector
    """Position at time 0, without circle and hop, metres."""
    velocity: Vector = (0.0, 0.0, 0.0)
    """Metres per second."""
    circle_radius: float = 0.0
    """Radius of a horizontal circle around the course, metres."""
    circle_rate: float = 0.0
    """Radians per second along the circle."""
    circle_phase: float = 0.0
    hop_height: float = 0.0
    """Height of each hop, metres."""
    hop_rate: float = 0.0
    """Hops per second."""
    heading: float = 0.0
    """Rotation about the vertical at time 0, radians."""
    spin_axis: Vector = (0.0, 1.0, 0.0)
    spin_rate: float = 0.0
    """Radians per second about ``spin_axis``."""

    @property
    def moving(self) -> bool:
        """Whether the object ever changes position or rotation."""
        circling = self.circle_radius * self.circle_rate != 0
        return bool(any(self.velocity) or circling or self.hop_height * self.hop_rate != 0 or self.spin_rate != 0)

    def pose(self, time: float) -> Pose:
        """The object's placement in the world at ``time`` seconds."""
        angle = self.circle_phase + self.circle_rate * time
        circle = self.circle_radius * np.array([math.cos(angle), 0.0, math.sin(angle)])
        phase = (self.hop_rate * time) % 1.0
        hop = np.array([0.0, -4 * self.hop_height * phase * (1 - phase), 0.0])  # a parabola, up is -y
        position = np.asarray(self.start) + time * np.asarray(self.velocity) + circle + hop
        rotation = rotation_about(self.spin_axis, self.spin_rate * time) @ rotation_about((0.0, 1.0, 0.0), self.heading)
        return Pose(rotation, position)


@dataclass(frozen=True)
class SceneObject:
    """A solid with a texture and a trajectory."""

    name: str
    """Unique in its scene, such as ``red ball``."""
    solid: Solid
    texture: Texture
    trajectory: Trajectory


@dataclass(frozen=True)
class Room:
    """The static surroundings: a closed cuboid, seen from inside, so that every ray hits a surface at a finite depth."""

    half_width: float
    half_length: float
    height: float
    walls: Texture
    floor: Texture
    ceiling: Texture

    @property
    def half(self) -> Vector:
        """Half extents along x, y and z, metres."""
        return (self.half_width, self.height / 2, self.half_length)

    @property
    def centre(self) -> Vector:
        """Centre of the room, metres. The floor is at y = 0, the ceiling at y = -height."""
        return (0.0, -self.height / 2, 0.0)


@dataclass(frozen=True)
class CameraPath:
    """A pinhole camera that orbits, approaches and rises around the point it looks at, with hand-held sway."""

    focal: float
    """Focal length in image widths."""
    aspect: float
    """Width over height of the field of view. A picture of another shape squeezes this view and never crops it."""
    azimuth: float
    azimuth_rate: float
    """Radians per second."""
    distance: float
    distance_rate: float
    """Horizontal distance to the target and its change, metres and metres per second."""
    height: float
    height_rate: float
    target: Vector
    target_velocity: Vector
    sway: float
    """Amplitude of the hand-held sway, metres."""
    sway_phase: Vector

    @property
    def moving(self) -> bool:
        """Whether the camera ever moves."""
        return bool(self.azimuth_rate or self.distance_rate or self.height_rate or any(self.target_velocity) or self.sway)

    @property
    def intrinsics(self) -> DoubleArray:
        """The pinhole matrix (3, 3) in image widths and heights; the principal point is the image's centre."""
        return np.array([[self.focal, 0.0, 0.5], [0.0, self.focal * self.aspect, 0.5], [0.0, 0.0, 1.0]])

    def pose(self, time: float) -> Pose:
        """Camera to world at ``time`` seconds."""
        angle = self.azimuth + self.azimuth_rate * time
        distance = self.distance + self.distance_rate * time
        target = np.asarray(self.target) + time * np.asarray(self.target_velocity)
        eye = target + np.array([distance * math.cos(angle), 0.0, distance * math.sin(angle)])
        eye[1] = -(self.height + self.height_rate * time)
        hand = self.sway * np.sin(2 * np.pi * np.array([0.9, 1.3, 0.7]) * time + np.asarray(self.sway_phase))
        return look_at(eye + hand, target - 0.6 * hand[::-1])


@dataclass(frozen=True)
class Scene:
    """A whole scene; `render.render_scene` draws it."""

    seed: int
    duration_seconds: float
    """How long objects are guaranteed to stay apart and in view. Later times can be rendered, without that guarantee."""
    room: Room
    objects: tuple[SceneObject, ...]
    camera: CameraPath
    light: Vector
    """Position of the lamp, metres."""


def random_scene(
    seed: int, *, duration_seconds: float = 3.0, aspect: float = 4 / 3, moving_camera: bool | None = None
) -> Scene:
    """A scene with at least one moving and one static object. Equal arguments give equal scenes.

    ``moving_camera`` determines whether the camera moves; if None, the seed does (it moves in five of six scenes).
    """
    rng = np.random.default_rng(seed)
    room = _random_room(rng)
    moves = bool(rng.random() < 5 / 6) if moving_camera is None else moving_camera
    camera = _random_camera(rng, room, duration_seconds, aspect, moves=moves)
    objects = _place_objects(rng, camera, duration_seconds)
    angle = camera.azimuth + rng.uniform(0.5, 1.3) * rng.choice([-1, 1])
    reach = rng.uniform(1.4, 2.4)
    light = (float(reach * math.cos(angle)), -(room.height - 0.3), float(reach * math.sin(angle)))
    return Scene(seed, duration_seconds, room, objects, camera, light)


def linear_color(srgb: str) -> Vector:
    """Linear-light RGB of an ``rrggbb`` sRGB colour."""
    r, g, b = (((int(srgb[i : i + 2], 16) / 255 + 0.055) / 1.055) ** 2.4 for i in (0, 2, 4))
    return (r, g, b)


def _random_room(rng: np.random.Generator) -> Room:
    wall = int(rng.integers(len(_WALLS)))
    floor = _FLOORS[int(rng.integers(len(_FLOORS)))]
    wall_pattern, wall_period = _WALL_PATTERNS[int(rng.integers(len(_WALL_PATTERNS)))]
    floor_pattern, floor_period = _FLOOR_PATTERNS[int(rng.integers(len(_FLOOR_PATTERNS)))]
    return Room(
        half_width=float(rng.uniform(4.6, 6.2)),
        half_length=float(rng.uniform(4.6, 6.2)),
        height=float(rng.uniform(3.2, 4.2)),
        walls=_texture(rng, wall_pattern, (_WALLS[wall], _WALL_ACCENTS[wall]), wall_period, grain=0.3, grain_size=0.06),
        floor=_texture(rng, floor_pattern, floor, floor_period, grain=0.32, grain_size=0.045),
        ceiling=_texture(rng, "plain", ("e6e4de", "e6e4de"), (1.0, 1.0), grain=0.3, grain_size=0.08),
    )


def _random_camera(rng: np.random.Generator, room: Room, duration: float, aspect: float, *, moves: bool) -> CameraPath:
    """A camera whose whole path keeps 0.4 m from the walls."""
    far = min(room.half_width, room.half_length) - 0.9
    distance, height = float(rng.uniform(3.3, far)), float(rng.uniform(1.1, 2.3))
    end_distance, end_height = float(rng.uniform(2.9, far)), float(rng.uniform(0.9, 2.5))
    orbit = float(rng.uniform(0.05, 0.32) * rng.choice([-1, 1]))
    target = tuple(float(v) for v in rng.uniform((-0.3, -0.6, -0.3), (0.3, -0.35, 0.3)))
    pan = tuple(float(v) for v in rng.uniform((-0.1, -0.03, -0.1), (0.1, 0.03, 0.1)))
    azimuth, focal = float(rng.uniform(0, 2 * np.pi)), float(rng.uniform(0.75, 1.05))
    sway, phase = float(rng.uniform(0.0, 0.02)), tuple(float(v) for v in rng.uniform(0, 2 * np.pi, 3))
    on = float(moves)
    return CameraPath(
        focal=focal,
        aspect=aspect,
        azimuth=azimuth,
        azimuth_rate=on * orbit,
        distance=distance,
        distance_rate=on * 0.6 * (end_distance - distance) / duration,
        height=height,
        height_rate=on * 0.6 * (end_height - height) / duration,
        target=(target[0], target[1], target[2]),
        target_velocity=(on * pan[0], on * pan[1], on * pan[2]),
        sway=on * sway,
        sway_phase=(phase[0], phase[1], phase[2]),
    )


def _place_objects(rng: np.random.Generator, camera: CameraPath, duration: float) -> tuple[SceneObject, ...]:
    """Four to eight objects that never touch each other and stay in view, by rejection sampling."""
    times = np.linspace(0, duration, 13)
    poses = [camera.pose(float(t)) for t in times]
    wanted = int(rng.integers(4, 9))
    colors = [str(c) for c in rng.permutation(list(COLORS))]
    placed: list[SceneObject] = []
    courses: list[DoubleArray] = []
    for attempt in range(600):
        if len(placed) == wanted:
            break
        # The first object moves, the second does not; the others are random.
        moves = bool(rng.random() < 0.55) if len(placed) > 1 else len(placed) == 0
        candidate = _random_object(rng, colors[len(placed)], duration, moves=moves, shrink=0.998**attempt)
        course = np.array([candidate.trajectory.pose(float(t)).translation for t in times])
        if _in_view(course, poses, camera) and all(
            _apart(course, other, candidate.solid, o.solid) for other, o in zip(courses, placed, strict=True)
        ):
            placed.append(candidate)
            courses.append(course)
    return tuple(placed)


def _apart(a: DoubleArray, b: DoubleArray, solid_a: Solid, solid_b: Solid) -> bool:
    gap = np.linalg.norm(a - b, axis=1).min()
    return bool(gap > 1.02 * (solid_a.bounding_radius + solid_b.bounding_radius))


def _in_view(course: DoubleArray, poses: list[Pose], camera: CameraPath) -> bool:
    """Whether the object's centre is inside the picture at three quarters of the times or more, and never near the camera."""
    inside = 0
    for point, pose in zip(course, poses, strict=True):
        x, y, z = pose.rotation.T @ (point - pose.translation)
        if z < 1.6:
            return False
        u, v = camera.focal * x / z, camera.focal * camera.aspect * y / z
        inside += abs(u) < 0.46 and abs(v) < 0.46
    return inside >= 0.75 * len(course)


def _random_object(rng: np.random.Generator, color: str, duration: float, *, moves: bool, shrink: float) -> SceneObject:
    ball = bool(rng.random() < 0.45)
    solid: Solid
    if ball:
        solid = Sphere(float(rng.uniform(0.22, 0.5) * shrink))
    else:
        half = rng.uniform(0.17, 0.5, 3) * shrink
        solid = Box((float(half[0]), float(half[1]), float(half[2])))
    angle, reach = rng.uniform(0, 2 * np.pi), 2.4 * math.sqrt(rng.random())
    middle = (float(reach * math.cos(angle)), -solid.height, float(reach * math.sin(angle)))
    heading = float(rng.uniform(0, 2 * np.pi))
    trajectory = _random_motion(rng, solid, middle, heading, duration) if moves else Trajectory(middle, heading=heading)
    texture = _object_texture(rng, color, solid)
    return SceneObject(f"{color} {'ball' if ball else 'box'}", solid, texture, trajectory)


def _random_motion(rng: np.random.Generator, solid: Solid, middle: Vector, heading: float, duration: float) -> Trajectory:
    """A motion that suits the solid: balls roll, bounce or circle; boxes slide, tumble in the air or circle."""
    course, speed = float(rng.uniform(0, 2 * np.pi)), float(rng.uniform(0.35, 1.1))
    velocity = (speed * math.cos(course), 0.0, speed * math.sin(course))
    start = (middle[0] - velocity[0] * duration / 2, middle[1], middle[2] - velocity[2] * duration / 2)
    turn = float(rng.uniform(0.8, 2.6) * rng.choice([-1, 1]))
    kind = int(rng.integers(3))
    if kind == 0:
        # Heading follows the circle, so that the object drives around it.
        radius = float(rng.uniform(0.35, 0.9))
        turning = Trajectory(middle, heading=heading, spin_rate=-turn)
        return replace(turning, circle_radius=radius, circle_rate=turn, circle_phase=course)
    if isinstance(solid, Sphere) and kind == 1:
        # Rolling without slipping: the spin axis is velocity × down, the rate is speed over radius.
        axis = (-velocity[2], 0.0, velocity[0])
        return Trajectory(start, velocity, heading=heading, spin_axis=axis, spin_rate=speed / solid.radius)
    if isinstance(solid, Sphere):
        height, rate = float(rng.uniform(0.35, 0.9)), float(rng.uniform(0.8, 1.3))
        return Trajectory(start, velocity, hop_height=height, hop_rate=rate, heading=heading, spin_rate=turn)
    if kind == 1:
        return Trajectory(start, velocity, heading=course, spin_rate=turn * float(rng.random() < 0.4))
    above = (middle[0], middle[1] - solid.bounding_radius - float(rng.uniform(0.1, 0.6)), middle[2])
    x, y, z = (float(v) for v in rng.normal(size=3))
    return Trajectory(above, heading=heading, spin_axis=(x, y, z), spin_rate=turn)


def _object_texture(rng: np.random.Generator, color: str, solid: Solid) -> Texture:
    patterns: tuple[Pattern, ...] = ("checker", "stripes", "bands", "dots", "marble", "plain")
    pattern = patterns[int(rng.integers(len(patterns)))]
    around = 2 * np.pi * solid.radius if isinstance(solid, Sphere) else 2 * max(solid.half)
    # A whole number of repeats around a ball, so that its texture closes.
    repeats = int(rng.integers(4, 8)) if isinstance(solid, Sphere) else int(rng.integers(2, 5))
    period = float(around / repeats)
    base = COLORS[color]
    accent = "2b2d33" if color in {"white", "yellow"} else ("f4f1ea", "2b2d33")[int(rng.integers(2))]
    return _texture(
        rng, pattern, (base, accent), (period, period), grain=0.3, grain_size=0.02, gloss=float(rng.choice([0.0, 0.5]))
    )


def _texture(
    rng: np.random.Generator,
    pattern: Pattern,
    colors: tuple[str, str],
    period: tuple[float, float],
    *,
    grain: float,
    grain_size: float,
    gloss: float = 0.0,
) -> Texture:
    base, other = (linear_color(c) for c in colors)
    offset = tuple(float(v) for v in rng.uniform(0, 3, 3))
    return Texture(pattern, (base, other), period, grain, grain_size, gloss, (offset[0], offset[1], offset[2]))
