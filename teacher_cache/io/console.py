"""How every command speaks: results on standard output, everything else on standard error."""

from __future__ import annotations

import errno
import io
import os
import sys
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO, cast

from pydantic import BaseModel
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class _Stderr(io.TextIOBase):
    """Standard error, whichever it is at the moment, for those who can go on without it.

    Its reader may go (``2>&1 | head``, a closed terminal) or its disk be full while a run of days is at work: then what
    cannot be written is lost, and the run is not.
    """

    is_gone = False
    """Whether its reader has gone for good."""

    def write(self, text: str) -> int:
        self._try(lambda file: file.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(lambda file: file.flush())

    def isatty(self) -> bool:
        return self._file.isatty()

    def fileno(self) -> int:
        return self._file.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]  # read-only here
        return self._file.encoding or "utf-8"

    @property
    def _file(self) -> TextIO:
        # While a view is shown, rich puts an object of its own in the place of standard error, which writes to us.
        return cast("TextIO", getattr(sys.stderr, "rich_proxied_file", sys.stderr))

    def _try(self, action: Callable[[TextIO], object]) -> None:
        try:
            action(self._file)
        except OSError as error:
            if error.errno in {errno.EPIPE, errno.EIO}:
                # Python would try once more to write what is left, at the end, and report that in the exit status.
                self.is_gone = True
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._file.fileno())


_STDERR = _Stderr()
stderr = Console(file=cast("TextIO", _STDERR), highlight=False)
stdout = Console(highlight=False)


def printable(text: str) -> str:
    """Text with whatever would command a terminal spelt out."""
    return "".join(c.encode("unicode_escape").decode() if unicodedata.category(c).startswith("C") else c for c in text)


def escape(text: str) -> str:
    """Text as it is, for rich: brackets in a file name are not its markup, and what would command a terminal is spelt out."""
    return printable(text).replace("[", "\\[")


def escape_lines(text: str) -> str:
    """`escape` for a text of our own making that has lines."""
    return "\n".join(map(escape, text.split("\n")))


def in_terminal() -> bool:
    """Whether standard error is a screen that can be drawn on. Not a log, whatever ``FORCE_COLOR`` says of it."""
    return stderr.file.isatty() and stderr.is_interactive


def is_read() -> bool:
    """Whether anybody may still see what goes to standard error."""
    return not _STDERR.is_gone


def size(count: float) -> str:
    """Bytes for people: ``11.8 MB``."""
    units = ("B", "kB", "MB", "GB", "TB", "PB")
    power = min(len(units) - 1, (len(str(int(count))) - 1) // 3)
    return f"{count / 1000**power:.{0 if power == 0 else 1}f} {units[power]}"


def print_json(report: BaseModel) -> None:
    """One JSON object on standard output."""
    sys.stdout.write(report.model_dump_json(indent=2) + "\n")
    sys.stdout.flush()


@contextmanager
def progress_bar(description: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """A progress bar in a terminal, a line each tenth of the way in a log. Yields ``advance(count)``."""
    if in_terminal():
        with _bar() as bar:
            task = bar.add_task(description, total=total, unit=unit)
            yield lambda count: bar.advance(task, count)
        return
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        before, done = done, done + count
        if total and done * 10 // total > before * 10 // total:
            stderr.print(f"{description}: {done}/{total} {unit}", soft_wrap=True)

    yield advance


def _bar() -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=stderr,
    )
