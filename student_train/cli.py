"""``student-train``: train a student from a store of cached targets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from schemas.train import Dtype, FitReport, TrainConfig
from student_train.ranks import one_voice
from teacher_cache.config import load_yaml
from teacher_cache.console import print_json, reported_errors, stdout

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def _commands() -> None:
    """Train a student from a store of cached 4D targets."""


@app.command()
def fit(
    train_yaml: Annotated[Path, typer.Argument(metavar="TRAIN.yaml", help="What to train, from which store, by which losses.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace the run that the output folder holds.")] = False,
    resume: Annotated[
        bool, typer.Option(help="Go on from the newest checkpoint of the run that the output folder holds.")
    ] = False,
) -> None:
    """Train a student; its losses, report and weights go to the run's folder. With several processes: start it by torchrun."""
    with one_voice() as ranks:
        with reported_errors(as_json and ranks.leads):
            with ranks.agreed():
                config = load_yaml(train_yaml, TrainConfig)
            from student_train.train import fit as run  # noqa: PLC0415  # transformers takes seconds; a mistake in the YAML shows at once

            report = run(config, overwrite=overwrite, resume=resume)
        if as_json and ranks.leads:
            print_json(report)
        elif not as_json:
            show(report)


@app.command()
def export(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The folder of a finished run.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write; it must not be there yet.")],
    dtype: Annotated[Dtype | None, typer.Option(help="Of the weights written; as the run has them by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")] = False,
) -> None:
    """Write the run's student as transformers loads it, without a trace of its training."""
    with reported_errors(as_json):
        from student_train.export import export as run  # noqa: PLC0415  # transformers takes seconds; a typing error shows at once

        report = run(run_dir, out, dtype=dtype)
    if as_json:
        print_json(report)
    else:
        stdout.print(
            f"{report.parameters:,} parameters in {report.tensors} tensors, {report.bytes / 2**20:.1f} MiB: {report.out}\n"
            "its README.md shows how to use it",
            soft_wrap=True,
        )


def show(report: FitReport) -> None:
    """The report as a table."""
    first, last = report.first, report.last
    table = Table("part", f"steps {first.from_step}-{first.to_step}", f"steps {last.from_step}-{last.to_step}", "change")
    for name, before in first.losses.items():
        after = last.losses.get(name)
        change = "" if after is None or before == 0 else f"{after / before - 1:+.0%}"
        table.add_row(name, f"{before:.4g}", "–" if after is None else f"{after:.4g}", change)
    stdout.print(table)
    stdout.print(
        f"{report.steps} steps on {report.samples} conversations over {report.clips} clips in {report.seconds:.1f} s"
        + (f" by {report.processes} processes, " if report.processes > 1 else ", ")
        + f"{report.data_wait_seconds:.1f} s of it waiting for data"
        + (f"; {report.dropped} conversations left out" if report.dropped else ""),
        soft_wrap=True,
    )
    stdout.print(f"run: {report.output}", soft_wrap=True)


def main() -> None:
    """Entry point of the ``student-train`` command."""
    app()


if __name__ == "__main__":
    main()
