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

import pytest
import ray
from conftest import Command, Jobs, is_one_clear_error
from fsspec import filesystem

NODE = str(Path(sys.executable).parent / "ray")
NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]
FULL = "mount -t tmpfs -o size=4096 none {} && exec "
"""A file system of a page, which no video fits."""

StartNode = Callable[[bool], None]


@pytest.fixture
def start_node(ray_cluster: str, tmp_path: Path) -> Iterator[StartNode]:
    """Start a node that decodes, with a full disk or another."""
    if shutil.which("unshare") is None or subprocess.run([*NAMESPACE, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no user namespaces here")
    started: list[subprocess.Popen[bytes]] = []

    def start(is_full: bool) -> None:
        ray.init(address=ray_cluster, log_to_driver=False, logging_level="ERROR")
        before = nodes()
        folder = tmp_path / f"disk-{len(started)}"
        folder.mkdir()
        command = [NODE, "start", f"--address={ray_cluster}", "--num-cpus=1", "--block", "--object-store-memory=100000000"]
        command += ["--resources", json.dumps({"decodes": 1}), "--node-ip-address=127.0.0.1"]
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


def nodes() -> set[str]:
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def test_its_videos_are_counted_and_decoded_elsewhere(
    s3: str, jobs: Jobs, teacher_cache_command: Command, videos: Path, start_node: StartNode
) -> None:
    """`fps` has each video's frames counted before any is decoded. First there is no other node."""
    fs = filesystem("s3")
    for path in sorted(videos.glob("*.mp4")):
        fs.put_file(str(path), f"bucket/videos/{path.name}")
    job = jobs.write(
        jobs.folder / "store",
        videos={"glob": f"{s3}/videos/*.mp4"},
        clips={"sampling": "fps", "fps": 60},
        engine={"kind": "ray", "batch": 2, "threads_per_teacher": 1, "decoder_resources": {"decodes": 1}},
    )
    impatient = {"P4D_PATIENCE_SECONDS": "1"}
    start_node(True)
    alone = teacher_cache_command("run", job, **impatient)
    is_one_clear_error(alone, 3, "has no room for a copy of s3://bucket/videos/scene-", "set TMPDIR")
    start_node(False)
    events = job.with_suffix(".events")
    ran = teacher_cache_command("run", job, "--json", "--events", events, **impatient)
    assert ran.status == 0, ran.err
    assert ran.json["clips"]["committed"] == ran.json["clips"]["planned"] > 4
    notes = [event["text"] for line in events.read_text().splitlines() if (event := json.loads(line))["event"] == "note"]
    assert len([text for text in notes if "has no room for a copy" in text]) == 1, notes
