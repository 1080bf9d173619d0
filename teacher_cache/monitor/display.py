"""Events of a run in; a live view in a terminal, or plain lines in a log, out.

A view never stops a run: if standard error is closed, it falls silent (see `teacher_cache.io.console`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.text import Text

from schemas.event import Event, RunFinished, RunStarted
from teacher_cache.io.console import in_terminal, printable, size, stderr, stdout
from teacher_cache.monitor.progress import Counts, Figures, News, RunProgress

LOG_SECONDS = 30.0
"""Default interval between log lines."""

_REDRAWS_PER_SECOND = 4
_GAP = "   "
_REASONS_SHOWN = 4

Clock = Callable[[], float]


@contextmanager
def run_display(log_seconds: float = LOG_SECONDS) -> Iterator[Callable[[Event], None]]:
    """Show a run on standard error. Yields a listener to be called with every event.

    Shows nothing until the run has work. When it ends, for whatever reason, one line says how far it came.
    """
    seen = _Seen()
    showing = _in_terminal(seen) if in_terminal() else _in_log(seen, log_seconds)
    with showing as listen:
        yield listen


class _Seen:
    """A run's progress, updated by one thread and shown by another."""

    def __init__(self) -> None:
        self.progress = RunProgress(time.monotonic())
        self.store = ""

    @property
    def has_work(self) -> bool:
        return self.progress.clips > 0

    def take(self, event: Event) -> tuple[str, ...]:
        """Apply an event. Returns the lines to log about it."""
        said = self.progress.notable(event)
        if isinstance(event, RunStarted):
            self.store = event.store
            self.progress = RunProgress(time.monotonic())
        self.progress = self.progress.after(event, time.monotonic())
        return said

    def figures(self) -> Figures:
        return self.progress.figures(time.monotonic())


@contextmanager
def _in_terminal(seen: _Seen) -> Iterator[Callable[[Event], None]]:
    live = Live(
        console=stderr,
        get_renderable=lambda: _screen(seen.store, seen.figures()),
        refresh_per_second=_REDRAWS_PER_SECOND,
        transient=True,
        # Libraries' output appears above the view. If standard output is a file, it is left alone.
        redirect_stdout=stdout.is_terminal,
    )

    def listen(event: Event) -> None:
        seen.take(event)
        if isinstance(event, RunFinished):
            live.stop()
        elif seen.has_work and not live.is_started:
            live.start()

    try:
        yield listen
    finally:
        live.stop()
        _say_end(seen)


@contextmanager
def _in_log(seen: _Seen, log_seconds: float) -> Iterator[Callable[[Event], None]]:
    ended = threading.Event()

    def lines() -> None:
        while not ended.wait(log_seconds):
            log(log_line(seen.figures()))

    writer = threading.Thread(target=lines, name="log-lines", daemon=True)

    def listen(event: Event) -> None:
        for text in seen.take(event):
            log(text)
        if isinstance(event, RunFinished):
            ended.set()
        elif seen.has_work and not writer.is_alive() and not ended.is_set():
            log(f"teaching {seen.progress.clips} clips")
            writer.start()

    try:
        yield listen
    finally:
        ended.set()
        _say_end(seen)


def log(text: str) -> None:
    """Print a line with a UTC timestamp to standard error."""
    stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    stderr.print(f"{stamp} {text}", soft_wrap=True)


def _say_end(seen: _Seen) -> None:
    if seen.has_work:
        stderr.print(end_line(seen.figures()), soft_wrap=True)


def log_line(figures: Figures) -> str:
    """All figures in one line: ``12/40 clips (30%), 2.1 clips/s, …``."""
    return ", ".join([counted(figures), *_rates(figures), *_teachers(figures), *failed(figures)])


def end_line(figures: Figures) -> str:
    """The final line: how far a run came, how fast, and how many clips failed."""
    rate = clips_per_second(figures.clips_per_second)
    parts = [f"{figures.done} of {figures.clips} clips in {duration(figures.elapsed_seconds)}", f"{rate} clips/s"]
    busy = [] if figures.busy is None else [f"teachers busy {figures.busy:.0%}"]
    return ", ".join([*parts, *busy, *failed(figures)])


def counted(figures: Counts) -> str:
    """``12/40 clips (30%)``."""
    return f"{figures.done}/{figures.clips} clips ({_percent(figures.done, figures.clips)})"


