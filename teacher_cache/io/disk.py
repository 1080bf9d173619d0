"""A folder in; its files as objects out: created by an exclusive hard link, synced to the disk, read with `preadv`."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from schemas.errors import BadInput
from teacher_cache.io.backend import Found, Scratch

_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]+\.tmp")


class Disk:
    """The files under a folder. A created one survives a loss of power: the file and its folder entries are synced."""

    is_local = True
    sequential = False

    def __init__(self, root: str) -> None:
        self.root = Path(root)
        self._real_root = self.root.resolve()
        self._scratch = Scratch()
        self._synced: set[Path] = set()
        """Folders whose entries in their parents are on the disk."""

    def _path(self, key: str) -> Path:
        path = self.root / key
        # Part of the path may be a symbolic link that leads out of the root.
        if not path.resolve().is_relative_to(self._real_root):
            raise BadInput(f"the key {key!r} leads out of the store {self.root}")
        return path

    def get(self, key: str, most: int) -> bytes:
        with self._path(key).open("rb") as file:
            return file.read(min(os.fstat(file.fileno()).st_size, most + 1))

    def get_range(self, key: str, start: int, stop: int) -> memoryview:
        file = os.open(self._path(key), os.O_RDONLY)
        try:
            buffer = self._scratch.take(stop - start)
            filled = 0
            while read := os.preadv(file, [buffer[filled:]], start + filled):
                filled += read
            return buffer[:filled]
        finally:
            os.close(file)

    def create(self, key: str, data: bytes) -> bool:
        path = self._path(key)
        is_new = False
        while not (is_new or path.exists()):  # the link decides; this only avoids a useless write
            # Unlike a rename, a link fails when the name is taken.
            with self._written(path, data) as temporary, contextlib.suppress(FileExistsError):
                is_new = _done(lambda: os.link(temporary, path))
        _sync_folder(path.parent)  # also for an object of another process, which may not have come to it yet
        return is_new

    def replace(self, key: str, data: bytes) -> None:
        path, is_done = self._path(key), False
        while not is_done:
            with self._written(path, data) as temporary:
                is_done = _done(lambda: temporary.replace(path))
        _sync_folder(path.parent)

    @contextlib.contextmanager
    def _written(self, path: Path, data: bytes) -> Iterator[Path]:
        """A synced temporary file beside ``path``, which is removed if it is still there at the end."""
        self._make_folder(path.parent)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    def _make_folder(self, folder: Path) -> None:
        if folder in self._synced and folder.is_dir():
            return
        folder.mkdir(parents=True, exist_ok=True)
        for made in (folder, *folder.parents):
            _sync_folder(made.parent)
            if made == self.root:
                break
        self._synced.add(folder)

    def list(self, prefix: str) -> Iterator[Found]:
        """As the protocol says; a link to a folder is not followed."""
        for folder, _, names in os.walk(self._path(prefix.rpartition("/")[0]), onerror=_unless_missing):
            for name in names:
                path = Path(folder) / name
                key = path.relative_to(self.root).as_posix()
                if key.startswith(prefix):
                    with contextlib.suppress(FileNotFoundError):  # a writer's temporary file, removed meanwhile
                        about = path.lstat()
                        yield Found(key, about.st_size, datetime.fromtimestamp(about.st_mtime, UTC))

    def delete(self, keys: Sequence[str]) -> None:
        for path in [self._path(key) for key in keys]:  # none is deleted if one of them leads out of the root
            path.unlink(missing_ok=True)

    def modified(self, key: str) -> datetime:
        return datetime.fromtimestamp(self._path(key).stat().st_mtime, UTC)


def final_name(name: str) -> str:
    """The name that a file comes to have: that which a temporary one is written for; else its own."""
    found = _TEMPORARY.fullmatch(name)
    return name if found is None else found[1]


def _done(move: Callable[[], object]) -> bool:
    """Whether a temporary file came to its place. If not, somebody took it for one that a killed writer left."""
    try:
        move()
    except FileNotFoundError:
        return False
    return True


def _unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _sync_folder(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems have nothing to sync there
            raise
    finally:
        os.close(file)
