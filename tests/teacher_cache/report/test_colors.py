"""Colours that stand for known values, and the neutral that stands for none."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from teacher_cache.regions.marks import color_of
from teacher_cache.report import colors


def hue_degrees(rgb):
    return colorsys.rgb_to_hsv(*(np.asarray(rgb) / 255))[0] * 360


def test_flow_directions_have_the_middlebury_hues():
    flow = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]], np.float32)
    right, down, left, up = colors.flow_to_rgb(flow, 1.0)
    np.testing.assert_array_equal(right, [255, 0, 0])
    assert 50 < hue_degrees(down) < 60  # yellow
    assert 180 <= hue_degrees(left) < 200  # cyan
    assert 255 < hue_degrees(up) < 290  # violet


def test_no_flow_is_white_and_colour_grows_with_length():
    flow = np.array([[0, 0], [0.5, 0], [1, 0], [3, 0]], np.float32)
    np.testing.assert_array_equal(colors.flow_to_rgb(flow, 1.0), [[255, 255, 255], [255, 128, 128], [255, 0, 0], [191, 0, 0]])


def test_the_wheel_is_the_legend_of_the_flow():
    wheel = colors.flow_wheel(65)
    assert wheel.shape == (65, 65, 4)
    np.testing.assert_array_equal(wheel[32, 32], [255, 255, 255, 255])
    assert wheel[0, 0, 3] == 0  # outside the disc
    edge = colors.flow_to_rgb(np.array([0.0, 60 / 65], np.float32), 1.0)
    np.testing.assert_array_equal(wheel[62, 32, :3], edge)


def test_depth_runs_from_bright_near_to_dark_far_in_even_steps_of_the_logarithm():
    depth = np.geomspace(1, 16, 5, dtype=np.float32)[None, None]
    rgb = colors.depth_to_rgb(depth, colors.DepthScale(1.0, 16.0))[0, 0]
    np.testing.assert_array_equal(rgb, colors.colormap(np.array([1, 0.75, 0.5, 0.25, 0])))
    luma = rgb @ [0.299, 0.587, 0.114]
    assert (np.diff(luma) < -20).all()


@pytest.mark.parametrize("name", ["viridis", "magma"])
def test_colormaps_brighten_steadily(name):
    luma = colors.colormap(np.linspace(0, 1, 64), name) @ [0.299, 0.587, 0.114]
    assert (np.diff(luma) > -0.6).all()
    assert luma[-1] - luma[0] > 150


def test_depth_scale_is_blind_to_a_few_wild_pixels():
    depth = np.full((1, 100, 100), 4.0, np.float32)
    depth[0, :50] = 2.0
    depth[0, 0, :20] = 1e6
    depth[0, 1, :20] = np.nan
    assert colors.depth_scale(depth) == colors.DepthScale(2.0, 4.0)
    assert colors.depth_scale(np.full((1, 2, 2), np.nan)).far > colors.depth_scale(np.full((1, 2, 2), np.nan)).near
    flat = colors.depth_scale(np.full((1, 2, 2), 3.0))
    assert flat.far > flat.near == 3.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_neutral(bad):
    grid, flow, rays = np.ones((1, 2, 2)), np.ones((1, 2, 2, 2)), np.ones((1, 2, 2, 6))
    grid[0, 0, 1] = flow[0, 0, 1, 1] = rays[0, 0, 1, 2] = rays[0, 0, 1, 4] = bad
    latents = np.random.default_rng(0).normal(size=(1, 1, 2, 2, 8))
    latents[0, 0, 0, 1, 3] = bad
    pictures = [
        colors.depth_to_rgb(grid, colors.DepthScale(0.5, 2)),
        colors.flow_to_rgb(flow, 1.0),
        colors.motion_to_rgb(grid),
        colors.ray_directions_to_rgb(rays),
        colors.ray_moments_to_rgb(rays),
        colors.f4d_to_rgb(latents)[0],
    ]
    for picture in pictures:
        assert tuple(picture[0, 0, 1]) == colors.NEUTRAL
        assert tuple(picture[0, 1, 1]) != colors.NEUTRAL


def test_zero_and_negative_depth_are_neutral():
    rgb = colors.depth_to_rgb(np.array([[[0.0, -1.0, 1.0]]]), colors.DepthScale(1, 2))
    assert [tuple(c) for c in rgb[0, 0, :2]] == [colors.NEUTRAL] * 2


def test_motion_tints_where_it_is_likely_and_leaves_the_frame_grey_elsewhere():
    frames = np.full((1, 1, 2, 3), (200, 120, 40), np.uint8)
    still, moving = colors.motion_to_rgb(np.array([[[-20.0, 20.0]]]), frames)[0, 0].astype(int)
    assert still.max() - still.min() <= 1
    assert moving[0] - moving[1] > 80


def test_ray_colours():
    ahead, right, down = [0, 0, 1], [1, 0, 0], [0, 1, 0]
    rays = np.array([[[[*d, 0, 0, 0] for d in (ahead, right, down)]]], np.float32)
    np.testing.assert_array_equal(
        colors.ray_directions_to_rgb(3 * rays)[0, 0], [[128, 128, 255], [255, 128, 128], [128, 255, 128]]
    )
    assert (colors.ray_moments_to_rgb(rays) == 128).all()


def test_f4d_colours_show_like_features_alike_in_every_frame():
    """Three kinds of token, mixed over time and place, with noise and one huge constant channel: three colours."""
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 3, (4, 8, 8))
    latents = rng.normal(size=(3, 64))[kinds] + 0.01 * rng.normal(size=(4, 8, 8, 64))
    latents[..., 7] = 1e4
    rgb = colors.f4d_to_rgb(latents[None].astype(np.float32))[0].astype(int)
    for kind in range(3):
        own = rgb[kinds == kind]
        assert own.std(0).max() < 6
        assert np.abs(own.mean(0) - rgb[kinds == (kind + 1) % 3].mean(0)).max() > 60


def test_principal_scores_agree_with_a_full_decomposition():
    rng = np.random.default_rng(1)
    tokens = (rng.normal(size=(300, 40)) * np.geomspace(10, 0.1, 40)).astype(np.float32)
    scores = colors._principal_scores(tokens)
    centred = tokens - tokens.mean(0)
    left, size, _ = np.linalg.svd(centred, full_matrices=False)
    for k in range(3):
        assert abs(np.corrcoef(scores[:, k], left[:, k] * size[k])[0, 1]) > 0.999


@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 4), (2, 1, 2, 2, 2), (1, 2, 2, 2, 1)])
def test_f4d_of_any_size_has_colours(shape):
    assert colors.f4d_to_rgb(np.ones(shape, np.float32)).shape == (*shape[:-1], 3)


@given(hnp.arrays(np.float32, (2, 3, 3, 2), elements=st.floats(width=32)))
@settings(max_examples=50, deadline=None)
def test_any_flow_at_all_can_be_drawn(flow):
    with np.errstate(over="ignore"):
        rgb = colors.flow_to_rgb(flow, colors.flow_scale(flow))
    assert rgb.shape == (2, 3, 3, 3)


def test_objects_have_the_colours_of_their_marks_over_the_frame_and_an_opaque_rim() -> None:
    labels = np.zeros((1, 5, 6), np.uint8)
    labels[0, 1:4, 1:5] = 1
    labels[0, 1:4, 4] = 8  # of the colour of 1
    ground = np.full((1, 5, 6, 3), 200, np.uint8)
    found = colors.regions_to_rgb(labels, ground)
    assert (found[0][labels[0] == 0] == 200).all()
    assert tuple(found[0, 1, 1]) == tuple(found[0, 2, 3]) == tuple(found[0, 2, 4]) == color_of(1) == color_of(8)
    np.testing.assert_allclose(found[0, 2, 2], (np.array(color_of(1)) + 200) / 2, atol=1)
    assert (colors.regions_to_rgb(labels)[0][labels[0] == 0] == colors.NEUTRAL).all()
