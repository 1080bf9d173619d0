"""The `teacher-cache` command: thin, one function a command; each prints a table for people or one JSON object."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from schemas.errors import BadInput
from schemas.event import Event
from schemas.report import (
    STATS_CLIPS,
    MarkStyle,
    ViewReport,
)
from schemas.storage import StorageOptions
from teacher_cache.cli.printed import (
    print_diff,
    print_doctor,
    print_garbage,
    print_log,
    print_marks,
    print_plan,
    print_run,
    print_scenes,
    print_stats,
    print_status,
    print_verify,
)
from teacher_cache.io.command_line import Command, command_line, reported_errors, run_command
from teacher_cache.io.console import print_json, progress_bar, stderr, stdout
from teacher_cache.monitor.display import LOG_SECONDS, run_display

app = command_line(
    "teacher-cache", "Run a frozen 4D teacher once over all training videos, and keep what it saw in a Zarr store."
)

JobFile = Annotated[
    Path, typer.Argument(metavar="JOB.yaml", help="the job file: videos, store, teacher, signals, engine", show_default=False)
]
StoreUrl = Annotated[
    str, typer.Argument(metavar="STORE", help="a local path, or an s3://, gs://, az:// or hf:// URL", show_default=False)
]
Storage = Annotated[
    list[str] | None,
    typer.Option(
        "--storage",
        metavar="KEY=VALUE",
        help="how to reach the store's server, where the environment does not say it: endpoint_url=URL, region=NAME, "
        "profile=NAME, anonymous=true; repeat for several",
        show_default=False,
    ),
]
Videos = Annotated[
    list[str] | None,
    typer.Option(
        "--videos",
        metavar="ROOT",
        help="a folder or URL whose videos may be read, since a store may name any place; repeat for several",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON object on standard output")]

Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="a field of the file, such as engine.batch=4 or 'signals=[f4d, depth]'; repeat for several",
        show_default=False,
    ),
]


@app.command(cls=Command)
def plan(
    job_file: JobFile,
    pilot: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="also run the teacher over N of the clips, into a temporary folder, and estimate hours, bytes and cost",
            show_default=False,
        ),
    ] = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Show what a job would do: clips, bytes, requests, memory. Writes nothing to its store."""
    with reported_errors(as_json):
        from schemas.job import Job
        from teacher_cache.io.config import load_yaml
        from teacher_cache.jobs.plan import plan_report

        job = load_yaml(job_file, Job, settings or ())
        if pilot is None:
            report = plan_report(job, progress_bar)
        else:
            from teacher_cache.jobs.pilot import plan_with_pilot  # it loads the teacher's libraries

            report = plan_with_pilot(job, pilot, progress_bar, _say)
        if as_json:
            print_json(report)
        else:
            print_plan(report)


@app.command(cls=Command)
def run(
    job_file: JobFile,
    *,
    engine: Annotated[str | None, typer.Option(help="local or ray: short for --set engine.kind=…", show_default=False)] = None,
    settings: Settings = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="retry failed clips, as new rows")] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="verify the store first, and redo damaged clips, as new rows")
    ] = False,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="do the I-th of N parts of the work, I from 0: for N runs at once without Ray, such as a SLURM array",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="do N of the clips left, rounded up to whole units of work, and end", show_default=False
        ),
    ] = None,
    deadline: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="stop in time to be done by then, such as 2026-12-24T18:00Z: no unit of work begins in the last "
            "engine.grace_seconds",
            show_default=False,
        ),
    ] = None,
    max_hours: Annotated[
        float | None, typer.Option("--max-hours", metavar="H", min=0, help="a --deadline in H hours", show_default=False)
    ] = None,
    events: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="append each event to FILE as a line of JSON; - for standard error, without the live display",
            show_default=False,
        ),
    ] = None,
    log_every: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=0.1, help="seconds between progress lines where standard error is not a terminal"),
    ] = LOG_SECONDS,
    as_json: AsJson = False,
) -> None:
    """Run a job. The same command starts it, resumes it after a stop, and does nothing where all is done."""
    with reported_errors(as_json), ExitStack() as listeners:
        from schemas.job import Job
        from teacher_cache.io.config import load_yaml
        from teacher_cache.jobs.portion import portion

        part = portion(shard, limit, deadline, max_hours)
        job = load_yaml(job_file, Job, _with_engine(engine, settings))
        part.require_time(job.engine.grace_seconds)
        from teacher_cache.monitor.event_log import STANDARD_ERROR, event_log

        told = [] if events is None else [listeners.enter_context(event_log(events))]
        from teacher_cache.io.progress import no_progress
        from teacher_cache.jobs.run import run_job  # only now: a mistake in the job shows at once

        progress = no_progress if events == STANDARD_ERROR else progress_bar
        if events != STANDARD_ERROR:
            told.append(listeners.enter_context(run_display(log_every)))

        def listen(event: Event) -> None:
            for tell in told:
                tell(event)

        from teacher_cache.monitor.webhook import webhook

        with webhook(job.store) as end:
            report = run_job(job, retry_failed=retry_failed, repair=repair, portion=part, progress=progress, listen=listen)
            end.report = report
        listeners.close()  # the view is gone before the report is shown
        if as_json:
            print_json(report)
        else:
            print_run(report)
    raise SystemExit(0 if report.ok else 1)


