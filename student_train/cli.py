"""``student-train``: train a student from a store of cached targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer
import yaml
from rich.table import Table

from schemas.ablation import AblationConfig, AblationReport, Spread
from schemas.data import CheckedSet, CheckReport
from schemas.errors import BadInput
from schemas.evaluation import AnswersReport, EvalReport, MapsReport, Unevaluated
from schemas.job import EncodingProfile
from schemas.mark_swaps import MarksShown, MarkSwapReport, Share
from schemas.regionize import RegionizeReport
from schemas.report import MarkStyle
from schemas.sweep import SweepConfig, SweepReport
from schemas.train import Dtype, FitReport, ShownFit, TrainConfig, TrainedSet
from student_train.training.ranks import rank_zero_console
from teacher_cache.io.command_line import Command, command_line, reported_errors, run_command
from teacher_cache.io.config import load_yaml
from teacher_cache.io.console import print_json, stderr, stdout

if TYPE_CHECKING:
    from student_train.regions.vision_model import VisionModel

_ABLATION = AblationConfig()
QuestionRoot = Annotated[
    str | None,
    typer.Option(
        "--video-root",
        metavar="ROOT",
        help="folder or URL that videos may be read from. Default: the folder of the questions",
    ),
]

app = command_line("student-train", "Train a student from a store of cached 4D targets.")


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
                print_json(found) if as_json else show_fit(found)
                return
            from student_train.training.fit import fit as run  # noqa: PLC0415  # transformers takes seconds; a mistake in the YAML shows at once

            report = run(config, overwrite=overwrite, resume=resume)
        if as_json and ranks.is_rank_zero:
            print_json(report)
        elif not as_json:
            show(report)


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


def show_fit(found: ShownFit) -> None:
    """Every field, and what they come to."""
    stdout.print(*yaml.safe_dump(found.config, sort_keys=False).splitlines(), sep="\n", soft_wrap=True)
    table = Table("part", "parameters", "trained", "learning rate")
    for name, part in found.parts.items():
        rate = "–" if part.learning_rate is None else f"{part.learning_rate:g}"
        table.add_row(name, f"{part.parameters:,}", f"{part.trained:,}", rate)
    stdout.print(table)
    table = Table("memory on each device, as reckoned", "GiB")
    for name, size in found.memory.items():
        table.add_row(name, f"{size / 2**30:.3f}")
    table.add_row("on its host, for a checkpoint", f"{found.checkpoint_host_bytes / 2**30:.3f}")
    stdout.print(table)
    show_sets(found.sets)
    stdout.print(
        f"loss: {_loss_of(found)}",
        f"{found.steps} steps ({found.warmup_steps} of warm-up) of {found.samples_per_step} conversations by {found.processes} "
        f"processes; {found.samples} conversations of {found.tokens:,} tokens, the longest of {found.longest:,}"
        + (f"; an epoch has {found.epoch:,}" if found.epoch != found.samples else "")
        + (f"; {found.cut} cut" if found.cut else "")
        + (f"; {found.dropped} left out" if found.dropped else ""),
        sep="\n",
        soft_wrap=True,
    )


def _loss_of(found: ShownFit) -> str:
    """The loss as a formula: only of what the run's mode learns."""
    loss, mode = found.loss, found.config["mode"]
    if mode == "sft":
        return "sft"
    weighted = " + ".join(f"{weight:g}·{modality}" for modality, weight in loss.weights.items() if weight)
    explicit = f" + {loss.beta:g}·({weighted})" if mode != "latent" and weighted else ""
    return f"sft + {loss.alpha:g}·ld{explicit}, {loss.reduction}"


def show_sets(sets: Mapping[str, TrainedSet]) -> None:
    """The sets of a mixture, if there is one."""
    if sets:
        table = Table("set", "conversations", "in an epoch")
        for name, one in sets.items():
            table.add_row(name, f"{one.samples:,}", f"{one.in_epoch:,}")
        stdout.print(table)


