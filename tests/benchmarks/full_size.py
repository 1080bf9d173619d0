"""One real run of the published network's size: a random checkpoint under the published names, one video, one store.

    python tests/benchmarks/full_size.py VIDEO [--out tests/benchmarks/results/full-size-cpu.json]

Needs 6 GB of disk and, on the CPU, some minutes. Says how long `teacher-cache run` took and how much memory its processes held.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import torch
import yaml

from teacher_cache.teachers.l4p.network import L4P
from teacher_cache.teachers.l4p.teacher import PRESETS


def write_random_checkpoint(path: Path) -> None:
    """A Lightning file as the published one: every name, aliases too, with values small enough to keep activations finite."""
    with torch.device("meta"):
        names = {name: tuple(t.shape) for name, t in L4P(PRESETS["giant"]).state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    state: dict[str, torch.Tensor] = {}
    for name, shape in names.items():
        if "layer_rn." in name:  # the same tensors again, under scratch.layer{1..4}_rn
            continue
        fan_in = max(1, int(torch.tensor(shape[1:]).prod())) if len(shape) > 1 else 1
        state[name] = torch.randn(shape, generator=generator) * (0.5 / fan_in**0.5 if len(shape) > 1 else 0.02)
        if name.endswith(("norm.weight", "norm1.weight", "norm2.weight")):
            state[name] += 1
    for name in names.keys() - state.keys():
        stem, _, number = name.removesuffix(".weight").rpartition(".")
        state[name] = state[f"{stem.removesuffix('layer_rn')}layer{int(number) + 1}_rn.weight"]
    torch.save({"state_dict": {f"l4p_model.{name}": t for name, t in state.items()}}, path)


def run_measured(job: Path) -> tuple[dict[str, Any], float]:
    """(the run's own report, peak resident memory of it and its decoders in bytes)."""
    process = subprocess.Popen(
        [str(Path(sys.executable).parent / "teacher-cache"), "run", str(job), "--json"], stdout=subprocess.PIPE, text=True
    )
    root, peak = psutil.Process(process.pid), 0
    while process.poll() is None:
        resident = 0
        for member in [root, *root.children(recursive=True)]:
            try:
                resident += member.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        peak = max(peak, resident)
        time.sleep(0.5)
    assert process.stdout is not None
    report: dict[str, Any] = json.loads(process.stdout.read())
    if process.returncode:
        raise SystemExit(f"the run ended with status {process.returncode}: {report}")
    return report, peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/full-size-cpu.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "videos").mkdir()
        shutil.copy(arguments.video, folder / "videos")
        write_random_checkpoint(folder / "random.ckpt")
        job = {
            "videos": {"glob": f"{folder}/videos/*"},
            "store": str(folder / "store"),
            "teacher": {"family": "l4p", "preset": "giant", "weights": str(folder / "random.ckpt")},
            "engine": {"batch": 1},
        }
        (folder / "job.yaml").write_text(yaml.safe_dump(job))
        report, peak = run_measured(folder / "job.yaml")
        result = {
            "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
            "torch": torch.__version__,
            "dtype": "float32",
            "checkpoint_bytes": (folder / "random.ckpt").stat().st_size,
            "clips": report["clips"],
            "wall_seconds": round(report["wall_seconds"], 1),
            "stage_seconds": {name: round(value, 2) for name, value in report["stage_seconds"].items()},
            "peak_resident_bytes": peak,
            "stored_bytes": report["bytes"],
        }
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
