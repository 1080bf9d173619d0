"""A path or URL of weights in, a file on this node's disk out: fetched or made once, whoever asks first, and checked.

The folder is ``$P4D_CACHE_DIR``, or ``p4d-cache`` in the user's cache folder. It may be deleted whenever nothing runs.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from schemas.errors import BadInput, CouldNotRun
from teacher_cache.io.lock import exclusive
from teacher_cache.io.patience import Patience
from teacher_cache.io.remote import filesystem, reach, reachable
from teacher_cache.teachers.heads.tensors import file_digest

FOLDER_VARIABLE = "P4D_CACHE_DIR"
_VERSION_FIELDS = ("size", "ETag", "LastModified", "mtime", "created", "updated", "md5Hash", "content_md5")
"""What file systems tell of a file that changes when its content does."""


def cache_folder() -> Path:
    """Where this node keeps what it fetched and converted."""
    if chosen := os.environ.get(FOLDER_VARIABLE):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "p4d-cache"


def is_remote(weights: str) -> bool:
    return "://" in weights and not weights.startswith("file://")


def fetched(weights: str) -> Path:
    """The file itself if it lies on this machine, or this node's copy of it.

    The first process to ask fetches it; the others wait. A copy that is damaged, or that is of an earlier version as far as
    the URL's server tells, is fetched again. Raises BadInput where there is no such file, Unreachable where its server does
    not answer.
    """
    if not is_remote(weights):
        return Path(weights.removeprefix("file://")).expanduser()
    fs, path, info = _look(weights)
    version = [f"{name}={info[name]}" for name in _VERSION_FIELDS if name in info]

    def fetch(part: Path) -> None:
        reach(weights, lambda: fs.get_file(path, str(part)))
        found, needed = part.stat().st_size, info.get("size")
        if needed is not None and found != needed:
            raise CouldNotRun(f"{weights} has {needed:,} bytes, and {found:,} of them came. Run the job again.")

    return made_once("weights", [weights, *version], Path(path).suffix, fetch)


def made_once(kind: str, key: list[str], suffix: str, make: Callable[[Path], None]) -> Path:
    """The file of this node's cache under ``key``; ``make`` writes it where it is not there, or not as it was written.

    One process makes it while the others that want it wait. It appears whole or not at all. Raises CouldNotRun where
    the cache cannot be written.
    """
    name = hashlib.sha256("\n".join(key).encode()).hexdigest()[:32]
    file = cache_folder() / kind / f"{name}{suffix}"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if not _whole(file):  # workers that find it whole do not wait for each other
            with exclusive(file.with_name(f"{file.name}.lock")):
                if not _whole(file):
                    _make(file, make)
    except OSError as error:
        raise CouldNotRun(
            f"cannot keep the teacher's weights in {file.parent}: {error.strerror or error}. "
            f"Free some space there, or name another folder in {FOLDER_VARIABLE}."
        ) from error
    return file


def digest_of_unchanged(path: Path) -> str:
    """The file's digest, computed once in a process for a file whose size and time stay as they are."""
    about = path.stat()
    return _cached_digest(path, about.st_size, about.st_mtime_ns)


@cache
def _cached_digest(path: Path, _size: int, _mtime_ns: int) -> str:
    return file_digest(path)


def _look(weights: str) -> tuple[Any, str, dict[str, Any]]:
    fs, path = filesystem(weights)
    with reachable(weights):
        try:
            return fs, path, dict(Patience(weights).ask(lambda: fs.info(path)))
        except FileNotFoundError as error:  # over HTTP also where no server answers: the cause tells
            why = f" ({error.__cause__})" if error.__cause__ else ""
            raise BadInput(f"there are no weights at {weights}{why}. Give the path or URL of a file.") from None


def _record(file: Path) -> Path:
    return file.with_name(f"{file.name}.digest")


def _whole(file: Path) -> bool:
    try:
        return _record(file).read_text() == digest_of_unchanged(file)
    except FileNotFoundError:
        return False


def _make(file: Path, make: Callable[[Path], None]) -> None:
    part = file.with_name(f"{file.name}.part")  # one name: what a killed process left is written over
    part.unlink(missing_ok=True)
    make(part)
    with part.open("rb") as stream:
        os.fsync(stream.fileno())
    digest = file_digest(part)
    _record(file).unlink(missing_ok=True)
    part.replace(file)
    record_part = file.with_name(f"{file.name}.digest.part")
    record_part.write_text(digest)
    record_part.replace(_record(file))
