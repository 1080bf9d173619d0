"""``student-train data``: look at training data, convert published sets, and put marks in questions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from schemas.report import MarkStyle
from schemas.train import Dtype, TrainConfig
from student_train.cli.printed import print_check, print_regionized
from teacher_cache.io.command_line import Command, reported_errors
from teacher_cache.io.config import load_yaml
from teacher_cache.io.console import print_json, stderr, stdout

if TYPE_CHECKING:
    from student_train.regions.vision_model import VisionModel

QuestionRoot = Annotated[
    str | None,
    typer.Option(
        "--video-root",
        metavar="ROOT",
        help="folder or URL that videos may be read from. Default: the folder of the questions",
    ),
]

app = typer.Typer(help="Look at training data, and convert published sets.", no_args_is_help=True, rich_markup_mode=None)


@app.command(name="check", cls=Command)
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
        print_check(report)
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


@app.command(name="convert", cls=Command)
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


@app.command(name="time-questions", cls=Command)
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


@app.command(name="region-questions", cls=Command)
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


@app.command(name="phrases", cls=Command)
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


@app.command(name="regionize", cls=Command)
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
        print_regionized(report)
    raise SystemExit(1 if report.has_faults or not report.kept else 0)


@app.command(name="review", cls=Command)
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


@app.command(name="review-apply", cls=Command)
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
