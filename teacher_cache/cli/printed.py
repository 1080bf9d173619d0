"""A command's report in, the text and tables that people read in the terminal out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich import box
from rich.table import Column, Table

from schemas.report import (
    ClipCounts,
    DiffReport,
    DoctorReport,
    Estimate,
    FailedClip,
    GarbageReport,
    LogReport,
    MarksReport,
    PilotReport,
    PlanReport,
    RunReport,
    ScenesReport,
    StatsReport,
    StatusReport,
    UndrawnClip,
    VerifyReport,
)
from teacher_cache.io.console import size, stdout

_FAILURES_SHOWN = 20
_BOX = box.SIMPLE_HEAD


def print_plan(report: PlanReport) -> None:
    stdout.print(f"store        {report.store} ({'exists' if report.store_exists else 'new'})", soft_wrap=True)
    stdout.print(f"fingerprint  {report.fingerprint[:16]}")
    print_counts(report.clips)
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


def print_run(report: RunReport) -> None:
    print_status(report)
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


def print_status(report: StatusReport) -> None:
    stdout.print(f"store        {report.store}", soft_wrap=True)
    stdout.print(f"fingerprint  {report.fingerprint[:16]}  (format {report.format_version})")
    stdout.print(f"version      {report.version}")
    if report.undeleted:
        stdout.print(f"a gc was stopped before it deleted {report.undeleted} objects; run it again", style="yellow")
    print_counts(report.clips)
    _print_sizes("bytes", report.bytes)
    _print_failures("failed clip", report.failures)


def _print_failures(heading: str, failures: Sequence[FailedClip | UndrawnClip]) -> None:
    if not failures:
        return
    table = Table(heading, "reason", "detail")
    for failure in failures[:_FAILURES_SHOWN]:
        table.add_row(failure.clip_id, failure.reason, failure.detail)
    stdout.print(table)
    if len(failures) > _FAILURES_SHOWN:
        stdout.print(f"… and {len(failures) - _FAILURES_SHOWN} more; --json lists them all")


def print_counts(clips: ClipCounts) -> None:
    stdout.print(
        f"clips        {clips.planned} planned: {clips.committed} committed, {clips.failed} failed, {clips.pending} pending"
    )


def _print_sizes(title: str, sizes: Mapping[str, int]) -> None:
    stdout.print(f"{title:<12} " + ", ".join(f"{name} {size(count)}" for name, count in sizes.items()), soft_wrap=True)


def print_stats(report: StatsReport) -> None:
    stdout.print(f"store        {report.store}", soft_wrap=True)
    stdout.print(f"fingerprint  {report.fingerprint[:16]}  (format {report.format_version})")
    stdout.print(f"version      {report.version}")
    print_counts(report.clips)
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


def print_log(report: LogReport) -> None:
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


def print_doctor(report: DoctorReport) -> None:
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


def print_verify(report: VerifyReport) -> None:
    print_counts(report.clips)
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


def print_diff(report: DiffReport) -> None:
    if not report.differences:
        stdout.print(f"the recipes are equal; the job would add {report.new_clips} clips, in {report.units} units of work")
        return
    table = Table("recipe field", "store", "job", title="these recipe fields differ, so no clip of the store fits this job:")
    for path, (old, new) in report.differences.items():
        table.add_row(path, repr(old), repr(new))
    stdout.print(table)


def print_garbage(report: GarbageReport, *, is_gone: bool) -> None:
    """``is_gone``: whether it was removed, or is only told of."""
    for key in report.removed:
        stdout.print(key, soft_wrap=True)
    stdout.print(f"{'removed' if is_gone else 'would remove'} {len(report.removed)} objects, {size(report.bytes)}")
    if report.unfinished:
        stdout.print(f"kept {len(report.unfinished)} objects of unfinished units, which the next run takes over")
    if report.foreign:
        stdout.print(f"{report.foreign} objects are none of a store's, and were left: {report.foreign_example}", soft_wrap=True)


def print_marks(report: MarksReport, out: Path) -> None:
    stdout.print(f"wrote {len(report.files)} pictures to {out}", soft_wrap=True)
    _print_failures("clip without a picture", report.undrawn)


def print_scenes(report: ScenesReport) -> None:
    stdout.print(f"{report.videos} videos, {report.conversations} conversations and {report.questions} questions:")
    stdout.print(report.out, soft_wrap=True)
    for name, count in report.benchmarks.items():
        stdout.print(f"{count} as {name}: {report.out}/benchmarks/{name}", soft_wrap=True)
