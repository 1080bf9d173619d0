"""Text and reports in; results on standard output, everything else on standard error."""

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
    """The current standard error, as a stream that never fails.

    During a run of days, its reader may close (``2>&1 | head``, a closed terminal) or its disk fill up. Then the output is
    lost, but the run goes on.
    """

    is_gone = False
    """Whether the reader is gone for good."""

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
        # During a live view, rich replaces sys.stderr by a proxy that writes to this object.
        return cast("TextIO", getattr(sys.stderr, "rich_proxied_file", sys.stderr))

    def _try(self, action: Callable[[TextIO], object]) -> None:
        try:
            action(self._file)
        except OSError as error:
            if error.errno in {errno.EPIPE, errno.EIO}:
                # Without this, Python would try to flush the rest at exit, and fail with another exit status.
                self.is_gone = True
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._file.fileno())


_STDERR = _Stderr()
stderr = Console(file=cast("TextIO", _STDERR), highlight=False)
stdout = Console(highlight=False)


def printable(text: str) -> str:
    """The text, with control characters escaped."""
    return "".join(c.encode("unicode_escape").decode() if unicodedata.category(c).startswith("C") else c for c in text)


def escape(text: str) -> str:
    """The text as literal rich markup: brackets in a file name are not tags, and control characters are escaped."""
    return printable(text).replace("[", "\\[")


def escape_lines(text: str) -> str:
    """`escape` each line of a text, keeping the line breaks."""
    return "\n".join(map(escape, text.split("\n")))


def in_terminal() -> bool:
    """Whether standard error is a terminal. A log file is not, even under ``FORCE_COLOR``."""
    return stderr.file.isatty() and stderr.is_interactive


def is_read() -> bool:
    """Whether standard error may still have a reader."""
    return not _STDERR.is_gone


def size(count: float) -> str:
    """A number of bytes, formatted: ``11.8 MB``."""
    units = ("B", "kB", "MB", "GB", "TB", "PB")
    power = min(len(units) - 1, (len(str(int(count))) - 1) // 3)
    return f"{count / 1000**power:.{0 if power == 0 else 1}f} {units[power]}"


def print_json(report: BaseModel) -> None:
    """Print the report as one JSON object on standard output."""
    sys.stdout.write(report.model_dump_json(indent=2) + "\n")
    sys.stdout.flush()


@contextmanager
def progress_bar(description: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """A progress bar in a terminal; in a log, a line every tenth of the way. Yields ``advance(count)``."""
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
