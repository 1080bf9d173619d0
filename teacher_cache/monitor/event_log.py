"""Events of a run in; one JSON object per line out, appended to a file or written to standard error."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from schemas.credentials import without_credentials
from schemas.errors import BadInput
from schemas.event import Event
from teacher_cache.io.console import stderr, styled

STANDARD_ERROR = "-"


@contextmanager
def event_log(path: str) -> Iterator[Callable[[Event], None]]:
    """Append events to a file, or write them to standard error (``-``). Yields a listener to be called with each event.

    Raises `BadInput` if the file cannot be opened. Each line is written at once and atomically. If a later write fails (a full
    disk), one warning says so, and the run goes on.
    """
    if path == STANDARD_ERROR:
        yield lambda event: _to_stderr(line(event))
        return
    try:
        file = _File(Path(path))
    except OSError as error:
        raise BadInput(f"cannot write events to {path}: {error.strerror}; --events takes a local file, or -") from None
    try:
        yield lambda event: file.add(line(event))
    finally:
        file.close()


def line(event: Event) -> bytes:
    """The event, with its time, as one line of JSON, with credentials in URLs masked."""
    told = event.model_copy(update={"time": event.time or datetime.now(UTC)})
    return json.dumps(_masked(told.model_dump(mode="json")), separators=(",", ":")).encode() + b"\n"


def _masked(value: Any) -> Any:
    if isinstance(value, str):
        return without_credentials(value)
    if isinstance(value, dict):
        return {key: _masked(inner) for key, inner in value.items()}
    return [_masked(inner) for inner in value] if isinstance(value, list) else value


def _to_stderr(data: bytes) -> None:
    stderr.file.write(data.decode())
    stderr.file.flush()


class _File:
    """A file of lines to append to. Other runs may have appended to it, or may be doing so now."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        # A run killed while writing leaves part of a line, which must not corrupt the next one.
        self._torn = _ends_in_a_piece(path)
        self._complained = False

    def add(self, data: bytes) -> None:
        try:
            # A single call, so that lines of two runs never mix.
            data = b"\n" + data if self._torn else data
            written = os.write(self._descriptor, data)
            self._torn = written < len(data)
        except OSError as error:
            self._complain(error)

    def _complain(self, error: OSError) -> None:
        if not self._complained:
            self._complained = True
            said = (
                f"cannot write events to {self._path}: {error.strerror}; the run goes on, and its events may be missing there"
            )
            stderr.print(styled(("warning:", "yellow"), f" {said}"), soft_wrap=True)

    def close(self) -> None:
        os.close(self._descriptor)


def _ends_in_a_piece(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        length = file.seek(0, os.SEEK_END)
        file.seek(max(0, length - 1))
        return file.read(1) not in {b"", b"\n"}
