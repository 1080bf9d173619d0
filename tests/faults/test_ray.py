"""Under Ray, whoever dies: a teacher, a decoder, a machine, the driver, told so or not. The store ends as if none had."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Command, Jobs, is_one_clear_error, tree
from ray.cluster_utils import Cluster
from ray_runs import CLIPS, Run, is_as_undisturbed, many, processes, set_faults, write
from terminal import paced
from webhook_server import webhook_server

from schemas.report import RunReport
from teacher_cache.scenes import encode_video

# A run that misses a loss waits for ever for what was lost.
pytestmark = pytest.mark.timeout(400)

TEACHER = {"teacher": 1}
"""A custom resource that a node offers to one teacher."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A head that decodes and two nodes that teach, all on this machine and on the loopback address."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in paced(0.25).items():
            patch.setenv(name, value)
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "1")
        patch.setenv("P4D_CACHE_DIR", str(tmp_path_factory.mktemp("node")))
        patch.setenv("P4D_FAULTY", str(tmp_path_factory.mktemp("faults") / "faults.json"))
        started = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, **SMALL})
        for _ in range(2):
            add_teaching_node(started)
        patch.setenv("RAY_ADDRESS", started.address)
        yield started
        started.shutdown()


SMALL = {"object_store_memory": 100 * 2**20}


def add_teaching_node(cluster: Cluster) -> Any:
    return cluster.add_node(num_cpus=1, resources=TEACHER, **SMALL)


TEACHERS = {"kind": "ray", "teachers": 2, "cpus_per_teacher": 0.5, "teacher_resources": TEACHER}


@pytest.mark.usefixtures("cluster")
def test_a_driver_a_teacher_and_a_decoder_are_killed(
    tmp_path: Path, videos: Path, undisturbed: dict[str, bytes], teacher_cache_command: Command
) -> None:
    job = write(tmp_path, videos, **TEACHERS)
    run = Run(job)
    run.wait_for(lambda: len(run.events("unit_done")) >= 2)
    run.process.kill()
    run.end()
    before = teacher_cache_command("status", tmp_path / "store", "--json").json["clips"]
    assert 0 < before["committed"] < CLIPS

    again = Run(job)
    again.wait_for(lambda: processes("decode"))[0].kill()  # its first task lasts: a new process imports what decodes
    again.wait_for(lambda: len(again.events("teacher_started")) == 2)
    again.wait_for(lambda: processes("TeacherActor"))[0].kill()
    report = again.ends_well()
    assert report.clips.committed == CLIPS
    assert report.done_before >= before["committed"]
    assert len(again.events("teacher_lost")) == 1
    is_as_undisturbed(tmp_path / "store", undisturbed, teacher_cache_command)


def test_nodes_are_lost_and_others_come(
    tmp_path: Path, videos: Path, undisturbed: dict[str, bytes], teacher_cache_command: Command, cluster: Cluster
) -> None:
    """A node that decodes, then one that teaches. With fewer than ``min_teachers`` the run waits; who joins gets a teacher."""
    lost, kept = cluster.list_all_nodes()[1:]
    decodes = cluster.add_node(num_cpus=1, **SMALL)
    run = Run(write(tmp_path, videos, min_teachers=2, **TEACHERS))
    run.wait_for(lambda: len(run.events("teacher_started")) == 2 and len(run.events("unit_done")) >= 2)
    cluster.remove_node(decodes, allow_graceful=False)
    assert run.events("teacher_lost") == []
    cluster.remove_node(lost, allow_graceful=False)
    run.wait_for(lambda: run.events("teacher_lost"))
    add_teaching_node(cluster)
    run.wait_for(lambda: len(run.events("teacher_started")) >= 3)
    report = run.ends_well()
    assert report.clips.committed == CLIPS
    joined = {event["teacher"] for event in run.events("teacher_started")[2:]}
    assert joined & {event["teacher"] for event in run.events("unit_done")}
    is_as_undisturbed(tmp_path / "store", undisturbed, teacher_cache_command)
    assert kept in cluster.list_all_nodes()


