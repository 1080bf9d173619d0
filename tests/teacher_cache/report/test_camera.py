"""The camera's centre from its rays."""

from __future__ import annotations

import re

import numpy as np

from teacher_cache.geometry.rays import camera_centres
from teacher_cache.report.camera import camera_path
from teacher_cache.scenes import frame_times, random_scene, render_scene


def test_centres_are_those_the_rays_were_made_with():
    truth = render_scene(random_scene(1, moving_camera=True), frame_times(4, 2), height=16, width=16)
    np.testing.assert_allclose(camera_centres(truth.camray), truth.camera_to_first[:, :3, 3], atol=1e-4)
    scaled = truth.camray * np.linspace(0.5, 2, 16)[None, None, :, None]  # predicted directions have no unit length
    np.testing.assert_allclose(camera_centres(scaled), truth.camera_to_first[:, :3, 3], atol=1e-4)


def test_rays_that_meet_nowhere_have_no_centre():
    parallel = np.zeros((1, 4, 4, 6))
    parallel[..., 2] = 1
    broken = np.full((1, 4, 4, 6), np.nan)
    assert np.isnan(camera_centres(np.concatenate([parallel, broken]))).all()
    path = camera_path(np.concatenate([parallel, broken]), least_extent=0.1)
    assert path.length == 0
    assert "nan" not in path.svg


def test_path_has_its_length_and_a_cone_for_every_frame():
    truth = render_scene(random_scene(1, moving_camera=True), frame_times(5, 2), height=16, width=16)
    path = camera_path(truth.camray, least_extent=0.02)
    steps = np.linalg.norm(np.diff(truth.camera_to_first[:, :3, 3], axis=0), axis=-1)
    np.testing.assert_allclose(path.length, steps.sum(), rtol=1e-3)
    assert re.findall(r'class="cone" data-frame="(\d)"', path.svg) == list("01234")


def test_a_trembling_camera_stays_in_its_place():
    truth = render_scene(random_scene(1, moving_camera=False), frame_times(3, 2), height=16, width=16)
    rays = truth.camray + np.random.default_rng(0).normal(size=truth.camray.shape) * 1e-5
    path = camera_path(rays, least_extent=0.1)
    dots = [float(x) for x in re.findall(r'path-dot" cx="([\d.]+)"', path.svg)]
    assert max(dots) - min(dots) < 2
