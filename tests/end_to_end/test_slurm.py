"""A SLURM array without Ray: its script, run as many processes at once, each with its share, all on one store."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import fsspec
import pytest
from conftest import Command, Jobs, tree
from log_files import contents

from schemas.job import Job
from teacher_cache.jobs.run import run_job

SCRIPT = Path(__file__).resolve().parents[2] / "cluster" / "slurm" / "teach.sbatch"
VIDEOS = 32


@pytest.fixture
def changes(videos: Path, tmp_path: Path) -> dict[str, Any]:
    """A few videos under many names, each a unit of its own."""
    (tmp_path / "videos").mkdir()
    for number in range(VIDEOS):
        (tmp_path / "videos" / f"{number:02d}.mp4").symlink_to(videos / f"scene-{number % 4}.mp4")
    engine = {"kind": "ray", "batch": 2, "threads_per_teacher": 1}
    source = {"glob": f"{tmp_path}/videos/*.mp4"}
    return {"videos": source, "signals": ["camray"], "layout": {"clips_per_shard": 1}, "engine": engine}


def started(job: Path, task: int, count: int, folder: Path) -> subprocess.Popen[bytes]:
    """A task of the array, as SLURM starts it; its ``scontrol`` notes what is queued again."""
    (folder / "bin").mkdir(exist_ok=True)
    (folder / "bin" / "scontrol").write_text(f'#!/bin/bash\necho "$@" >> {folder}/requeued\n')
    (folder / "bin" / "scontrol").chmod(0o755)
    slurm = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_TASK_COUNT": str(count)}
    path = os.pathsep.join([str(Path(sys.executable).parent), str(folder / "bin"), os.environ["PATH"]])
    with (folder / f"said-{task}").open("ab") as said:
        return subprocess.Popen(
            ["bash", str(SCRIPT), str(job)], env=os.environ | slurm | {"PATH": path}, stdout=said, stderr=said
        )


@pytest.mark.timeout(400)
@pytest.mark.parametrize("count", [5, pytest.param(16, marks=pytest.mark.complete)])
def test_an_array_of_tasks_teaches_one_store(count: int, s3: str, jobs: Jobs, changes: dict[str, Any], tmp_path: Path) -> None:
    """All begin at once on a store that is not there yet; one is preempted and queued again."""
    undisturbed = changes | {"engine": changes["engine"] | {"kind": "local"}}
    run_job(Job.model_validate(jobs.value(tmp_path / "store", **undisturbed)))
    job = jobs.write(f"{s3}/store", **changes)
    tasks = [started(job, task, count, tmp_path) for task in range(count)]
    time.sleep(2)
    tasks[3].send_signal(signal.SIGTERM)
    statuses = [task.wait(300) for task in tasks]
    said = {task: (tmp_path / f"said-{task}").read_text() for task in range(count)}
    if statuses[3] == 143:
        assert (tmp_path / "requeued").read_text() == "requeue 7_3\n"
        statuses[3] = started(job, 3, count, tmp_path).wait(100)
    assert statuses == [0] * count, said
    fs = fsspec.filesystem("s3", skip_instance_cache=True)  # another test's listing is not this bucket's
    stored = {path.removeprefix("bucket/store/"): fs.cat_file(path) for path in fs.find("bucket/store")}
    assert contents(stored) == contents(tree(tmp_path / "store"))


def test_what_a_lost_task_left_another_run_does(
    jobs: Jobs, changes: dict[str, Any], tmp_path: Path, teacher_cache_command: Command
) -> None:
    job = jobs.write(tmp_path / "store", **changes)
    local = ("--engine", "local", "--json")
    shares = [teacher_cache_command("run", job, "--shard", f"{task}/4", *local).json for task in (0, 1, 3)]
    assert [(share["committed"], share["left"]) for share in shares] == [(8, 24), (8, 16), (8, 8)]
    rest = teacher_cache_command("run", job, *local).json
    assert (rest["committed"], rest["left"], rest["clips"]["pending"]) == (8, 0, 0)
