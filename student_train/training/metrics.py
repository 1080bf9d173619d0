"""The losses of each optimizer step in, one JSON line each few steps out, and what they were at a run's start and end."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from schemas.base import Frozen
from schemas.train import SmoothedLosses

_NO_LOSSES = {"step", "learning_rate", "grad_norm", "data_wait_seconds", "seconds"}


class Line(NamedTuple):
    """One line of ``metrics.jsonl``."""

    from_step: int
    to_step: int
    losses: dict[str, float]
    """Means over these optimizer steps, first and last included: ``loss``, the weighted total, and each part unweighted.
    A part that no step had a target for is not there."""


class MetricsState(Frozen):
    """What of the metrics is not in their file yet."""

    sums: dict[str, float]
    """The losses since the last line, summed over the steps that had them."""
    steps: dict[str, int]
    """How many steps those are."""
    seconds: float
    """Wall time of the training loop so far."""
    data_wait_seconds: float


class MetricsLog:
    """Collects the losses of the steps, and writes their means over the optimizer steps since the last line.

    Every process of a run may keep one; who has no path keeps it in memory alone.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.lines: list[Line] = []
        self.data_wait_seconds = 0.0
        self._written: list[str] = []
        self._sums: defaultdict[str, float] = defaultdict(float)
        self._steps: Counter[str] = Counter()
        self._started = time.perf_counter()

    def begin(self) -> None:
        """Begin an empty file, and count the seconds from here."""
        self._started = time.perf_counter()
        self._put("")

    @property
    def text(self) -> str:
        """What the file holds."""
        return "".join(self._written)

    @property
    def seconds(self) -> float:
        """Wall time since the start; of a resumed run, with what led to its checkpoint."""
        return time.perf_counter() - self._started

    def add(self, losses: Mapping[str, float]) -> None:
        """Losses of one optimizer step; a part that the step had no target for is not among them."""
        for name, value in losses.items():
            self._sums[name] += value
            self._steps[name] += 1

    def write(self, step: int, extras: Mapping[str, float]) -> None:
        """Write the line of the steps up to and including ``step``."""
        losses = {name: total / self._steps[name] for name, total in self._sums.items()}
        self.lines.append(Line(self.lines[-1].to_step + 1 if self.lines else 1, step, losses))
        times = {"data_wait_seconds": round(self.data_wait_seconds, 3), "seconds": round(self.seconds, 3)}
        self._put(json.dumps({"step": step, **losses, **extras, **times}, allow_nan=False) + "\n")
        self._sums.clear()
        self._steps.clear()

    def state(self) -> MetricsState:
        """What a checkpoint keeps beside `text`."""
        return MetricsState(
            sums=dict(self._sums),
            steps=dict(self._steps),
            seconds=self.seconds,
            data_wait_seconds=self.data_wait_seconds,
        )

    def go_on_from(self, text: str, state: MetricsState) -> None:
        """Put the file and everything else back to where they were at a checkpoint."""
        self._written = []
        self._put(text)
        self.lines = []
        for record in map(json.loads, text.splitlines()):
            losses = {name: value for name, value in record.items() if name not in _NO_LOSSES}
            self.lines.append(Line(self.lines[-1].to_step + 1 if self.lines else 1, record["step"], losses))
        self._sums = defaultdict(float, state.sums)
        self._steps = Counter(state.steps)
        self._started = time.perf_counter() - state.seconds
        self.data_wait_seconds = state.data_wait_seconds

    def _put(self, more: str) -> None:
        if self.path is not None:
            with self.path.open("a" if self._written else "w", encoding="utf-8") as file:
                file.write(more)
        self._written.append(more)


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