@dataclass
class MetadataService:
    """EC2's, as a machine asks it: 404 until there is a notice."""

    url: str = ""
    asked: set[str] = field(default_factory=set)
    end: datetime | None = None

    def notice(self) -> None:
        self.end = datetime.now(UTC) + timedelta(seconds=120)


@contextmanager
def metadata_service() -> Iterator[MetadataService]:
    service = MetadataService()

    class Answers(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self._answer(b"a-token" if self.path == "/latest/api/token" else None)

        def do_GET(self) -> None:
            service.asked.add(self.path)
            assert self.headers["X-aws-ec2-metadata-token"] == "a-token"
            is_due = service.end is not None and self.path == "/latest/meta-data/spot/instance-action"
            time_text = service.end.strftime("%Y-%m-%dT%H:%M:%SZ") if service.end else ""
            self._answer(json.dumps({"action": "terminate", "time": time_text}).encode() if is_due else None)

        def _answer(self, body: bytes | None) -> None:
            self.send_response(404 if body is None else 200)
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    service.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()


def test_a_drained_node_finishes_what_it_has_begun_and_nothing_is_counted_as_lost(
    tmp_path: Path, videos: Path, undisturbed: dict[str, bytes], teacher_cache_command: Command, cluster: Cluster
) -> None:
    """A spot machine whose notice comes as EC2 gives it: its end is two minutes away."""
    set_faults(seconds=3)  # so that the run outlasts the notice
    job = many(tmp_path, videos, **TEACHERS) | {"teacher": {"family": "faulty", "preset": "tiny"}}
    (tmp_path / "job.yaml").write_text(json.dumps(job))
    going = cluster.list_all_nodes()[1]
    with metadata_service() as service:
        watcher = subprocess.Popen(
            [sys.executable, "-m", "cluster.spot_notice", going.node_id],
            env=os.environ | {"AWS_EC2_METADATA_SERVICE_ENDPOINT": service.url},
        )
        try:
            run = Run(tmp_path / "job.yaml")
            run.wait_for(lambda: len(run.events("teacher_started")) == 2 and run.events("unit_done"))
            assert service.asked == {"/latest/meta-data/spot/instance-action"}
            assert watcher.poll() is None, "there is no notice yet"
            service.notice()
            (draining,) = run.wait_for(lambda: run.events("node_draining"))
            assert watcher.wait(30) == 0
        finally:
            watcher.kill()
            watcher.wait()
    assert 60 < draining["seconds"] <= 120
    add_teaching_node(cluster)
    (lost,) = run.wait_for(lambda: run.events("teacher_lost"))
    assert (lost["reason"], lost["units"]) == ("its node is told to go", 0)
    report = run.ends_well()
    assert report.clips.committed == CLIPS
    after = [e for e in run.events("unit_done") if e["teacher"] == lost["teacher"] and e["time"] > draining["time"]]
    assert len(after) <= 3, "what it had begun, to teach or to write"
    assert len(run.events("teacher_started")) == 3
    assert run.events("node_set_aside") == []
    is_as_undisturbed(tmp_path / "store", undisturbed, teacher_cache_command)
    cluster.remove_node(going)  # or the next test takes it for one that works


def test_broken_nodes_are_set_aside_and_a_deadly_clip_is_a_failed_row(
    tmp_path: Path, videos: Path, undisturbed: dict[str, bytes], command: Command, cluster: Cluster
) -> None:
    """One whose device fails at whatever it is given, one where no teacher starts, and a clip that ends each process."""
    white = np.full((20, 64, 64, 3), 255, np.uint8)
    encode_video(tmp_path / "white.mp4", white, fps=10)
    broken, idle = cluster.list_all_nodes()[1].node_id, add_teaching_node(cluster)
    wrong = {"ecc": [broken], "no_start": [idle.node_id]}
    set_faults(**wrong, seconds=8)  # so that the run outlasts three losses of each
    job = many(tmp_path, videos, **TEACHERS | {"teachers": 3})
    lines = (tmp_path / "videos.jsonl").read_text().splitlines()
    lines[7] = json.dumps({"uri": str(tmp_path / "white.mp4"), "id": "clip-07"})
    (tmp_path / "videos.jsonl").write_text("\n".join(lines))
    (tmp_path / "job.yaml").write_text(json.dumps(job | {"teacher": {"family": "faulty", "preset": "tiny"}}))
    run = Run(tmp_path / "job.yaml")
    run.wait_for(lambda: len(run.events("node_set_aside")) == 2)
    set_faults(**wrong)
    status, out, err = run.end()
    assert status == 1, err
    report = RunReport.model_validate_json(out)
    assert (report.clips.committed, report.clips.failed) == (CLIPS - 1, 1)
    (failure,) = report.failures
    assert (failure.clip_id, failure.reason) == ("clip-07", "teacher_crashed")
    reasons = " ".join(event["reason"] for event in run.events("node_set_aside"))
    assert "uncorrectable ECC" in reasons
    assert "libcuda.so.1: cannot open shared object file" in reasons
    assert len(run.events("node_set_aside")) == 2
    cluster.remove_node(idle)
    assert command("teacher-cache", "verify", tmp_path / "store").status == 0
    found = tree(tmp_path / "store")
    others = [key for key in undisturbed if "/c/" in key and "/c/3/" not in key]  # of other units than the clip's
    assert len(others) > CLIPS / 2
    assert all(found[key] == undisturbed[key] for key in others)


@pytest.mark.parametrize("kind", ["local", "ray"])
@pytest.mark.usefixtures("cluster")
def test_told_to_stop_it_commits_what_is_in_work(
    kind: str, tmp_path: Path, videos: Path, undisturbed: dict[str, bytes], teacher_cache_command: Command
) -> None:
    """SIGTERM, as a spot machine gets it some time before it is taken away."""
    engine = TEACHERS if kind == "ray" else {"kind": kind, "slow": True}
    job = write(tmp_path, videos, **engine)
    with webhook_server() as chat:
        run = Run(job, {"P4D_WEBHOOK": chat.url})
        run.wait_for(lambda: len(run.events("unit_done")) >= 1)
        run.process.send_signal(signal.SIGTERM)
        status, out, err = run.end()
    assert status == 143, err
    (told,) = chat.told
    assert (told["status"], "stopped by SIGTERM with" in told["message"]) == ("stopped", True)
    assert "Traceback" not in err
    assert "stopped by SIGTERM with" in json.loads(out)["error"]["message"]
    (stopping,) = run.events("stopping")
    assert stopping["reason"] == "SIGTERM"
    done = len(run.events("unit_done"))
    assert 1 <= done < CLIPS // 2
    # Everything begun was committed: nothing is left for `gc`.
    assert teacher_cache_command("gc", tmp_path / "store", "--unfinished", "--json").json["removed"] == []
    assert teacher_cache_command("status", tmp_path / "store", "--json").json["clips"]["committed"] == 2 * done

    assert Run(job).ends_well().clips.committed == CLIPS
    is_as_undisturbed(tmp_path / "store", undisturbed, teacher_cache_command)


def test_a_long_path_for_temporary_files_is_named(
    tmp_path: Path, jobs: Jobs, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)  # of the cluster that other tests here share
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    job = jobs.write(tmp_path / "store", engine={"kind": "ray", "batch": 2, "gpus_per_teacher": 0})
    done = command("teacher-cache", "run", job, TMPDIR=str(folder))
    is_one_clear_error(done, 3, "(TMPDIR) has too long a path for Ray", "Set RAY_TMPDIR")
