"""The head of a cluster is gone, and with it all that Ray knows. The driver is elsewhere and must say so, and end."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import Command
from ray.cluster_utils import Cluster
from ray_runs import CLIPS, Run, is_as_undisturbed, write
from terminal import paced

SMALL = {"object_store_memory": 100 * 2**20}
RECONNECT_SECONDS = "15"


@pytest.fixture
def begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """Begins a cluster of a head that decodes and a node that teaches."""
    environment = {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",
        "RAY_gcs_rpc_server_reconnect_timeout_s": RECONNECT_SECONDS,
        "P4D_CACHE_DIR": str(tmp_path / "node"),
    }
    for name, value in (paced(0.25) | environment).items():
        monkeypatch.setenv(name, value)

    @contextmanager
    def running() -> Any:
        started = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, **SMALL})
        started.add_node(num_cpus=1, resources={"teacher": 1}, **SMALL)
        monkeypatch.setenv("RAY_ADDRESS", started.address)
        yield started
        started.shutdown()

    return running


@pytest.mark.timeout(400)
def test_a_run_whose_head_is_gone_says_so_and_goes_on_under_another(
    tmp_path: Path, videos: Path, undisturbed: dict[str, bytes], teacher_cache_command: Command, begin: Callable[[], Any]
) -> None:
    job = write(tmp_path, videos, kind="ray", cpus_per_teacher=0.5, teacher_resources={"teacher": 1})
    with begin() as cluster:
        run = Run(job)
        run.wait_for(lambda: run.events("unit_done"))
        cluster.head_node.kill_all_processes(check_alive=False, allow_graceful=False)
        status, out, err = run.end()
    assert status == 3, err
    assert "Traceback" not in err
    assert "Ray's head has been silent for 1" in json.loads(out)["error"]["message"]
    done = teacher_cache_command("status", tmp_path / "store", "--json").json["clips"]["committed"]
    assert 0 < done < CLIPS
    with begin():
        report = Run(job).ends_well()
    assert (report.clips.committed, report.done_before) == (CLIPS, done)
    is_as_undisturbed(tmp_path / "store", undisturbed, teacher_cache_command)
