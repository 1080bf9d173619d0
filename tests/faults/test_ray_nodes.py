"""Machines with eight teachers each, which are lost whole, one after another, while others work."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Command, tree
from log_files import contents
from ray.cluster_utils import Cluster
from ray_runs import Run, environment, is_as_undisturbed, many, set_faults

from schemas.job import Job
from teacher_cache.jobs.run import run_job

NODES, EACH, CLIPS = 4, 8, 192


def add_machine(cluster: Cluster) -> None:
    cluster.add_node(num_cpus=EACH, resources={"teacher": EACH}, object_store_memory=100 * 2**20)


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    for _ in range(NODES):
        add_machine(started)
    monkeypatch.setenv("RAY_ADDRESS", started.address)
    yield started
    started.shutdown()


@pytest.mark.complete  # 32 processes that import PyTorch, and 24 more
@pytest.mark.timeout(1500)
def test_machines_with_eight_teachers_are_lost_in_turn_while_three_others_work(
    tmp_path: Path, videos: Path, teacher_cache_command: Command, machines: Cluster
) -> None:
    (tmp_path / "plain").mkdir()
    run_job(Job.model_validate(many(tmp_path / "plain", videos, CLIPS, kind="local")))
    undisturbed = contents(tree(tmp_path / "plain/store"))
    set_faults(seconds=120)
    engine = {"kind": "ray", "teachers": NODES * EACH, "cpus_per_teacher": 0.5, "teacher_resources": {"teacher": 1}}
    job = many(tmp_path, videos, CLIPS, **engine)
    (tmp_path / "job.yaml").write_text(json.dumps(job | {"teacher": {"family": "faulty", "preset": "tiny"}}))
    run = Run(tmp_path / "job.yaml")
    run.wait_for(lambda: len(run.events("teacher_started")) == NODES * EACH, 600)

    def is_at(kind: str, count: int) -> Callable[[], bool]:
        return lambda: len(run.events(kind)) == count

    for number, machine in enumerate([node for node in machines.list_all_nodes() if node is not machines.head_node][:3], 1):
        machines.remove_node(machine, allow_graceful=False)
        run.wait_for(is_at("teacher_lost", number * EACH))
        assert run.events("node_set_aside") == []
        add_machine(machines)
        run.wait_for(is_at("teacher_started", (NODES + number) * EACH), 600)
    set_faults()
    assert run.ends_well().clips.committed == CLIPS
    is_as_undisturbed(tmp_path / "store", undisturbed, teacher_cache_command)
