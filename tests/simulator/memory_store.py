"""Keys and bytes in; what a strongly consistent object store would answer out, by a clock of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from teacher_cache.io.backend import Found


def mark_of(*parts: object) -> int:
    """For parts that ``repr`` tells apart. Python hashes text well; sums and xors of its hashes of tuples collide often."""
    return hash(repr(parts))


_BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)


class Clock:
    """The server's time: a microsecond later with each change, and seconds or hours later when they are said to pass."""

    def __init__(self) -> None:
        self.passed = 0.0
        """Seconds that were said to pass."""
        self.changes = 0

    def now(self) -> datetime:
        return _BEGINNING + timedelta(seconds=self.passed, microseconds=self.changes)

    def seconds(self) -> float:
        """Seconds since 1970, changes left out: the same for an actor whatever the others did meanwhile."""
        return _BEGINNING.timestamp() + self.passed


@dataclass(frozen=True, slots=True)
class _Stored:
    data: bytes
    modified: datetime
    mark: int
    """Of key, bytes and time without the microseconds that count changes."""


class MemoryStore:
    """An object store in memory, with the methods of `teacher_cache.io.backend.Backend`."""

    is_local = False
    sequential = True
    """`Objects` fetches one after the other: the threads of a pool would come in an order that nothing decides."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.mark = 0
        """Of all that is stored, whatever the order of the changes that led to it."""
        self._objects: dict[str, _Stored] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._objects

    def get(self, key: str, most: int = 2**40) -> bytes:
        return self._stored(key).data[: most + 1]

    def get_range(self, key: str, start: int, stop: int) -> memoryview:
        return memoryview(self._stored(key).data)[start:stop]

    def create(self, key: str, data: bytes) -> bool:
        if key in self._objects:
            return False
        self._put(key, data)
        return True

    def replace(self, key: str, data: bytes) -> None:
        self._put(key, data)

    def list(self, prefix: str) -> Sequence[Found]:
        found = sorted((key, stored) for key, stored in self._objects.items() if key.startswith(prefix))
        return [Found(key, len(stored.data), stored.modified) for key, stored in found]

    def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._change(key, None)

    def modified(self, key: str) -> datetime:
        return self._stored(key).modified

    def _stored(self, key: str) -> _Stored:
        try:
            return self._objects[key]
        except KeyError:
            raise FileNotFoundError(key) from None

    def _put(self, key: str, data: bytes) -> None:
        data = bytes(data)
        self._change(key, _Stored(data, self.clock.now(), mark_of(key, hash(data), self.clock.passed)))

    def _change(self, key: str, stored: _Stored | None) -> None:
        self.clock.changes += 1
        before = self._objects.pop(key, None)
        self.mark ^= (before.mark if before else 0) ^ (stored.mark if stored else 0)
        if stored:
            self._objects[key] = stored
