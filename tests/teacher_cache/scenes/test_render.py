"""The renderer's truth against itself: what depth, flow, motion and rays claim about one scene must be one geometry."""

from __future__ import annotations

import numpy as np
import pytest

from teacher_cache.scenes import Sphere, frame_times, random_scene, render_scene

SEEDS = [0, 1, 4, 7]


@pytest.fixture(scope="module", params=SEEDS)
def clip(request):
    scene = random_scene(request.param)
    return scene, render_scene(scene, frame_times(6, 8), height=96, width=128, ray_grid=(96, 128))


def sample(image, x, y):
    """Bilinear samples of ``image`` (y, x, …) at pixel positions whose pixel centres are at half integers."""
    height, width = image.shape[:2]
    x, y = np.clip(x - 0.5, 0, width - 1.001), np.clip(y - 0.5, 0, height - 1.001)
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    fx, fy = ((x - left)[..., None], (y - top)[..., None])
    row = [image[top + j, left] * (1 - fx) + image[top + j, left + 1] * fx for j in (0, 1)]
    return row[0] * (1 - fy) + row[1] * fy


def pixel_centres(height, width):
    y, x = np.indices((height, width)) + 0.5
    return x, y


def first_camera_points(truth, frame):
    """Each pixel's surface point (y, x, 3) in the first camera's frame, from depth and Plücker rays alone."""
    direction, moment = np.split(truth.camray[frame].astype(np.float64), 2, axis=-1)
    forward = truth.camera_to_first[frame][:3, 2]
    distance = truth.depth[frame][..., None] / (direction @ forward)[..., None]
    # d × m is the point of the line nearest the origin; walk from it to the camera, then out to the surface.
    nearest = np.cross(direction, moment)
    eye = truth.camera_to_first[frame][:3, 3]
    return nearest + direction * (direction @ eye)[..., None] + direction * distance


def project(truth, frame, points):
    """Pixel positions (…, 2) of first-camera points in a frame."""
    pose = np.linalg.inv(truth.camera_to_first[frame])
    local = points @ pose[:3, :3].T + pose[:3, 3]
    image = local @ truth.intrinsics.T
    height, width = truth.depth.shape[1:]
    return image[..., :2] / image[..., 2:] * [width, height]


def test_shapes_and_dtypes(clip):
    _, truth = clip
    assert (truth.rgb.shape, truth.rgb.dtype) == ((6, 96, 128, 3), np.uint8)
    assert (truth.depth.shape, truth.depth.dtype) == ((6, 96, 128), np.float32)
    assert (truth.flow.shape, truth.flow.dtype) == ((6, 96, 128, 2), np.float32)
    assert (truth.motion.shape, truth.motion.dtype) == ((6, 96, 128), np.bool_)
    assert (truth.camray.shape, truth.camray.dtype) == ((6, 96, 128, 6), np.float32)
    assert np.isfinite(truth.depth).all()
    assert (truth.depth > 0.3).all()


