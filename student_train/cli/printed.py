"""A command's report in, the text and tables that people read in the terminal out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from rich.table import Table

from schemas.ablation import AblationReport, Spread
from schemas.data import CheckedSet, CheckReport
from schemas.evaluation import AnswersReport, EvalReport, MapsReport, Unevaluated
from schemas.mark_swaps import MarkSwapReport, Share
from schemas.regionize import RegionizeReport
from schemas.sweep import SweepReport
from schemas.train import FitReport, ShownFit, TrainedSet
from teacher_cache.io.console import stderr, stdout


def print_planned_fit(found: ShownFit) -> None:
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
    _print_sets(found.sets)
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


def _print_sets(sets: Mapping[str, TrainedSet]) -> None:
    """The sets of a mixture, if there is one."""
    if sets:
        table = Table("set", "conversations", "in an epoch")
        for name, one in sets.items():
            table.add_row(name, f"{one.samples:,}", f"{one.in_epoch:,}")
        stdout.print(table)


def print_fit(report: FitReport) -> None:
    """The report as a table."""
    first, last = report.first, report.last
    table = Table("part", f"steps {first.from_step}-{first.to_step}", f"steps {last.from_step}-{last.to_step}", "change")
    for name, before in first.losses.items():
        after = last.losses.get(name)
        change = "" if after is None or before == 0 else f"{after / before - 1:+.0%}"
        table.add_row(name, f"{before:.4g}", "–" if after is None else f"{after:.4g}", change)
    stdout.print(table)
    _print_sets(report.sets)
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


def print_mark_swaps(report: MarkSwapReport, out: Path) -> None:
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
    _print_unevaluated("questions", report.unevaluated)
    stdout.print(f"{report.asked:,} questions of {report.clips:,} clips: {out}", soft_wrap=True)


def print_benchmarks() -> None:
    """What each benchmark needs, and from where."""
    from student_train.evaluation.benchmarks.protocol import needed  # noqa: PLC0415  # as above
    from student_train.evaluation.benchmarks.registry import BENCHMARKS  # noqa: PLC0415

    for name, benchmark in BENCHMARKS.items():
        count = f", {benchmark.count:,} questions" if benchmark.count else ""
        stdout.print(f"{name}: {benchmark.title}{count}, {benchmark.frames} frames", style="bold", soft_wrap=True)
        stdout.print(f"  {needed(benchmark)}", soft_wrap=True)
        for note in benchmark.notes:
            stdout.print(f"  {note}", soft_wrap=True)


def print_check(report: CheckReport) -> None:
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


def print_regionized(report: RegionizeReport) -> None:
    """How many questions are kept, and how many dropped for which reason."""
    table = Table("", "questions")
    table.add_row("read", f"{report.read:,}")
    table.add_row("kept", f"{report.kept:,}")
    table.add_row("  with a phrase that has no mark", f"{report.partly:,}")
    for reason, count in report.dropped.items():
        table.add_row(f"dropped: {reason}", f"{count:,}")
    stdout.print(table)
    stdout.print(f"{report.out}: kept.jsonl and dropped.jsonl say more of each", soft_wrap=True)


def print_sweep(report: SweepReport) -> None:
    """Each run's settings and losses."""
    from student_train.sweep import TABLE, cell, table  # noqa: PLC0415  # as above

    rows = table(report)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    shown = Table(*columns)
    for row in rows:
        shown.add_row(*(cell(row.get(name, "")) for name in columns))
    stdout.print(shown)
    stdout.print(f"{report.output}/{TABLE}.json, .csv, .md, .png", soft_wrap=True)


def print_ablation(report: AblationReport) -> None:
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


def print_evaluation(report: EvalReport) -> None:
    """The report as tables."""
    if report.maps is not None:
        _print_maps(report.maps)
    if report.answers is not None:
        _print_answers(report.answers)
    stdout.print(f"{len(report.files)} files: {report.files[0].rpartition('/')[0]}", soft_wrap=True)


def _print_maps(maps: MapsReport) -> None:
    """Each metric over the clips, beside what a constant scores."""
    from student_train.evaluation.map_metrics import METRICS  # noqa: PLC0415  # torch

    table = Table("student against teacher", "mean", "median", "constant", "", "clips")
    for name, found in maps.metrics.items():
        metric = METRICS[name]
        title = f"{metric.title}{f' ({metric.unit})' if metric.unit else ''} {'↓' if metric.better == 'lower' else '↑'}"
        table.add_row(title, *map(_figure, (found.mean, found.median, found.baseline)), metric.baseline, str(found.clips))
    stdout.print(table)
    stdout.print(f"{maps.clips} clips of {maps.store}" + (f"; {maps.note}" if maps.note else ""), soft_wrap=True)
    _print_unevaluated("clips", maps.unevaluated)


def _print_answers(answers: AnswersReport) -> None:
    """Scores by the benchmark's own rule, by the lenient one, and by chance; then what others published."""
    from student_train.evaluation import score_tables  # noqa: PLC0415  # as above

    for found in (score_tables.scores(answers), score_tables.published(answers, parts=False)):
        if found is not None:
            table = Table(*found.header)
            for row in found.rows:
                table.add_row(*row)
            stdout.print(table)
    stdout.print(*score_tables.about(answers), sep="\n", soft_wrap=True)
    _print_unevaluated("questions", answers.unevaluated)


def _print_unevaluated(what: str, unevaluated: Sequence[Unevaluated]) -> None:
    """What has no score, each with its reason."""
    if unevaluated:
        stderr.print(f"{what} without a score: {len(unevaluated)}", style="bold")
    for one in unevaluated:
        stderr.print(f"  {one.id}: {one.reason} ({one.detail})", soft_wrap=True)


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
