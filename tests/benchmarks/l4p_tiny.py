"""How well the packaged `tiny` L4P sees scenes that it was not trained on: its maps against their exact truth.

    PYTHONPATH=.:tests python tests/benchmarks/l4p_tiny.py [--clips 128] [--weights FILE]

Each score stands beside a constant's, as in `student-train eval`: of the flow's error it is the mean flow. Scenes of these
seeds are never trained on.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import processor
from rich.console import Console
from rich.table import Table

from schemas.job import TeacherJob
from schemas.signal import SignalName
from student_train.evaluation.map_metrics import METRICS, SCORED
from teacher_cache.teachers.heads.frozen import to_physical
from teacher_cache.teachers.l4p.config import MAPS
from teacher_cache.teachers.l4p.teacher import FAMILY
from teacher_cache.teachers.l4p.tiny.clips import Clips, render_clips
from teacher_cache.teachers.l4p.tiny.train import FIRST_TRAINING_SEED
from teacher_cache.teachers.protocol import Teacher

FIRST_SEED = 100
_BATCH = 4


def scores(teacher: Teacher, clips: Clips) -> dict[str, dict[str, float]]:
    """Metric → its mean over the clips, and the constant's."""
    found: dict[str, list[tuple[float, float]]] = {}
    for start in range(0, len(clips), _BATCH):
        rows = slice(start, start + _BATCH)
        seen = to_physical(teacher.raw(torch.from_numpy(clips.rgb[rows]), MAPS))
        for signal in MAPS:
            for name, values in SCORED[signal](seen[signal], _truth(signal, clips, rows)).items():
                found.setdefault(name, []).extend(zip(values.student.tolist(), values.baseline.tolist(), strict=True))
    return {
        name: {"mean": float(np.nanmean(pairs, 0)[0]), "constant": float(np.nanmean(pairs, 0)[1]), "clips": len(pairs)}
        for name, pairs in found.items()
    }


def flow_by_motion(teacher: Teacher, clips: Clips) -> dict[str, dict[str, float]]:
    """The flow's error and length, pixels, over all pixels of moving objects and over all others; and their share."""
    errors, lengths, moves = [], [], []
    for start in range(0, len(clips), _BATCH):
        rows = slice(start, start + _BATCH)
        seen = teacher.raw(torch.from_numpy(clips.rgb[rows]), ("flow",))["flow"].numpy()
        truth = clips.flow[rows].astype(np.float32)
        known = np.isfinite(truth).all(-1)
        errors.append(np.linalg.norm(seen - truth, axis=-1)[known])
        lengths.append(np.linalg.norm(truth, axis=-1)[known])
        moves.append(clips.motion[rows][known])
    error, length, moving = (np.concatenate(parts) for parts in (errors, lengths, moves))
    return {
        name: {"error": float(error[of].mean()), "flow": float(length[of].mean()), "share": float(of.mean())}
        for name, of in (("moving", moving), ("still", ~moving))
    }


def _truth(signal: SignalName, clips: Clips, rows: slice) -> torch.Tensor:
    values = getattr(clips, signal)[rows].astype(np.float32)
    if signal == "motion":
        values = np.where(values > 0, 8.0, -8.0).astype(np.float32)  # as a logit
    return torch.from_numpy(np.nan_to_num(values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=128)
    parser.add_argument("--weights", help="other weights than the packaged ones")
    parser.add_argument("--folder", type=Path, help="where the rendered clips stay")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "l4p-tiny.json")
    options = parser.parse_args()
    seeds = range(FIRST_SEED, FIRST_SEED + options.clips)
    assert seeds.stop <= FIRST_TRAINING_SEED
    job = TeacherJob(family="l4p", preset="tiny", weights=options.weights)
    teacher = FAMILY.load(job, "cpu")
    with tempfile.TemporaryDirectory() as name:
        size, grid = teacher.image_size, teacher.shapes["camray"][1]
        clips = render_clips(options.folder or Path(name), seeds, size=size, grid=grid, workers=2, advance=lambda _: None)
        found, by_motion = scores(teacher, clips), flow_by_motion(teacher, clips)
    result: dict[str, Any] = {
        "machine": processor(),
        "weights": teacher.identity.weights,
        "seeds": [seeds.start, seeds.stop],
        "scores": found,
        "flow_error_over_mean_flow": found["flow_epe"]["mean"] / found["flow_epe"]["constant"],
        "flow_by_motion": by_motion,
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    table = Table("metric", "packaged teacher", "constant")
    for metric, values in found.items():
        table.add_row(METRICS[metric].title, f"{values['mean']:.4f}", f"{values['constant']:.4f}")
    Console().print(table)
    for name, of in by_motion.items():
        Console().print(f"flow of {name} pixels ({of['share']:.0%}): {of['error']:.2f} of {of['flow']:.2f} px")


if __name__ == "__main__":
    main()
