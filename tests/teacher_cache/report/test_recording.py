"""A clip for Rerun: the geometry that it shows, and what of it a file holds."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import Command

from teacher_cache import open_cache
from teacher_cache.geometry.rays import pinhole_intrinsics, rays_on_grid
from teacher_cache.geometry.stitch import surface_points
from teacher_cache.scenes import frame_times, plucker_rays, random_scene, render_scene


@pytest.fixture(scope="module")
def truth():
    return render_scene(random_scene(4), frame_times(4, 6), height=48, width=64, ray_grid=(8, 8))


def test_intrinsics_come_from_the_first_cameras_rays(truth):
    np.testing.assert_allclose(pinhole_intrinsics(truth.camray[0]), truth.intrinsics, atol=1e-4)
    with pytest.raises(ValueError, match="0 of 64 rays point forward"):
        pinhole_intrinsics(-truth.camray[0])


def test_rays_on_a_finer_grid_are_those_of_its_pixels(truth):
    scene = random_scene(4)
    first = scene.camera.pose(0.0)
    exact = np.stack(
        [plucker_rays(scene.camera.pose(float(t)).relative_to(first), truth.intrinsics, (48, 64)) for t in truth.times_seconds]
    )
    found = rays_on_grid(truth.camray, 48, 64)
    cosine = (exact[..., :3] * found[..., :3]).sum(-1) / np.linalg.norm(found[..., :3], axis=-1)
    assert np.degrees(np.arccos(np.clip(cosine, -1, 1))).max() < 0.5
    np.testing.assert_array_equal(rays_on_grid(truth.camray, 8, 8), truth.camray)


def test_the_surface_is_where_depth_and_exact_rays_put_it(truth):
    points = surface_points(truth.depth, rays_on_grid(truth.camray, 48, 64)).reshape(4, 48, 64, 3)
    for frame, pose in enumerate(truth.camera_to_first):
        local = (points[frame] - pose[:3, 3]) @ pose[:3, :3]
        np.testing.assert_allclose(local[..., 2], truth.depth[frame], rtol=0.02)


def test_view_writes_a_recording_that_holds_the_scene(tiny_store: Path, tmp_path: Path, command: Command) -> None:
    from rerun.chunk import RrdReader

    out = tmp_path / "new" / "clip.rrd"
    done = command("teacher-cache", "view", tiny_store, "--clip", "scene-1.mp4", "--out", out, "--json")
    assert done.status == 0, done.err
    assert done.json["clips"] == ["scene-1.mp4"]
    found = {str(chunk.entity_path) for chunk in RrdReader(out).stream().to_chunks()}
    assert {"/scene/surface", "/scene/camera", "/scene/camera/picture", "/maps/flow", "/maps/motion", "/maps/depth"} <= found


def test_objects_of_another_store_are_recorded_with_their_names(
    tiny_store: Path, regions_store: Path, tmp_path: Path, teacher_cache_command: Command
) -> None:
    from rerun.chunk import RrdReader

    out = tmp_path / "clip.rrd"
    done = teacher_cache_command("view", tiny_store, "--clip", "scene-1.mp4", "--regions", regions_store, "--out", out)
    assert done.status == 0, done.err
    chunks = list(RrdReader(out).stream().to_chunks())
    assert {"/maps/regions", "/maps/depth"} <= {str(chunk.entity_path) for chunk in chunks}
    (named,) = open_cache(str(regions_store)).objects(["scene-1.mp4"])
    first = next(one for one in named if one.frames)
    said = "".join(str(chunk.to_record_batch()) for chunk in chunks if str(chunk.entity_path) == "/")
    assert f"{first.number} {first.phrase}" in said


def test_what_cannot_be_recorded_is_told(tiny_store: Path, tmp_path: Path, teacher_cache_command: Command) -> None:
    clips = ("--clip", "scene-1.mp4", "--clip", "scene-2.mp4")
    two = teacher_cache_command("view", tiny_store, *clips, "--out", tmp_path / "a.rrd")
    assert (two.status, "a recording shows one clip" in two.err) == (2, True)
    unknown = teacher_cache_command("view", tiny_store, "--clip", "nobody", "--out", tmp_path / "a.rrd")
    assert (unknown.status, "has no clip 'nobody'" in unknown.err) == (2, True)
    nowhere = teacher_cache_command("view", tiny_store, "--out", "/proc/none/a.rrd")
    assert (nowhere.status, "cannot write /proc/none/a.rrd" in nowhere.err) == (2, True)


def test_without_rerun_the_extra_is_named(tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from schemas.errors import BadInput
    from teacher_cache.report.recording import write_recording

    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(BadInput, match=r"p4d-cache\[rerun\]"):
        write_recording(str(tiny_store), None, tmp_path / "a.rrd")
    assert not (tmp_path / "a.rrd").exists()