def show(report: FitReport) -> None:
    """The report as a table."""
    first, last = report.first, report.last
    table = Table("part", f"steps {first.from_step}-{first.to_step}", f"steps {last.from_step}-{last.to_step}", "change")
    for name, before in first.losses.items():
        after = last.losses.get(name)
        change = "" if after is None or before == 0 else f"{after / before - 1:+.0%}"
        table.add_row(name, f"{before:.4g}", "–" if after is None else f"{after:.4g}", change)
    stdout.print(table)
    show_sets(report.sets)
    stdout.print(
        f"{report.steps} steps on {report.samples} conversations over {report.clips} clips in {report.seconds:.1f} s"
        + (f" by {report.processes} processes, " if report.processes > 1 else ", ")
        + f"{report.data_wait_seconds:.1f} s of it waiting for data"
        + (f"; {report.dropped} conversations left out" if report.dropped else "")
        + (f"; {report.cut} cut" if report.cut else ""),
        soft_wrap=True,
    )
    if report.bad_steps:
        stdout.print(f"{report.bad_steps} steps were skipped: their loss or gradient was not finite", soft_wrap=True)
    if report.validation is not None:
        losses = ", ".join(f"{name} {value:.4g}" for name, value in report.validation.losses.items())
        stdout.print(
            f"the student is that of step {report.validation.step}; on held-out conversations: {losses}", soft_wrap=True
        )
    stdout.print(f"run: {report.output}", soft_wrap=True)


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
        show_benchmarks()
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
            show_evaluation(report)
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
            show_mark_swaps(report, out)
        raise SystemExit(0 if report.is_whole else 1)


def show_mark_swaps(report: MarkSwapReport, out: Path) -> None:
    """Print what each place of the marks makes of the answers."""
    table = Table("marks", "answers", "share", "± s.e.", "of")
    for where, what, name in (
        ("in their places", "right", "right"),
        ("on the background", "the same right answer", "right_background"),
        ("nowhere", "the same right answer", "right_nowhere"),
        ("two swapped", "follow the mark", "follow"),
        ("", "stay with the object", "stay"),
        ("", "neither", "neither"),
        ("two swapped, where it was right", "follow the mark", "right_follow"),
        ("", "stay with the object", "right_stay"),
        ("", "neither", "right_neither"),
        ("in all four", "unchanged", "unchanged"),
        ("in their places, where it was wrong", "right for another object", "wrong_region"),
        ("", "by chance", "wrong_region_by_chance"),
    ):
        found: Share = getattr(report, name)
        shares = ("" if value is None else f"{value:.1%}" for value in (found.share, found.standard_error))
        table.add_row(where, what, *shares, f"{found.of:,}")
    stdout.print(table)
    if report.left_out:
        why = ", ".join(f"{count:,} {reason}" for reason, count in sorted(report.left_out.items()))
        stdout.print(f"left out: {why}", soft_wrap=True)
    show_unevaluated("questions", report.unevaluated)
    stdout.print(f"{report.asked:,} questions of {report.clips:,} clips: {out}", soft_wrap=True)


def show_benchmarks() -> None:
    """What each benchmark needs, and from where."""
    from student_train.evaluation.benchmarks.protocol import needed  # noqa: PLC0415  # as above
    from student_train.evaluation.benchmarks.registry import BENCHMARKS  # noqa: PLC0415

    for name, benchmark in BENCHMARKS.items():
        count = f", {benchmark.count:,} questions" if benchmark.count else ""
        stdout.print(f"{name}: {benchmark.title}{count}, {benchmark.frames} frames", style="bold", soft_wrap=True)
        stdout.print(f"  {needed(benchmark)}", soft_wrap=True)
        for note in benchmark.notes:
            stdout.print(f"  {note}", soft_wrap=True)


data_app = typer.Typer(help="Look at training data, and convert published sets.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data")


@data_app.command(name="check", cls=Command)
def check_data(  # typer makes each of them an option by its name
    train_yaml: Annotated[Path, typer.Argument(metavar="TRAIN.yaml", help="the training file, whose `data` is looked at")],
    with_store: Annotated[
        bool, typer.Option("--store/--no-store", help="look up each video's targets; without, before there is a store")
    ] = True,
    every: Annotated[bool, typer.Option("--all", help="print every finding, and not five of a kind")] = False,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="a field of the file; repeat for several")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object on standard output")] = False,
) -> None:
    """Look at every conversation and file of the training data, and count what would stop a fit or teach a wrong answer."""
    with reported_errors(as_json):
        config = load_yaml(train_yaml, TrainConfig, settings or ())
        from student_train.data.checking import check as run  # noqa: PLC0415  # as above
        from student_train.data.samples import ClipIndex  # noqa: PLC0415
        from teacher_cache import open_cache  # noqa: PLC0415

        cache = open_cache(config.store, version=config.store_version) if with_store else None
        index = None if cache is None else ClipIndex.of(cache)
        url, most = None if cache is None else cache.url, None if every else 5
        report = run(config, index, store=url, most=most, advance=_told_now_and_then())
    if as_json:
        print_json(report)
    else:
        show_check(report)
    raise SystemExit(0 if report.is_sound else 1)