@app.command(cls=Command)
def status(
    store: StoreUrl,
    *,
    watch: Annotated[bool, typer.Option("--watch", help="refresh until all clips are done or Ctrl-C, then report")] = False,
    every: Annotated[float, typer.Option(metavar="SECONDS", min=0.1, help="seconds between refreshes of --watch")] = 10,
    version: Annotated[
        int | None, typer.Option(metavar="N", help="an earlier version, as `log` lists them", show_default=False)
    ] = None,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Show what a store holds, from the store itself."""
    with reported_errors(as_json):
        from teacher_cache.store.store import open_store
        from teacher_cache.store.store import status as store_status

        if watch:
            from teacher_cache.monitor.follow import follow

            follow(open_store(store, _options(storage)), every)
        report = store_status(open_store(store, _options(storage), version=version))
        if as_json:
            print_json(report)
        else:
            print_status(report)
    raise SystemExit(1 if report.clips.failed else 0)


@app.command(cls=Command)
def verify(
    store: StoreUrl,
    *,
    reteach: Annotated[
        int | None, typer.Option(metavar="N", help="also run the teacher again over N clips and compare", show_default=False)
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="where the teacher's weights are, for --reteach", show_default=False)
    ] = None,
    videos: Videos = None,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Check every object of a store against its log: digests, indexes, chunks, and what should not be there."""
    with reported_errors(as_json):
        from teacher_cache.store.verify import verify as verify_store

        report = verify_store(store, progress_bar, _options(storage))
        if reteach is not None:
            from teacher_cache.jobs.audit import reteach as teach_again

            retaught, drifted = teach_again(
                store,
                reteach,
                weights=weights,
                videos=videos or (),
                progress=progress_bar,
                storage_options=_options(storage),
            )
            report = report.model_copy(update={"retaught": retaught, "findings": (*report.findings, *drifted)})
        if as_json:
            print_json(report)
        else:
            print_verify(report)
    raise SystemExit(1 if report.findings else 0)


@app.command(cls=Command)
def diff(
    store: StoreUrl, job_file: JobFile, settings: Settings = None, storage: Storage = None, as_json: AsJson = False
) -> None:
    """Compare a job with a store: the recipe fields that differ or, if none does, what the job would add."""
    with reported_errors(as_json):
        from schemas.job import Job
        from teacher_cache.io.config import load_yaml
        from teacher_cache.jobs.plan import diff_report

        report = diff_report(store, load_yaml(job_file, Job, settings or ()), _options(storage))
        if as_json:
            print_json(report)
        else:
            print_diff(report)
    raise SystemExit(1 if report.differences else 0)


@app.command(cls=Command)
def view(
    store: StoreUrl,
    *,
    clip: Annotated[
        list[str] | None, typer.Option(help="a clip id; repeat for several. Default: the first eight clips", show_default=False)
    ] = None,
    out: Annotated[
        Path,
        typer.Option(help="the HTML file to write; a name that ends in .rrd gives a Rerun recording of one clip in 3-D"),
    ] = Path("report.html"),
    videos: Videos = None,
    regions: Annotated[
        str | None,
        typer.Option(metavar="STORE", help="another store, whose objects are shown with the rest", show_default=False),
    ] = None,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Write an HTML page of frames beside depth, flow, motion, camera rays, F4D and objects; or a Rerun recording."""
    with reported_errors(as_json):
        if out.suffix == ".rrd":
            from teacher_cache.report.recording import write_recording

            if clip and len(clip) > 1:
                raise BadInput(f"a recording shows one clip, and {len(clip)} were given; write one recording for each")
            shown = [write_recording(store, clip[0] if clip else None, out, _options(storage), videos or (), regions=regions)]
        else:
            from teacher_cache.report.write import write_report

            shown = write_report(
                store, clip or None, out, storage_options=_options(storage), videos=videos or (), regions=regions
            )
        if as_json:
            print_json(ViewReport(out=str(out), clips=tuple(shown)))
        else:
            stdout.print(f"wrote {out} with {len(shown)} clips", soft_wrap=True)
            if not videos:
                stdout.print("no video was read: `--videos ROOT` says where videos may be read from")


@app.command(cls=Command)
def stats(
    store: StoreUrl,
    *,
    clips: Annotated[
        int, typer.Option(metavar="N", min=0, help="look at the values of N clips, chosen at random")
    ] = STATS_CLIPS,
    all_clips: Annotated[bool, typer.Option("--all", help="look at the values of every clip")] = False,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="seed of the choice")] = 0,
    card: Annotated[
        Path | None,
        typer.Option(metavar="CARD.md", help="also write a data card, as the Hugging Face Hub shows it", show_default=False),
    ] = None,
    version: Annotated[
        int | None, typer.Option(metavar="N", help="an earlier version, as `log` lists them", show_default=False)
    ] = None,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Tell what is in a store: failures, duplicates and errors of all clips, values of some; and write its data card."""
    with reported_errors(as_json):
        from teacher_cache.io.output_folder import require_writable, written_whole
        from teacher_cache.report.card import data_card
        from teacher_cache.report.stats import store_stats

        if card is not None:
            require_writable(card)
        looked_at = None if all_clips else clips
        report, recipe = store_stats(
            store, looked_at, seed, version=version, progress=progress_bar, storage_options=_options(storage)
        )
        if card is not None:
            with written_whole(card) as unfinished:
                unfinished.write_text(data_card(report, recipe), encoding="utf-8")
        if as_json:
            print_json(report)
            return
        print_stats(report)
        if card is not None:
            stdout.print(f"wrote {card}; say its licence there", soft_wrap=True)


@app.command(cls=Command)
def marks(
    store: StoreUrl,
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="the folder to write", show_default=False)],
    clip: Annotated[
        list[str] | None, typer.Option(help="a clip id; repeat for several", show_default="every committed clip")
    ] = None,
    frame: Annotated[int, typer.Option(metavar="N", min=0, help="which of the clip's frames to draw in, from 0")] = 0,
    style: Annotated[MarkStyle, typer.Option(help="outline an object by its box or by its contour")] = "box",
    size: Annotated[
        int, typer.Option(metavar="PX", min=16, max=4096, help="the most pixels of a picture's width; it is never enlarged")
    ] = 448,
    square: Annotated[
        bool, typer.Option("--square", help="squash pictures to squares of --size, as a student sees frames")
    ] = False,
    videos: Videos = None,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Draw the numbers and outlines of each clip's objects in one of its frames, as PNG files (Set-of-Mark)."""
    with reported_errors(as_json):
        from teacher_cache.clips.preprocess import FrameSize
        from teacher_cache.reader.cache import open_cache
        from teacher_cache.report.marks import write_marks

        report = write_marks(
            open_cache(store, storage_options=_options(storage)),
            clip or None,
            out,
            videos=videos or (),
            frame=frame,
            style=style,
            size=FrameSize(size, "square" if square else "own"),
        )
        if as_json:
            print_json(report)
        else:
            print_marks(report, out)
    raise SystemExit(1 if report.undrawn else 0)


@app.command(cls=Command)
def log(store: StoreUrl, storage: Storage = None, as_json: AsJson = False) -> None:
    """Tell a store's history, version by version: who added, committed, retired or deleted what, and when."""
    with reported_errors(as_json):
        from teacher_cache.store.history import log_report

        report = log_report(store, _options(storage))
        if as_json:
            print_json(report)
        else:
            print_log(report)


@app.command(cls=Command)
def gc(
    store: StoreUrl,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only list what would be removed")] = False,
    unfinished: Annotated[
        bool,
        typer.Option(
            "--unfinished",
            help="also remove what stopped runs left of units that are not committed; only while no run is at work",
        ),
    ] = False,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Remove objects that nothing names or can come to name. Safe while runs are at work."""
    with reported_errors(as_json):
        from teacher_cache.store.garbage import collect_garbage

        report = collect_garbage(
            store, unfinished=unfinished, dry_run=dry_run, progress=progress_bar, storage_options=_options(storage)
        )
        if as_json:
            print_json(report)
        else:
            print_garbage(report, is_gone=not dry_run)


@app.command(cls=Command)
def scenes(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="the folder to write", show_default=False)],
    *,
    videos: Annotated[int, typer.Option(min=1, help="number of scenes")] = 64,
    first_seed: Annotated[int, typer.Option(min=0, help="seed of the first scene; the next scenes have the next seeds")] = 0,
    height: Annotated[int, typer.Option(min=16, help="height of the videos, in pixels")] = 240,
    width: Annotated[int, typer.Option(min=16, help="width of the videos, in pixels")] = 320,
    frames: Annotated[int, typer.Option(min=2, help="frames of each video, which lasts one to three seconds")] = 48,
    task: Annotated[list[str] | None, typer.Option(help="a kind of question; repeat for several", show_default="all")] = None,
    turns: Annotated[int, typer.Option(min=1, help="the most questions in one conversation")] = 5,
    benchmark: Annotated[
        list[str] | None,
        typer.Option(help="a published benchmark, or all: its kinds of questions are written in its layout, too; repeat"),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="rendering processes")] = 2,
    as_json: AsJson = False,
) -> None:
    """Render videos of moving scenes, with questions and answers from their ground truth."""
    with reported_errors(as_json):
        from schemas.evaluation import SCENE_TASKS
        from teacher_cache.scenes.dataset import Asking, VideoFormat, write_scenes
        from teacher_cache.scenes.published import PUBLISHED

        named = tuple(PUBLISHED) if "all" in (benchmark or ()) else tuple(dict.fromkeys(benchmark or ()))
        shape, asking = VideoFormat(height, width, frames), Asking(tuple(task or SCENE_TASKS), turns, named)
        with progress_bar("rendering", videos, "videos") as advance:
            seeds = range(first_seed, first_seed + videos)
            report = write_scenes(out, seeds, shape, asking, workers=workers, advance=advance)
        if as_json:
            print_json(report)
        else:
            print_scenes(report)


@app.command(cls=Command)
def demo(
    out: Annotated[Path, typer.Option(help="the folder for videos, store, student and report")] = Path("demo-out"),
    *,
    steps: Annotated[int, typer.Option(help="steps of training; fewer are quicker, and teach less", min=2)] = 100,
    as_json: AsJson = False,
) -> None:
    """The whole path on rendered videos: teach, verify, train a tiny student, write a report. CPU only, no downloads."""
    with reported_errors(as_json):
        from teacher_cache.demo import print_demo, run_demo

        report = run_demo(out, progress_bar, steps)
        if as_json:
            print_json(report)
        else:
            print_demo(report)


@app.command(cls=Command)
def doctor(
    job_file: Annotated[
        Path | None, typer.Argument(metavar="[JOB.yaml]", help="a job, to look at all that it would use", show_default=False)
    ] = None,
    *,
    engine: Annotated[
        str | None, typer.Option(help="local or ray, instead of the job's `engine.kind`", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Look for what would stop a job: on this machine, or on each machine of a job's engine. Exit status 3 if there is any."""
    with reported_errors(as_json):
        from schemas.job import Job
        from teacher_cache.io.config import load_yaml

        if job_file is None and engine is not None:
            raise BadInput("--engine chooses among a job's machines; give a JOB.yaml as well")
        job = None if job_file is None else load_yaml(job_file, Job, _with_engine(engine))
        from teacher_cache.jobs.doctor import doctor as look

        report = look(job)
        if as_json:
            print_json(report)
        else:
            print_doctor(report)
    raise SystemExit(3 if report.wrong else 0)


def _with_engine(engine: str | None, settings: Sequence[str] | None = None) -> tuple[str, ...]:
    """The settings, and that of ``--engine``."""
    return (*(settings or ()), *([] if engine is None else [f"engine.kind={engine}"]))


def _say(event: Event) -> None:
    """Print what is notable about an event of a pilot."""
    from teacher_cache.monitor.progress import RunProgress

    for line in RunProgress(began=0).notable(event):
        stderr.print(line, soft_wrap=True)


def _options(given: Sequence[str] | None) -> StorageOptions | None:
    """The options that ``--storage KEY=VALUE`` gives. Raises `BadInput`."""
    from teacher_cache.io.config import storage_options_of

    return storage_options_of(dict(one.partition("=")[::2] for one in given)) if given else None


def main() -> None:
    """The console script's entry."""
    run_command(app)
