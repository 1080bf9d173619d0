"""The losses of each optimizer step go in; ``metrics.jsonl`` and the mean losses at a run's start and end come out."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from schemas.base import Frozen
from schemas.errors import CouldNotRun
from schemas.train import SmoothedLosses, Validated
from student_train.training.counts import Seen

RATES = ("tokens_per_second", "clips_per_second", "tflops_per_second")
_NO_LOSSES = {"step", "learning_rate", "grad_norm", "padding", "bad_steps", "data_wait_seconds", "seconds", *RATES}
_VALIDATION = "validation"
"""The key of a line that holds a validation's losses, and no step's."""


class Line(NamedTuple):
    """One line of ``metrics.jsonl``."""

    from_step: int
    to_step: int
    losses: dict[str, float]
    """Means over these optimizer steps, both ends included: ``loss``, the weighted total, and each part unweighted.
    A part is absent if no step had a target for it."""


class MetricsState(Frozen):
    """Metrics that are not in the file yet; a checkpoint keeps them."""

    sums: dict[str, float]
    """Name of a loss → its sum over the steps since the last line that had it."""
    steps: dict[str, int]
    """Name of a loss → how many steps since the last line had it."""
    seconds: float
    """Wall time of the training loop so far."""
    data_wait_seconds: float
    """Seconds spent waiting for batches so far."""
    bad_steps: int
    """Steps that were skipped so far."""


class MetricsLog:
    """Collects the losses of each optimizer step, and writes their means since the last line as one JSON line.

    Every rank keeps one; without a path (``None``) it stays in memory.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.lines: list[Line] = []
        self.validations: list[Validated] = []
        self.data_wait_seconds = 0.0
        self.bad_steps = 0
        self.failure: CouldNotRun | None = None
        """Why the file could not be written, if it could not: one rank writes it, and all are to end."""
        self.flops_per_token: float | None = None
        """Floating-point operations of a step for each token, padding included; None until they are known."""
        self._seen, self._seen_from = Seen(), 0.0
        self._written: list[str] = []
        self._sums: defaultdict[str, float] = defaultdict(float)
        self._steps: Counter[str] = Counter()
        self._started = time.perf_counter()

    def begin(self) -> None:
        """Start an empty file and the clock."""
        self._started = time.perf_counter()
        self._put("")

    @property
    def text(self) -> str:
        """Text of the file."""
        return "".join(self._written)

    @property
    def seconds(self) -> float:
        """Wall time of the training loop; in a resumed run it includes the time up to its checkpoint."""
        return time.perf_counter() - self._started

    def add(self, losses: Mapping[str, float]) -> None:
        """Add the losses of one optimizer step, without the parts that the step had no target for."""
        for name, value in losses.items():
            self._sums[name] += value
            self._steps[name] += 1

    def saw(self, more: Seen) -> None:
        """Count what one optimizer step computes on, on all ranks."""
        self._seen = self._seen.plus(more)

    def write(self, step: int, extras: Mapping[str, float]) -> None:
        """Write the line for the steps since the last one, up to and including ``step``; ``extras`` are added to it."""
        losses = {name: total / self._steps[name] for name, total in self._sums.items()}
        self.lines.append(Line(self.lines[-1].to_step + 1 if self.lines else 1, step, losses))
        times = {"data_wait_seconds": round(self.data_wait_seconds, 3), "seconds": round(self.seconds, 3)}
        told = {**losses, **extras, **self.rates(), "bad_steps": self.bad_steps, **times}
        self._put(json.dumps({"step": step, **told}, allow_nan=False) + "\n")
        self._sums.clear()
        self._steps.clear()
        self._seen, self._seen_from = Seen(), self.seconds

    def rates(self) -> dict[str, float]:
        """What was computed in each second since the last line, on all ranks, and the share of tokens that were padding."""
        seconds = self.seconds - self._seen_from
        tokens, padded, clips = self._seen
        if not padded or seconds <= 0:
            return {}
        per_second = {"tokens_per_second": tokens / seconds, "clips_per_second": clips / seconds}
        if self.flops_per_token is not None:
            per_second["tflops_per_second"] = self.flops_per_token * padded / seconds / 1e12
        return {"padding": 1 - tokens / padded, **per_second}

    def validated(self, step: int, losses: Mapping[str, float], seconds: float) -> None:
        """Write a line of a validation's losses. The ``seconds`` that it took count in no rate."""
        self._seen_from += seconds
        self.validations.append(Validated(step=step, losses=dict(losses)))
        self._put(json.dumps({"step": step, _VALIDATION: dict(losses)}, allow_nan=False) + "\n")

    @property
    def best(self) -> Validated | None:
        """The validation with the lowest loss, after some step; the earliest of equal ones."""
        after_steps = [validated for validated in self.validations if validated.step and "loss" in validated.losses]
        return min(after_steps, key=lambda validated: validated.losses["loss"], default=None)

    def state(self) -> MetricsState:
        """What a checkpoint keeps beside `text`."""
        return MetricsState(
            sums=dict(self._sums),
            steps=dict(self._steps),
            seconds=self.seconds,
            data_wait_seconds=self.data_wait_seconds,
            bad_steps=self.bad_steps,
        )

    def go_on_from(self, text: str, state: MetricsState) -> None:
        """Restore the file and the sums to a checkpoint: ``text`` of its metrics file and its ``state``."""
        self._written = []
        self._put(text)
        self.lines, self.validations = [], []
        for record in map(json.loads, text.splitlines()):
            if _VALIDATION in record:
                self.validations.append(Validated(step=record["step"], losses=record[_VALIDATION]))
                continue
            losses = {name: value for name, value in record.items() if name not in _NO_LOSSES}
            self.lines.append(Line(self.lines[-1].to_step + 1 if self.lines else 1, record["step"], losses))
        self._sums = defaultdict(float, state.sums)
        self._steps = Counter(state.steps)
        self._started = time.perf_counter() - state.seconds
        self.data_wait_seconds = state.data_wait_seconds
        self.bad_steps = state.bad_steps
        self._seen, self._seen_from = Seen(), state.seconds

    def _put(self, more: str) -> None:
        if self.path is not None and self.failure is None:
            try:
                with self.path.open("a" if self._written else "w", encoding="utf-8") as file:
                    file.write(more)
            except OSError as error:
                self.failure = CouldNotRun(
                    f"cannot write {self.path}: {error.strerror}; free disk space, or give another `output`"
                )
        self._written.append(more)


def first_and_last(lines: Sequence[Line]) -> tuple[SmoothedLosses, SmoothedLosses]:
    """Mean losses over the first and the last tenth of the lines, 1 to 20 of them: a single batch is too noisy."""
    count = max(1, min(20, len(lines) // 10))
    return _mean(lines[:count]), _mean(lines[-count:])


def _mean(lines: Sequence[Line]) -> SmoothedLosses:
    names = dict.fromkeys(name for line in lines for name in line.losses)
    values = {name: [line.losses[name] for line in lines if name in line.losses] for name in names}
    return SmoothedLosses(
        from_step=lines[0].from_step, to_step=lines[-1].to_step, losses={name: sum(v) / len(v) for name, v in values.items()}
    )
