"""Measures how well decoding, teaching and writing overlap: a table, and the same as JSON.

    PYTHONPATH=.:tests python tests/benchmarks/pipeline.py             # a quarter of an hour

Real H.264 videos are decoded, clips of L4P giant's size are encoded, compressed and put to a real S3 server (SeaweedFS, on the
same cores); only the teacher is paced: it holds its device for a set time a batch, as a GPU would, and uses no core. Each row
is a whole run of a job at one pace. ``over teacher`` is the time from the first teacher's being ready to the last commit, over
the time that the teacher held its device: 1 is a device that never waited.

The goal: at a pace that two cores can feed, no more than 1.05.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import s3_server
from machine import processor
from measuring import server_cpu
from rich.console import Console
from rich.table import Table

from schemas.event import Event, TeacherStarted
from schemas.job import Job
from schemas.report import UnitReport
from teacher_cache.jobs.run import run_job
from teacher_cache.scenes import encode_video, frame_times, random_scene, render_scene

RESULTS = Path(__file__).parent / "results"
PACKAGES = Path(__file__).resolve().parents[1] / "packages"
SCENES = 4
SECONDS, FPS, HEIGHT, WIDTH = 5, 24, 720, 1280


def render(folder: Path, videos: int) -> None:
    """So many videos of 5 seconds in 720p; a few are rendered, the others are copies under other names."""
    for seed in range(min(SCENES, videos)):
        scene = render_scene(random_scene(seed), frame_times(SECONDS * FPS, FPS), height=HEIGHT // 4, width=WIDTH // 4)
        large = scene.rgb.repeat(4, axis=1).repeat(4, axis=2)
        encode_video(folder / f"{seed:04d}.mp4", large, fps=FPS)
    for number in range(SCENES, videos):
        shutil.copy(folder / f"{number % SCENES:04d}.mp4", folder / f"{number:04d}.mp4")


class Watch:
    """What the events of a run say, with when they came; and what its processes took of the cores."""

    def __init__(self) -> None:
        self.ready: float | None = None
        self.last = 0.0
        self.units: list[UnitReport] = []
        self.teacher_cpu = 0.0

    def __call__(self, event: Event) -> None:
        now = time.monotonic()
        if isinstance(event, TeacherStarted):
            self.ready = now
        if isinstance(event, UnitReport):
            self.units.append(event)
            self.last = now
            self.teacher_cpu = max(self.teacher_cpu, _cpu_of("ray::TeacherActor"))


def _cpu_of(name: str) -> float:
    """CPU seconds of this process's descendants of that name."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        try:
            if process.cmdline()[:1] and process.cmdline()[0].startswith(name):
                times = process.cpu_times()
                total += times.user + times.system
        except psutil.NoSuchProcess:
            continue
    return total


def job_at(pace: float, kind: str, decoders: int, videos: Path, store: str) -> Job:
    return Job.model_validate(
        {
            "videos": {"glob": f"{videos}/*.mp4"},
            "store": store,
            "teacher": {"family": "synthetic", "preset": f"giant@{pace:g}"},
            "layout": {"clips_per_shard": 8},
            "engine": {"kind": kind, "batch": 4, "decoders": decoders, "threads_per_teacher": 1},
        }
    )


def measure(job: Job, server: s3_server.S3Server) -> dict[str, Any]:
    watch, served, start = Watch(), server_cpu(server), time.monotonic()
    report = run_job(job, listen=watch)
    wall = time.monotonic() - start
    clips = report.clips.committed
    assert clips == report.clips.planned
    assert watch.ready is not None
    stages = {
        name: sum(getattr(unit.seconds, name) for unit in watch.units) for name in type(report.stage_seconds).model_fields
    }
    taught = watch.last - watch.ready
    decode, encode = stages["decode"] / clips, stages["encode"] / clips
    row: dict[str, Any] = {
        "engine": job.engine.kind,
        "teacher_clips_per_second": float(job.teacher.preset.partition("@")[2]),
        "decoders": job.engine.decoders,
        "clips": clips,
        "clips_per_second": clips / taught,
        "over_teacher": taught / stages["teach"],
        "whole_job_over_teacher": wall / stages["teach"],
        "seconds": {"teacher": stages["teach"], "ready_to_last_commit": taught, "whole_job": wall},
        "busy_share": stages["teach"] / taught,
        "waited_for_frames_seconds_per_clip": stages["decode_wait"] / clips,
        "cpu_seconds_per_clip": {"decode": decode, "encode": encode, "server": (server_cpu(server) - served) / clips},
        "put_seconds_per_clip": stages["put"] / clips,
    }
    if job.engine.kind == "ray":
        row["cpu_seconds_per_clip"]["put_and_rest_of_teacher"] = watch.teacher_cpu / clips - encode
    return row