def _told_now_and_then() -> Callable[[int], None]:
    """Counts what is read, and says it at each hundred thousand: how much there is, nobody knows before."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        before, done = done, done + count
        if before // 100_000 < done // 100_000:
            stderr.print(f"{done:,} conversations read")

    return advance


def show_check(report: CheckReport) -> None:
    """What each set holds, and what was found."""
    from student_train.data.checking import described  # noqa: PLC0415  # as above

    table = Table("", *(name or "data" for name in report.sets))
    for field in CheckedSet.model_fields:
        if field != "without_targets" or report.store is not None:
            table.add_row(field.replace("_", " "), *(f"{getattr(one, field):,}" for one in report.sets.values()))
    stdout.print(table)
    for line in described(report):
        stdout.print(line, soft_wrap=True, markup=False, highlight=False)
    faults, doubts = sum(report.faults.values()), sum(report.doubts.values())
    stdout.print(f"{faults:,} faults, {doubts:,} doubts" if faults or doubts else "nothing found")


@data_app.command(name="convert", cls=Command)
def convert_data(  # noqa: PLR0917  # as above
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="published files, Parquet or JSON; or a wildcard")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="the folder to write")],
    ask: Annotated[
        str | None,
        typer.Option(metavar="QUESTION", help="the question that captions answer; else they are left out"),
    ] = None,
    leave_out: Annotated[
        list[str] | None, typer.Option(metavar="FILE", help="a JSON file of ids to leave out, such as an erratum")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the conversations in the folder")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object on standard output")] = False,
) -> None:
    """Write sets that hold their images, such as SAT, as conversations and image files. Other sets train as they are."""
    with reported_errors(as_json):
        from student_train.data.converting import convert as run  # noqa: PLC0415  # as above

        report = run(files, out, ask=ask, leave_out=leave_out or (), overwrite=overwrite, advance=_told_now_and_then())
    if as_json:
        print_json(report)
    else:
        for line in report.left_out:
            stderr.print(f"left out: {line}", soft_wrap=True)
        more = f"; {report.left_out_count:,} records are left out" if report.left_out_count else ""
        stdout.print(
            f"{report.conversations:,} conversations about {report.images:,} images{more}: {report.out}", soft_wrap=True
        )
    raise SystemExit(1 if report.left_out_count else 0)


@data_app.command(name="time-questions", cls=Command)
def time_questions(
    videos: Annotated[list[str], typer.Argument(metavar="VIDEOS", help="paths or URLs with wildcards; quote them")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="the file to write, such as timebench.json in the videos' folder")],
    seed: Annotated[int, typer.Option(min=0, help="seed of the other options")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object on standard output")] = False,
) -> None:
    """Write a question for each video about the time that passes in it, as TimeBench's, for `eval --benchmark timebench`."""
    with reported_errors(as_json):
        from student_train.evaluation.time_questions import write_time_questions  # noqa: PLC0415  # as above

        report = write_time_questions(videos, out, seed=seed)
    if as_json:
        print_json(report)
    else:
        for line in report.left_out:
            stderr.print(f"left out: {line}", soft_wrap=True)
        stdout.print(f"{report.questions:,} questions: {report.out}", soft_wrap=True)
    raise SystemExit(1 if report.left_out else 0)


@data_app.command(name="region-questions", cls=Command)
def region_questions(
    stores: Annotated[
        list[str],
        typer.Argument(
            metavar="STORE...",
            help="a store with regions and maps, or several of the same clips; a signal of several is the first one's",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="the file of conversations to write")],
    per_clip: Annotated[int, typer.Option(min=1, help="most questions of a clip")] = 6,
    seed: Annotated[int, typer.Option(min=0, help="seed of the choice among a clip's questions")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object on standard output")] = False,
) -> None:
    """Write questions about marked objects, answered from the teacher's own maps where these are clear: pseudo-labels."""
    with reported_errors(as_json):
        from student_train.data.region_questions import write_region_questions  # noqa: PLC0415  # as above

        report = write_region_questions(stores, out, per_clip=per_clip, seed=seed)
    if as_json:
        print_json(report)
    else:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(report.kinds.items()))
        stdout.print(f"{report.questions:,} questions of {report.clips:,} clips ({kinds}): {report.out}", soft_wrap=True)
        stdout.print(f"{sum(report.below_margin.values()):,} more are not clear of the maps' errors", soft_wrap=True)


