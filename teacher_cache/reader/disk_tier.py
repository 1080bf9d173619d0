"""A bounded local disk cache in front of stores, shared by all processes of a machine: key in, bytes out, fetched once.

What comes first is kept. Shuffled epochs ask for everything once each, in another order, so whatever is evicted is as likely to
be asked for again as what takes its place: a tier of half a store hits half of the time and writes nothing after the first
epoch, where one that evicts the least recently used hits an eighth and rewrites most of itself. Only stores that nobody has
read for an hour make room for others.

One folder for each store, one file per key: the bytes, then the crc32c of key and bytes, so that one in another's place is
noticed. Room is taken under one file lock; files are written, and read, without it. Files are this user's alone, and no others
are read.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import BinaryIO, NamedTuple

import google_crc32c

from schemas.errors import BadInput
from teacher_cache.io.lock import exclusive
from teacher_cache.io.private import NotPrivate, open_private, private_folder, require_private

_TOTAL, _LOCK, _DRAFTS, _USED = "total", "lock", "drafts", "used"
_CHECKSUM_BYTES = 4
_LONGEST_TOTAL = 32
_IDLE_SECONDS = 3600.0
"""A store that was not read for so long makes room for others."""
_MARKED_EVERY_SECONDS = 600.0
"""How often its reading is marked."""
_FULL_SECONDS = 60.0
"""How long a full tier is not asked for room again."""


class DiskTier:
    """At most ``max_bytes`` of chunks in ``folder``, those that came first: the ``disk`` of `open_cache`.

    Any number of tiers, in threads and processes, may share a folder, for one store or several. Picklable. A tier never makes a
    read fail: a damaged file is fetched again, and if the disk is full or not writable, the tier warns once and stops writing.

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
        self._full_until = 0.0
        self._is_counted = False
        self._marked: dict[Path, float] = {}
        """Store's folder → when this tier last marked it as read."""
        self._fetching: dict[tuple[str, str], Future[bytes]] = {}
        self._guard = threading.Lock()

    def __reduce__(self) -> tuple[type[DiskTier], tuple[Path, int]]:
        return DiskTier, (self.folder, self.max_bytes)

    def get(self, store: str, key: str, fetch: Callable[[], bytes]) -> bytes:
        """The bytes of a store's key, from disk or else from ``fetch``, which may be kept. Raises what ``fetch`` raises.

        Equal stores and keys must mean equal bytes forever, so a key must identify its object's content. Threads of this
        process that ask for a key while it is being fetched wait for that fetch.
        """
        home, path = self._places(store, key)
        if (kept := _read(path, key)) is not None:
            self._mark(home)
            return kept
        with self._guard:
            underway = self._fetching.get((store, key))
            if underway is None:
                mine = self._fetching[store, key] = Future[bytes]()
        if underway is not None:
            return underway.result()
        try:
            data = _read(path, key)  # another thread may have finished its fetch since
            if data is None:
                data = fetch()
                self._keep(home, path, key, data)
        except BaseException as error:
            mine.set_exception(error)
            raise
        else:
            mine.set_result(data)
            return data
        finally:
            with self._guard:
                del self._fetching[store, key]

    def _places(self, store: str, key: str) -> tuple[Path, Path]:
        """The folder of the store, and the file of its key."""
        name = hashlib.sha256(key.encode()).hexdigest()
        home = self.folder / f"store-{hashlib.sha256(store.encode()).hexdigest()[:16]}"
        return home, home / name[:2] / name

    def _keep(self, home: Path, path: Path, key: str, data: bytes) -> None:
        length = len(data) + _CHECKSUM_BYTES
        if not self._writable or length > self.max_bytes or time.monotonic() < self._full_until:
            return
        try:
            for folder in (self.folder, self.folder / _DRAFTS, home, path.parent):
                private_folder(folder)
            self._mark(home)
            with self._draft(home, path, length) as draft:
                if draft is None:
                    self._full_until = time.monotonic() + _FULL_SECONDS
                    return
                draft.file.writelines((data, _checksum(key, data)))
                draft.file.flush()
                try:
                    os.link(draft.path, path)  # unlike a rename, fails when another process was first
                except FileExistsError:
                    self._give_back(length)
        except OSError as error:
            self._writable = False
            warnings.warn(
                f"the disk tier {self.folder} cannot be written ({error.strerror or error}), so clips that it does not hold "
                "are fetched from the store each time; give it a writable folder on a disk with room, or a smaller max_bytes",
                RuntimeWarning,
                stacklevel=2,
            )

    @contextlib.contextmanager
    def _draft(self, home: Path, path: Path, length: int) -> Iterator[_Draft | None]:
        """A file to write, for which room was taken, and which is gone afterwards; None where there is no room.

        It has its length, and a lock of its writer's, from the beginning: so whoever counts files counts it, and knows whether
        somebody still writes it.
        """
        draft = None
        name = self.folder / _DRAFTS / uuid.uuid4().hex
        try:
            with exclusive(self.folder / _LOCK):
                if self._take(home, path, length):
                    draft = _Draft(open_private(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL), name)
                    fcntl.flock(draft.file, fcntl.LOCK_EX)
                    os.ftruncate(draft.file.fileno(), length)
            yield draft
        finally:
            if draft is not None:
                draft.path.unlink(missing_ok=True)
                draft.file.close()

    def _take(self, home: Path, path: Path, length: int) -> bool:
        """Take room for a file, if there is or can be made some. Under the lock."""
        with contextlib.suppress(FileNotFoundError):  # of a damaged file, in whose place it will lie
            size = path.lstat().st_size
            path.unlink()
            if (known := self._total()) is not None:
                self._set_total(max(0, known - size))
        total = self._total()
        if total is None or total + length > self.max_bytes:
            idle = [each for each in self.folder.glob("store-*") if each != home and _is_idle(each)]
            if total is None or idle or not self._is_counted:  # to count takes a look at every file
                total = self._make_room(home, idle, self.max_bytes - length)
                self._is_counted = True
        is_room = total + length <= self.max_bytes
        # Counted before it is written: a process killed in between leaves a count that is too high, never too low.
        self._set_total(total + length if is_room else total)
        return is_room

    def _make_room(self, home: Path, idle: Iterable[Path], bound: int) -> int:
        """Count all files, and remove idle stores, the longest idle first, until there are ``bound`` bytes. The bytes left."""
        homes = {each: sum(about.st_size for _, about in _files(each)) for each in self.folder.glob("store-*")}
        total = sum(homes.values()) + sum(_living(self.folder / _DRAFTS))
        for each in sorted(idle, key=_last_read):
            if total > bound:
                shutil.rmtree(each)
                total -= homes[each]
        if total > self.max_bytes:  # which was more before: what came last goes
            for path, about in sorted(_files(home), key=lambda file: -file[1].st_mtime_ns):
                if total > self.max_bytes:
                    path.unlink(missing_ok=True)
                    total -= about.st_size
        return total

    def _give_back(self, length: int) -> None:
        with exclusive(self.folder / _LOCK):
            total = self._total()
            if total is not None:
                self._set_total(max(0, total - length))

    def _mark(self, home: Path) -> None:
        """Note that the store is being read."""
        now = time.monotonic()
        if now - self._marked.get(home, -_MARKED_EVERY_SECONDS) < _MARKED_EVERY_SECONDS:
            return
        self._marked[home] = now
        with contextlib.suppress(OSError):  # a read-only tier still serves what it holds
            open_private(home / _USED, os.O_WRONLY | os.O_CREAT).close()
            os.utime(home / _USED)

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


