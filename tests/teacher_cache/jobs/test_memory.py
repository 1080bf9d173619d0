"""A teacher's process holds no more than is predicted, and what cannot fit is refused before it is loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Command, Jobs, is_one_clear_error
from terminal import paced

from schemas.errors import CouldNotRun
from teacher_cache.jobs.memory import WorkerBytes, machine_bytes, require_device_memory, require_host_memory

RUN = """
import json, sys
from schemas.job import Job
from teacher_cache.jobs.memory import peak_bytes, worker_bytes
from teacher_cache.jobs.discovery import discover
from teacher_cache.jobs.run import run_job
from teacher_cache.teachers.registry import family
job = Job.model_validate_json(sys.argv[1])
facts = discover(job)
needed = worker_bytes(facts.recipe, facts.shapes, family(job.teacher.family), job.teacher, job.engine)
report = run_job(job)
assert report.clips.failed == 0
print(json.dumps([needed.host, peak_bytes()]))
"""


@pytest.mark.parametrize(
    ("teacher", "engine"),
    [
        ({"family": "synthetic", "preset": "giant@100"}, {"batch": 4, "writers": 2}),
        ({"family": "l4p", "preset": "tiny"}, {"batch": 4}),
    ],
)
def test_a_run_holds_no_more_than_predicted(
    jobs: Jobs, videos: Path, tmp_path: Path, teacher: dict[str, str], engine: dict[str, int]
) -> None:
    lines = [{"uri": str(videos / f"scene-{n % 4}.mp4"), "id": str(n)} for n in range(16)]
    (tmp_path / "videos.jsonl").write_text("\n".join(map(json.dumps, lines)))
    job = jobs.value(
        tmp_path / "store",
        videos={"manifest": str(tmp_path / "videos.jsonl")},
        teacher=teacher,
        layout={"clips_per_shard": 4},
        engine={"kind": "local", "threads_per_teacher": 1} | engine,
    )
    done = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(job)], capture_output=True, text=True, check=False, env=os.environ | paced(0)
    )
    assert done.returncode == 0, done.stderr
    predicted, measured = json.loads(done.stdout)
    assert predicted / 3 < measured <= predicted


def test_what_cannot_fit_is_refused_before_it_is_loaded(tmp_path: Path, jobs: Jobs, teacher_cache_command: Command) -> None:
    for kind in ("local", "ray"):
        job = jobs.write(tmp_path / "store", engine={"kind": kind, "batch": 10_000_000})
        done = teacher_cache_command("run", job)
        is_one_clear_error(done, 3, "a teacher's process will need up to", "Lower engine.batch")
    with pytest.raises(CouldNotRun, match=r"will need 30.0 GB on cuda:0, and its share there is 24.0 GB"):
        require_device_memory(WorkerBytes(host=0, device=30 * 10**9), 24 * 10**9, "cuda:0")
    require_host_memory(WorkerBytes(host=10**9, device=0), machine_bytes(), "this machine")
