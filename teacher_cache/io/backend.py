"""A place's objects, as a protocol: keys in, bytes out. Each kind of place has one implementation: a disk, a bucket."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

import numpy as np


class Found(NamedTuple):
    """An object in a listing."""

    key: str
    length: int
    """In bytes."""
    modified: datetime
    """When the server last wrote it, by the server's clock."""


class Backend(Protocol):
    """The objects of one place. Keys are relative to its root. Safe in threads.

    Each call is one attempt. Raises `FileNotFoundError` if there is no object, `PermissionError` if access is refused,
    `teacher_cache.io.patience.NotNow` if the failure is transient, and other `OSError` if it is not.
    """

    is_local: bool
    """Whether the objects are files on a local or mounted disk."""
    sequential: bool
    """Whether to send one request after the other, and not several at once."""

    def get(self, key: str, most: int) -> bytes:
        """All bytes of an object; the first ``most`` + 1 of a longer one, without fetching or holding the rest."""

    def get_range(self, key: str, start: int, stop: int) -> memoryview:
        """Bytes [start, stop), fewer if the object ends earlier. The memory is valid until the thread's next `get_range`."""

    def create(self, key: str, data: bytes) -> bool:
        """Create an object, atomically and durably. False if one exists."""

    def replace(self, key: str, data: bytes) -> None:
        """Create or overwrite an object."""

    def list(self, prefix: str) -> Iterable[Found]:
        """The objects whose keys begin with ``prefix``, in any order."""

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects. Those that do not exist are no error."""

    def modified(self, key: str) -> datetime:
        """When the object was last written, by the server's clock."""


class Scratch(threading.local):
    """One growing buffer per thread: the kernel need not zero reused memory for every read."""

    def __init__(self) -> None:
        self._memory = memoryview(bytearray())

    def take(self, length: int) -> memoryview:
        """Memory of that length, with anything in it, valid until the thread's next call."""
        if len(self._memory) < length:
            self._memory = np.empty(length, np.uint8).data  # unlike bytearray: not zeroed, and in huge pages
        return self._memory[:length]
