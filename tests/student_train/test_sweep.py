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


def written(folder: Path, store: Path, grid: dict[str, Any], **changes: Any) -> Path:
    train = {
        "store": str(store), "output": "unused", "data": {"video_root": "/"}, "decoder": {"hidden": 32}, "steps": 1, "batch": 1,
        "mode": "heads", "loss": {"weights": {"depth": 0, "flow": 0, "motion": 0}},
    }  # fmt: skip
    (folder / "train.yaml").write_text(yaml.safe_dump(train | changes), encoding="utf-8")
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


def test_a_run_that_diverges_is_a_row_and_the_others_are_fitted(
    tiny_store: Path, tmp_path: Path, student_train_command: Command
) -> None:
    optim = {"warmup": 0, "schedule": "constant_with_warmup", "max_grad_norm": 0}
    changes: dict[str, Any] = {"mode": "latent", "loss": {}, "steps": 2, "max_bad_steps": 0, "optim": optim}
    rates = [1e-3, 1e30, 1e-4]
    grid = written(tmp_path, tiny_store, {"optim.learning_rate": rates}, **changes)
    first = student_train_command("sweep", grid, "--json")
    assert first.status == 1, first.err
    done = SweepReport.model_validate(first.json)
    assert [run.settings["optim.learning_rate"] for run in done.runs] == [1e-3, 1e-4]
    (failed,) = done.failed
    assert failed.settings == {"optim.learning_rate": 1e30}
    assert "of step 2 is" in failed.failed
    out = tmp_path / "sweep"
    assert "of step 2 is" in (out / "sweep.md").read_text(encoding="utf-8")
    assert (out / "sweep.png").exists()
    # It is not computed again, as long as it is the same run.
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/metrics.jsonl")}
    assert len(before) == 3
    again = student_train_command("sweep", grid, "--json")
    assert again.status == 1, again.err
    assert SweepReport.model_validate(again.json) == done
    assert {path: path.stat().st_mtime_ns for path in before} == before
    written(tmp_path, tiny_store, {"optim.learning_rate": [1e30]}, **changes | {"batch": 2})
    other = student_train_command("sweep", grid)
    assert other.status == 2
    assert "samples in one optimizer step (processes · batch · accumulate): the run has 1, here it is 2" in other.err


def test_a_sweep_takes_no_finished_run_of_another_store(
    tiny_store: Path, single_clips_store: Path, tmp_path: Path, student_train_command: Command
) -> None:
    done = student_train_command("sweep", written(tmp_path, tiny_store, {"seed": [0]}, mode="latent", loss={}))
    assert done.status == 0, done.err
    grid = written(tmp_path, single_clips_store, {"seed": [0, 1]}, mode="latent", loss={})
    refused = student_train_command("sweep", grid)
    assert refused.status == 2
    assert "the fingerprint of `store`: the run has" in refused.err
    # Where the run that is new comes first, it is the others that are of another store.
    grid = written(tmp_path, single_clips_store, {"seed": [1, 0]}, mode="latent", loss={})
    assert student_train_command("sweep", grid).status == 2
    assert not (tmp_path / "sweep" / "sweep.json").read_text(encoding="utf-8").count('"seed": 1')


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
