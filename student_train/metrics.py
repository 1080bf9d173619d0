"""The losses of each batch in, one JSON line each few steps out, and what they were at the start and the end of a run."""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from schemas.train import SmoothedLosses


class Line(NamedTuple):
    """One line of ``metrics.jsonl``."""

    from_step: int
    to_step: int
    losses: dict[str, float]
    """Means over these optimizer steps, first and last included: ``loss``, the weighted total, and each part unweighted.
    A part that no batch had a target for is not there."""


class MetricsLog:
    """Collects the losses of the batches, and writes their means over the optimizer steps since the last line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[Line] = []
        self._sums: defaultdict[str, float] = defaultdict(float)
        self._steps_with: defaultdict[str, set[int]] = defaultdict(set)
        self._started = time.perf_counter()
        path.write_text("", encoding="utf-8")

    def add(self, losses: Mapping[str, float], step: int) -> None:
        """Losses of one batch of an optimizer step. Batches of one step add up, since each is its share of the step's mean.

        NaN stands for a part without any target.
        """
        for name, value in losses.items():
            if not math.isnan(value):
                self._sums[name] += value
                self._steps_with[name].add(step)

    def write(self, step: int, extras: Mapping[str, float]) -> None:
        """Write the line of the steps up to and including ``step``."""
        losses = {name: total / len(self._steps_with[name]) for name, total in self._sums.items()}
        self.lines.append(Line(self.lines[-1].to_step + 1 if self.lines else 1, step, losses))
        record = {"step": step, **losses, **extras, "seconds": round(time.perf_counter() - self._started, 3)}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, allow_nan=False) + "\n")
        self._sums.clear()
        self._steps_with.clear()


def first_and_last(lines: Sequence[Line]) -> tuple[SmoothedLosses, SmoothedLosses]:
    """Mean losses of the first and the last tenth of the lines (1 line at least, 20 at most): single batches are noisy."""
    count = max(1, min(20, len(lines) // 10))
    return _mean(lines[:count]), _mean(lines[-count:])


def _mean(lines: Sequence[Line]) -> SmoothedLosses:
    names = dict.fromkeys(name for line in lines for name in line.losses)
    values = {name: [line.losses[name] for line in lines if name in line.losses] for name in names}
    return SmoothedLosses(
        from_step=lines[0].from_step, to_step=lines[-1].to_step, losses={name: sum(v) / len(v) for name, v in values.items()}
    )
