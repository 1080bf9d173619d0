"""Solids and poses against closed forms and against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teacher_cache.scenes.geometry import Box, Pose, Sphere, exit_box, look_at, rays_near, rotation_about


def directions(seed, count=200):
    return np.random.default_rng(seed).normal(size=(3, count)).astype(np.float32)


def test_sphere_along_its_axis():
    t = Sphere(0.5).hit(np.array([0, 0, -3], np.float32), np.array([[0, 0, 1], [0, 1, 0], [1, 0, -1]], np.float32).T)
    np.testing.assert_allclose(t, [2.5, np.inf, np.inf])


def test_box_along_its_axis_and_through_zero_components():
    box = Box((0.5, 1.0, 0.25))
    t = box.hit(np.array([0, 0, -3], np.float32), np.array([[0, 0, 2], [1, 0, 0], [0, 0, -1]], np.float32).T)
    np.testing.assert_allclose(t, [1.375, np.inf, np.inf])


@pytest.mark.parametrize("solid", [Sphere(0.7), Box((0.3, 0.5, 0.8))])
@given(seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_hits_lie_on_the_surface_and_face_the_ray(solid, seed):
    origin = np.array([0.4, -0.3, -2.5], np.float32)
    aim = directions(seed) * 0.5 + np.array([[0], [0], [2.5]], np.float32)
    t = solid.hit(origin, aim)
    hit = np.isfinite(t)
    point = origin[:, None] + t[hit] * aim[:, hit]
    normal, uv, _ = solid.surface(point)
    if isinstance(solid, Sphere):
        np.testing.assert_allclose(np.linalg.norm(point, axis=0), 0.7, atol=1e-5)
    else:
        np.testing.assert_allclose((np.abs(point) / np.array([[0.3], [0.5], [0.8]])).max(0), 1, atol=1e-5)
    assert ((normal * aim[:, hit]).sum(0) < 1e-3).all()
    assert np.isfinite(uv).all()


@given(seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_rays_near_never_drops_a_hit(seed):
    origin, aim = np.array([0.2, 0.1, -3], np.float32), directions(seed) + np.array([[0], [0], [2]], np.float32)
    for solid in (Sphere(0.6), Box((0.4, 0.3, 0.5))):
        near = rays_near(-origin, solid.bounding_radius, aim, (aim * aim).sum(0))
        assert set(np.flatnonzero(np.isfinite(solid.hit(origin, aim)))) <= set(near)


def test_exit_box_leaves_through_a_wall():
    half, origin = np.array([4, 2, 5], np.float32), np.array([1, -1, 2], np.float32)
    aim = directions(0)
    end = origin[:, None] + exit_box(half, origin, aim) * aim
    np.testing.assert_allclose((np.abs(end) / half[:, None]).max(0), 1, atol=1e-5)


def test_poses_compose():
    pose = Pose(rotation_about((1, 2, 3), 0.7), np.array([1.0, -2.0, 0.5]))
    reference = look_at(np.array([0.0, -1.0, -4.0]), np.array([0.3, -0.5, 0.0]))
    points = directions(1)
    np.testing.assert_allclose(pose.to_local(pose.to_world(points)), points, atol=1e-5)
    relative = pose.relative_to(reference)
    np.testing.assert_allclose(reference.matrix() @ relative.matrix(), pose.matrix(), atol=1e-12)


def test_look_at_centres_its_target_with_y_down():
    pose = look_at(np.array([3.0, -2.0, 1.0]), np.array([0.0, -0.5, 0.0]))
    x, y, z = pose.rotation.T @ (np.array([0.0, -0.5, 0.0]) - pose.translation)
    assert (abs(x) < 1e-12, abs(y) < 1e-12, z > 0) == (True, True, True)
    assert pose.rotation[1, 1] > 0  # the picture's down is down
    np.testing.assert_allclose(np.linalg.det(pose.rotation), 1)
