"""What probing found of videos, kept in this machine's cache folder: what `plan` opened, `run` need not open again.

One SQLite file for each way to take frames, so that what another recipe or version found is never taken for its own. It is a
cache and no more: where it cannot be read or written, videos are opened.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError

from schemas.base import canonical_json
from schemas.clip import VideoInfo
from schemas.errors import VideoError
from schemas.recipe import ClipRecipe
from teacher_cache.io.cache_folder import cache_folder
from teacher_cache.io.private import open_private, private_folder

_UNUSED_SECONDS = 30 * 24 * 3600
"""After how long without use a file is deleted."""
_WAIT_SECONDS = 30.0
"""How long to wait for another process that writes."""

Row = Mapping[str, Any]
"""A row of `teacher_cache.clips.tables.VIDEOS`, whose content is known."""


class ProbeCache:
    """Footage of videos by their URI, content and segment. Use as a context manager; by one thread at a time."""

    def __init__(self, recipe: ClipRecipe) -> None:
        self._file = cache_folder() / "probed" / f"{_digest(recipe)}.sqlite"
        self._connection: sqlite3.Connection | None = None
        with suppress(OSError, sqlite3.Error):
            private_folder(self._file.parent)
            _delete_unused(self._file.parent)
            open_private(self._file, os.O_WRONLY | os.O_CREAT).close()
            os.utime(self._file)
            self._connection = sqlite3.connect(self._file, timeout=_WAIT_SECONDS, check_same_thread=False)
        self._execute("CREATE TABLE IF NOT EXISTS probed (key BLOB PRIMARY KEY, found TEXT NOT NULL) WITHOUT ROWID")

    def get(self, rows: Sequence[Row]) -> list[VideoInfo | None]:
        """What is known of each row; None where nothing is."""
        keys = [_key(row) for row in rows]
        texts: dict[bytes, str] = {}
        for start in range(0, len(keys), _AT_ONCE):
            some = keys[start : start + _AT_ONCE]
            marks = ",".join("?" * len(some))
            texts.update(self._execute(f"SELECT key, found FROM probed WHERE key IN ({marks})", some))  # noqa: S608  # marks only
        return [_parsed(texts[key]) if key in texts else None for key in keys]

    def put(self, rows: Sequence[Row], found: Sequence[VideoInfo | VideoError]) -> None:
        """Keep what was found of each row. Errors are not kept, since another try may find none."""
        known = [
            (_key(row), one.model_dump_json(exclude_defaults=True))
            for row, one in zip(rows, found, strict=True)
            if isinstance(one, VideoInfo)
        ]
        if known and self._connection is not None:
            try:
                with self._connection:
                    self._connection.executemany("INSERT OR REPLACE INTO probed VALUES (?, ?)", known)
            except sqlite3.Error as error:
                self._give_up(error)

    def _execute(self, statement: str, values: Sequence[bytes] = ()) -> list[Any]:
        if self._connection is None:
            return []
        try:
            return self._connection.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            self._give_up(error)
            return []

    def _give_up(self, error: sqlite3.Error) -> None:
        """Do without the file from here on, and without a damaged one for good."""
        self.__exit__()
        if not isinstance(error, sqlite3.OperationalError):  # those are a full disk, or another process that writes for long
            self._file.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


_AT_ONCE = 500
"""Keys of one statement; old versions of SQLite take 999 values."""


def _digest(recipe: ClipRecipe) -> str:
    """Of all that decides what probing finds, other than the video."""
    return hashlib.sha256(canonical_json([recipe.model_dump(mode="json"), version("p4d-cache")])).hexdigest()[:32]


def _key(row: Row) -> bytes:
    text = "\n".join(str(row[name]) for name in ("uri", "content_digest", "segment_start", "segment_end"))
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _parsed(text: str) -> VideoInfo | None:
    try:
        return VideoInfo.model_validate_json(text)
    except ValidationError:
        return None


def _delete_unused(folder: Path) -> None:
    for file in folder.glob("*.sqlite"):
        if time.time() - file.stat().st_mtime > _UNUSED_SECONDS:
            file.unlink(missing_ok=True)
