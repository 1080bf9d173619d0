"""Windows whose scales, shifts and frames are known, stitched back to a rendered scene's exact truth."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.errors import BadInput
from teacher_cache.geometry.rays import Similarity, camera_centres, camera_rotations, robust_similarity, similarity_between
from teacher_cache.geometry.stitch import disparity_fit, rescaled, stitch
from teacher_cache.scenes import Pose, SceneTruth, frame_times, plucker_rays, random_scene, render_scene

STARTS = [0, 8, 16]
SCALES = [1.0, 1.7, 0.4]
SHIFTS = [0.0, 0.03, -0.02]


@pytest.fixture(scope="module", params=[0, 4])
def truth(request: pytest.FixtureRequest) -> SceneTruth:
    return render_scene(random_scene(request.param), frame_times(32, 8), height=48, width=64)


def cut(values: np.ndarray) -> list[np.ndarray]:
    return [values[start : start + 16].copy() for start in STARTS]


def rays_in_own_frame(truth: SceneTruth, start: int, scale: float) -> np.ndarray:
    """A window's rays as a teacher gives them: in its own first camera's frame, in its own scale of length."""
    poses = [Pose(p[:3, :3], p[:3, 3]) for p in truth.camera_to_first[start : start + 16]]
    relative = [pose.relative_to(poses[0]) for pose in poses]
    return np.stack([plucker_rays(Pose(p.rotation, p.translation * scale), truth.intrinsics, (16, 16)) for p in relative])


def ray_windows(truth: SceneTruth) -> list[np.ndarray]:
    return [rays_in_own_frame(truth, start, scale) for start, scale in zip(STARTS, SCALES, strict=True)]


def test_depth_of_another_scale_and_shift_in_disparity_stitches_back(truth: SceneTruth) -> None:
    windows = [
        rescaled(w.astype(np.float64), scale, shift) for w, scale, shift in zip(cut(truth.depth), SCALES, SHIFTS, strict=True)
    ]
    assert np.abs(windows[1] / truth.depth[8:24] - 1).max() > 0.2
    stitched = stitch({"depth": windows}, STARTS)["depth"]
    np.testing.assert_allclose(stitched, truth.depth, rtol=1e-4)
    scale, shift = disparity_fit(windows[1][:8], truth.depth[8:16])
    np.testing.assert_allclose([scale, shift], [1 / 1.7, -0.03 / 1.7], atol=1e-5)


def test_depth_of_another_scale_stitches_back_by_the_median(truth: SceneTruth) -> None:
    windows = [w * np.float32(s) for w, s in zip(cut(truth.depth), SCALES, strict=True)]
    windows[1][:8, :20] *= 3  # what one window has wrong in less than half of its pixels
    stitched = stitch({"depth": windows}, STARTS, align="scale")["depth"]
    assert stitched.dtype == np.float32
    np.testing.assert_allclose(stitched[16:], truth.depth[16:], rtol=1e-4)
    assert np.abs(stitch({"depth": windows}, STARTS, align="none")["depth"][24:] / truth.depth[24:] - 1).min() > 0.3


def test_disparity_beyond_infinity_and_flat_depth_are_safe() -> None:
    assert rescaled(np.array([1.0, 10.0, 0.0]), 1.0, -0.5).tolist() == [2.0, 0.0, 0.0]
    flat = np.full((8, 4, 4), 2.0, np.float32)
    assert disparity_fit(flat, flat * 3) == pytest.approx((1 / 3, 0.0))
    assert disparity_fit(np.zeros((1, 2, 2)), flat[:1, :2, :2]) == (1.0, 0.0)


def test_flow_keeps_the_earlier_window_s_value_where_its_own_is_invalid(truth: SceneTruth) -> None:
    windows = cut(truth.flow)
    for window in windows:
        window[0] = 99
    stitched = stitch({"flow": windows}, STARTS)["flow"]
    assert (stitched[0] == 99).all()
    np.testing.assert_array_equal(stitched[1:], truth.flow[1:])


def test_motion_is_overwritten_by_the_later_window(truth: SceneTruth) -> None:
    windows = [np.where(w, 4, -4).astype(np.float32) + k for k, w in enumerate(cut(truth.motion))]
    stitched = stitch({"motion": windows}, STARTS)["motion"]
    np.testing.assert_array_equal(stitched > 0, truth.motion)
    np.testing.assert_array_equal(np.round(np.abs(stitched[:, 0, 0]) - 4) != 0, np.arange(32) >= 8)


def test_rays_of_windows_in_their_own_frames_stitch_back_to_one(truth: SceneTruth) -> None:
    stitched = stitch({"camray": ray_windows(truth)}, STARTS)["camray"]
    np.testing.assert_allclose(stitched, truth.camray, atol=1e-4)
    np.testing.assert_allclose(camera_centres(stitched), truth.camera_to_first[:, :3, 3], atol=1e-4)
    rotations = camera_rotations(stitched, truth.intrinsics)
    np.testing.assert_allclose(rotations, truth.camera_to_first[:, :3, :3], atol=1e-4)


def test_directions_need_not_have_unit_length(truth: SceneTruth) -> None:
    lengths = np.random.default_rng(0).uniform(0.5, 2, (16, 16, 16, 1)).astype(np.float32)
    windows = ray_windows(truth)
    windows[1] *= lengths
    stitched = stitch({"camray": windows}, STARTS)["camray"]
    np.testing.assert_allclose(stitched[8:16], truth.camray[8:16] * lengths[:8], atol=2e-4)
    np.testing.assert_allclose(camera_centres(stitched), truth.camera_to_first[:, :3, 3], atol=1e-4)


def test_a_still_camera_keeps_its_scale(truth: SceneTruth) -> None:
    still = np.repeat(truth.camray[:1], 16, 0)
    np.testing.assert_allclose(stitch({"camray": [still] * 3}, STARTS)["camray"], np.repeat(still, 2, 0), atol=1e-5)


def test_depth_and_rays_stitch_back_jointly_and_an_outlier_does_no_harm(truth: SceneTruth) -> None:
    depth = [w * np.float32(s) for w, s in zip(cut(truth.depth), SCALES, strict=True)]
    depth[1][:4, :12] *= 5
    windows = {"depth": depth, "camray": ray_windows(truth)}
    stitched = stitch(windows, STARTS, align="joint", seed=3)
    np.testing.assert_allclose(stitched["depth"][16:], truth.depth[16:], rtol=1e-3)
    np.testing.assert_allclose(stitched["camray"], truth.camray, atol=2e-3)
    again = stitch(windows, STARTS, align="joint", seed=3)
    assert all(again[name].tobytes() == stitched[name].tobytes() for name in windows)


def test_similarities_are_found_exactly_and_robustly() -> None:
    rng = np.random.default_rng(1)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    true = Similarity(0.3, turn * np.sign(np.linalg.det(turn)), np.array([1.0, -2.0, 3.0]))
    points = rng.normal(size=(400, 3))
    moved = true.points(points)
    moved[:120] += rng.normal(size=(120, 3))
    for found in (
        similarity_between(points[120:], moved[120:]), robust_similarity(points, moved, 0.01, np.random.default_rng(0)),
    ):  # fmt: skip
        np.testing.assert_allclose(found.points(points), true.points(points), atol=1e-2)


def test_what_cannot_be_stitched_is_refused(truth: SceneTruth) -> None:
    depth = cut(truth.depth)
    for windows, starts, align, said in (
        ({"f4d": depth}, STARTS, "disparity", "'f4d' has no frame axis"),
        ({"depth": depth}, [0, 8, 30], "disparity", "each must overlap or follow"),
        ({"depth": depth}, STARTS, "joint", "camray is missing"),
        ({"depth": depth}, STARTS, "ransac", "no alignment is called 'ransac'; use one of disparity, scale, joint, none"),
    ):
        with pytest.raises(BadInput, match=said):
            stitch(windows, starts, align=align)  # type: ignore[arg-type]


def test_windows_that_only_follow_one_another_are_set_side_by_side(truth: SceneTruth) -> None:
    windows = [truth.depth[:16], truth.depth[16:]]
    camray = [truth.camray[:16], truth.camray[16:]]
    for align in ("disparity", "scale", "joint", "none"):
        stitched = stitch({"depth": windows, "camray": camray}, [0, 16], align=align)
        np.testing.assert_array_equal(stitched["depth"], truth.depth)
        np.testing.assert_array_equal(stitched["camray"], truth.camray)
