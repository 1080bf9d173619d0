"""``student-train``: train a student from a store of cached targets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

import typer

from schemas.ablation import AblationConfig
from schemas.errors import BadInput
from schemas.job import EncodingProfile
from schemas.mark_swaps import MarksShown
from schemas.sweep import SweepConfig
from schemas.train import Dtype, TrainConfig
from student_train.cli import data
from student_train.cli.data import QuestionRoot
from student_train.cli.printed import (
    print_ablation,
    print_benchmarks,
    print_evaluation,
    print_fit,
    print_mark_swaps,
    print_planned_fit,
    print_sweep,
)
from student_train.training.ranks import rank_zero_console
from teacher_cache.io.command_line import Command, command_line, reported_errors, run_command
from teacher_cache.io.config import load_yaml
from teacher_cache.io.console import print_json, stdout

_ABLATION = AblationConfig()

app = command_line("student-train", "Train a student from a store of cached 4D targets.")
app.add_typer(data.app, name="data")


@app.command(cls=Command)
def fit(  # noqa: PLR0917  # typer makes each of them an option by its name
    train_yaml: Annotated[
        Path, typer.Argument(metavar="TRAIN.yaml", help="the training file: store, data, model, losses, steps")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object on standard output")] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="a field of the file, such as seed=1; repeat for several"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the run in the output folder")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="resume the run in the output folder from its newest checkpoint")
    ] = False,
    only_show: Annotated[
        bool, typer.Option("--show", help="print what the file comes to, and train nothing: fields, steps, tokens, memory")
    ] = False,
    processes: Annotated[int, typer.Option(min=1, help="how many processes `--show` reckons for")] = 1,
    per_machine: Annotated[
        int, typer.Option(min=1, envvar="LOCAL_WORLD_SIZE", help="how many of them, at most, are on one machine")
    ] = 8,
) -> None:
    """Train a student into a run folder of losses, checkpoints and weights. For several processes, start it with torchrun."""
    with rank_zero_console() as ranks:
        with reported_errors(as_json and ranks.is_rank_zero):
            with ranks.raise_on_any_rank():
                config = load_yaml(train_yaml, TrainConfig, settings or ())
            if only_show:
                from student_train.training.show import shown_fit  # noqa: PLC0415  # as below

                found = shown_fit(config, processes, min(processes, per_machine))
                print_json(found) if as_json else print_planned_fit(found)
                return
            from student_train.training.fit import fit as run  # noqa: PLC0415  # transformers takes seconds; a mistake in the YAML shows at once

            report = run(config, overwrite=overwrite, resume=resume)
        if as_json and ranks.is_rank_zero:
            print_json(report)
        elif not as_json:
            print_fit(report)


@app.command(cls=Command)
def export(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="the folder of a run")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="the folder to write, which must not exist yet")],
    step: Annotated[int | None, typer.Option(help="export the checkpoint of this step. Default: the finished student")] = None,
    dtype: Annotated[Dtype | None, typer.Option(help="dtype of the weights. Default: as in the run")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object on standard output")] = False,
) -> None:
    """Write a run's student as a plain transformers model, without anything that only training needed."""
    with reported_errors(as_json):
        from student_train.export import export as run  # noqa: PLC0415  # transformers takes seconds; a typing error shows at once

        report = run(run_dir, out, step=step, dtype=dtype)
    if as_json:
        print_json(report)
    else:
        stdout.print(
            f"{report.parameters:,} parameters in {report.tensors} tensors, {report.bytes / 2**20:.1f} MiB: {report.out}",
            "its README.md shows how to use it",
            sep="\n",
            soft_wrap=True,
        )


