"""A path or URL of weights in, a checked file on this node's disk out: fetched or made once, by the first process that asks.

It is used only if it is this user's alone: a digest beside a file says that it is whole, not whose it is.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from schemas.errors import BadInput, CouldNotRun
from teacher_cache.io.cache_folder import FOLDER_VARIABLE, cache_folder
from teacher_cache.io.lock import exclusive
from teacher_cache.io.places import local_path
from teacher_cache.io.private import NotPrivate, open_private, private_folder
from teacher_cache.io.remote import filesystem, reach, reach_if_there
from teacher_cache.teachers.heads.tensors import file_digest

_VERSION_FIELDS = ("size", "ETag", "LastModified", "mtime", "created", "updated", "md5Hash", "content_md5")
"""Fields of fsspec's file information that change when the content does."""


def fetched(weights: str) -> Path:
    """The path of a local file, or of this node's copy of a remote one.

    The first process to ask fetches it; the others wait. A damaged copy, or one that the server's information shows to be
    outdated, is fetched again. Raises `BadInput` if there is no such file, `Unreachable` if its server does not answer,
    `CouldNotRun` if the copy is incomplete or cannot be kept.
    """
    if (local := local_path(weights)) is not None:
        return local.expanduser()
    fs, path, info = _look(weights)
    version = [f"{name}={info[name]}" for name in _VERSION_FIELDS if name in info]

    def fetch(part: Path) -> None:
        reach(weights, lambda: fs.get_file(path, str(part)))
        found, needed = part.stat().st_size, info.get("size")
        if needed is not None and found != needed:
            raise CouldNotRun(f"{weights} has {needed:,} bytes, but only {found:,} arrived. Run the job again.")

    return made_once("weights", [weights, *version], Path(path).suffix, fetch)


def made_once(kind: str, key: list[str], suffix: str, make: Callable[[Path], None]) -> Path:
    """The file under ``key`` in this node's cache. If it is missing or damaged, ``make`` writes it, to the path it is given.

    One process makes it while others wait. It appears atomically. Raises `CouldNotRun` if the cache cannot be written.
    """
    name = hashlib.sha256("\n".join(key).encode()).hexdigest()[:32]
    file = cache_folder() / kind / f"{name}{suffix}"
    try:
        private_folder(file.parent)
        if not _whole(file):  # no lock is needed if it is intact
            with exclusive(file.with_name(f"{file.name}.lock")):
                if not _whole(file):
                    _make(file, make)
    except NotPrivate as error:
        raise CouldNotRun(
            f"cannot keep the teacher's weights in {file.parent}: {error}, and whoever can write there could give every worker "
            f"other weights. Remove it or make it yours alone (chmod go-w), or name another folder in {FOLDER_VARIABLE}."
        ) from None
    except OSError as error:
        raise CouldNotRun(
            f"cannot keep the teacher's weights in {file.parent}: {error.strerror or error}. "
            f"Free some space there, or name another folder in {FOLDER_VARIABLE}."
        ) from error
    return file


def digest_of_unchanged(path: Path) -> str:
    """The file's digest, computed once per process while its size and modification time stay the same."""
    about = path.stat()
    return _cached_digest(path, about.st_size, about.st_mtime_ns)


@cache
def _cached_digest(path: Path, _size: int, _mtime_ns: int) -> str:
    return file_digest(path)


def _look(weights: str) -> tuple[Any, str, dict[str, Any]]:
    fs, path = filesystem(weights)
    info = reach_if_there(weights, lambda: dict(fs.info(path)))
    if info is None:
        raise BadInput(f"there are no weights at {weights}. Give the path or URL of a file.")
    return fs, path, info


_LONGEST_DIGEST = 100


def _record(file: Path) -> Path:
    return file.with_name(f"{file.name}.digest")


def _whole(file: Path) -> bool:
    try:
        with open_private(_record(file)) as record, open_private(file):
            return record.read(_LONGEST_DIGEST) == digest_of_unchanged(file).encode()
    except FileNotFoundError:
        return False


def _make(file: Path, make: Callable[[Path], None]) -> None:
    part = file.with_name(f"{file.name}.part")  # a fixed name, so that a killed process's file is overwritten
    part.unlink(missing_ok=True)
    make(part)
    part.chmod(0o600)
    with open_private(part) as stream:
        os.fsync(stream.fileno())
    digest = file_digest(part)
    _record(file).unlink(missing_ok=True)
    part.replace(file)
    record_part = file.with_name(f"{file.name}.digest.part")
    record_part.unlink(missing_ok=True)
    with open_private(record_part, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as stream:
        stream.write(digest.encode())
    record_part.replace(_record(file))
