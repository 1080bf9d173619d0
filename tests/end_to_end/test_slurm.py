"""SLURM's scripts, run as SLURM runs them: an array of tasks that teach one store, and the processes of one fit."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import fsspec
import pytest
import yaml
from conftest import Command, Jobs, tree
from log_files import contents

from schemas.job import Job
from schemas.train import FitReport
from teacher_cache.jobs.run import run_job

SCRIPTS = Path(__file__).resolve().parents[2] / "cluster" / "slurm"
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
            ["bash", str(SCRIPTS / "teach.sbatch"), str(job)], env=os.environ | slurm | {"PATH": path}, stdout=said, stderr=said
        )


@pytest.mark.timeout(400)
@pytest.mark.parametrize("count", [4, pytest.param(16, marks=pytest.mark.complete)])
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


# As many processes as there are tasks, whose ids stand in a file; its status is the highest of theirs.
SRUN = """#!/bin/bash
shift
for ((task = 0; task < SLURM_NTASKS; task++)); do
  SLURM_PROCID=$task SLURM_LOCALID=$task "$@" &
  echo $! >> {folder}/pids
done
worst=0
for pid in $(jobs -p); do
  wait "$pid"
  status=$?
  worst=$((status > worst ? status : worst))
done
exit $worst
"""
SCONTROL = """#!/bin/bash
[ "$1" = show ] && echo 127.0.0.1 || echo "$@" >> {folder}/requeued
"""


@pytest.mark.timeout(400)
@pytest.mark.parametrize("is_preempted", [False, pytest.param(True, marks=pytest.mark.complete)])
def test_the_processes_of_a_fit_meet_and_a_preempted_one_is_queued_again(
    is_preempted: bool, tiny_store: Path, videos: Path, tmp_path: Path
) -> None:
    (tmp_path / "bin").mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / "bin" / name).write_text(text.format(folder=tmp_path))
        (tmp_path / "bin" / name).chmod(0o755)
    config = {
        "store": str(tiny_store), "output": str(tmp_path / "run"), "data": {"video_root": str(videos), "workers": 0},
        "mode": "latent", "decoder": {"hidden": 32}, "steps": 40 if is_preempted else 1, "batch": 1,
    }  # fmt: skip
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config))
    path = os.pathsep.join([str(tmp_path / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    slurm = {"SLURM_JOB_ID": str(free_port() - 20000), "SLURM_JOB_NODELIST": "node-[1-2]", "SLURM_NTASKS": "2"}
    slurm |= {"SLURM_NTASKS_PER_NODE": "2", "OMP_NUM_THREADS": "1", "PATH": path}

    def begun() -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", str(SCRIPTS / "train.sbatch"), str(tmp_path / "train.yaml")],
            env=os.environ | slurm, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    job = begun()
    if is_preempted:
        metrics = tmp_path / "run" / "metrics.jsonl"
        while not metrics.exists() or not metrics.read_text():
            assert job.poll() is None, job.communicate()
            time.sleep(0.01)
        for pid in (tmp_path / "pids").read_text().split():
            os.kill(int(pid), signal.SIGTERM)
        said = job.communicate(timeout=100)[0]
        assert job.returncode == 143, said
        assert (tmp_path / "requeued").read_text() == f"requeue {slurm['SLURM_JOB_ID']}\n"
        job = begun()
    said = job.communicate(timeout=200)[0]
    assert job.returncode == 0, said
    assert f"step {config['steps']}: loss" in said
    report = FitReport.model_validate_json((tmp_path / "run" / "result.json").read_text())
    assert (report.processes, report.steps) == (2, config["steps"])


def free_port() -> int:
    """Of those that the script takes for a job's number."""
    while True:
        with socket.socket() as free:
            free.bind(("127.0.0.1", random.randrange(20000, 30000)))
            port: int = free.getsockname()[1]
            return port