@app.command(name="eval", cls=Command)
def evaluate(  # noqa: PLR0917  # typer makes each of them an option by its name
    model: Annotated[
        Path | None,
        typer.Argument(
            metavar="MODEL", help="the `output` folder of a finished fit; for answers also a checkpoint, an export or a model"
        ),
    ] = None,
    benchmark: Annotated[str | None, typer.Option(metavar="NAME", help="ask this published benchmark; see --list")] = None,
    root: Annotated[Path | None, typer.Option(metavar="DIR", help="the benchmark's folder, as it was downloaded")] = None,
    list_them: Annotated[
        bool, typer.Option("--list", help="print the benchmarks, what each needs and where it comes from, and end")
    ] = False,
    frames: Annotated[
        int | None, typer.Option(min=1, help="frames of each video that a question shows. Default: the benchmark's own number")
    ] = None,
    new_tokens: Annotated[
        int | None, typer.Option(min=1, help="longest response, in tokens. Default: the benchmark's own number")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="keep the answers in the folder, and give the others")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the answers that are in the folder")] = False,
    seed: Annotated[int, typer.Option(help="seed of the letters that a benchmark draws where it finds none")] = 0,
    dtype: Annotated[
        Dtype | None, typer.Option(help="dtype of the weights. Default: the run's, or bfloat16 for a model that is no run's")
    ] = None,
    store: Annotated[str | None, typer.Option(help="compare maps on the clips of this store, such as held-out ones")] = None,
    clip: Annotated[list[str] | None, typer.Option(help="only the clip of this id; repeat for several")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="only the first N clips, and the first N questions")] = None,
    maps: Annotated[
        bool | None, typer.Option(help="compare maps. Default: those of a run, unless a benchmark is named")
    ] = None,
    questions: Annotated[
        Path | None, typer.Option(help="questions in R4D-Bench's fields, .json or .jsonl, or another file of the benchmark's")
    ] = None,
    video_root: Annotated[
        str | None, typer.Option(help="the folder or URL of the questions' videos and images, or of another store's videos")
    ] = None,
    tell_length: Annotated[
        bool, typer.Option(help="state the length of the video before each of --questions, as the paper does")
    ] = True,
    batch: Annotated[int | None, typer.Option(min=1, help="clips or questions in a batch. Default: as in training")] = None,
    pictures: Annotated[
        int, typer.Option(min=0, help="clips whose maps are drawn beside the teacher's, and wrong answers that are drawn")
    ] = 4,
    out: Annotated[
        Path | None,
        typer.Option(
            help="the folder to write. Default: eval or eval-NAME in a run's folder; MODEL-eval-NAME here for a model"
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object on standard output")] = False,
) -> None:
    """Compare a trained student's maps with the teacher's, and score a model's answers. For several GPUs, use torchrun."""
    if list_them:
        print_benchmarks()
        return
    with rank_zero_console() as ranks:
        with reported_errors(as_json and ranks.is_rank_zero):
            if model is None:
                raise BadInput("needed MODEL, the folder of a run or a model; `eval --list` prints the benchmarks")
            from student_train.evaluation.evaluate import Wanted  # noqa: PLC0415  # as above
            from student_train.evaluation.evaluate import evaluate as run  # noqa: PLC0415

            wanted = Wanted(
                store, tuple(clip or ()), limit, maps, benchmark, root, questions, video_root, tell_length, frames, seed, dtype,
                batch, pictures, new_tokens, resume, overwrite, out,
            )  # fmt: skip
            report = run(model, wanted, ranks)
        if as_json and ranks.is_rank_zero:
            print_json(report)
        elif ranks.is_rank_zero:
            print_evaluation(report)
        raise SystemExit(0 if report.is_whole else 1)


@app.command(name="swap-marks", cls=Command)
def swap_marks(  # noqa: PLR0917  # typer makes each of them an option by its name
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="the folder of a finished fit, a checkpoint, an export or a model")
    ],
    questions: Annotated[Path, typer.Argument(metavar="QUESTIONS", help="questions about <obj_k>, in R4D-Bench's fields")],
    regions: Annotated[str, typer.Option(metavar="STORE", help="the store of the objects of the questions' videos")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="the report to write, with all answers")] = Path("swap-marks.json"),
    shown: Annotated[
        MarksShown | None,
        typer.Option(
            "--marks",
            help="where the model sees marks: in a picture before the video, as R4D-Bench's, or in the video's first frame or "
            "in all. Default: as the run was trained, else picture",
        ),
    ] = None,
    video_root: QuestionRoot = None,
    dtype: Annotated[
        Dtype | None, typer.Option(help="dtype of the weights. Default: the run's, or bfloat16 for a model that is no run's")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="answers in a batch")] = 8,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the report that is there")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object on standard output")] = False,
) -> None:
    """Ask a model each question with its marks in place, swapped, on the background and nowhere: do answers follow them?"""
    with reported_errors(as_json):
        from student_train.evaluation.mark_swaps import swap_marks as run  # noqa: PLC0415  # as above

        report = run(
            model, questions, regions, out, shown=shown, video_root=video_root, dtype=dtype, batch=batch, overwrite=overwrite
        )
        if as_json:
            print_json(report)
        else:
            print_mark_swaps(report, out)
        raise SystemExit(0 if report.is_whole else 1)


@app.command(cls=Command)
def ablation(  # noqa: PLR0917  # typer makes each of them an option by its name
    out: Annotated[Path, typer.Option(help="the folder for scenes, stores, runs and results")] = Path("ablation-out"),
    seeds: Annotated[int, typer.Option(min=1, help="runs of each arm")] = _ABLATION.seeds,
    encoding: Annotated[
        list[str] | None, typer.Option(help="encoding profile of the store: fine, compact or exact; repeat for several")
    ] = None,
    settings: Annotated[
        Path | None,
        typer.Option(
            metavar="YAML",
            help="a file of other settings: tasks, videos, held_out, steps, batch, alpha, beta, optim, precision, arms",
        ),
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="runs at once; they share the cores")] = _ABLATION.processes,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object on standard output")] = False,
) -> None:
    """Compare SFT, LD and LD+ED, each with and without TPE, on rendered scenes. No downloads."""
    with reported_errors(as_json):
        config = _ABLATION if settings is None else load_yaml(settings, AblationConfig)
        encodings = tuple(dict.fromkeys(encoding or config.encodings))
        if unknown := [name for name in encodings if name not in get_args(EncodingProfile)]:
            raise BadInput(f"there is no encoding profile {unknown[0]!r}; there are {', '.join(get_args(EncodingProfile))}")
        given = {"seeds": seeds, "processes": processes, "encodings": encodings}
        from student_train.ablation import run_ablation  # noqa: PLC0415  # as above

        report = run_ablation(config.model_copy(update=given), out)
    if as_json:
        print_json(report)
    else:
        print_ablation(report)


@app.command(cls=Command)
def sweep(
    grid_yaml: Annotated[Path, typer.Argument(metavar="GRID.yaml", help="the grid: a training file, and values of its fields")],
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object on standard output")] = False,
) -> None:
    """Fit every combination of some settings over one store, and write one table. Run it again to go on where it stopped."""
    with rank_zero_console() as ranks:
        with reported_errors(as_json and ranks.is_rank_zero):
            with ranks.raise_on_any_rank():
                config = load_yaml(grid_yaml, SweepConfig)
            from student_train.sweep import run_sweep  # noqa: PLC0415  # as above

            report = run_sweep(grid_yaml, config)
        if as_json and ranks.is_rank_zero:
            print_json(report)
        elif not as_json:
            print_sweep(report)
        raise SystemExit(0 if report.is_whole else 1)


def main() -> None:
    """Entry point of the ``student-train`` command."""
    run_command(app)
