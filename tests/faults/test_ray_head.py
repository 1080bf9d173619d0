"""The head of a cluster is gone, and with it all that Ray knows. The driver is elsewhere and must say so, and end."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import Command, Jobs
from ray.cluster_utils import Cluster
from ray_runs import CLIPS, Run, is_as_undisturbed, processes, write
from terminal import paced

SMALL = {"object_store_memory": 100 * 2**20}
RECONNECT_SECONDS = "15"


@pytest.fixture
def begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], Any]:
    """Begins a cluster of a head that decodes and a node that teaches, a batch in so many seconds."""
    environment = {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",
        "RAY_gcs_rpc_server_reconnect_timeout_s": RECONNECT_SECONDS,
        "P4D_CACHE_DIR": str(tmp_path / "node"),
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    @contextmanager
    def running(seconds: float) -> Any:
        for name, value in paced(seconds).items():
            monkeypatch.setenv(name, value)
        started = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False, **SMALL})
        started.add_node(num_cpus=1, resources={"teacher": 1}, **SMALL)
        monkeypatch.setenv("RAY_ADDRESS", started.address)
        yield started
        started.shutdown()

    return running


def counts_frames(folder: Path, videos: Path) -> Path:
    """A job that must know the length of each of some thousands of videos."""
    (folder / "videos").mkdir(parents=True)
    for number in range(4000):
        (folder / "videos" / f"{number}.mp4").hardlink_to(videos / "scene-0.mp4")
    value = Jobs(folder, videos).value(
        folder / "store",
        videos={"glob": f"{folder}/videos/*.mp4"},
        clips={"sampling": "fps", "fps": 60},
        engine={"kind": "ray", "cpus_per_teacher": 0.5, "teacher_resources": {"teacher": 1}},
    )
    (folder / "job.yaml").write_text(json.dumps(value))
    return folder / "job.yaml"


@pytest.mark.timeout(400)
def test_a_run_whose_head_is_gone_says_so_and_goes_on_under_another(
    tmp_path: Path, videos: Path, undisturbed: dict[str, bytes], teacher_cache_command: Command, begin: Callable[[float], Any]
) -> None:
    """And so does another run, which Ray counts frames for when it happens."""
    job = write(tmp_path, videos, kind="ray", cpus_per_teacher=0.5, teacher_resources={"teacher": 1})
    with begin(2) as cluster:
        run, counting = Run(job), Run(counts_frames(tmp_path / "counting", videos))
        run.wait_for(lambda: run.events("unit_done") and processes("probe"))
        cluster.head_node.kill_all_processes(check_alive=False, allow_graceful=False)
        ended = [run.end(), counting.end()]
    for status, out, err in ended:
        assert status == 3, err
        assert "Traceback" not in err
        assert "Ray's head has been silent for 1" in json.loads(out)["error"]["message"]
    done = teacher_cache_command("status", tmp_path / "store", "--json").json["clips"]["committed"]
    assert 0 < done < CLIPS
    with begin(0.1):
        report = Run(job).ends_well()
    assert (report.clips.committed, report.done_before) == (CLIPS, done)
    is_as_undisturbed(tmp_path / "store", undisturbed, teacher_cache_command)