def test_same_seed_same_bytes():
    times = frame_times(2, 8)
    first, second = (render_scene(random_scene(5), times, height=48, width=64) for _ in range(2))
    for name in ("rgb", "depth", "flow", "motion", "camray", "visible", "instance"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert random_scene(5) == random_scene(5)
    assert random_scene(5) != random_scene(6)


def test_a_frame_does_not_depend_on_the_others():
    scene = random_scene(3)
    clip = render_scene(scene, np.array([0.0, 0.5, 1.0]), height=48, width=64)
    pair = render_scene(scene, np.array([0.5, 1.0]), height=48, width=64)
    np.testing.assert_array_equal(clip.rgb[2], pair.rgb[1])
    np.testing.assert_array_equal(clip.flow[2], pair.flow[1])


def test_backward_flow_warps_the_frame_before_onto_the_frame(clip):
    _, truth = clip
    x, y = pixel_centres(96, 128)
    for t in range(1, 6):
        flow, seen = truth.flow[t], truth.visible[t]
        warped = sample(truth.rgb[t - 1].astype(float), x + flow[..., 0], y + flow[..., 1])
        error = np.abs(warped - truth.rgb[t]).mean(-1)
        wrong_way = sample(truth.rgb[t - 1].astype(float), x - flow[..., 0], y - flow[..., 1])
        assert np.median(error[seen]) < 2.5
        # Moving shadows and highlights change a few pixels that geometry says are the same.
        assert np.mean(error[seen] < 16) > 0.9
        assert error[seen].mean() < 0.7 * np.abs(wrong_way - truth.rgb[t]).mean(-1)[seen].mean()


def test_visible_points_have_the_depth_the_frame_before_shows(clip):
    """A visible static point, moved into the camera of t-1, lies on the surface that was drawn there; a hidden one does not."""
    _, truth = clip
    for t in range(1, 6):
        points = first_camera_points(truth, t)
        pose = np.linalg.inv(truth.camera_to_first[t - 1])
        depth_then = (points @ pose[:3, :3].T + pose[:3, 3])[..., 2]
        x, y = pixel_centres(96, 128)
        shown = sample(truth.depth[t - 1][..., None], x + truth.flow[t, ..., 0], y + truth.flow[t, ..., 1])[..., 0]
        still = ~truth.motion[t]
        relative = (depth_then - shown) / depth_then
        assert np.median(np.abs(relative[still & truth.visible[t]])) < 1e-3
        assert np.mean(np.abs(relative[still & truth.visible[t]]) < 0.02) > 0.97
        assert np.mean(relative[still & truth.visible[t]] > 0.1) < 0.01  # what hid it would be well in front


def test_static_points_unproject_to_one_place_and_flow_is_ego_motion(clip):
    """Points unprojected at t, projected by the camera of t-1, land where the flow says: for everything that stands still."""
    _, truth = clip
    x, y = pixel_centres(96, 128)
    here = np.stack([x, y], -1)
    for t in range(1, 6):
        points = first_camera_points(truth, t)
        np.testing.assert_allclose(project(truth, t, points), here, atol=2e-2)
        ego = project(truth, t - 1, points) - here
        difference = np.linalg.norm(ego - truth.flow[t], axis=-1)
        assert difference[~truth.motion[t]].max() < 2e-2
        # A moving object departs from the camera's own flow almost everywhere (not where its motion is along the ray).
        if truth.motion[t].any():
            assert np.mean(difference[truth.motion[t]] > 0.05) > 0.8


def test_the_same_static_point_from_two_views(clip):
    _, truth = clip
    t = 5
    still = ~truth.motion[t] & truth.visible[t] & (truth.instance[t] == -1)
    at = np.stack(np.nonzero(still), 1)[::37]
    x, y = pixel_centres(96, 128)
    before = first_camera_points(truth, t - 1)
    now = first_camera_points(truth, t)
    old = sample(before, x + truth.flow[t, ..., 0], y + truth.flow[t, ..., 1])
    # Interpolating across an outline mixes two surfaces, so nearly all must agree and not every one.
    error = np.linalg.norm(old - now, axis=-1)[at[:, 0], at[:, 1]]
    assert np.mean(error < 0.02) > 0.95


def test_first_camera_is_the_identity(clip):
    _, truth = clip
    np.testing.assert_allclose(truth.camera_to_first[0], np.eye(4), atol=1e-12)
    np.testing.assert_array_equal(truth.camray[0, ..., 3:], 0)
    y, x = (np.array([96, 128]) / 2 - 0.5) / [96, 128]
    ideal = np.linalg.inv(truth.intrinsics) @ [x + 1 / 128, y + 1 / 96, 1]
    np.testing.assert_allclose(truth.camray[0, 48, 64, :3], ideal / np.linalg.norm(ideal), atol=1e-6)


def test_rays_are_plucker_lines_through_the_camera(clip):
    _, truth = clip
    direction, moment = np.split(truth.camray, 2, axis=-1)
    np.testing.assert_allclose(np.linalg.norm(direction, axis=-1), 1, atol=1e-6)
    np.testing.assert_allclose((direction * moment).sum(-1), 0, atol=1e-5)
    for pose, d, m in zip(truth.camera_to_first, direction, moment, strict=True):
        np.testing.assert_allclose(np.cross(pose[:3, 3], d), m, atol=1e-5)


def test_ray_grids_of_any_size_cover_the_same_view():
    scene = random_scene(2)
    fine = render_scene(scene, frame_times(2, 8), height=24, width=32, ray_grid=(48, 48)).camray
    coarse = render_scene(scene, frame_times(2, 8), height=24, width=32, ray_grid=(16, 16)).camray
    np.testing.assert_allclose(fine[:, 1::3, 1::3], coarse, atol=1e-6)  # cell centres coincide at odd ratios


def test_motion_mask_is_the_moving_objects(clip):
    scene, truth = clip
    for number, thing in enumerate(scene.objects):
        assert (truth.motion[truth.instance == number] == thing.trajectory.moving).all()
    assert not truth.motion[truth.instance == -1].any()


def test_a_still_camera_sees_flow_only_on_moving_objects():
    truth = render_scene(random_scene(1, moving_camera=False), frame_times(3, 6), height=48, width=64)
    speed = np.linalg.norm(truth.flow, axis=-1)
    assert speed[~truth.motion].max() < 1e-3
    assert speed[1:][truth.motion[1:]].max() > 1
    np.testing.assert_array_equal(truth.camray, truth.camray[:1].repeat(3, 0))


def test_a_square_picture_is_the_same_view_squeezed():
    scene = random_scene(0)
    wide = render_scene(scene, frame_times(2, 8), height=48, width=144)
    square = render_scene(scene, frame_times(2, 8), height=48, width=48)
    np.testing.assert_array_equal(wide.camray, square.camray)
    # Every third column of the wide picture looks through the same image points. The flow is in pixels of its own picture.
    np.testing.assert_allclose(square.depth, wide.depth[:, :, 1::3], rtol=1e-4)
    np.testing.assert_allclose(square.flow * [3, 1], wide.flow[:, :, 1::3], atol=1e-3)


@pytest.mark.parametrize("seed", range(0, 400, 8))
def test_every_seed_gives_something_moving_and_something_still(seed):
    scene = random_scene(seed)
    moving = [o.trajectory.moving for o in scene.objects]
    assert any(moving)
    assert not all(moving)
    assert len({o.name for o in scene.objects}) == len(scene.objects)
    for time in np.linspace(0, scene.duration_seconds, 7):
        x, y, z = scene.camera.pose(float(time)).translation
        assert abs(x) < scene.room.half_width
        assert -scene.room.height < y < 0
        assert abs(z) < scene.room.half_length


def test_rolling_balls_do_not_slip():
    """The point of the ball that touches the floor is at rest."""
    balls = [o for seed in range(0, 200, 8) for o in random_scene(seed).objects if isinstance(o.solid, Sphere)]
    rolling = [o for o in balls if any(o.trajectory.velocity) and not o.trajectory.hop_height]
    assert len(rolling) > 5
    for ball in rolling:
        now, soon = ball.trajectory.pose(0.5), ball.trajectory.pose(0.5 + 1e-5)
        touching = now.rotation.T @ [0.0, ball.solid.radius, 0.0]
        moved = soon.rotation @ touching + soon.translation - (now.rotation @ touching + now.translation)
        np.testing.assert_allclose(moved / 1e-5, 0, atol=1e-4)
