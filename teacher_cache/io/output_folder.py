"""A folder and settings in; a folder reserved for results of those settings out. Also atomic file writes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import TypeAdapter, ValidationError

from schemas.errors import BadInput

_FILE = "settings.json"
_LONGEST_NAME = 200
_Settings = TypeAdapter(dict[str, Any])


def claim_folder(folder: Path, settings: Mapping[str, Any]) -> None:
    """Reserve ``folder`` for results of ``settings`` (JSON types), or check that it is reserved for them already.

    Raises `BadInput` if it was made with other settings, naming those that differ, or cannot be written.
    """
    file = folder / _FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = _Settings.validate_json(file.read_bytes()) if file.exists() else settings
        if held == settings:
            write_json(file, settings)
    except OSError as error:
        raise BadInput(f"cannot use {folder}: {error.strerror}; give another folder") from None
    except ValidationError:
        raise BadInput(f"cannot use {folder}: {file} is damaged; give another folder") from None
    if differing := sorted(name for name in held.keys() | settings.keys() if held.get(name) != settings.get(name)):
        pairs = ", ".join(f"{name} {held.get(name)!r}, not {settings.get(name)!r}" for name in differing)
        raise BadInput(f"{folder} was made with {pairs} ({file}); give another folder")


def require_writable(path: Path) -> None:
    """Make the file's folder, and raise `BadInput` if the file cannot be written: to be told before the work, not after it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        probe = path.with_name(f".{path.name}.part")
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror}; give another --out") from None


def file_name(name: str, suffix: str) -> str:
    """A file's name for any text, such as a clip's id: letters, digits, ``_.-~`` as they are, the rest as in URLs.

    Different texts have different names, and none is longer than file systems allow.
    """
    written = quote(name, safe="", errors="surrogatepass") or "%"
    if written.startswith("."):  # a hidden file, or a folder
        written = f"%2E{written[1:]}"
    if len(written) > _LONGEST_NAME:
        written = f"{written[: _LONGEST_NAME - 33]}-{hashlib.sha256(written.encode()).hexdigest()[:32]}"
    return f"{written}{suffix}"


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically."""
    with written_whole(path) as unfinished:
        unfinished.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` to write to: it replaces ``path`` if the block ends well, and is removed otherwise."""
    unfinished = path.with_name(f".{path.name}.part")
    try:
        yield unfinished
        unfinished.replace(path)
    except BaseException:
        with suppress(OSError):  # the block's error is the one to tell
            unfinished.unlink(missing_ok=True)
        raise
