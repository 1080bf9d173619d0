"""A grid of settings goes in; a fit for each combination, one table of what they found and a plot come out."""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from schemas.errors import BadInput, Diverged
from schemas.sweep import FailedRun, SweepConfig, SweepReport, SweepRun
from schemas.train import FitFailure, FitReport, TrainConfig
from student_train.training.ranks import Ranks
from teacher_cache.io.config import load_yaml
from teacher_cache.io.console import printable, stderr
from teacher_cache.io.output_folder import written_whole

TABLE = "sweep"
"""Name of the files: .json, .csv, .md and .png."""
_LONGEST = 100


def configs(grid: Path, config: SweepConfig) -> list[tuple[dict[str, Any], TrainConfig]]:
    """(the grid's values, settings) of each run, in order. ``grid``: the grid's file. Raises `BadInput` for a field or a value
    that TRAIN.yaml does not take, before anything runs.
    """
    train = grid.parent / config.train
    found = []
    for values in itertools.product(*config.grid.values()):
        settings = dict(zip(config.grid, values, strict=True))
        given = [f"{name}={json.dumps(value)}" for name, value in settings.items()]  # JSON is YAML
        output = Path(config.output) / _name(settings)
        found.append((settings, load_yaml(train, TrainConfig, [*given, f"output={json.dumps(str(output))}"])))
    outputs = [one.output for _, one in found]
    if twice := {output for output in outputs if outputs.count(output) > 1}:
        raise BadInput(f"the grid has the same run twice: {min(twice)}; give each value once")
    return found


def _name(settings: Mapping[str, Any]) -> str:
    """A folder's name that tells the settings."""
    said = ",".join(f"{name.rpartition('.')[2]}={json.dumps(value)}" for name, value in settings.items())
    name = re.sub(r"[^A-Za-z0-9.,=_-]+", "", said.replace(":", "-"))
    # A file system takes 255 bytes, and paths are read by people.
    return name if len(name) <= _LONGEST else f"{name[:_LONGEST]}-{hashlib.sha256(said.encode()).hexdigest()[:8]}"


def run_sweep(grid: Path, config: SweepConfig) -> SweepReport:
    """Fit every combination, one after another. What an earlier call has finished is kept, and what it began goes on.

    A run whose loss is not finite is one row that says so. Under torchrun every rank calls this, and rank 0 writes. Raises what
    else `fit` raises, and `BadInput` if a folder holds a run with other settings or of other data.
    """
    ranks = Ranks.joined()
    with ranks.raise_on_any_rank():
        wanted = configs(grid, config)
    runs, failed, fingerprint = list[SweepRun](), list[FailedRun](), ""
    for number, (settings, train) in enumerate(wanted, start=1):
        stderr.print(f"run {number} of {len(wanted)}: {train.output}", soft_wrap=True)
        done = _fitted(train, ranks)
        fingerprint = fingerprint or done.fingerprint
        if done.fingerprint != fingerprint:
            raise BadInput(
                f"the store's fingerprint is {done.fingerprint} in the run {train.output}, and {fingerprint} in those before "
                "it; a sweep needs one store: start a new one in another `output`"
            )
        if isinstance(done, FitReport):
            runs.append(_run(settings, train, done))
        else:
            failed.append(_failed(settings, train, done))
    report = SweepReport(
        output=config.output, store=wanted[0][1].store, fingerprint=fingerprint, runs=tuple(runs), failed=tuple(failed)
    )
    with ranks.raise_on_any_rank():
        if ranks.is_rank_zero:
            write_table(report)
    return report


def _fitted(train: TrainConfig, ranks: Ranks) -> FitReport | FitFailure:
    """The run as it ended, in this call or in one before. Collective."""
    from student_train.training.fit import failed_fit, fit  # noqa: PLC0415  # transformers takes seconds; a mistake in the grid shows at once

    if (failed := failed_fit(train, ranks)) is not None:
        return failed
    done: FitReport | FitFailure | None = None
    # `fit` ends on every rank, but a disk may have no room on one for how the loss ended.
    with ranks.raise_on_any_rank(), suppress(Diverged):
        done = fit(train, resume=True)
    ended = done or failed_fit(train, ranks)
    assert ended is not None
    return ended


def _run(settings: dict[str, Any], train: TrainConfig, done: FitReport) -> SweepRun:
    return SweepRun(
        settings=settings,
        output=train.output,
        first=done.first,
        last=done.last,
        validation=done.validation,
        bad_steps=done.bad_steps,
        seconds=done.seconds,
    )


def _failed(settings: dict[str, Any], train: TrainConfig, done: FitFailure) -> FailedRun:
    return FailedRun(settings=settings, output=train.output, failed=done.reason, bad_steps=done.bad_steps, seconds=done.seconds)


def table(report: SweepReport) -> list[dict[str, Any]]:
    """One row for each run: its settings, its losses at the end and, if it has any, on held-out conversations. Those that
    failed follow, with the reason.
    """
    return [*map(_row, report.runs), *map(_row_of_failed, report.failed)]


def _row(run: SweepRun) -> dict[str, Any]:
    held_out = {} if run.validation is None else run.validation.losses
    losses = run.last.losses | {f"validation_{name}": value for name, value in held_out.items()}
    return _settings(run) | losses | {"bad_steps": run.bad_steps, "seconds": round(run.seconds, 1)}


def _row_of_failed(run: FailedRun) -> dict[str, Any]:
    return _settings(run) | {"bad_steps": run.bad_steps, "seconds": round(run.seconds, 1), "failed": run.failed}


def _settings(run: SweepRun | FailedRun) -> dict[str, Any]:
    plain = (str, int, float)
    return {name: value if isinstance(value, plain) else json.dumps(value) for name, value in run.settings.items()}


def write_table(report: SweepReport) -> None:
    """Write the table as JSON, CSV and Markdown, and if any run has losses, its plot."""
    from student_train.evaluation.plots import plot_sweep  # noqa: PLC0415  # matplotlib

    out, rows = Path(report.output), table(report)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with written_whole(out / f"{TABLE}.json") as draft:
        draft.write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    with written_whole(out / f"{TABLE}.csv") as draft, draft.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    with written_whole(out / f"{TABLE}.md") as draft:
        draft.write_text(_markdown(columns, rows), encoding="utf-8")
    if report.runs:
        plot_sweep(out / f"{TABLE}.png", report)


def _markdown(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [columns, ["---"] * len(columns), *([_escaped(row.get(name, "")) for name in columns] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _escaped(value: Any) -> str:
    return printable(cell(value)).replace("|", "\\|")  # the reason of a failed run names clips


def cell(value: Any) -> str:
    """A cell of the table, as people read it."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
