"""Maps of a mirrored or cropped picture are one geometry still: checked against a rendered scene's exact truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import BadInput, ViewRefused
from schemas.view import WHOLE, Crop, View
from teacher_cache import open_cache
from teacher_cache.geometry.augmentation import view_frames, view_signal
from teacher_cache.geometry.rays import camera_centres
from teacher_cache.scenes import Pose, SceneTruth, frame_times, plucker_rays, random_scene, render_scene

SIZE, CELLS = 64, 16
MIRROR = np.diag([-1.0, 1.0, 1.0])
CROP = Crop(top=8, left=16, height=40, width=32)
VIEWS = [WHOLE, View(flip=True), View(crop=CROP), View(crop=CROP, flip=True)]
MAPS = ("depth", "flow", "motion", "camray")


@pytest.fixture(scope="module", params=[1, 4])
def truth(request: pytest.FixtureRequest) -> SceneTruth:
    return render_scene(random_scene(request.param), frame_times(5, 6), height=SIZE, width=SIZE, ray_grid=(CELLS, CELLS))


@pytest.fixture(scope="module", params=VIEWS, ids=["whole", "flip", "crop", "crop and flip"])
def view(request: pytest.FixtureRequest) -> View:
    return request.param


def seen_poses(truth: SceneTruth, view: View) -> list[Pose]:
    """The cameras of the world that the view shows."""
    m = MIRROR if view.flip else np.eye(3)
    return [Pose(m @ pose[:3, :3] @ m, m @ pose[:3, 3]) for pose in truth.camera_to_first]


def seen_intrinsics(truth: SceneTruth, view: View) -> np.ndarray:
    """The pinhole matrix of the view's picture, in its own pixels."""
    pixels = np.diag([SIZE, SIZE, 1.0]) @ truth.intrinsics
    crop = view.crop or Crop(top=0, left=0, height=SIZE, width=SIZE)
    pixels[:2, 2] -= [crop.left, crop.top]
    if view.flip:
        pixels[0, 2] = crop.width - pixels[0, 2]
    return pixels


def seen(truth: SceneTruth, signal: str, view: View) -> np.ndarray:
    return view_signal(signal, getattr(truth, signal), view, SIZE)


def test_rays_are_those_of_the_cameras_that_would_film_the_view(truth: SceneTruth, view: View) -> None:
    rays = seen(truth, "camray", view)
    height, width = (view.crop.height, view.crop.width) if view.crop else (SIZE, SIZE)
    normalized = np.diag([1 / width, 1 / height, 1]) @ seen_intrinsics(truth, view)
    grid = height * CELLS // SIZE, width * CELLS // SIZE
    expected = [plucker_rays(pose, normalized, grid) for pose in seen_poses(truth, view)]
    np.testing.assert_allclose(rays, np.stack(expected), atol=2e-6)
    m = MIRROR if view.flip else np.eye(3)
    np.testing.assert_allclose(camera_centres(rays), truth.camera_to_first[:, :3, 3] @ m, atol=1e-4)


def test_depth_flow_and_cameras_agree_in_the_view(truth: SceneTruth, view: View) -> None:
    depth, flow, moves = (seen(truth, signal, view) for signal in ("depth", "flow", "motion"))
    pixels, poses = seen_intrinsics(truth, view), seen_poses(truth, view)
    y, x = np.indices(depth.shape[1:]) + 0.5
    ideal = np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(pixels).T
    for frame in range(1, len(depth)):
        points = (ideal * depth[frame][..., None]) @ poses[frame].rotation.T + poses[frame].translation
        before = (points - poses[frame - 1].translation) @ poses[frame - 1].rotation @ pixels.T
        position = before[..., :2] / before[..., 2:]
        still = ~moves[frame] & (before[..., 2] > 0.1)
        assert still.mean() > 0.3
        np.testing.assert_allclose((np.stack([x, y], -1) + flow[frame])[still], position[still], atol=0.02)


def test_points_of_the_mirrored_view_are_the_mirrored_points(truth: SceneTruth) -> None:
    def points(view: View) -> np.ndarray:
        rays, depth = seen(truth, "camray", view), seen(truth, "depth", view)
        step = SIZE // CELLS
        middle = depth.reshape(len(depth), CELLS, step, CELLS, step).mean((2, 4))
        forward = np.stack([pose.rotation[:, 2] for pose in seen_poses(truth, view)])
        distance = middle / np.einsum("fyxc,fc->fyx", rays[..., :3], forward)
        return camera_centres(rays)[:, None, None] + rays[..., :3] * distance[..., None]

    np.testing.assert_allclose(points(View(flip=True)), points(WHOLE)[:, :, ::-1] @ MIRROR, rtol=1e-4, atol=1e-3)


