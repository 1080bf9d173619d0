"""Runs of one job under Ray, followed by their events, and the store that it makes when nothing disturbs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil
from conftest import Command, Jobs, tree
from log_files import contents

from schemas.report import RunReport

Sought = TypeVar("Sought")

PROGRAM = str(Path(sys.executable).parent / "teacher-cache")
CLIPS = 24


def many(folder: Path, videos: Path, clips: int = CLIPS, **engine: Any) -> dict[str, Any]:
    """A job of so many clips, two a shard, of four videos under many names."""
    lines = [{"uri": str(videos / f"scene-{n % 4}.mp4"), "id": f"clip-{n:02d}"} for n in range(clips)]
    (folder / "videos.jsonl").write_text("\n".join(map(json.dumps, lines)))
    family = "l4p" if engine.get("kind") == "local" and "slow" not in engine else "paced"
    engine.pop("slow", None)
    return Jobs(folder, videos).value(
        folder / "store",
        videos={"manifest": str(folder / "videos.jsonl")},
        teacher={"family": family, "preset": "tiny"},
        signals=["camray", "depth"],
        engine={"batch": 2, "threads_per_teacher": 1} | engine,
    )


def environment(folder: Path) -> dict[str, str]:
    """Of a cluster on this machine whose teachers are `faulty_teacher`'s; ``folder`` has its caches and `set_faults`' file."""
    return {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",
        "P4D_CACHE_DIR": str(folder / "node"),
        "P4D_FAULTY": str(folder / "faults.json"),
        "PYTHONPATH": str(Path(__file__).parent / "packages"),
    }


def set_faults(**faults: Any) -> None:
    """Write the file that `faulty_teacher` reads all the time, at once."""
    path = Path(os.environ["P4D_FAULTY"])
    new = path.with_suffix(".new")
    new.write_text(json.dumps(faults))
    new.replace(path)


@dataclass
class Run:
    """A run of the job at work, and what its events say so far."""

    job: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.log = self.job.with_name("events.jsonl")
        self.log.unlink(missing_ok=True)
        self.process = subprocess.Popen(
            [PROGRAM, "run", str(self.job), "--events", str(self.log), "--json"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | self.environment,
        )  # fmt: skip

    def events(self, kind: str) -> list[dict[str, Any]]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [event for event in map(json.loads, lines) if event["event"] == kind]

    def wait_for(self, condition: Callable[[], Sought], seconds: float = 120) -> Sought:
        """What the condition gives, once that is something."""
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < deadline, self.log.read_text()
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.02)
        return found

    def end(self, seconds: float = 180) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=seconds)
        return self.process.returncode, out.decode(), err.decode()

    def ends_well(self) -> RunReport:
        status, out, err = self.end()
        assert status == 0, err
        return RunReport.model_validate_json(out)


def write(folder: Path, videos: Path, **engine: Any) -> Path:
    path = folder / "job.yaml"
    path.write_text(json.dumps(many(folder, videos, **engine)))
    return path


def processes(name: str) -> list[psutil.Process]:
    """Ray's workers under this process's nodes that do ``name`` now."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.cmdline()[:1] and process.cmdline()[0].startswith(f"ray::{name}"):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def is_as_undisturbed(store: Path, undisturbed: dict[str, bytes], teacher_cache_command: Command) -> None:
    assert teacher_cache_command("gc", store).status == 0
    assert contents(tree(store)) == undisturbed
    assert teacher_cache_command("verify", store).status == 0