def per_core(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Clips a second that one core decodes, encodes and puts: medians over the Ray rows."""
    costs = [row["cpu_seconds_per_clip"] for row in rows if row["engine"] == "ray"]
    named = {"decode": "decode", "encode": "encode", "put_and_rest_of_teacher": "put_and_rest_of_teacher"}
    return {name: 1 / statistics.median(cost[key] for cost in costs) for name, key in named.items()}


def table(rows: list[dict[str, Any]]) -> Table:
    shown = Table(title="a job at several paces of its teacher")
    for name in (
        "engine", "teacher clips/s", "decoders", "job clips/s", "over teacher", "whole job", "busy",
        "decode CPU ms", "encode CPU ms", "put CPU ms", "put ms", "server CPU ms",
    ):  # fmt: skip
        shown.add_column(name, justify="left" if name == "engine" else "right")
    for row in rows:
        cpu = row["cpu_seconds_per_clip"]
        put = cpu.get("put_and_rest_of_teacher")
        shown.add_row(
            row["engine"],
            f"{row['teacher_clips_per_second']:g}",
            str(row["decoders"]),
            f"{row['clips_per_second']:.2f}",
            f"{row['over_teacher']:.3f}",
            f"{row['whole_job_over_teacher']:.3f}",
            f"{row['busy_share']:.0%}",
            f"{cpu['decode'] * 1e3:.0f}",
            f"{cpu['encode'] * 1e3:.0f}",
            "" if put is None else f"{put * 1e3:.0f}",
            f"{row['put_seconds_per_clip'] * 1e3:.0f}",
            f"{cpu['server'] * 1e3:.0f}",
        )
    return shown


@contextmanager
def serving(folder: Path, weed: str) -> Iterator[s3_server.S3Server]:
    server = s3_server.start(folder, weed)
    os.environ.update(server.environment)
    try:
        server.filesystem.mkdir("bucket")
        yield server
    finally:
        s3_server.stop(server)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=96, help="clips of each row")
    parser.add_argument("--paces", type=float, nargs="+", default=[0.5, 1, 2, 4])
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--engines", nargs="+", default=["ray", "local"])
    parser.add_argument("--decoders", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=None, help="where the videos and the server's data go")
    parser.add_argument("--weed", default="weed", help="the SeaweedFS program")
    parser.add_argument("--out", type=Path, default=RESULTS / "pipeline.json")
    options = parser.parse_args()
    console = Console(width=None if os.isatty(1) else 160)
    # Found like any installed teacher, here and in Ray's workers.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(PACKAGES), os.environ.get("PYTHONPATH", "")])
    sys.path.insert(0, str(PACKAGES))
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        videos = Path(folder) / "videos"
        videos.mkdir()
        render(videos, options.clips)
        (Path(folder) / "s3").mkdir()
        with serving(Path(folder) / "s3", options.weed) as server:
            for turn in range(options.turns):
                for pace in options.paces:
                    for kind in options.engines:
                        store = f"s3://bucket/{turn}-{kind}-{pace:g}"
                        rows.append(measure(job_at(pace, kind, options.decoders, videos, store), server))
                        console.print(table(rows[-1:]))
                        server.filesystem.rm(store.removeprefix("s3://"), recursive=True)
    result = {
        "benchmark": "pipeline",
        "machine": processor(),
        "server": "SeaweedFS on the same machine",
        "videos": f"H.264, {SECONDS} s, {FPS} frames/s, {WIDTH}×{HEIGHT}; one clip of 16 frames each",
        "goal": {"over_teacher": 1.05},
        "clips_per_second_of_one_core": per_core(rows) if "ray" in options.engines else {},
        "rows": rows,
    }
    console.print(table(rows))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    console.print(f"written to {options.out}")


if __name__ == "__main__":
    main()
