"""A cluster that begins with nothing to work on, and Ray's own autoscaler, which adds nodes as Ray asks for them."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from conftest import Command
from ray.cluster_utils import Cluster
from ray_runs import CLIPS, Run, environment, is_as_undisturbed, many, set_faults

MOST_NODES = 5


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head that takes no work, and a provider whose machines are one more Ray node each, with one core, on this one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    machine = {"CPU": 1, "memory": 2**31, "object_store_memory": 100 * 2**20}
    config = {
        "cluster_name": "grows",
        "max_workers": MOST_NODES,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 5,
        "provider": {
            "type": "external",
            "module": "machines_here.MachinesHere",
            "disable_node_updaters": True,
            "gcs_address": f"127.0.0.1:{port}",
        },
        "head_node_type": "ray.head.default",
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "initialization_commands": [],
        "worker_setup_commands": [],
        "worker_start_ray_commands": [],
        "head_setup_commands": [],
        "head_start_ray_commands": [],
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": {"resources": machine, "node_config": {}, "min_workers": 0, "max_workers": MOST_NODES},
        },
    }
    (tmp_path / "autoscaler.json").write_text(json.dumps(config))
    autoscaler = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    for name, value in (environment(tmp_path) | autoscaler).items():
        monkeypatch.setenv(name, value)
    head = {"num_cpus": 0, "include_dashboard": False, "gcs_server_port": port, "object_store_memory": 100 * 2**20}
    before = set(psutil.Process().children(recursive=True))
    started = Cluster(initialize_head=True, head_node_args=head | {"autoscaling_config": str(tmp_path / "autoscaler.json")})
    monkeypatch.setenv("RAY_ADDRESS", started.address)
    yield started
    of_nodes = set(psutil.Process().children(recursive=True)) - before  # the provider's are no nodes that `started` knows
    started.shutdown()
    for process in of_nodes:
        if process.is_running():
            process.kill()
    psutil.wait_procs(of_nodes, 20)


@pytest.mark.timeout(400)
@pytest.mark.usefixtures("empty")
def test_a_pool_grows_from_nothing_where_teachers_fill_their_nodes(
    tmp_path: Path, videos: Path, undisturbed: dict[str, bytes], teacher_cache_command: Command
) -> None:
    """Each teacher takes all of a node, and decoding needs a core: Ray is asked for a node for each, and for one more."""
    set_faults(seconds=120)  # so that the run outlasts the growth
    job = many(tmp_path, videos, kind="ray", teachers=2, cpus_per_teacher=1)
    (tmp_path / "job.yaml").write_text(json.dumps(job | {"teacher": {"family": "faulty", "preset": "tiny"}}))
    run = Run(tmp_path / "job.yaml")
    run.wait_for(lambda: len(run.events("teacher_started")) == 2)
    set_faults()
    assert run.ends_well().clips.committed == CLIPS
    is_as_undisturbed(tmp_path / "store", undisturbed, teacher_cache_command)
