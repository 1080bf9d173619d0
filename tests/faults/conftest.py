"""A small store in two steps: a first run, and one that grows it; and what the job of the runs under Ray makes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from conftest import Jobs, tree
from log_files import contents
from ray_runs import CLIPS, many
from seeded_weights import far_weights

from schemas.job import Job


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """In memory where the system has such a folder: each run waits for the disk some thirty times."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if memory.is_dir() else None) as made:
        yield Path(made)


@pytest.fixture(scope="module")
def two_jobs(folder: Path, videos: Path) -> tuple[Job, Job]:
    """Four videos, of which one is none, and one signal; then one more video and one more signal. Three shards.

    F4D is compressed with zstd; flow is beyond its integers in some of the clips, which are in the exact array.
    """
    (folder / "broken.mp4").write_bytes(b"not a video")
    first = [videos / "scene-0.mp4", videos / "scene-1.mp4", folder / "broken.mp4", videos / "scene-2.mp4"]
    return job(folder, first, ["f4d"]), job(folder, [*first, videos / "scene-3.mp4"], ["f4d", "flow"])


def job(folder: Path, videos: list[Path], signals: list[str]) -> Job:
    """A tiny teacher over ``videos``, two clips a shard, into a store that is yet to be named."""
    manifest = folder / f"{len(videos)}-videos.jsonl"
    manifest.write_text("".join(json.dumps({"uri": str(video), "id": video.stem}) + "\n" for video in videos))
    weights = folder / "far.ckpt"
    if not weights.exists():
        far_weights(folder, "flow_2d_backward", 2046.42)
    changes = {"teacher": {"preset": "tiny", "weights": str(weights)}, "signals": signals}
    return Job.model_validate(Jobs(folder, folder).value("unnamed", videos={"manifest": str(manifest)}, **changes))


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, videos: Path) -> dict[str, bytes]:
    """The store of `many`, as the local engine makes it."""
    from schemas.job import Job
    from teacher_cache.jobs.run import run_job

    folder = tmp_path_factory.mktemp("undisturbed")
    report = run_job(Job.model_validate(many(folder, videos, kind="local")))
    assert report.clips.committed == CLIPS
    return contents(tree(folder / "store"))