QuestionsPath = Annotated[
    Path,
    typer.Argument(
        metavar="QUESTIONS", help="a file of questions or of conversations; with --benchmark, the benchmark's folder"
    ),
]
PublishedName = Annotated[
    str | None, typer.Option("--benchmark", metavar="NAME", help="a published benchmark, as `eval --list` names it")
]
VisionFolder = Annotated[
    Path | None,
    typer.Option(
        "--model", metavar="DIR", help="ask a vision-language model, such as a Qwen2.5-VL or Qwen3-VL. Default: by rules"
    ),
]
Tries = Annotated[int, typer.Option("--tries", metavar="N", min=1, help="ask a model at most N times for a usable answer")]
AtOnce = Annotated[int, typer.Option("--batch", metavar="N", min=1, help="questions that a model is asked at once")]
OfWeights = Annotated[Dtype | None, typer.Option("--dtype", help="dtype of the model's weights. Default: bfloat16")]


@data_app.command(name="phrases", cls=Command)
def phrases_data(  # noqa: PLR0917  # as above
    questions: QuestionsPath,
    out: Annotated[Path, typer.Option(metavar="FILE", help="the list of videos to write, such as videos.jsonl")],
    benchmark: PublishedName = None,
    video_root: QuestionRoot = None,
    model: VisionFolder = None,
    tries: Tries = 3,
    batch: AtOnce = 8,
    dtype: OfWeights = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object on standard output")] = False,
) -> None:
    """Write the list of videos that questions are about, with the phrases that name objects in each, for a job to find."""
    with reported_errors(as_json):
        from student_train.regions.asked import asked_in  # noqa: PLC0415  # as above
        from student_train.regions.phrases import write_phrases  # noqa: PLC0415
        from teacher_cache.io.places import Roots  # noqa: PLC0415

        report = write_phrases(
            asked_in(questions, benchmark),
            out,
            roots=Roots((_root(questions, benchmark, video_root),), "--video-root"),
            says=None if model is None else _vision(model, dtype, batch),
            tries=tries,
            at_once=1 if model is None else batch,
            advance=_told_now_and_then(),
        )
    if as_json:
        print_json(report)
    else:
        for line in report.left_out:
            stderr.print(f"left out: {line}", soft_wrap=True, markup=False)
        stdout.print(
            f"{report.phrases:,} phrases of {report.videos:,} videos, from {report.questions:,} questions: {report.out}",
            soft_wrap=True,
        )
    raise SystemExit(1 if report.left_out else 0)


def _vision(folder: Path, dtype: Dtype | None, batch: int) -> VisionModel:
    from student_train.regions.vision_model import VisionModel  # noqa: PLC0415  # as above

    return VisionModel(folder, dtype, batch=batch)


def _root(questions: Path, benchmark: str | None, given: str | None) -> str:
    return given or str(questions if benchmark else questions.parent)


