"""Measures what a death costs a run under Ray, in seconds. A table, and the same as JSON.

    PYTHONPATH=.:tests python tests/benchmarks/losses.py             # some seven minutes

Three nodes of Ray on this machine have a teacher each, and a head decodes. The teacher is L4P's tiny network and holds its
device for a second a batch, as a GPU would, and uses no core meanwhile. Each row is a whole run of one job, disturbed once its
third unit is done. ``seconds`` is from the first teacher's being ready to the end. A teacher is ready here within some
seconds; one of the giant preset has its weights to load as well. Committed bytes are compared with the local engine's.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import ray
from log_files import contents
from machine import processor
from ray.cluster_utils import Cluster
from ray_runs import Run, environment, many, processes, set_faults
from rich.console import Console
from rich.table import Table

from cluster.spot_notice import drain
from schemas.job import Job
from teacher_cache.jobs.run import run_job
from teacher_cache.scenes import encode_video, frame_times, random_scene, render_scene

RESULTS = Path(__file__).parent / "results"
CLIPS, NODES = 96, 3
SMALL = {"object_store_memory": 100 * 2**20}
TEACHER = {"teacher": 1}


@contextmanager
def nodes(folder: Path) -> Iterator[Cluster]:
    os.environ |= environment(folder)
    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, **SMALL})
    for _ in range(NODES):
        started.add_node(num_cpus=1, resources=TEACHER, **SMALL)
    os.environ["RAY_ADDRESS"] = started.address
    yield started
    started.shutdown()


def videos(folder: Path) -> Path:
    folder.mkdir()
    for seed in range(4):
        scene = render_scene(random_scene(seed), frame_times(20, 10), height=64, width=96)
        encode_video(folder / f"scene-{seed}.mp4", scene.rgb, fps=10)
    return folder


def teaching_node(cluster: Cluster) -> Any:
    return next(node for node in cluster.list_all_nodes() if node is not cluster.head_node)


@dataclass(frozen=True)
class Stage:
    """Where a run is at work, and what may happen there."""

    cluster: Cluster

    def replace_node(self) -> None:
        self.lose_node()
        self.add_node()

    def lose_node(self) -> None:
        self.cluster.remove_node(teaching_node(self.cluster), allow_graceful=False)

    def add_node(self) -> None:
        self.cluster.add_node(num_cpus=1, resources=TEACHER, **SMALL)

    def drain_node(self) -> None:
        drain(120, teaching_node(self.cluster).node_id)
        self.add_node()

    def break_device(self) -> None:
        self.fails(ecc=[teaching_node(self.cluster).node_id])

    def fails(self, **faults: Any) -> None:
        set_faults(seconds=1, **faults)


CASES: dict[str, Callable[[Stage], object]] = {
    "nothing": lambda _: None,
    "a teacher's process is killed": lambda _: processes("TeacherActor")[0].kill(),
    "a decoder's process is killed": lambda _: processes("decode")[0].kill(),
    "a node is lost, and another comes at once": Stage.replace_node,
    "a node is lost, and none comes": Stage.lose_node,
    "a node is told to go, and another comes at once": Stage.drain_node,
    "devices have no memory for 2 clips at once": lambda stage: stage.fails(most_clips=1),
    "a node's device fails at whatever it is given": Stage.break_device,
}


def seconds_of(run: Run) -> dict[str, Any]:
    """Of a run that has ended."""
    ready, end = (datetime.fromisoformat(run.events(kind)[0]["time"]) for kind in ("teacher_started", "run_finished"))
    return {
        "seconds": round((end - ready).total_seconds(), 1),
        "teachers_lost": len(run.events("teacher_lost")),
        "nodes_set_aside": len(run.events("node_set_aside")),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "losses.json")
    out = parser.parse_args().out
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clips = videos(folder / "videos")
        (folder / "plain").mkdir()
        run_job(Job.model_validate(many(folder / "plain", clips, CLIPS, kind="local")))
        undisturbed = contents(files(folder / "plain/store"))
        for number, (case, disturb) in enumerate(CASES.items()):
            at = folder / f"case-{number}"
            at.mkdir()
            with nodes(at) as cluster:
                stage = Stage(cluster)
                stage.fails()
                engine = {"kind": "ray", "teachers": NODES, "cpus_per_teacher": 0.5, "teacher_resources": TEACHER}
                job = many(at, clips, CLIPS, **engine) | {"teacher": {"family": "faulty", "preset": "tiny"}}
                (at / "job.yaml").write_text(json.dumps(job))
                run = Run(at / "job.yaml")
                run.wait_for(lambda run=run: len(run.events("teacher_started")) >= NODES and len(run.events("unit_done")) >= 3)
                disturb(stage)
                report = run.ends_well()
                assert report.clips.committed == CLIPS
            is_same = contents(files(at / "store")) == undisturbed
            rows.append({"case": case, **seconds_of(run), "same_bytes": is_same})
            rows[-1]["lost_seconds"] = round(rows[-1]["seconds"] - rows[0]["seconds"], 1)
            time.sleep(2)
    result = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "ray": ray.__version__,
        "clips": CLIPS,
        "nodes": NODES,
        "rows": rows,
    }
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    table = Table("", "seconds", "lost", "device seconds", "teachers lost", "same bytes")
    for row in rows:
        table.add_row(*(str(row[k]) for k in ("case", "seconds", "lost_seconds", "teachers_lost", "same_bytes")))
    Console().print(table)


def files(store: Path) -> dict[str, bytes]:
    return {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}


if __name__ == "__main__":
    main()
