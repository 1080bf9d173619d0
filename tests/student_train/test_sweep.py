"""A grid of fits over one store: every combination once, one table, and nothing twice."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Command

from schemas.errors import BadInput
from schemas.sweep import SweepConfig, SweepReport
from student_train.sweep import configs


def written(folder: Path, store: Path, grid: dict[str, Any]) -> Path:
    train = {
        "store": str(store), "output": "unused", "data": {"video_root": "/"}, "decoder": {"hidden": 32}, "steps": 1, "batch": 1,
        "mode": "heads", "loss": {"weights": {"depth": 0, "flow": 0, "motion": 0}},
    }  # fmt: skip
    (folder / "train.yaml").write_text(yaml.safe_dump(train), encoding="utf-8")
    path = folder / "grid.yaml"
    value = {"train": "train.yaml", "output": str(folder / "sweep"), "grid": grid}
    path.write_text(yaml.safe_dump(value), encoding="utf-8")
    return path


def test_every_combination_is_a_run_and_one_row(tiny_store: Path, tmp_path: Path, student_train_command: Command) -> None:
    weights = [{"depth": 0, "flow": 0, "motion": 0, "camray": 0.05}]
    grid = written(tmp_path, tiny_store, {"loss.alpha": [0.1, 0.5], "loss.weights": weights, "seed": [3]})
    first = student_train_command("sweep", grid, "--json")
    assert first.status == 0, first.err
    done = SweepReport.model_validate(first.json)
    assert [run.settings["loss.alpha"] for run in done.runs] == [0.1, 0.5]
    assert done.runs[0].last.losses["ld"] == pytest.approx(done.runs[1].last.losses["ld"])  # one step: the same student
    assert done.runs[0].last.losses["loss"] < done.runs[1].last.losses["loss"]
    out = tmp_path / "sweep"
    with (out / "sweep.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["loss.alpha"]) for row in rows] == [0.1, 0.5]
    assert [float(row["loss"]) for row in rows] == [run.last.losses["loss"] for run in done.runs]
    assert (out / "sweep.md").read_text(encoding="utf-8").count("\n") == 4
    assert (out / "sweep.png").read_bytes().startswith(b"\x89PNG")
    # A larger grid runs only what is new.
    before = {run.output: (Path(run.output) / "metrics.jsonl").stat().st_mtime_ns for run in done.runs}
    written(tmp_path, tiny_store, {"loss.alpha": [0.1, 0.5, 0.9], "loss.weights": weights, "seed": [3]})
    again = student_train_command("sweep", grid)
    assert again.status == 0, again.err
    assert {name: (Path(name) / "metrics.jsonl").stat().st_mtime_ns for name in before} == before
    assert len(list(out.glob("*/result.json"))) == 3
    assert "0.9" in again.out


def test_another_teachers_agreement_is_a_field_of_the_grid(tiny_store: Path, tmp_path: Path) -> None:
    grid = {"loss.confidence": [None, {"store": str(tiny_store)}]}
    path = written(tmp_path, tiny_store, grid)
    found = configs(path, SweepConfig.model_validate(yaml.safe_load(path.read_text(encoding="utf-8"))))
    assert [train.loss.confidence and train.loss.confidence.store for _, train in found] == [None, str(tiny_store)]


def test_a_grid_is_checked_before_anything_runs(tiny_store: Path, tmp_path: Path) -> None:
    def checked(grid: dict[str, Any]) -> int:
        path = written(tmp_path, tiny_store, grid)
        return len(configs(path, SweepConfig.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))))

    assert checked({"loss.alpha": [0.1, 0.5], "seed": [0, 1, 2], "store_version": [1]}) == 6
    for grid, said in (
        ({"loss.alpa": [1]}, "did you mean `alpha`"),
        ({"loss.alpha": [0.1, -1]}, "alpha"),
        ({"seed": [1, 1]}, "the same run twice"),
        ({"store": ["a", "b"]}, "a sweep has one store"),
        ({"seed": []}, "`seed` has no values"),
    ):
        with pytest.raises((BadInput, ValueError), match=said):
            checked(grid)
    assert not (tmp_path / "sweep").exists()
