"""Rays (one origin, many directions), solids and rigid poses in; intersections, normals and Plücker rays out.

Coordinates follow the pinhole convention: x right, y down, z forward, in metres. N vectors are stored as (3, N), so that each
component is contiguous.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float = np.float32
FloatArray = npt.NDArray[np.float32]
DoubleArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]
BoolArray = npt.NDArray[np.bool_]
Vector = tuple[float, float, float]

MISS = np.float32(np.inf)
"""The ray parameter of a ray that hits nothing."""


@dataclass(frozen=True, eq=False)
class Pose:
    """A rigid placement: ``world = rotation @ local + translation``."""

    rotation: DoubleArray
    """(3, 3), local axes as columns."""
    translation: DoubleArray
    """(3,), metres."""

    def to_world(self, local: FloatArray) -> FloatArray:
        """Transform local points (3, N) to world points (3, N)."""
        return self.rotation.astype(Float) @ local + self.translation.astype(Float)[:, None]

    def to_local(self, world: FloatArray) -> FloatArray:
        """Transform world points (3, N) to local points (3, N)."""
        return self.rotation.T.astype(Float) @ (world - self.translation.astype(Float)[:, None])

    def matrix(self) -> DoubleArray:
        """The pose as a homogeneous (4, 4) matrix, local to world."""
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = self.rotation, self.translation
        return matrix

    def relative_to(self, reference: Pose) -> Pose:
        """The same placement in ``reference``'s local coordinates."""
        inverse = reference.rotation.T
        return Pose(inverse @ self.rotation, inverse @ (self.translation - reference.translation))


@dataclass(frozen=True)
class Sphere:
    """A ball around the local origin."""

    radius: float
    """Metres."""

    @property
    def bounding_radius(self) -> float:
        """Radius of the bounding sphere, metres."""
        return self.radius

    @property
    def height(self) -> float:
        """Distance from the centre to the ground it rests on, metres."""
        return self.radius

    def hit(self, origin: FloatArray, direction: FloatArray) -> FloatArray:
        """Nearest ray parameter in front of ``origin`` (3,) along ``direction`` (3, N); `MISS` where there is none."""
        square = dot(direction, direction)
        along = -dot(direction, origin[:, None]) / square
        # Computed from the perpendicular to the ray, since b² - ac would lose precision for a distant ball.
        perpendicular = origin[:, None] + along * direction
        inside = Float(self.radius**2) - dot(perpendicular, perpendicular)
        t = along - np.sqrt(np.maximum(inside, 0) / square)
        return np.where((inside > 0) & (t > 0), t, MISS)

    def surface(self, local: FloatArray) -> tuple[FloatArray, FloatArray, npt.NDArray[np.int8]]:
        """Normals (3, N), texture coordinates (2, N) and face numbers (N,) of local surface points (3, N).

        Texture coordinates are (longitude, latitude) as arc lengths in metres.
        """
        normal = local / Float(self.radius)
        longitude = np.arctan2(normal[0], normal[2]) * Float(self.radius)
        latitude = np.arcsin(np.clip(normal[1], -1, 1)) * Float(self.radius)
        return normal, np.stack([longitude, latitude]), np.zeros(local.shape[1], np.int8)


@dataclass(frozen=True)
class Box:
    """A cuboid around the local origin."""

    half: Vector
    """Half extents along x, y and z, metres."""

    @property
    def bounding_radius(self) -> float:
        """Radius of the bounding sphere, metres."""
        return float(np.linalg.norm(self.half))

    @property
    def height(self) -> float:
        """Distance from the centre to the ground it stands on, metres."""
        return self.half[1]

    def hit(self, origin: FloatArray, direction: FloatArray) -> FloatArray:
        """Nearest ray parameter in front of ``origin`` (3,) along ``direction`` (3, N); `MISS` where there is none."""
        inverse = 1 / _away_from_zero(direction)
        half = np.asarray(self.half, Float)
        towards, away = (-half - origin)[:, None] * inverse, (half - origin)[:, None] * inverse
        near = np.minimum(towards, away).max(0)
        far = np.maximum(towards, away).min(0)
        return np.where((near <= far) & (near > 0), near, MISS)

    def surface(self, local: FloatArray) -> tuple[FloatArray, FloatArray, npt.NDArray[np.int8]]:
        """Normals (3, N), texture coordinates (2, N) in metres and face numbers 0…5 (N,) of local surface points (3, N)."""
        axis = np.argmax(np.abs(local) / np.asarray(self.half, Float)[:, None], axis=0)
        positive = np.take_along_axis(local, axis[None], 0)[0] > 0
        normal = np.zeros_like(local)
        np.put_along_axis(normal, axis[None], np.where(positive, Float(1), Float(-1))[None], 0)
        # Each face is textured by the two axes that span it, with y kept vertical.
        u = np.where(axis == 0, local[2], local[0])
        v = np.where(axis == 1, local[2], local[1])
        return normal, np.stack([u, v]), (2 * axis + positive).astype(np.int8)


