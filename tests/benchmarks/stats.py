"""`teacher-cache stats` of a million clips: how long the log and the catalog take, and how much memory; and a clip's values.

    python tests/benchmarks/stats.py [--clips 1000000] [--folder DIR] [--out tests/benchmarks/results/stats.json]

The store is that of `scale.py`, with five signals' errors of every clip in its log; it has no shard objects, so no values. What
a clip's values cost is measured of arrays of L4P's size, read already. They take turns; CPU time is told, since machines are
shared.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import scale
from machine import processor

from schemas.log import ErrorFigures
from schemas.signal import P4D_SIGNALS
from teacher_cache.report.moments import Moments

_SHAPES = {"f4d": ((4, 8, 16, 16, 1408), (0, 4)), "depth": ((16, 224, 224), ()), "flow": ((15, 224, 224, 2), (3,))}
_STATS = """
from teacher_cache.report.stats import store_stats
# ready
report, _ = store_stats(STORE, 0)
assert sum(error.clips for of in report.signals.values() for error in of.errors) == 5 * CLIPS
print(time.process_time())
"""
_STATUS = scale._STEPS["status"] + "print(time.process_time())\n"


def figures(rows: range) -> tuple[ErrorFigures, ...]:
    """Of a unit's rows, with as many digits as a run writes."""
    random = np.random.default_rng(rows.start)
    errors = tuple(random.uniform(0.008, 0.01, len(rows)).tolist())
    common = {"measure": "RMS error over RMS, of the worst layer and channel", "bound": 0.01, "rows": tuple(rows)}
    return tuple(
        ErrorFigures.model_construct(signal=signal, measured=errors, relative_rms=errors, **common) for signal in P4D_SIGNALS
    )


def moments_seconds(signal: str) -> float:
    """CPU of one clip's values."""
    shape, kept = _SHAPES[signal]
    values = np.random.default_rng(0).standard_normal(shape, np.float32)
    began = time.process_time()
    Moments.of(values, kept)
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/stats.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = arguments.folder or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        scale._UNITS_A_RECORD = scale._UNITS_A_SECOND  # as a run appends them
        job = folder / "job.yaml"
        if not job.exists():
            scale.make_store(folder, arguments.clips, figures).rename(job)
        names = {"STORE": f"{folder}/store", "CLIPS": arguments.clips}
        steps = {"stats": _STATS, "status": _STATUS}
        runs: dict[str, list[dict[str, Any]]] = {step: [] for step in steps}
        values: dict[str, list[float]] = {signal: [] for signal in _SHAPES}
        for _ in range(arguments.repeats):
            for step, code in steps.items():
                runs[step].append(scale.measured(code, names))
            for signal in _SHAPES:
                values[signal].append(moments_seconds(signal))
        result = {
            "machine": processor(),
            "clips": arguments.clips,
            "record_bytes": sum(path.stat().st_size for path in (folder / "store/log").glob("0*.json")),
            "steps": {
                step: {
                    "cpu_seconds": float(np.median([run["printed"][0] for run in found])),
                    "peak_gb": float(np.median([run["peak_gb"] for run in found])),
                    "runs": found,
                }
                for step, found in runs.items()
            },
            "cpu_seconds_a_clip": {signal: {"median": float(np.median(of)), "runs": of} for signal, of in values.items()},
        }
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    sys.stdout.write(arguments.out.read_text())


if __name__ == "__main__":
    main()