def bar(figures: Counts) -> RenderableType:
    """A progress bar on a line of its own."""
    return Padding(
        ProgressBar(total=max(1, figures.clips), completed=figures.done), 0
    )  # without it, the bar does not end its line


def _rates(figures: Figures) -> list[str]:
    whole, recent = clips_per_second(figures.clips_per_second), clips_per_second(figures.clips_per_second_recent)
    return [
        f"{whole} clips/s ({recent} in the last minute)",
        bytes_per_second(figures.bytes_per_second),
        f"ETA {eta(figures.eta_seconds)}",
    ]


def _teachers(figures: Figures) -> list[str]:
    if figures.busy is None or figures.busy_recent is None:
        return [_plural(figures.teachers, "teacher")]
    busy = f"busy {figures.busy:.0%} ({figures.busy_recent:.0%} in the last minute)"
    return [_plural(figures.teachers, "teacher"), busy]


def _stages(figures: Figures) -> list[str]:
    return [f"{stage.replace('_', ' ')} {share:.0%}" for stage, share in figures.stages.items()]


def _labelled(label: str, parts: Sequence[str]) -> list[str]:
    return [f"{label} {parts[0]}", *parts[1:]] if parts else []


def failed(figures: Counts) -> list[str]:
    """``3 failed (decode_error 2, …)``, or nothing if none failed."""
    if not figures.failed:
        return []
    told = f" ({', '.join(reasons(figures))})" if figures.failures else ""
    return [f"{figures.failed} failed{told}"]


def reasons(figures: Counts) -> list[str]:
    """The most frequent reasons of failure with their counts: ``decode_error 2``."""
    shown = [f"{reason} {count}" for reason, count in list(figures.failures.items())[:_REASONS_SHOWN]]
    return [*shown, "…"] if len(figures.failures) > _REASONS_SHOWN else shown


def _screen(store: str, figures: Figures) -> RenderableType:
    """The view in a terminal."""
    heading = Flow([f"{figures.state} → {store}"], "bold")
    groups = (
        [counted(figures), duration(figures.elapsed_seconds), *_rates(figures)],
        _teachers(figures),
        _labelled("time in", _stages(figures)),
        [f"{figures.failed} failed", *reasons(figures)] if figures.failed else [],
    )
    styles = ("", "", "dim", "red")
    return Group(
        heading,
        bar(figures),
        *(Flow(parts, style) for parts, style in zip(groups, styles, strict=True) if parts),
        *(_news(item) for item in figures.news),
    )


def _news(item: News) -> Flow:
    return Flow([f"{duration(item.after_seconds)} {item.text}"], "dim")


@dataclass(frozen=True)
class Flow:
    """Parts of a text, on as few lines as the width allows. A part is broken only if it is wider than a line."""

    parts: Sequence[str]
    style: str = ""

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        for text in flowed([printable(part) for part in self.parts], options.max_width):
            yield Text(text, no_wrap=True, overflow="ellipsis", style=self.style)


def flowed(parts: Sequence[str], width: int) -> list[str]:
    """Join parts into lines of at most ``width`` characters; a longer part gets a line of its own."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + len(_GAP) + len(part) <= width:
            lines[-1] += _GAP + part
        else:
            lines.append(part)
    return lines


def duration(seconds: float) -> str:
    """``h:mm:ss``, or ``2 d h:mm:ss``."""
    whole = int(seconds)
    days, rest = divmod(whole, 86400)
    clock = f"{rest // 3600}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days} d {clock}" if days else clock


def eta(seconds: float | None) -> str:
    """A duration; ``–`` if unknown."""
    return "–" if seconds is None else duration(seconds)


def bytes_per_second(rate: float | None) -> str:
    """``11.8 MB/s``; ``–/s`` if unknown."""
    return f"{'–' if rate is None else size(rate)}/s"


def clips_per_second(rate: float | None) -> str:
    """A rate in three digits, without a unit; ``–`` if unknown."""
    return "–" if rate is None else f"{rate:.3g}" if rate < 100 else f"{rate:.0f}"


def _percent(part: int, whole: int) -> str:
    # Rounded down, so that it is never 100% before the end.
    return f"{part * 100 // whole if whole else 100}%"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