@data_app.command(name="regionize", cls=Command)
def regionize_data(  # noqa: PLR0917  # as above
    questions: QuestionsPath,
    store: Annotated[str, typer.Option(metavar="STORE", help="the store with the videos' regions and objects")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="the folder to write, in R4D-Bench's layout")],
    benchmark: PublishedName = None,
    video_root: QuestionRoot = None,
    model: VisionFolder = None,
    tries: Tries = 3,
    batch: AtOnce = 8,
    dtype: OfWeights = None,
    least: Annotated[
        float,
        typer.Option(
            metavar="P", min=0, max=1, help="drop questions of which a step is less sure: the parse, the box, the link"
        ),
    ] = 0.0,
    whole: Annotated[
        bool, typer.Option("--whole", help="drop questions in which a phrase names an object and has no mark")
    ] = False,
    style: Annotated[MarkStyle, typer.Option(help="outline an object by its box or by its contour")] = "box",
    size: Annotated[int, typer.Option(metavar="PX", min=16, max=4096, help="the most pixels of a picture's width")] = 448,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the questions in the folder")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object on standard output")] = False,
) -> None:
    """Put marks such as <obj_1> in the place of the objects that questions name, for videos with regions in a store."""
    with reported_errors(as_json):
        from student_train.regions.asked import asked_in  # noqa: PLC0415  # as above
        from student_train.regions.checked import ByModel  # noqa: PLC0415
        from student_train.regions.linking import ByRules, Linker  # noqa: PLC0415
        from student_train.regions.regionize import Wanted, regionize  # noqa: PLC0415
        from teacher_cache import open_cache  # noqa: PLC0415
        from teacher_cache.clips.preprocess import FrameSize  # noqa: PLC0415
        from teacher_cache.io.places import Roots  # noqa: PLC0415
        from teacher_cache.regions.phrases import PRECISION  # noqa: PLC0415

        linker: Linker = ByRules(PRECISION)
        if model is not None:
            linker = ByModel(str(model), _vision(model, dtype, batch), tries=tries, at_once=batch, precision=PRECISION)
        report = regionize(
            asked_in(questions, benchmark),
            open_cache(store),
            out,
            roots=Roots((_root(questions, benchmark, video_root),), "--video-root"),
            linker=linker,
            wanted=Wanted(least, whole, style, FrameSize(size, "own")),
            overwrite=overwrite,
            advance=_told_now_and_then(),
        )
    if as_json:
        print_json(report)
    else:
        show_regionized(report)
    raise SystemExit(1 if report.has_faults or not report.kept else 0)


def show_regionized(report: RegionizeReport) -> None:
    """How many questions are kept, and how many dropped for which reason."""
    table = Table("", "questions")
    table.add_row("read", f"{report.read:,}")
    table.add_row("kept", f"{report.kept:,}")
    table.add_row("  with a phrase that has no mark", f"{report.partly:,}")
    for reason, count in report.dropped.items():
        table.add_row(f"dropped: {reason}", f"{count:,}")
    stdout.print(table)
    stdout.print(f"{report.out}: kept.jsonl and dropped.jsonl say more of each", soft_wrap=True)


@data_app.command(name="review", cls=Command)
def review_data(  # noqa: PLR0917  # as above
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="a folder that `data regionize` wrote")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="the page to write")] = Path("review.html"),
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="at most N questions, the least sure first")] = None,
    below: Annotated[
        float, typer.Option(metavar="P", min=0, max=1, help="only questions of which a step is no surer than that")
    ] = 1.0,
    label_studio: Annotated[
        Path | None, typer.Option(metavar="DIR", help="also write tasks and a labelling configuration for Label Studio")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object on standard output")] = False,
) -> None:
    """Write a page on which people keep, fix or drop questions about marks. It is one file, and sends nothing anywhere."""
    with reported_errors(as_json):
        from student_train.regions.review import write_review  # noqa: PLC0415  # as above

        report = write_review(folder, out, limit=limit, below=below, label_studio=label_studio)
    if as_json:
        print_json(report)
    else:
        stdout.print(f"{report.questions:,} questions to review: {report.out}", soft_wrap=True)
        if report.label_studio is not None:
            stdout.print(f"for Label Studio: {report.label_studio}/tasks.json and labelling.xml", soft_wrap=True)


@data_app.command(name="review-apply", cls=Command)
def apply_review_data(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="the folder that was reviewed")],
    review: Annotated[Path, typer.Argument(metavar="REVIEW.json", help="what the page's Export, or Label Studio's, wrote")],
    only_reviewed: Annotated[
        bool, typer.Option("--only-reviewed", help="leave out questions that nobody has reviewed yet")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object on standard output")] = False,
) -> None:
    """Apply a review to its questions. One that does not fit them is refused, and nothing is changed."""
    with reported_errors(as_json):
        from student_train.regions.review import apply_review  # noqa: PLC0415  # as above

        report = apply_review(folder, review, only_reviewed=only_reviewed)
    if as_json:
        print_json(report)
    else:
        counts = f"{report.kept:,} kept, {report.fixed:,} fixed, {report.dropped:,} dropped, {report.unreviewed:,} not reviewed"
        stdout.print(f"{report.questions:,} questions in {report.out}: {counts}", soft_wrap=True)


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
        show_ablation(report)


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
            show_sweep(report)


