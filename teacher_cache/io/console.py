"""Text and reports in; results on standard output, everything else on standard error.

Text may come from anywhere: a video's name, a store, a server's answer. The two consoles take a str for what it says, never for
markup, and write no control character but their own, so nothing that is printed needs escaping. Styles are for `styled`.
"""

from __future__ import annotations

import errno
import io
import json
import os
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.text import Text


def printable(text: str) -> str:
    """The text on one line: control characters, line breaks and characters that are not seen or reorder others are escaped."""
    return text if text.isprintable() else "".join(map(_visible, text))


def _visible(character: str) -> str:
    hidden = unicodedata.category(character) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    return character.encode("unicode_escape").decode() if hidden else character


def printable_lines(text: str) -> str:
    """`printable` each line of a text, keeping the line breaks."""
    return "\n".join(map(printable, text.split("\n")))


class SafeConsole(Console):
    """A console for text of any origin. A str is one line, or one cell of a table, and no markup; see `styled`."""

    def __init__(self, file: TextIO | None = None) -> None:
        super().__init__(file=file, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """See `Console`. Escapes before the layout, which must know the width."""
        return super().render_str(printable(text), **options | {"markup": False, "emoji": False})

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """See `Console`. Everything that is printed passes here, by whichever of rich's classes."""
        for segment in super().render(renderable, options):
            # A segment with controls moves the cursor of a live view; a link of a style is another program's text.
            yield (
                segment
                if segment.control
                else Segment(printable_lines(segment.text), segment.style and segment.style.update_link())
            )


def styled(*parts: str | tuple[str, str]) -> Text:
    """One line to print: each part is a text, or (text, style)."""
    return Text.assemble(*((printable(part), "") if isinstance(part, str) else (printable(part[0]), part[1]) for part in parts))


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
        return _below(sys.stderr)

    def _try(self, action: Callable[[TextIO], object]) -> None:
        try:
            action(self._file)
        except OSError as error:
            if error.errno in {errno.EPIPE, errno.EIO}:
                # Without this, Python would try to flush the rest at exit, and fail with another exit status.
                self.is_gone = True
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._file.fileno())


def _below(file: TextIO) -> TextIO:
    """The stream below those in its place: `_Escaped`, and during a live view rich's proxy, which writes to `stderr`."""
    while below := getattr(file, "rich_proxied_file", None):
        file = below
    return file


class _Escaped(io.TextIOBase):
    """A stream for what others write, such as the warnings of libraries: control characters are escaped."""

    def __init__(self, file: TextIO) -> None:
        self.rich_proxied_file = file

    def write(self, text: str) -> int:
        self.rich_proxied_file.write("\t".join(map(printable_lines, text.split("\t"))))
        return len(text)

    def flush(self) -> None:
        self.rich_proxied_file.flush()

    def isatty(self) -> bool:
        return self.rich_proxied_file.isatty()

    def fileno(self) -> int:
        return self.rich_proxied_file.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]  # read-only here
        return self.rich_proxied_file.encoding

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich_proxied_file, name)


def escape_standard_error() -> None:
    """From here on, all that this process writes to ``sys.stderr`` is escaped, whichever library writes it."""
    if sys.stderr is _below(sys.stderr):
        sys.stderr = _Escaped(sys.stderr)


_STDERR = _Stderr()
stderr = SafeConsole(cast("TextIO", _STDERR))
stdout = SafeConsole()


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
    r"""Print the report as one JSON object on standard output.

    Characters that a terminal might obey are ``\u`` escapes, as JSON has them: what is read back is exact.
    """
    try:
        written = report.model_dump_json(indent=2)
    except PydanticSerializationError:  # a path that is no UTF-8
        written = json.dumps(report.model_dump(mode="json"), indent=2)
    sys.stdout.write(_NOT_ASCII.sub(_visible_in_json, written) + "\n")
    sys.stdout.flush()


# Outside of its strings, JSON has but one control character, the line break; within them it escapes those of ASCII itself.
_NOT_ASCII = re.compile(r"[^\n -~]")


def _visible_in_json(found: re.Match[str]) -> str:
    character = found[0]
    return character if _visible(character) == character else json.dumps(character)[1:-1]


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
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=stderr,
    )
