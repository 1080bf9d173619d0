"""A run killed with SIGKILL at any moment, and started again, ends as if nothing had happened."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Command, Jobs, tree

COMMAND = str(Path(sys.executable).parent / "teacher-cache")
# One clip a shard gives the most moments between commits.
ONE_BY_ONE = {"layout": {"clips_per_shard": 1}}


def start(job: Path) -> subprocess.Popen[bytes]:
    # Decoders belong to the run's session, so that killing the group leaves nothing behind, as a lost machine would.
    return subprocess.Popen(
        [COMMAND, "run", str(job)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


def kill(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture
def undisturbed(tmp_path: Path, jobs: Jobs, command: Command) -> dict[str, bytes]:
    """The bytes of a store whose run nobody disturbed."""
    assert command("teacher-cache", "run", jobs.write(tmp_path / "undisturbed", **ONE_BY_ONE)).status == 0
    return tree(tmp_path / "undisturbed")


def test_killed_in_the_middle_and_started_again(
    tmp_path: Path, jobs: Jobs, command: Command, undisturbed: dict[str, bytes]
) -> None:
    store = tmp_path / "store"
    job = jobs.write(store, **ONE_BY_ONE)
    process = start(job)
    deadline = time.monotonic() + 60
    while not (committed := len(list(store.glob("ledger/0*/0*.json")))):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.005)
    kill(process)
    between = command("teacher-cache", "status", store, "--json").json["clips"]
    assert between["committed"] >= committed
    assert between["pending"] > 0
    report = command("teacher-cache", "run", job, "--json")
    assert report.status == 0
    assert report.json["clips"] == {"planned": 4, "committed": 4, "failed": 0, "pending": 0}
    assert report.json["done_before"] == between["committed"]
    assert {k: v for k, v in tree(store).items() if not k.endswith(".tmp")} == undisturbed
    findings = command("teacher-cache", "verify", store, "--json").json["findings"]
    assert all(f["kind"] == "orphan" and f["key"].endswith(".tmp") for f in findings)


def test_killed_at_random_moments_until_it_is_done(
    tmp_path: Path, jobs: Jobs, command: Command, undisturbed: dict[str, bytes]
) -> None:
    store = tmp_path / "store"
    job = jobs.write(store, **ONE_BY_ONE)
    moments = random.Random(7)
    for _ in range(6):
        process = start(job)
        try:
            process.wait(moments.uniform(1.5, 5.0))
        except subprocess.TimeoutExpired:
            kill(process)
    assert command("teacher-cache", "run", job).status == 0
    assert {k: v for k, v in tree(store).items() if not k.endswith(".tmp")} == undisturbed


def test_two_runs_at_once_on_one_store(tmp_path: Path, jobs: Jobs, command: Command, undisturbed: dict[str, bytes]) -> None:
    store = tmp_path / "store"
    job = jobs.write(store, **ONE_BY_ONE)
    processes = [start(job), start(job)]
    assert [p.wait(120) for p in processes] == [0, 0]
    assert tree(store) == undisturbed
    assert command("teacher-cache", "verify", store).status == 0
