"""Under Ray, a node whose disk has no room for a video costs itself; the run ends where no node is left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
from conftest import Command, Jobs, is_one_clear_error
from fsspec import filesystem
from ray_runs import environment, set_faults

from teacher_cache.scenes import encode_video

NODE = str(Path(sys.executable).parent / "ray")
NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]
FULL = "mount -t tmpfs -o size=4096 none {} && exec "
"""A file system of a page, which no video fits."""

StartNode = Callable[..., None]


@pytest.fixture
def start_node(ray_cluster: str, tmp_path: Path) -> Iterator[StartNode]:
    """Start a node that decodes, or teaches, with a full disk or another."""
    if shutil.which("unshare") is None or subprocess.run([*NAMESPACE, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no user namespaces here")
    started: list[subprocess.Popen[bytes]] = []

    def start(is_full: bool, does: str = "decodes") -> None:
        ray.init(address=ray_cluster, log_to_driver=False, logging_level="ERROR")
        before = nodes()
        folder = tmp_path / f"disk-{len(started)}"
        folder.mkdir()
        command = [NODE, "start", f"--address={ray_cluster}", "--num-cpus=1", "--block", "--object-store-memory=100000000"]
        command += ["--resources", json.dumps({does: 1}), "--node-ip-address=127.0.0.1"]
        if is_full:
            command = [*NAMESPACE, "sh", "-c", FULL.format(folder) + '"$0" "$@"', *command]
        environment = os.environ | {"TMPDIR": str(folder)}
        started.append(subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, start_new_session=True))
        deadline = time.monotonic() + 60
        while nodes() == before:
            assert time.monotonic() < deadline
            assert started[-1].poll() is None
            time.sleep(0.1)
        ray.shutdown()

    yield start
    for process in started:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


@pytest.fixture
def on_s3(s3: str, videos: Path) -> str:
    """A folder of a bucket with the test videos; those of a disk would need no room."""
    for path in sorted(videos.glob("*.mp4")):
        filesystem("s3").put_file(str(path), f"bucket/videos/{path.name}")
    return f"{s3}/videos"


def nodes() -> set[str]:
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def test_its_videos_are_counted_and_decoded_elsewhere(
    on_s3: str, jobs: Jobs, teacher_cache_command: Command, start_node: StartNode
) -> None:
    """`fps` has each video's frames counted before any is decoded. First there is no other node."""

    def job_of(store: str) -> Path:
        return jobs.write(
            jobs.folder / store,
            videos={"glob": f"{on_s3}/*.mp4"},
            clips={"sampling": "fps", "fps": 60},
            engine={"kind": "ray", "batch": 2, "threads_per_teacher": 1, "decoder_resources": {"decodes": 1}},
        )

    impatient = {"P4D_PATIENCE_SECONDS": "1"}
    start_node(True)
    alone = teacher_cache_command("run", job_of("alone"), **impatient)
    is_one_clear_error(alone, 3, "has no room for a copy of s3://bucket/videos/scene-", "set TMPDIR")
    start_node(False)
    for attempt in range(5):  # the node with room may have done all before the other has begun
        job = job_of(f"store-{attempt}")
        events = job.with_suffix(".events")
        ran = teacher_cache_command("run", job, "--json", "--events", events, **impatient)
        assert ran.status == 0, ran.err
        assert ran.json["clips"]["committed"] == ran.json["clips"]["planned"] > 4
        told = [json.loads(line) for line in events.read_text().splitlines()]
        if notes := [event["text"] for event in told if event["event"] == "note" and "has no room for a copy" in event["text"]]:
            break
    assert len(notes) == 1, notes


@pytest.mark.complete
def test_a_clip_that_ends_teachers_is_tried_out_where_there_is_room(
    on_s3: str, jobs: Jobs, command: Command, start_node: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its video is fetched and decoded by the teacher's own node: a full one cannot tell whether the clip is to blame."""
    encode_video(jobs.folder / "white.mp4", np.full((20, 64, 64, 3), 255, np.uint8), fps=10)
    beyond_a_page = (8192).to_bytes(4) + b"free" + bytes(8184)  # a box of MP4's that says nothing
    filesystem("s3").pipe_file("bucket/videos/white.mp4", (jobs.folder / "white.mp4").read_bytes() + beyond_a_page)
    for name, value in environment(jobs.folder).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("P4D_PATIENCE_SECONDS", "1")
    set_faults()
    start_node(False)
    start_node(True, "teaches")
    start_node(False, "teaches")
    job = jobs.write(
        jobs.folder / "store",
        videos={"glob": f"{on_s3}/*.mp4"},
        teacher={"family": "faulty", "preset": "tiny"},
        engine={
            "kind": "ray", "batch": 1, "threads_per_teacher": 1, "teachers": 2, "min_teachers": 2,
            "teacher_resources": {"teaches": 1}, "decoder_resources": {"decodes": 1},
        },
    )  # fmt: skip
    events = job.with_suffix(".events")
    ran = command("teacher-cache", "run", job, "--json", "--events", events)
    assert ran.status == 1, ran.err
    assert (ran.json["clips"]["committed"], ran.json["clips"]["failed"]) == (4, 1)
    assert [(one["clip_id"], one["reason"]) for one in ran.json["failures"]] == [("white.mp4", "teacher_crashed")]
    told = [event["text"] for line in events.read_text().splitlines() if (event := json.loads(line))["event"] == "note"]
    assert len([text for text in told if "has no room for a copy" in text]) == 1, told
