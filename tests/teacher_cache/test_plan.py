"""A plan held against what the job then used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import paced
import pytest
from conftest import Jobs
from s3_proxy import CountingProxy

from schemas.job import Job
from teacher_cache.pilot import plan_with_pilot
from teacher_cache.remote import filesystem
from teacher_cache.run import run_job


def write_video(path: Path, seed: int) -> None:
    from teacher_cache.scenes import encode_video

    noise = np.random.default_rng(seed)
    shades = noise.integers(0, 256, (int(noise.integers(16, 40)), 8, 12, 3), dtype=np.uint8)
    encode_video(path, shades.repeat(8, 1).repeat(8, 2))


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 40 videos of shades that change."""
    folder = tmp_path_factory.mktemp("many")
    for seed in range(40):
        write_video(folder / f"{seed:02d}.mp4", seed)
    return folder


@pytest.fixture
def paced_job(tmp_path: Path, jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A job of a teacher that takes 20 ms a batch of four."""
    monkeypatch.syspath_prepend(paced.install(tmp_path / "site"))

    def job(store: str | Path, videos: str | Path, **changes: Any) -> Job:
        base: dict[str, Any] = {
            "videos": {"glob": f"{videos}/*.mp4"},
            "teacher": {"family": "paced", "preset": "20"},
            "signals": ["depth", "flow", "motion"],
            "layout": {"clips_per_shard": 8},
            "engine": {"batch": 4, "decoders": 2, "threads_per_teacher": 1},
        }
        return Job.model_validate(jobs.value(store, **(base | changes)))

    return job


def near(predicted: float, used: float, share: float = 0.15) -> bool:
    return abs(predicted - used) <= share * used


def test_a_job_uses_what_its_plan_says(counting: CountingProxy, many: Path, paced_job: Any) -> None:
    fs, _ = filesystem("s3://bucket")
    for video in many.iterdir():
        fs.put_file(str(video), f"bucket/raw/{video.name}")
    job = paced_job("s3://bucket/store", "s3://bucket/raw")
    plan = plan_with_pilot(job, 16)
    assert counting.take("store")["put"] == 0
    assert plan.estimate is not None
    counting.take("raw")

    used = run_job(job)
    assert used.clips.committed == plan.clips_to_do == 40
    for signal, size in used.bytes_added.items():
        assert size == used.bytes[signal] > 0
        assert near(plan.estimate.bytes[signal], size), signal
    # The plan is of a warm teacher; that the pilot's was cold at first must not show in it.
    assert near(plan.estimate.stage_seconds.teach, used.stage_seconds.teach - paced.WARM_UP_BATCHES * 0.02)
    for purpose in ("store", "videos"):
        predicted, counted = getattr(plan.requests, purpose).model_dump(), getattr(used.requests, purpose).model_dump()
        at_the_door = counting.take({"store": "store", "videos": "raw"}[purpose])
        assert counted == at_the_door
        assert all(near(predicted[kind], counted[kind]) for kind in counted), (purpose, predicted, counted)
