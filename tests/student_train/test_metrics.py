"""Metrics: means over steps, sums over the batches of a step, and nothing where there was nothing."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from student_train.metrics import Line, MetricsLog, first_and_last


def lines_of(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_line_is_the_mean_over_its_steps(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.add({"loss": 4.0, "ld": 2.0}, step=1)
    log.add({"loss": 2.0, "ld": 1.0}, step=2)
    log.write(2, {"learning_rate": 0.1})
    log.add({"loss": 1.0, "ld": 0.5}, step=3)
    log.write(3, {})
    first, second = lines_of(tmp_path / "metrics.jsonl")
    assert (first["step"], first["loss"], first["ld"], first["learning_rate"]) == (2, 3.0, 1.5, 0.1)
    assert (second["step"], second["loss"], second["ld"]) == (3, 1.0, 0.5)
    assert [(line.from_step, line.to_step) for line in log.lines] == [(1, 2), (3, 3)]


def test_the_batches_of_one_step_add_up(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.add({"loss": 1.0}, step=1)
    log.add({"loss": 2.0}, step=1)
    log.write(1, {})
    assert log.lines[0].losses == {"loss": 3.0}


def test_a_part_without_targets_is_left_out(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.add({"loss": 1.0, "ed_flow": math.nan}, step=1)
    log.add({"loss": 1.0, "ed_flow": 5.0}, step=2)
    log.write(2, {})
    log.add({"loss": 1.0, "ed_flow": math.nan}, step=3)
    log.write(3, {})
    assert [line.losses for line in log.lines] == [{"loss": 1.0, "ed_flow": 5.0}, {"loss": 1.0}]


def test_first_and_last_are_a_tenth_each() -> None:
    lines = [Line(2 * i + 1, 2 * i + 2, {"loss": float(50 - i)}) for i in range(50)]
    first, last = first_and_last(lines)
    assert (first.from_step, first.to_step, last.from_step, last.to_step) == (1, 10, 91, 100)
    assert first.losses["loss"] == pytest.approx(48.0)
    assert last.losses["loss"] == pytest.approx(3.0)


def test_one_line_is_first_and_last() -> None:
    first, last = first_and_last([Line(1, 1, {"loss": 2.0})])
    assert first == last