crops = st.tuples(*[st.integers(0, CELLS - 1)] * 2, *[st.integers(1, CELLS)] * 2).map(
    lambda c: Crop(
        top=4 * c[0], left=4 * c[1], height=4 * min(c[2], CELLS - c[0]), width=4 * min(c[3], CELLS - c[1])
    )
)  # fmt: skip
views = st.builds(View, crop=st.none() | crops, flip=st.booleans())


@given(first=views, second=views, signal=st.sampled_from(MAPS))
def test_a_view_of_a_view_is_one_view(first: View, second: View, signal: str) -> None:
    rng = np.random.default_rng(0)
    shape = {"flow": (2, 3, SIZE, SIZE, 2), "camray": (2, 3, CELLS, CELLS, 6)}.get(signal, (2, 3, SIZE, SIZE))
    values = rng.normal(size=shape).astype(np.float32)
    height, width = (first.crop.height, first.crop.width) if first.crop else (SIZE, SIZE)
    inner = second.crop
    if inner is not None and (inner.top + inner.height > height or inner.left + inner.width > width):
        with pytest.raises(BadInput, match="leaves the picture"):
            first.then(second, SIZE)
        return
    once = view_signal(signal, values, first.then(second, SIZE), SIZE)
    cell = SIZE // CELLS if signal == "camray" else 1
    twice = view_signal(signal, values, first, SIZE)
    if inner is not None:
        rows, columns = (slice(a // cell, (a + b) // cell) for a, b in ((inner.top, inner.height), (inner.left, inner.width)))
        twice = twice[:, :, rows, columns]
    np.testing.assert_array_equal(once, view_signal(signal, twice, View(flip=second.flip), SIZE))
    assert once.dtype == np.float32
    assert once.flags.c_contiguous


@given(view=views, signal=st.sampled_from(MAPS))
def test_a_mirror_in_a_mirror_is_none(view: View, signal: str) -> None:
    mirror = View(flip=True)
    assert view.then(mirror, SIZE).then(mirror, SIZE) == view
    shape = {"flow": (3, SIZE, SIZE, 2), "camray": (3, CELLS, CELLS, 6)}.get(signal, (3, SIZE, SIZE))
    values = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    np.testing.assert_array_equal(view_signal(signal, view_signal(signal, values, mirror, SIZE), mirror, SIZE), values)


def test_frames_get_the_same_view(truth: SceneTruth, view: View) -> None:
    frames = view_frames(truth.rgb, view, SIZE)
    crop = view.crop or Crop(top=0, left=0, height=SIZE, width=SIZE)
    part = truth.rgb[:, crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    np.testing.assert_array_equal(frames, part[:, :, ::-1] if view.flip else part)
    # Another resolution and aspect: the same part of the picture, which a gradient tells exactly.
    ramp = np.broadcast_to(np.linspace(0, 252, 127, dtype=np.uint8)[:, None], (1, 90, 127, 3))
    shown = view_frames(ramp, view, SIZE, (20, 50))[0, 10, :, 0].astype(float)
    middle = crop.left + (np.arange(50) + 0.5) * crop.width / 50
    expected = middle / SIZE * 127 * 2 - 1
    np.testing.assert_allclose(shown[2:-2], (expected[::-1] if view.flip else expected)[2:-2], atol=1)


def test_what_has_no_such_view_is_refused(truth: SceneTruth) -> None:
    with pytest.raises(ViewRefused, match=r"f4d has no other view.*into another store"):
        view_signal("f4d", np.zeros((4, 8, 16, 16, 8), np.float32), View(flip=True), SIZE)
    with pytest.raises(ViewRefused, match=r"camray has 16 × 16 cells over 64 × 64 pixels.*multiples of 4 pixels"):
        seen(truth, "camray", View(crop=Crop(top=0, left=2, height=8, width=8)))
    with pytest.raises(BadInput, match=r"rows 60 to 68 .* leaves the picture, which has 64 rows"):
        seen(truth, "depth", View(crop=Crop(top=60, left=0, height=8, width=8)))
    with pytest.raises(BadInput, match="leaves the picture"):
        view_frames(truth.rgb, View(crop=Crop(top=0, left=60, height=8, width=8)), SIZE)


def test_a_store_is_read_in_a_view(tiny_store: Path) -> None:
    cache = open_cache(str(tiny_store))
    ids, names = cache.committed_ids()[:2], [*MAPS, "timestamps"]
    view = View(crop=Crop(top=14, left=14, height=70, width=84), flip=True)
    whole, part = cache.read(names, ids), cache.read(names, ids, view=view)
    for name in MAPS:
        np.testing.assert_array_equal(part[name], view_signal(name, whole[name], view, cache.size))
    assert part["flow"].shape == (2, 16, 70, 84, 2)
    np.testing.assert_array_equal(part["flow"][..., 0, 0, 0], -whole["flow"][..., 14, 14 + 83, 0])
    np.testing.assert_array_equal(part["timestamps"], whole["timestamps"])
    with pytest.raises(ViewRefused):
        cache.read(["f4d"], ids, view=view)
