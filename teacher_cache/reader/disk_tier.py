"""A bounded local disk cache in front of a store, shared by all processes of a machine: key in, bytes out, fetched once.

One file per key: the bytes, then the crc32c of key and bytes, so that one in another's place is noticed. A file's modification
time is its last use. Every change to the folder is made under one file lock, so the bound holds across processes; reads take no
lock. Files are this user's alone, and no others are read.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import google_crc32c

from schemas.errors import BadInput
from teacher_cache.io.lock import exclusive
from teacher_cache.io.private import NotPrivate, open_private, private_folder, require_private

_TOTAL, _LOCK, _DRAFT = "total", "lock", "draft"
# Share of the bound that eviction leaves in use. Eviction stats every file, so it frees room for many chunks at once.
_KEPT = 0.9
_CHECKSUM_BYTES = 4
_LONGEST_TOTAL = 32


class DiskTier:
    """At most ``max_bytes`` of chunks in ``folder``, evicting the least recently used first: the ``disk`` of `open_cache`.

    Any number of tiers, in threads and processes, may share a folder. Picklable. A tier never makes a read fail: a damaged
    file is fetched again, and if the disk is full or not writable, the tier warns once and stops writing.

    Raises `BadInput` for a ``max_bytes`` below 1, and for a folder that somebody else owns or may write to, or that is a link:
    whoever can write there could give others' targets to this training.
    """

    def __init__(self, folder: str | Path, max_bytes: int) -> None:
        if max_bytes < 1:
            raise BadInput(f"a disk tier of {max_bytes} bytes holds nothing; leave it out, or give it room for several clips")
        try:
            require_private(Path(folder))
        except NotPrivate as error:
            raise BadInput(
                f"the folder of the disk tier is not this user's alone: {error}. Give it one that is, such as a new folder, or "
                "take others' rights from it (chmod go-w)."
            ) from None
        except OSError:
            pass  # it is made when there is something to keep; where it cannot be, a warning says so
        self.folder, self.max_bytes = Path(folder), max_bytes
        self._writable = True
        self._fetching: dict[str, Future[bytes]] = {}
        self._guard = threading.Lock()

    def __reduce__(self) -> tuple[type[DiskTier], tuple[Path, int]]:
        return DiskTier, (self.folder, self.max_bytes)

    def get(self, key: str, fetch: Callable[[], bytes]) -> bytes:
        """The key's bytes, from disk or else from ``fetch``, whose result is kept. Raises what ``fetch`` raises.

        Equal keys must mean equal bytes forever, so a key must identify its object's content. Threads of this process that
        ask for a key while it is being fetched wait for that fetch.
        """
        path = self._path(key)
        if (kept := _read(path, key)) is not None:
            return kept
        with self._guard:
            underway = self._fetching.get(key)
            if underway is None:
                mine = self._fetching[key] = Future[bytes]()
        if underway is not None:
            return underway.result()
        try:
            data = _read(path, key)  # another thread may have finished its fetch since
            if data is None:
                data = fetch()
                self._keep(path, key, data)
        except BaseException as error:
            mine.set_exception(error)
            raise
        else:
            mine.set_result(data)
            return data
        finally:
            with self._guard:
                del self._fetching[key]

    def _path(self, key: str) -> Path:
        name = hashlib.sha256(key.encode()).hexdigest()
        return self.folder / name[:2] / name

    def _keep(self, path: Path, key: str, data: bytes) -> None:
        length = len(data) + _CHECKSUM_BYTES
        if not self._writable or length > self.max_bytes:
            return
        try:
            private_folder(self.folder)
            private_folder(path.parent)
            with exclusive(self.folder / _LOCK):
                total = self._total()
                if total is None or total + length > self.max_bytes:
                    total = self._evict(min(int(self.max_bytes * _KEPT), self.max_bytes - length))
                # Counted before it is written: a process killed in between leaves a count that is too high, never too low.
                self._set_total(total + length)
                with self._draft() as draft:
                    with open_private(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as file:
                        file.writelines((data, _checksum(key, data)))
                    _touch(draft)
                    draft.replace(path)
        except OSError as error:
            self._writable = False
            warnings.warn(
                f"the disk tier {self.folder} cannot be written ({error.strerror or error}), so clips that it does not hold "
                "are fetched from the store each time; give it a writable folder on a disk with room, or a smaller max_bytes",
                RuntimeWarning,
                stacklevel=2,
            )

    @contextlib.contextmanager
    def _draft(self) -> Iterator[Path]:
        """A temporary file, removed afterwards. One fixed name is enough, since it is written under the lock."""
        draft = self.folder / _DRAFT
        draft.unlink(missing_ok=True)  # of a process that was killed
        try:
            yield draft
        finally:
            draft.unlink(missing_ok=True)

    def _total(self) -> int | None:
        """Bytes of all files, as last counted; None if unknown."""
        try:
            with open_private(self.folder / _TOTAL) as file:
                total = int(file.read(_LONGEST_TOTAL))
        except (FileNotFoundError, ValueError):
            return None
        return total if total >= 0 else None

    def _set_total(self, total: int) -> None:
        with open_private(self.folder / _TOTAL, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as file:
            file.write(str(total).encode())

    def _evict(self, bound: int) -> int:
        """Remove the least recently used files until at most ``bound`` bytes are left. Returns the bytes left."""
        files = sorted(self._files(), key=lambda found: found[1].st_mtime_ns)
        total = sum(status.st_size for _, status in files)
        for path, status in files:
            if total <= bound:
                break
            path.unlink(missing_ok=True)
            total -= status.st_size
        return total

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        for folder in self.folder.iterdir():
            if len(folder.name) == 2 and folder.is_dir() and not folder.is_symlink():
                with os.scandir(folder) as entries:
                    yield from ((Path(entry.path), entry.stat(follow_symlinks=False)) for entry in entries)


def _checksum(key: str, data: bytes) -> bytes:
    return int(google_crc32c.extend(google_crc32c.value(key.encode()), data)).to_bytes(_CHECKSUM_BYTES, "little")


def _read(path: Path, key: str) -> bytes | None:
    """A file's bytes, marking it as used now; None if it is missing or damaged, another key's or not this user's alone."""
    try:
        with open_private(path) as file:
            length = os.fstat(file.fileno()).st_size - _CHECKSUM_BYTES
            data = file.read(max(0, length))
            if length < 0 or file.read(_CHECKSUM_BYTES + 1) != _checksum(key, data):
                return None
    except OSError:
        return None
    with contextlib.suppress(OSError):  # a read-only tier still serves what it holds
        _touch(path)
    return data


def _touch(path: Path) -> None:
    now = time.time_ns()  # the kernel's own timestamps have a resolution of several milliseconds
    os.utime(path, ns=(now, now))