def show_sweep(report: SweepReport) -> None:
    """Each run's settings and losses."""
    from student_train.sweep import TABLE, cell, table  # noqa: PLC0415  # as above

    rows = table(report)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    shown = Table(*columns)
    for row in rows:
        shown.add_row(*(cell(row.get(name, "")) for name in columns))
    stdout.print(shown)
    stdout.print(f"{report.output}/{TABLE}.json, .csv, .md, .png", soft_wrap=True)


def show_ablation(report: AblationReport) -> None:
    """Accuracies and maps of each arm, mean and deviation over its seeds, in per cent and in the metrics' own units."""
    from student_train.evaluation.map_metrics import METRICS  # noqa: PLC0415  # torch

    table = Table("right answers, %", *report.questions)
    for summary in report.arms:
        table.add_row(report.label(summary.arm), *(_spread(summary.accuracy[task], 100) for task in report.questions))
    table.add_row("baseline", *(f"{100 * report.baseline[task]:.1f}" for task in report.questions))
    table.add_row("questions", *map(str, report.questions.values()))
    stdout.print(table)
    with_maps = [summary for summary in report.arms if summary.maps]
    table = Table("student against teacher", *(report.label(summary.arm) for summary in with_maps), "constant")
    for name, constant in report.map_guess.items():
        cells = (_spread(summary.maps[name]) if name in summary.maps else "–" for summary in with_maps)
        metric = METRICS[name]
        title = f"{metric.title}{f' ({metric.unit})' if metric.unit else ''} {'↓' if metric.better == 'lower' else '↑'}"
        table.add_row(title, *cells, _figure(constant))
    stdout.print(table)
    stdout.print(f"{report.seconds:.0f} s on {report.cores} cores: {report.out}/ablation.json, ablation.png", soft_wrap=True)


def _spread(found: Spread, factor: float = 1) -> str:
    deviation = "" if found.deviation is None else f" ± {factor * found.deviation:.2g}"
    return f"{factor * found.mean:.3g}{deviation}"


def show_evaluation(report: EvalReport) -> None:
    """The report as tables."""
    if report.maps is not None:
        show_maps(report.maps)
    if report.answers is not None:
        show_answers(report.answers)
    stdout.print(f"{len(report.files)} files: {report.files[0].rpartition('/')[0]}", soft_wrap=True)


def show_maps(maps: MapsReport) -> None:
    """Each metric over the clips, beside what a constant scores."""
    from student_train.evaluation.map_metrics import METRICS  # noqa: PLC0415  # torch

    table = Table("student against teacher", "mean", "median", "constant", "", "clips")
    for name, found in maps.metrics.items():
        metric = METRICS[name]
        title = f"{metric.title}{f' ({metric.unit})' if metric.unit else ''} {'↓' if metric.better == 'lower' else '↑'}"
        table.add_row(title, *map(_figure, (found.mean, found.median, found.baseline)), metric.baseline, str(found.clips))
    stdout.print(table)
    stdout.print(f"{maps.clips} clips of {maps.store}" + (f"; {maps.note}" if maps.note else ""), soft_wrap=True)
    show_unevaluated("clips", maps.unevaluated)


def show_answers(answers: AnswersReport) -> None:
    """Scores by the benchmark's own rule, by the lenient one, and by chance; then what others published."""
    from student_train.evaluation import score_tables  # noqa: PLC0415  # as above

    for found in (score_tables.scores(answers), score_tables.published(answers, parts=False)):
        if found is not None:
            table = Table(*found.header)
            for row in found.rows:
                table.add_row(*row)
            stdout.print(table)
    stdout.print(*score_tables.about(answers), sep="\n", soft_wrap=True)
    show_unevaluated("questions", answers.unevaluated)


def show_unevaluated(what: str, unevaluated: Sequence[Unevaluated]) -> None:
    """What has no score, each with its reason."""
    if unevaluated:
        stderr.print(f"{what} without a score: {len(unevaluated)}", style="bold")
    for one in unevaluated:
        stderr.print(f"  {one.id}: {one.reason} ({one.detail})", soft_wrap=True)


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def main() -> None:
    """Entry point of the ``student-train`` command."""
    run_command(app)


if __name__ == "__main__":
    main()