Solid = Sphere | Box


def exit_box(half: FloatArray, origin: FloatArray, direction: FloatArray) -> FloatArray:
    """Ray parameters (N,) at which rays from inside a box leave it.

    ``half`` (3,) are the box's half extents, ``origin`` (3,) is relative to its centre, ``direction`` is (3, N).
    """
    safe = _away_from_zero(direction)
    walls = (np.copysign(half[:, None], safe) - origin[:, None]) / safe
    return np.asarray(walls.min(axis=0), Float)


def rays_near(centre: FloatArray, radius: float, direction: FloatArray, square: FloatArray) -> IntArray:
    """Indices of the rays (3, N) from the origin that pass within ``radius`` of ``centre`` (3,), ahead of the origin.

    ``square`` (N,) is each direction's squared length. A cheap test that excludes most rays from the exact one.
    """
    along = dot(direction, centre[:, None])
    margin = Float(centre @ centre - radius**2)
    if margin <= 0:
        return np.arange(direction.shape[1])
    return np.flatnonzero((along > 0) & (along * along >= margin * square))


def rotation_about(axis: Vector, angle: float) -> DoubleArray:
    """The rotation matrix (3, 3) of ``angle`` radians about ``axis``, by Rodrigues' formula."""
    x, y, z = np.asarray(axis) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.asarray(np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * (cross @ cross))


def look_at(eye: DoubleArray, target: DoubleArray) -> Pose:
    """The camera pose at ``eye`` (3,) with ``target`` (3,) at the image centre and the y axis as vertical as possible."""
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross([0.0, 1.0, 0.0], forward)
    right /= np.linalg.norm(right)
    return Pose(np.stack([right, np.cross(forward, right), forward], axis=1), eye)


def plucker_rays(camera: Pose, intrinsics: DoubleArray, grid: tuple[int, int]) -> FloatArray:
    """Plücker rays through the cell centres of a (rows, columns) grid over the image.

    ``intrinsics`` (3, 3) is in image widths and heights (a pixel centre at (0.5 / width, 0.5 / height)). Returns float32
    (rows, columns, 6): the unit direction d, then the moment m = o × d with o the camera's centre, both in the frame that
    ``camera`` is expressed in.
    """
    rows, columns = grid
    y, x = np.meshgrid((np.arange(rows) + 0.5) / rows, (np.arange(columns) + 0.5) / columns, indexing="ij")
    local = np.stack([x, y, np.ones_like(x)], axis=-1) @ np.linalg.inv(intrinsics).T
    direction = local @ camera.rotation.T
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    moment = np.cross(camera.translation, direction)
    return np.concatenate([direction, moment], axis=-1).astype(Float)


def dot(a: FloatArray, b: FloatArray) -> FloatArray:
    """Scalar products (N,) of vectors (3, N); (3, 1) broadcasts. Faster than einsum for this layout."""
    return np.asarray(a[0] * b[0] + a[1] * b[1] + a[2] * b[2], Float)


def _away_from_zero(direction: FloatArray) -> FloatArray:
    """The direction with zero components replaced by a tiny number, so that slab tests never compute 0 × infinity."""
    return np.where(np.abs(direction) < 1e-9, Float(1e-9), direction)
