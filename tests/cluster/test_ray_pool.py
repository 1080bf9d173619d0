"""The Ray engine: a teacher's process that dies costs nothing but time, and errors come back as they were raised."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import ray
from conftest import Command, Jobs, is_one_clear_error, tree
from log_files import contents
from ray.cluster_utils import Cluster

from cluster.ray_pool import RayEngine
from schemas.errors import BadInput, CouldNotRun, OutOfTime, Stopped
from schemas.job import EngineJob, Job, TeacherJob
from schemas.log import Unit, WorkItem
from teacher_cache.io.stop import Stop
from teacher_cache.jobs.plan import plan_report
from teacher_cache.jobs.portion import portion
from teacher_cache.jobs.run import run_job
from teacher_cache.jobs.unit_worker import WorkerSpec
from teacher_cache.store.store import open_store

ONE_TEACHER = {"kind": "ray", "batch": 2, "threads_per_teacher": 1}
ONE_BY_ONE = {"clips_per_shard": 1}


def teachers_of(run: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The teacher actors among a run's descendants, by the names that Ray gives them."""
    found = []
    for process in psutil.Process(run.pid).children(recursive=True):
        try:
            if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::TeacherActor"):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def listening(run: subprocess.Popen[bytes]) -> list[str]:
    """The addresses on which a run and its descendants wait for others."""
    found = []
    for process in [psutil.Process(run.pid), *psutil.Process(run.pid).children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            found += [c.laddr.ip for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    assert found
    return found


@pytest.mark.timeout(400)  # of its own: who waits for a lost teacher waits for ever
def test_a_teacher_killed_at_work_is_replaced_and_the_store_is_whole(
    tmp_path: Path, jobs: Jobs, single_clips_store: Path
) -> None:
    """Under a Ray that the run starts, which nobody elsewhere can reach."""
    store = tmp_path / "store"
    job = jobs.write(store, layout=ONE_BY_ONE, engine=ONE_TEACHER)
    program = str(Path(sys.executable).parent / "teacher-cache")
    told = tmp_path / "events"
    command = [program, "run", str(job), "--events", str(told)]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (told.exists() and "teacher_started" in told.read_text() and (teachers := teachers_of(run))):
        assert time.monotonic() < deadline
        assert run.poll() is None
        time.sleep(0.005)
    for teacher in teachers:
        teacher.kill()
    assert {ip.removeprefix("::ffff:") for ip in listening(run)} <= {"127.0.0.1", "::1"}
    assert run.wait(120) == 0
    (lost,) = [event for line in told.read_text().splitlines() if (event := json.loads(line))["event"] == "teacher_lost"]
    assert lost["units"]  # there was work to lose
    found = {key: data for key, data in tree(store).items() if not key.endswith(".tmp")}
    assert contents(found) == contents(tree(single_clips_store))


@pytest.mark.usefixtures("ray_cluster")
def test_a_plan_s_pilot_runs_where_a_teacher_would(tmp_path: Path, jobs: Jobs, teacher_cache_command: Command) -> None:
    job = jobs.write(tmp_path / "store", engine=ONE_TEACHER)
    planned = teacher_cache_command("plan", job, "--pilot", 4, "--json")
    assert planned.status == 0, planned.err
    assert planned.json["pilot"]["clips"] == 4
    assert planned.json["estimate"]["stage_seconds"]["decode"] > 0
    assert not (tmp_path / "store").exists()
    (tmp_path / "broken.mp4").write_bytes(b"none")
    job = jobs.write(tmp_path / "store", videos={"glob": f"{tmp_path}/*.mp4"}, engine=ONE_TEACHER)
    pilot = teacher_cache_command("plan", job, "--pilot", 1)
    is_one_clear_error(pilot, 2, "none of the pilot's 1 clips could be taught")


@pytest.mark.usefixtures("ray_cluster")
def test_who_waits_for_frames_that_no_node_counts_is_told_so_or_stopped(tmp_path: Path, jobs: Jobs) -> None:
    def job(**engine: object) -> Job:
        engine = ONE_TEACHER | {"decoder_resources": {"decodes": 1}, "grace_seconds": 0} | engine
        return Job.model_validate(jobs.value(tmp_path / "store", clips={"sampling": "dense"}, engine=engine))

    with pytest.raises(CouldNotRun, match=r"no progress for \d s in looking at videos.* core and 1 of 'decodes': see"):
        plan_report(job(start_timeout_seconds=0.4, decode_timeout_seconds=0.04))
    with pytest.raises(OutOfTime, match=r"stopped by its deadline, .* before all videos were looked at"):
        run_job(job(), portion=portion(max_hours=1 / 3600))
    received = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        threading.Timer(2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        with pytest.raises(Stopped, match="stopped by SIGTERM before all videos were looked at") as stopped:
            run_job(job(start_timeout_seconds=20, decode_timeout_seconds=0.1))
    finally:
        signal.signal(signal.SIGTERM, received)
    assert stopped.value.exit_status == 143
    assert not (tmp_path / "store").exists()


@pytest.fixture
def running_ray(ray_cluster: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ray that the caller has started: the engine uses it, and leaves it running."""
    monkeypatch.delenv("RAY_ADDRESS")
    ray.init(address=ray_cluster, log_to_driver=False, logging_level="ERROR")
    yield
    assert ray.is_initialized()
    ray.shutdown()


def item(shard: int) -> WorkItem:
    return WorkItem(unit=Unit(shard=shard, parts=("depth",)), clips=(), settled=())


@pytest.mark.usefixtures("running_ray")
def test_what_a_worker_raises_comes_back_as_it_was(tiny_store: Path) -> None:
    other = TeacherJob(preset="tiny", dtype="bfloat16")
    spec = WorkerSpec(
        store=str(tiny_store), teacher=other, engine=EngineJob(kind="ray"), shapes=open_store(str(tiny_store)).shapes
    )
    with pytest.raises(BadInput, match="have changed since the store"):
        list(RayEngine().run(spec, [item(0), item(1)], Stop()))
    greedy = spec.model_copy(update={"engine": EngineJob(kind="ray", gpus_per_teacher=64)})
    with pytest.raises(CouldNotRun, match=r"gpus_per_teacher is 64, and Ray finds [0-9]+ GPUs"):
        list(RayEngine().run(greedy, [item(0)], Stop()))


@pytest.mark.usefixtures("eight_cores")
def test_a_pilot_runs_on_nodes_that_no_teacher_with_its_decoders_would_fit(
    tmp_path: Path, jobs: Jobs, teacher_cache_command: Command
) -> None:
    """Of 8 cores each, as the shipped clusters' are; and it refuses what a run refuses, in its words."""
    engine = {"kind": "ray", "cpus_per_teacher": 5, "decoders": 8, "batch": 2, "threads_per_teacher": 1}
    job = jobs.write(tmp_path / "store", engine=engine, signals=["camray"])
    planned = teacher_cache_command("plan", job, "--pilot", 2, "--json")
    assert planned.status == 0, planned.err
    assert planned.json["pilot"]["memory_bytes"] > 2**27
    assert [path.name for path in tmp_path.iterdir()] == ["jobs"]
    for said in (
        teacher_cache_command(*command, "--set", "engine.cpus_per_teacher=9", "--set", "engine.start_timeout_seconds=1")
        for command in (("plan", job, "--pilot", 2), ("run", job))
    ):
        is_one_clear_error(said, 3, "Ray had room for 0 of at least 1 teachers", "9 cores")
    assert not list(tmp_path.glob("store.pilot-*"))
    program = str(Path(sys.executable).parent / "teacher-cache")
    stopped = subprocess.Popen([program, "plan", str(job), "--pilot", "4"], stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("store.pilot-*")):
        assert stopped.poll() is None
        time.sleep(0.01)
    stopped.terminate()
    _, said = stopped.communicate(timeout=60)
    assert (stopped.returncode, "stopped by SIGTERM; a pilot begins anew" in said) == (143, True), said
    assert not list(tmp_path.glob("store.pilot-*"))


@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "1")
    nodes = {"num_cpus": 8, "object_store_memory": 100 * 2**20}
    started = Cluster(initialize_head=True, head_node_args=nodes | {"include_dashboard": False})
    started.add_node(**nodes)
    monkeypatch.setenv("RAY_ADDRESS", started.address)
    yield
    started.shutdown()
