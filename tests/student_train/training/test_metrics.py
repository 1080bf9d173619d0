"""Metrics: means over steps, sums over the batches of a step, and nothing where there was nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from student_train.training.metrics import Line, MetricsLog, first_and_last


def lines_of(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_line_is_the_mean_over_its_steps(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.add({"loss": 4.0, "ld": 2.0})
    log.add({"loss": 2.0, "ld": 1.0})
    log.write(2, {"learning_rate": 0.1})
    log.add({"loss": 1.0, "ld": 0.5})
    log.write(3, {})
    first, second = lines_of(tmp_path / "metrics.jsonl")
    assert (first["step"], first["loss"], first["ld"], first["learning_rate"]) == (2, 3.0, 1.5, 0.1)
    assert (second["step"], second["loss"], second["ld"]) == (3, 1.0, 0.5)
    assert [(line.from_step, line.to_step) for line in log.lines] == [(1, 2), (3, 3)]


def test_a_part_without_targets_is_left_out(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.add({"loss": 1.0})
    log.add({"loss": 1.0, "ed_flow": 5.0})
    log.write(2, {})
    log.add({"loss": 1.0})
    log.write(3, {})
    assert [line.losses for line in log.lines] == [{"loss": 1.0, "ed_flow": 5.0}, {"loss": 1.0}]


def test_a_log_goes_back_to_where_it_was(tmp_path: Path) -> None:
    """Between two lines too: what the steps since the last one lost is part of the state."""
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.add({"loss": 3.0})
    log.write(1, {"grad_norm": 1.0})
    log.add({"loss": 8.0, "ld": 1.0})
    text, state = log.text, log.state()
    log.add({"loss": 100.0})
    log.write(3, {})

    again = MetricsLog(tmp_path / "metrics.jsonl")
    again.go_on_from(text, state)
    again.add({"loss": 2.0})
    again.write(3, {})
    assert [line.losses for line in again.lines] == [{"loss": 3.0}, {"loss": 5.0, "ld": 1.0}]
    assert [(line.from_step, line.to_step) for line in again.lines] == [(1, 1), (2, 3)]
    assert [line["loss"] for line in lines_of(tmp_path / "metrics.jsonl")] == [3.0, 5.0]
    assert again.text == (tmp_path / "metrics.jsonl").read_text(encoding="utf-8")


def test_a_log_without_a_path_writes_nothing(tmp_path: Path) -> None:
    log = MetricsLog(None)
    log.add({"loss": 3.0})
    log.write(1, {})
    assert log.lines == [Line(1, 1, {"loss": 3.0})]
    assert not list(tmp_path.iterdir())


def test_what_could_not_be_written_is_kept_for_all_ranks() -> None:
    log = MetricsLog(Path("/dev/full"))
    log.begin()
    assert log.failure is None
    log.add({"loss": 3.0})
    log.write(1, {})
    assert re.match("cannot write /dev/full: No space left on device; free disk space", str(log.failure))


def test_first_and_last_are_a_tenth_each() -> None:
    lines = [Line(2 * i + 1, 2 * i + 2, {"loss": float(50 - i)}) for i in range(50)]
    first, last = first_and_last(lines)
    assert (first.from_step, first.to_step, last.from_step, last.to_step) == (1, 10, 91, 100)
    assert first.losses["loss"] == pytest.approx(48.0)
    assert last.losses["loss"] == pytest.approx(3.0)


def test_one_line_is_first_and_last() -> None:
    first, last = first_and_last([Line(1, 1, {"loss": 2.0})])
    assert first == last
