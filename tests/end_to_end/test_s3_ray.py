"""Ray teachers, a real S3 server, and everybody else's Zarr readers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray
import yaml
import zarr
from conftest import REAL_VIDEOS, Command, Jobs, regions_job, tree
from log_files import contents

from student_train.data.frames import StudentFrames
from teacher_cache import open_cache

pytestmark = pytest.mark.usefixtures("ray_cluster")

RAY = {"engine": {"kind": "local", "batch": 2, "threads_per_teacher": 1, "teachers": 2}}


def open_with_zarr(store: str) -> zarr.Group:
    return zarr.open_group(store, mode="r")


def test_real_footage_to_s3_with_ray(
    s3: str, jobs: Jobs, command: Command, teacher_cache_command: Command, real_videos: Path
) -> None:
    """H.264, VP9, HEVC and AV1, without the HDR one, which is refused; the engine is chosen on the command line."""
    store = f"{s3}/p4d/tiny"
    signals = ["f4d", "depth", "flow", "motion", "camray", "frames"]
    job = jobs.write(store, videos={"glob": f"{real_videos}/*[!r].[mw][pke][4vb]*"}, signals=signals, **RAY)
    ran = command("teacher-cache", "run", job, "--engine", "ray", "--json")
    assert ran.status == 0, ran.err
    assert ran.json["clips"] == {"planned": 4, "committed": 4, "failed": 0, "pending": 0}

    assert sum(ran.json["bytes_added"].values()) == sum(ran.json["bytes"].values())
    assert ran.json["requests"]["store"]["put"] > 4

    status = teacher_cache_command("status", store, "--json")
    assert status.status == 0
    assert status.json["clips"]["committed"] == 4
    assert all(size > 0 for size in status.json["bytes"].values())
    assert teacher_cache_command("verify", store).status == 0
    again = teacher_cache_command("run", job, "--engine", "ray", "--json")
    assert again.json["done_before"] == 4
    assert again.json["stage_seconds"]["teach"] == 0

    cache = open_cache(store)
    assert set(cache.committed_ids()) == {name for name in REAL_VIDEOS if "hdr" not in name}
    found = cache.read(["depth", "frames", "frame_index"], ["av1_video.mkv"])
    assert found["depth"].min() > 0
    own = StudentFrames(384, 0)(f"{real_videos}/av1_video.mkv", found["frame_index"][0])
    np.testing.assert_array_equal(found["frames"][0], own)


@pytest.fixture
def ray_store(s3: str, jobs: Jobs, teacher_cache_command: Command) -> str:
    store = f"{s3}/store"
    ran = teacher_cache_command("run", jobs.write(store, **RAY), "--engine", "ray", "--json")
    assert ran.status == 0, ran.err
    assert ran.json["clips"]["committed"] == 4
    return store


def test_ray_on_s3_gives_the_local_engine_s_bytes_and_any_reader_opens_them(ray_store: str, tiny_store: Path) -> None:
    import fsspec

    fs = fsspec.filesystem("s3")
    root = ray_store.removeprefix("s3://")
    stored = {path.removeprefix(f"{root}/"): fs.cat_file(path) for path in fs.find(root)}
    assert contents(stored) == contents(tree(tiny_store))

    cache = open_cache(ray_store)
    ids = cache.committed_ids()
    rows = [row["row"] for row in cache.clips.to_pylist()]
    ours = cache.read(["depth", "f4d"], ids)

    group = open_with_zarr(ray_store)
    assert group.attrs["fingerprint"] == cache.recipe.fingerprint
    assert {name for name, _ in group.arrays()} == {
        "f4d", "depth", "flow", "motion", "camray", "timestamps", "frame_index",
        "f4d_exact", "depth_exact", "flow_exact",
    }  # fmt: skip
    np.testing.assert_array_equal(by_formula(np.asarray(group["f4d"])[rows]), ours["f4d"])

    dataset = xarray.open_zarr(ray_store, consolidated=False)
    np.testing.assert_allclose(np.exp(dataset["depth"].values[rows]), ours["depth"], rtol=1e-4)


def by_formula(rows: np.ndarray) -> np.ndarray:
    """F4D from what is stored, as the array's attributes state it."""
    low, side = rows[..., :-1, :, :].copy(), rows[..., -1, :, :].reshape(*rows.shape[:2], -1, rows.shape[-1])
    high = np.zeros(low.shape, int)
    for at in np.ndindex(rows.shape[:2]):
        room = side[at][6:].tobytes()
        for entry in np.frombuffer(room[: len(room) // 4 * 4], "<u4"):
            if entry:
                high[at].flat[entry % 2**24] = int(entry >> 24) - 256 * int(entry >> 31)
    scale = np.ascontiguousarray(np.moveaxis(side[:, :, :4], 2, -1)).view("<f4")[..., 0]
    centre, delta = side[:, :, 4], side[:, :, 5]
    low = np.where(delta[:, :, None, None, None], low.cumsum(2, dtype=np.int8), low)
    expand = np.s_[:, :, None, None, None]
    return (low + 256 * high + centre[expand]).astype(np.float32) * scale[expand]


def test_videos_on_s3_are_each_fetched_once_for_all_their_windows(
    s3: str, jobs: Jobs, teacher_cache_command: Command, videos: Path, tmp_path: Path
) -> None:
    """By decoders in tasks of their own, whose requests the run counts; two and three windows a video, cut by shards of two.

    The plan is another machine's, so the run probes the videos, too.
    """
    import fsspec

    fs = fsspec.filesystem("s3")
    for path in sorted(videos.glob("*.mp4"))[:2]:
        fs.put_file(str(path), f"bucket/videos/{path.name}")
    job = jobs.write(f"{s3}/store", videos={"glob": f"{s3}/videos/*.mp4"}, clips={"sampling": "fps", "fps": 60}, **RAY)
    local = teacher_cache_command("plan", job, "--json", P4D_CACHE_DIR=str(tmp_path / "another"))
    assert local.json["clips_to_do"] > local.json["videos"] == 2
    ran = teacher_cache_command("run", job, "--engine", "ray", "--json")
    assert ran.status == 0, ran.err
    assert ran.json["clips"]["committed"] == local.json["clips_to_do"]
    asked, planned = ran.json["requests"]["videos"], local.json["requests"]["videos"]
    assert asked == planned


def test_regions_are_taught_on_the_pool_like_any_signal(
    s3: str, regions_store: Path, truth_masks: Path, tmp_path: Path, teacher_cache_command: Command
) -> None:
    """Teachers in Ray's actors read what their rows name besides frames; the store is the local engine's, byte by byte."""
    import fsspec

    store = f"{s3}/regions"
    (tmp_path / "jobs").mkdir()
    job = tmp_path / "job.yaml"
    job.write_text(yaml.safe_dump(regions_job(tmp_path / "jobs", truth_masks, store, **RAY)))
    ran = teacher_cache_command("run", job, "--engine", "ray", "--json")
    assert ran.status == 0, ran.err
    assert ran.json["clips"]["committed"] == 4
    fs = fsspec.filesystem("s3")
    root = store.removeprefix("s3://")
    stored = {path.removeprefix(f"{root}/"): fs.cat_file(path) for path in fs.find(root)}
    assert contents(stored) == contents(tree(regions_store))
    ids = open_cache(store).committed_ids()
    assert open_cache(store).objects(ids) == open_cache(str(regions_store)).objects(ids)
