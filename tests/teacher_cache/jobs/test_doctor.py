"""`doctor` names what would stop a job, and a worker does not begin on a device that fails its self-test."""

from __future__ import annotations

import json
from pathlib import Path
from platform import node

import pytest
from conftest import Command, Jobs

from schemas.errors import TeacherFailed
from schemas.job import EngineJob, TeacherJob
from teacher_cache.jobs.self_test import self_test
from teacher_cache.jobs.unit_worker import UnitWorker, WorkerSpec
from teacher_cache.store.store import open_store


def test_a_machine_without_a_job_is_described(teacher_cache_command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    done = teacher_cache_command("doctor", "--json")
    assert done.status == 0
    checks = {check["subject"]: check for check in done.json["checks"]}
    assert done.json["nodes"] == [node()]
    assert {"software", "memory", "video decoder", "GPUs", "cpu arithmetic"} <= checks.keys()
    assert checks["video decoder"]["found"].startswith("PyAV ")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    done = teacher_cache_command("doctor", "--json")
    (wrong,) = (check for check in done.json["checks"] if check["status"] == "wrong")
    assert (done.status, done.json["wrong"]) == (3, 1)
    assert wrong["found"].startswith("nothing answers at RAY_ADDRESS, 127.0.0.1:1")
    assert "`ray start`" in wrong["found"]


def test_what_would_stop_a_job_is_named_and_nothing_is_written(
    jobs: Jobs, tmp_path: Path, teacher_cache_command: Command
) -> None:
    well = teacher_cache_command("doctor", jobs.write(tmp_path / "store"), "--json")
    assert (well.status, well.json["wrong"], well.json["job"]) == (0, 0, str(tmp_path / "store"))
    assert not (tmp_path / "store").exists()
    engine = {"batch": 10_000_000, "gpus_per_teacher": 64}
    ill = teacher_cache_command("doctor", jobs.write(tmp_path / "store", engine=engine), "--json")
    wrong = {check["subject"]: check for check in ill.json["checks"] if check["status"] == "wrong"}
    assert ill.status == 3
    assert ill.json["wrong"] == len(wrong) == 2
    assert wrong["GPUs"]["needed"] == "64"
    assert float(wrong["memory"]["needed"].split()[0]) > float(wrong["memory"]["found"].split()[0])
    lost = jobs.write(tmp_path / "store", videos={"glob": f"{tmp_path}/none/*.mp4"}, engine={"kind": "unknown"})
    ill = teacher_cache_command("doctor", lost, "--json")
    assert {check["subject"] for check in ill.json["checks"] if check["status"] == "wrong"} == {"videos and weights", "engine"}


def test_each_node_of_a_cluster_is_looked_at(
    ray_cluster: str, jobs: Jobs, tmp_path: Path, teacher_cache_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", ray_cluster)
    done = teacher_cache_command("doctor", jobs.write(tmp_path / "store"), "--engine", "ray", "--json")
    assert done.status == 0, json.dumps(done.json["checks"])
    import ray

    ray.init(address=ray_cluster, log_to_driver=False, logging_level="ERROR")
    try:
        alive = sum(one["Alive"] for one in ray.nodes())
    finally:
        ray.shutdown()
    assert [check["subject"] for check in done.json["checks"]].count("cpu arithmetic") == alive


@pytest.mark.parametrize(
    ("settings", "device", "said"),
    [
        ({"gpus_per_teacher": 1}, "cuda:63", "cuda:63 cannot multiply in bfloat16: "),
        ({"decode_device": "cuda"}, "cpu", "does not decode H.264 by the GPU; PyAV "),
    ],
)
def test_a_device_that_fails_its_test_is_named(settings: dict[str, object], device: str, said: str) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(TeacherFailed) as failed:
        self_test(TeacherJob(dtype="bfloat16"), EngineJob.model_validate(settings), device)
    assert str(failed.value).startswith(f"{node()}: {device} ")
    assert said in str(failed.value)


def test_a_worker_begins_with_the_test(tiny_store: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    shapes = open_store(str(tiny_store)).shapes
    engine = EngineJob(decode_device="cuda")
    with pytest.raises(TeacherFailed, match=r"engine\.decode_device: cpu"):
        UnitWorker(WorkerSpec(store=str(tiny_store), teacher=TeacherJob(preset="tiny"), engine=engine, shapes=shapes))
