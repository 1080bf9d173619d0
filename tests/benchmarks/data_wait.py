"""Measures how long a student waits for its data when it takes a set number of clips a second from S3: a table, and JSON.

    PYTHONPATH=.:tests python tests/benchmarks/data_wait.py            # some ten minutes

Real 720p videos are taught into a store of L4P giant's sizes on a real S3 server (SeaweedFS), by a teacher that makes up its
values. Then the trainer reads it as in any fit: its own sampler, collator, worker processes and loader. Only the step is paced:
it sleeps for the time that a batch may take, as a GPU leaves the cores free. The server shares the cores.

    targets    the targets alone; the student's frames are made up
    repeated   frames at 384², as SigLIP so400m takes them, decoded for the first of each video's questions that a worker meets
    kept       the same, when every worker has every video's frames in memory

The goal: the student waits for less than 5% of its step.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import s3_server
import torch
from machine import processor
from measuring import server_cpu
from pipeline import PACKAGES, job_at, render
from rich.console import Console
from rich.table import Table
from torch import nn
from transformers import Qwen2Config, SiglipVisionConfig

from schemas.signal import P4D_SIGNALS
from schemas.train import DataConfig, TrainConfig
from student_train.data.frames import StudentFrames
from student_train.data.samples import Collator, Sample, SampleDataset, load_samples
from student_train.distill.student import StepLosses
from student_train.distill.targets import TargetReader
from student_train.models.nvila import IMAGE_TOKEN, VIDEO_TOKEN, RgptProcessor
from student_train.models.rgpt import FourDRgptConfig
from student_train.models.tiny_tokenizer import tiny_tokenizer
from student_train.training.batches import StepBatches
from student_train.training.fit import _arguments
from student_train.training.metrics import MetricsLog
from student_train.training.ranks import Ranks
from student_train.training.trainer import P4DTrainer
from teacher_cache import Cache, open_cache
from teacher_cache.io.stop import Stop
from teacher_cache.jobs.run import run_job

RESULTS = Path(__file__).parent / "results"


class Mark(NamedTuple):
    """Seconds that had passed when a batch came."""

    wall: float
    data_wait: float
    worker_cpu: float
    trainer_cpu: float
    server_cpu: float


class PacedStudent(nn.Module):
    """Takes a batch, holds its device for a set time, and notes what had passed by then."""

    def __init__(self, seconds: float, server: s3_server.S3Server) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.seconds, self.server = seconds, server
        self.metrics = MetricsLog(None)
        self.marks: list[Mark] = []
        self.done_at = 0.0

    def forward(self, input_ids: torch.Tensor, **_: Any) -> StepLosses:
        others = [child for child in psutil.Process().children(recursive=True) if child.pid != self.server.process.pid]
        workers = sum(sum(child.cpu_times()[:2]) for child in others)
        mark = Mark(time.perf_counter(), self.metrics.data_wait_seconds, workers, time.process_time(), server_cpu(self.server))
        # The trainer's own work between two batches is within the step, as it is beside a GPU; the wait for data is not.
        since = mark.wall - self.done_at - (mark.data_wait - self.marks[-1].data_wait) if self.marks else 0.0
        self.marks.append(mark)
        time.sleep(max(0.0, self.seconds - since))
        self.done_at = time.perf_counter()
        return StepLosses(self.weight * len(input_ids), {"sft": self.weight.detach()}, {})


class MadeUpFrames(StudentFrames):
    """One black clip, whatever is asked."""

    def __call__(self, uri: str, frame_index: Sequence[int]) -> Any:  # noqa: ARG002  # as StudentFrames has them
        return np.zeros((len(frame_index), self.size, self.size, 3), np.uint8)


def so400m_processor() -> RgptProcessor:
    """The data side of a student with SigLIP so400m-patch14-384 and a 3 × 3 downsample; a piece of a word stands for a word."""
    tokenizer = tiny_tokenizer([VIDEO_TOKEN, IMAGE_TOKEN])
    video, image = (int(tokenizer.convert_tokens_to_ids(token)) for token in (VIDEO_TOKEN, IMAGE_TOKEN))
    vision = SiglipVisionConfig(image_size=384, patch_size=14)
    config = FourDRgptConfig(vision, Qwen2Config(), downsample=3, video_token_id=video, image_token_id=image)
    return RgptProcessor(tokenizer, config)


def questions(cache: Cache, per_video: int) -> list[Sample]:
    """So many samples about each clip; the trainer shuffles them."""
    return load_samples(cache, DataConfig(video_root=("/",))).samples * per_video


def measure(
    cache: Cache, frames: StudentFrames, steps: range, *, options: argparse.Namespace, server: s3_server.S3Server
) -> dict[str, Any]:
    """Train for ``steps.stop`` steps and tell of those in ``steps``: the first ones start the workers."""
    config = TrainConfig(
        store=cache.url, output="unused", steps=steps.stop, batch=options.batch, data=DataConfig(workers=options.workers)
    )
    student = PacedStudent(options.batch / options.pace, server)
    with tempfile.TemporaryDirectory() as folder:
        samples = questions(cache, options.questions)
        student.metrics.begin()
        trainer = P4DTrainer(
            model=student,
            args=_arguments(config, steps.stop, Path(folder)),
            train_dataset=SampleDataset(samples),
            data_collator=Collator(TargetReader(cache, P4D_SIGNALS), frames, so400m_processor()),
            batches=StepBatches([1] * len(samples), options.batch, seed=0, ranks=Ranks()),
            metrics=student.metrics,
            ranks=Ranks(),
            stop=Stop(),
            save=lambda _: None,
            failed_save=lambda: None,
            learning_rates={},
            advance=lambda _: None,
        )
        trainer.train()
    marks = np.array(student.marks[steps.start - 1 :])
    wall, waited, *cpu = (marks[-1] - marks[0]).tolist()
    clips = (len(marks) - 1) * options.batch
    return {
        "steps": len(marks) - 1,
        "clips_per_second": clips / wall,
        "data_wait_share": waited / wall,
        "longest_wait_seconds": float(np.diff(marks[:, 1]).max()),
        "waits_seconds": [round(mark.data_wait, 3) for mark in student.marks[:1]]
        + np.diff([mark.data_wait for mark in student.marks]).round(3).tolist(),
        "cpu_seconds_per_clip": dict(zip(("workers", "trainer", "server"), (seconds / clips for seconds in cpu), strict=True)),
        "load_average": os.getloadavg()[0],
    }


def table(rows: dict[str, Any]) -> Table:
    shown = Table("arrangement", "clips/s", "waits", "longest wait, s", "CPU ms a clip: workers", "trainer", "server")
    for name, row in rows.items():
        cpu = (f"{seconds * 1e3:.0f}" for seconds in row["cpu_seconds_per_clip"].values())
        shown.add_row(
            name, f"{row['clips_per_second']:.2f}", f"{row['data_wait_share']:.1%}", f"{row['longest_wait_seconds']:.2f}", *cpu
        )
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pace", type=float, default=8, help="clips a second that the student takes")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--videos", type=int, default=40)
    parser.add_argument("--questions", type=int, default=13, help="of each video; the paper's mix has 13")
    parser.add_argument("--only", nargs="*", default=["targets", "repeated", "kept"])
    parser.add_argument("--folder", type=Path, help="where the server keeps its data; the system's temporary folder")
    parser.add_argument("--weed", default=str(Path(sys.executable).parent / "weed"), help="the SeaweedFS program")
    parser.add_argument("--out", type=Path, default=RESULTS / "train-step-data-wait.json")
    options = parser.parse_args()
    console = Console(width=None if os.isatty(1) else 150)
    sys.path.insert(0, str(PACKAGES))  # its teacher makes its values up
    os.environ["PYTHONPATH"] = os.pathsep.join([str(PACKAGES), os.environ.get("PYTHONPATH", "")])
    # An arrangement that is measured alone takes its own row's place.
    rows: dict[str, Any] = json.loads(options.out.read_text())["rows"] if options.out.exists() else {}
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        (folder / "videos").mkdir()
        render(folder / "videos", options.videos)
        server = s3_server.start(folder, options.weed)
        os.environ.update(server.environment)
        try:
            server.filesystem.mkdir("bucket")
            run_job(job_at(100, "local", 2, folder / "videos", "s3://bucket/store"))
            cache = open_cache("s3://bucket/store")
            an_epoch = options.videos * options.questions // options.batch
            for arrangement in options.only:
                kind = MadeUpFrames if arrangement == "targets" else StudentFrames
                frames = kind(384, 2 * options.videos * 16 * 384**2 * 3)
                # The loader starts its workers in the first steps, and reads a few batches ahead over an epoch's end.
                steps = {
                    "targets": range(5, an_epoch),
                    "repeated": range(1, an_epoch),
                    "kept": range(an_epoch + 5, 2 * an_epoch),
                }
                with console.status(arrangement):
                    found = measure(cache, frames, steps[arrangement], options=options, server=server)
                # A worker decodes a video for the first question about it that it meets.
                hits = {"targets": None, "repeated": 1 - options.workers / options.questions, "kept": 1.0}
                rows[arrangement] = {"videos": options.videos, "frames_kept_share": hits[arrangement]} | found
        finally:
            s3_server.stop(server)
    result = {
        "benchmark": "data_wait",
        "machine": processor(),
        "server": "SeaweedFS on the same machine",
        **{name: getattr(options, name) for name in ("pace", "batch", "workers", "questions")},
        "rows": rows,
    }
    console.print(table(rows))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    console.print(f"written to {options.out}")


if __name__ == "__main__":
    main()
