"""The `teacher-cache` command: thin, one function a command; each prints a table for people or one JSON object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Column, Table

from schemas.errors import BadInput
from schemas.event import Event
from schemas.report import (
    STATS_CLIPS,
    ClipCounts,
    DoctorReport,
    Estimate,
    LogReport,
    MarkStyle,
    PilotReport,
    PlanReport,
    RunReport,
    StatsReport,
    StatusReport,
    VerifyReport,
    ViewReport,
)
from schemas.storage import StorageOptions
from teacher_cache.io.command_line import Command, command_line, reported_errors, run_command
from teacher_cache.io.console import print_json, progress_bar, size, stderr, stdout
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

_FAILURES_SHOWN = 20
_BOX = box.SIMPLE_HEAD


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
            _print_plan(report)


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
            _print_run(report)
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
            _print_status(report)
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
            _print_verify(report)
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
        elif report.differences:
            table = Table(
                "recipe field", "store", "job", title="these recipe fields differ, so no clip of the store fits this job:"
            )
            for path, (old, new) in report.differences.items():
                table.add_row(path, repr(old), repr(new))
            stdout.print(table)
        else:
            stdout.print(f"the recipes are equal; the job would add {report.new_clips} clips, in {report.units} units of work")
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
        _print_stats(report)
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
            stdout.print(f"wrote {len(report.files)} pictures to {out}", soft_wrap=True)
            if report.undrawn:
                table = Table("clip without a picture", "reason", "detail")
                for one in report.undrawn[:_FAILURES_SHOWN]:
                    table.add_row(one.clip_id, one.reason, one.detail)
                stdout.print(table)
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
            _print_log(report)


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
            return
        for key in report.removed:
            stdout.print(key, soft_wrap=True)
        verb = "would remove" if dry_run else "removed"
        stdout.print(f"{verb} {len(report.removed)} objects, {size(report.bytes)}")
        if report.unfinished:
            stdout.print(f"kept {len(report.unfinished)} objects of unfinished units, which the next run takes over")
        if report.foreign:
            stdout.print(
                f"{report.foreign} objects are none of a store's, and were left: {report.foreign_example}", soft_wrap=True
            )


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
            stdout.print(f"{report.videos} videos, {report.conversations} conversations and {report.questions} questions:")
            stdout.print(report.out, soft_wrap=True)
            for name, count in report.benchmarks.items():
                stdout.print(f"{count} as {name}: {report.out}/benchmarks/{name}", soft_wrap=True)


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
            _print_doctor(report)
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


def _print_plan(report: PlanReport) -> None:
    stdout.print(f"store        {report.store} ({'exists' if report.store_exists else 'new'})", soft_wrap=True)
    stdout.print(f"fingerprint  {report.fingerprint[:16]}")
    _print_counts(report.clips)
    stdout.print(
        f"to do        {report.clips_to_do:,} clips ({report.new_clips:,} new) of {report.videos:,} videos, "
        f"in {report.units:,} units of work and {report.objects:,} objects",
        soft_wrap=True,
    )
    _print_notes(report.notes)
    if not report.units:
        stdout.print("nothing is left to do")
        return
    stdout.print(_sizes_table(report))
    stdout.print(_requests_table(report))
    on_gpu = f" and {size(report.memory.device)} on each GPU" if report.memory.device else ""
    stdout.print(f"memory       up to {size(report.memory.host)}{on_gpu} for each teacher's process", soft_wrap=True)
    if report.pilot is None or report.estimate is None:
        stdout.print("Hours, stored sizes and most of the cost take a measurement: --pilot 64 teaches 64 of the clips for it.")
    else:
        _print_estimate(report.pilot, report.estimate)
    if any(report.cost.values()):
        stdout.print(_cost_table(report.cost, report.currency))


def _sizes_table(report: PlanReport) -> Table:
    table = Table("signal", box=_BOX)
    table.add_column("before the codec", justify="right")
    stored = report.estimate.bytes if report.estimate else {}
    if stored:
        table.add_column("stored", justify="right")
        table.add_column("a clip", justify="right")
    for signal, bytes_ in report.bytes_uncompressed.items():
        row = [signal, size(bytes_)]
        if signal in stored:
            row += [size(stored[signal]), size(stored[signal] / max(1, report.clips_to_do))]
        table.add_row(*row)
    if stored:
        total = sum(stored.values())
        whole = sum(report.bytes_uncompressed.values())
        table.add_row("all", size(whole), size(total), size(total / max(1, report.clips_to_do)))
    return table


def _requests_table(report: PlanReport) -> Table:
    table = Table("requests", box=_BOX)
    for kind in ("PUT", "GET", "LIST"):
        table.add_column(kind, justify="right")
    for purpose, asked in (("store", report.requests.store), ("videos", report.requests.videos)):
        table.add_row(purpose, f"{asked.put:,}", f"{asked.get:,}", f"{asked.list:,}")
    return table


def _print_estimate(pilot: PilotReport, estimate: Estimate) -> None:
    table = Table("stage", box=_BOX)
    for heading in ("a clip", "least to most", "all clips"):
        table.add_column(heading, justify="right")
    for stage, spread in pilot.spread.items():
        mean, total = getattr(pilot.seconds, stage), getattr(estimate.stage_seconds, stage)
        extent = f"{spread.least * 1000:.1f} to {spread.most * 1000:.1f} ms"
        table.add_row(stage.replace("_", " "), f"{mean * 1000:.1f} ms", extent, _duration(total))
    stdout.print(table)
    failed = ", ".join(f"{count} × {reason}" for reason, count in pilot.failed.items())
    stdout.print(
        f"pilot        {pilot.clips} clips in {pilot.units} units"
        + (f"; failed: {failed}, which makes about {estimate.failed_clips:,} of all" if failed else "; none failed")
    )
    stdout.print(f"hours        {_figure(estimate.hours.gpu)} GPU, {_figure(estimate.hours.core)} CPU core")
    stdout.print(f"wall time    {_duration(estimate.wall_hours * 3600)}; what it waits for is to {estimate.limited_by}")
    node, holder = estimate.node, "GPU" if estimate.hours.gpu else "teacher"
    stdout.print(
        f"each {holder:<8}{node.clips_per_second:.2f} clips/s, which takes {node.decode_cores:.1f} cores to decode, "
        f"{node.encode_cores:.1f} to encode, {size(node.video_bytes_per_second)}/s of videos in and "
        f"{size(node.store_bytes_per_second)}/s out; the teacher's process has held {size(pilot.memory_bytes)}"
    )


_COST_ITEMS = {
    "gpu": "GPU hours",
    "core": "CPU core hours",
    "put": "PUT requests",
    "get": "GET requests",
    "list": "LIST requests",
    "egress": "videos read",
    "storage_month": "storage, each month",
}


def _cost_table(cost: Mapping[str, float], currency: str | None) -> Table:
    table = Table("cost", box=_BOX)
    table.add_column(currency or "amount", justify="right")
    for item, amount in cost.items():
        if amount:
            table.add_row(_COST_ITEMS[item], _figure(amount))
    once = sum(amount for item, amount in cost.items() if item != "storage_month")
    table.add_row("all, once", _figure(once))
    return table


def _figure(value: float) -> str:
    """With two decimals, or four where these would say nothing."""
    if 0 < value < 0.0001:
        return "< 0.0001"
    return f"{value:,.2f}" if value == 0 or value >= 1 else f"{value:.4f}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def _print_run(report: RunReport) -> None:
    _print_status(report)
    seconds = {stage: f"{value:.1f} s" for stage, value in report.stage_seconds.model_dump().items() if value}
    spent = ", ".join(f"{stage.replace('_', ' ')} {value}" for stage, value in seconds.items())
    if report.left:
        stdout.print(f"left         {report.left} clips in units that are not this run's, by --shard or --limit")
    if report.clips.failed > report.failed:
        earlier = report.clips.failed - report.failed
        stdout.print(f"earlier      {earlier} clips failed in earlier runs; --retry-failed tries them again", soft_wrap=True)
    stdout.print(
        f"this run     {report.committed} clips committed, {report.failed} failed in {report.wall_seconds:.1f} s; "
        f"{report.done_before} were done before{'; ' + spent if spent else ''}",
        soft_wrap=True,
    )
    _print_notes(report.notes)


def _print_notes(notes: Sequence[str]) -> None:
    for note in notes:
        stdout.print(f"note         {note}", soft_wrap=True)


def _print_status(report: StatusReport) -> None:
    stdout.print(f"store        {report.store}", soft_wrap=True)
    stdout.print(f"fingerprint  {report.fingerprint[:16]}  (format {report.format_version})")
    stdout.print(f"version      {report.version}")
    if report.undeleted:
        stdout.print(f"a gc was stopped before it deleted {report.undeleted} objects; run it again", style="yellow")
    _print_counts(report.clips)
    _print_sizes("bytes", report.bytes)
    if report.failures:
        table = Table("failed clip", "reason", "detail")
        for failure in report.failures[:_FAILURES_SHOWN]:
            table.add_row(failure.clip_id, failure.reason, failure.detail)
        stdout.print(table)
        if len(report.failures) > _FAILURES_SHOWN:
            stdout.print(f"… and {len(report.failures) - _FAILURES_SHOWN} more; --json lists them all")


def _print_counts(clips: ClipCounts) -> None:
    stdout.print(
        f"clips        {clips.planned} planned: {clips.committed} committed, {clips.failed} failed, {clips.pending} pending"
    )


def _print_sizes(title: str, sizes: Mapping[str, int]) -> None:
    stdout.print(f"{title:<12} " + ", ".join(f"{name} {size(count)}" for name, count in sizes.items()), soft_wrap=True)


def _print_stats(report: StatsReport) -> None:
    stdout.print(f"store        {report.store}", soft_wrap=True)
    stdout.print(f"fingerprint  {report.fingerprint[:16]}  (format {report.format_version})")
    stdout.print(f"version      {report.version}")
    _print_counts(report.clips)
    for reason, count in report.failed.items():
        stdout.print(f"failed       {count:,} ({count / report.clips.planned:.2%}) for {reason}", soft_wrap=True)
    stdout.print(f"videos       {report.videos:,}")
    if report.repeated.contents:
        stdout.print(
            f"duplicates   {report.repeated.videos:,} with the content of another video, such as "
            + "; ".join(" = ".join(ids) for ids in report.repeated.examples),
            soft_wrap=True,
        )
    _print_sizes("bytes", report.bytes)
    stdout.print(_errors_table(report))
    sample = report.sample
    if not sample.clips:
        stdout.print("values       of no clip were looked at")
        return
    if not any(of.values for of in report.signals.values()):
        stdout.print("values       none: names and codes have no mean")
        return
    chosen = "all" if sample.clips == sample.of else f"{sample.clips:,} of {sample.of:,}, chosen by the seed {sample.seed}"
    stdout.print(f"values       of the committed clips: {chosen}")
    stdout.print(_values_table(report))
    if any(of.channels for of in report.signals.values()):
        stdout.print(_channels_table(report))


def _errors_table(report: StatsReport) -> Table:
    table = Table("signal", "error, of all committed clips", box=_BOX)
    for heading in ("bound", "worst", "median", "near bound", "relative RMS", "clips"):
        table.add_column(heading, justify="right")
    for signal, of in report.signals.items():
        for error in of.errors:
            figures = [f"{value:.3g}" for value in (error.bound, error.worst, error.median)]
            figures += [f"{error.near_bound:.1%}", f"{error.relative_rms:.2g}", f"{error.clips:,}"]
            table.add_row(signal, error.measure, *figures)
    return table


def _values_table(report: StatsReport) -> Table:
    table = Table("signal", "channel", box=_BOX)
    for heading in ("mean", "std", "least", "most"):
        table.add_column(heading, justify="right")
    table.add_column("units")
    for signal, of in report.signals.items():
        for number, value in enumerate(of.values):
            figures = (f"{figure:.4g}" for figure in (value.mean, value.std, value.least, value.most))
            table.add_row(signal, value.name, *figures, "" if number else of.units)
    return table


def _channels_table(report: StatsReport) -> Table:
    table = Table("signal", "", box=_BOX)
    for heading in ("channels", "their means", "their RMS", "median RMS", "outliers"):
        table.add_column(heading, justify="right")
    for signal, of in report.signals.items():
        for layer in of.channels:
            extents = (f"{spread.least:.3g} to {spread.most:.3g}" for spread in (layer.means, layer.rms))
            named = ", ".join(f"{one.channel} ({one.rms:.3g})" for one in layer.largest)
            outliers = f"{layer.outliers}: {named}" if named else "0"
            table.add_row(signal, layer.name, f"{layer.channels:,}", *extents, f"{layer.rms.median:.3g}", outliers)
    return table


def _print_log(report: LogReport) -> None:
    table = Table("version", Column("time (UTC)", no_wrap=True), "what", "writer", box=_BOX)
    for entry in report.entries:
        what = [
            f"{entry.rows_added} clips added" if entry.rows_added else "",
            f"{', '.join(entry.parts_added)} added" if entry.parts_added else "",
            f"{entry.units} units: {entry.committed} clips, {entry.failed} failed, {size(entry.bytes)}" if entry.units else "",
            f"{entry.retired} rows retired" if entry.retired else "",
            f"{entry.announced} objects to be deleted" if entry.announced else "",
            f"{entry.deleted} objects deleted" if entry.deleted else "",
            "lost to damage" if entry.lost else "",
            f"{entry.replaced} damaged records replaced" if entry.replaced else "",
        ]
        table.add_row(
            str(entry.version),
            f"{entry.time:%Y-%m-%d %H:%M:%S}",
            "; ".join(filter(None, what)) or "store created",
            entry.writer,
            style="red" if entry.lost else None,
        )
    stdout.print(table)


def _print_doctor(report: DoctorReport) -> None:
    styles = {"well": None, "notice": "yellow", "wrong": "red"}
    for node in report.nodes:
        table = Table(
            Column("what", no_wrap=True), "", "found", "needed", "what to do", box=_BOX, title=node, title_justify="left"
        )
        for check in report.checks:
            if check.node == node:
                row = (check.subject, check.status, check.found, check.needed, check.advice)
                table.add_row(*row, style=styles[check.status])
        stdout.print(table)
    stdout.print(f"{report.wrong} wrong" if report.wrong else "nothing wrong", style="red" if report.wrong else "green")


def _print_verify(report: VerifyReport) -> None:
    _print_counts(report.clips)
    stdout.print(f"checked      {report.objects_checked} objects, {size(report.bytes_checked)}")
    for clip in report.retaught:
        drift = ", ".join(f"{signal} {value:.2g}" for signal, value in clip.drift.items())
        stdout.print(f"re-taught {clip.clip_id}: relative difference {drift}", soft_wrap=True)
    if not report.findings:
        stdout.print("nothing wrong", style="green")
        return
    table = Table("finding", "object", "detail", "affected clips")
    for finding in report.findings:
        table.add_row(finding.kind, finding.key, finding.detail, ", ".join(finding.clip_ids))
    stdout.print(table)


def main() -> None:
    """The console script's entry."""
    run_command(app)


if __name__ == "__main__":
    main()