class _Draft(NamedTuple):
    file: BinaryIO
    path: Path


def _files(home: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """A store's chunks."""
    for folder in home.iterdir():
        if len(folder.name) == 2 and folder.is_dir() and not folder.is_symlink():
            with os.scandir(folder) as entries:
                yield from ((Path(entry.path), entry.stat(follow_symlinks=False)) for entry in entries)


def _living(drafts: Path) -> Iterator[int]:
    """Lengths of the drafts that somebody writes. Those of killed processes are removed."""
    for path in drafts.iterdir():
        with contextlib.suppress(FileNotFoundError), open_private(path) as draft:
            try:
                fcntl.flock(draft, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            except BlockingIOError:
                yield os.fstat(draft.fileno()).st_size


def _is_idle(home: Path) -> bool:
    return time.time() - _last_read(home) > _IDLE_SECONDS


def _last_read(home: Path) -> float:
    try:
        return (home / _USED).lstat().st_mtime
    except FileNotFoundError:
        return 0.0


def _checksum(key: str, data: bytes) -> bytes:
    return int(google_crc32c.extend(google_crc32c.value(key.encode()), data)).to_bytes(_CHECKSUM_BYTES, "little")


def _read(path: Path, key: str) -> bytes | None:
    """A file's bytes; None if it is missing or damaged, another key's or not this user's alone."""
    try:
        with open_private(path) as file:
            length = os.fstat(file.fileno()).st_size - _CHECKSUM_BYTES
            data = file.read(max(0, length))
            if length < 0 or file.read(_CHECKSUM_BYTES + 1) != _checksum(key, data):
                return None
    except OSError:
        return None
    return data
