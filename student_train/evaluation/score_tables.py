"""Scores of answers go in; tables of text come out, the same for the terminal, Markdown and HTML."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from schemas.evaluation import AnswersReport

_LISTED = 50


class TextTable(NamedTuple):
    """A table of text."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def scores(report: AnswersReport) -> TextTable:
    """Means by the benchmark's own rule, by the lenient one and by chance: over all, per group and per task."""
    has_below = any(found.below is not None for found in report.tasks.values())
    header = ("official", "± s.e.", *(('"<"',) if has_below else ()), "lenient", "chance", "questions")
    groups = {"micro mean": report.micro, **report.groups, **report.tasks}
    rows = []
    for name, found in groups.items():
        if found is not None:
            below = (share(found.below),) if has_below else ()
            shares = (share(found.official), share(found.standard_error), *below, share(found.lenient), share(found.chance))
            rows.append((name, *shares, str(found.questions)))
    if report.macro is not None:
        mean, empty = report.macro, ("",) * (1 + has_below)
        rows.insert(1, ("macro mean", share(mean.official), *empty, share(mean.lenient), "", f"{mean.tasks} tasks"))
    return TextTable((report.benchmark, *header), tuple(rows))


def published(report: AnswersReport, *, parts: bool = True) -> TextTable | None:
    """Others' figures, marked as theirs, below this evaluation's; None if there are none. `about` has the notes."""
    if not report.published:
        return None
    names = tuple(dict.fromkeys(name for row in report.published for name in row.parts)) if parts else ()
    ours = {name: found.official for name, found in (report.groups | report.tasks).items()}
    notes = _differing(report)
    rows = [("this evaluation", share(report.overall), *(share(ours.get(name)) for name in names))]
    for row in report.published:
        theirs = (f"{row.parts[name]:.1f}%" if name in row.parts else "–" for name in names)
        rows.append((f"{row.who} ({row.by}, note {notes.index(row.differs) + 1})", f"{row.overall:.1f}%", *theirs))
    return TextTable(("published by others", "overall", *names), tuple(rows))


def left_out(report: AnswersReport) -> list[str]:
    """The questions that are in no mean, and those that no response answers, each with its reason; the first of many."""
    listed = (*report.unevaluated, *report.faults)
    lines = [f"{one.id}: {one.reason} ({one.detail})" for one in listed[:_LISTED]]
    return [*lines, f"and {len(listed) - _LISTED} more, in report.json"] if len(listed) > _LISTED else lines


def _differing(report: AnswersReport) -> list[str]:
    """What makes others' figures not comparable, each once."""
    return list(dict.fromkeys(row.differs for row in report.published))


def about(report: AnswersReport) -> list[str]:
    """What must be known with the scores."""
    of = "" if report.expected in {None, report.asked} else f" (published: {report.expected:,})"
    shown = f"{report.frames} frames, responses of up to {report.new_tokens} tokens"
    lines = [f"{report.asked} questions of {report.questions}{of}, {shown}"]
    if report.limit is not None:
        lines.append(f"only the first {report.limit:,} questions were to be asked: no score of the whole benchmark")
    if report.overall is not None:
        lines.append(
            f"the benchmark's own figure is the {'macro' if report.is_macro else 'micro'} mean: {share(report.overall)}"
        )
    if report.micro is not None and report.micro.unparsed:
        drawn = f"; {report.micro.drawn} of them count as a random letter, seed {report.seed}" if report.micro.drawn else ""
        lines.append(f"in {report.micro.unparsed} responses the official rule found nothing{drawn}")
    if report.faults:
        lines.append(f"questions without a right answer in the file, which count as wrong: {len(report.faults)}")
    differing = (f"note {number}, on others' figures: {said}" for number, said in enumerate(_differing(report), 1))
    return [*lines, *report.notes, *differing]


def share(value: float | None) -> str:
    """In per cent."""
    return "–" if value is None else f"{value:.1%}"


def markdown(table: TextTable) -> str:
    """A table in Markdown."""
    lines = [table.header, ("---",) * len(table.header), *table.rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def of(report: AnswersReport) -> Sequence[TextTable]:
    """All tables of a report."""
    return [table for table in (scores(report), published(report)) if table is not None]
