"""Rows of stored arrays in; their values out, decoded straight into the caller's batch. One request per chunk.

A shard's index is at its end. It is read once and kept. If a shard is small, the same request reads its chunks too.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from schemas.errors import StoreDamaged
from teacher_cache.encodings.base import StoredArray
from teacher_cache.reader.buffers import BufferPool
from teacher_cache.reader.in_flight import InFlight
from teacher_cache.store.chunk import Buffer, Empty, clip_buffer, decode_chunk, split_checksum, view_chunk
from teacher_cache.store.layout import shard_key
from teacher_cache.store.objects import Objects
from teacher_cache.store.shard import has_chunk, index_length, read_index

# A shard with at most this many bytes of values is read whole, together with its index.
_SMALL_SHARD = 16 * 2**10
# Shard ends kept in memory: some hundred bytes each for large chunks, up to `_SMALL_SHARD` for small ones.
_KEPT_SHARDS = 16384

Values = np.ndarray[Any, Any]
Answer = TypeVar("Answer")
Other = TypeVar("Other")


class ChunkTier(Protocol):
    """A faster cache of chunks in front of the store, such as a local disk."""

    def get(self, store: str, key: str, fetch: Callable[[], bytes]) -> bytes:
        """The bytes kept under a store's ``key``, or else the result of ``fetch``, which the tier may keep."""


class CommittedShard(NamedTuple):
    """What the log says of a shard object."""

    length: int
    """Bytes."""
    store: str
    """The store, for the tier."""
    name: str
    """Prefix of the tier's keys for its parts: equal names in a store mean equal bytes."""


@dataclass(frozen=True)
class _ShardEnd:
    """A shard's index, and the end of the object that was read with it."""

    index: Values
    """uint64 (slot, (offset, length))."""
    present: Values
    """bool (slot,)."""
    offset: int
    """Position in the object at which ``data`` begins."""
    data: bytes


class ClipsToDecode(NamedTuple):
    """Rows of one signal to decode, and their destinations."""

    arrays: Sequence[StoredArray]
    """The arrays that store the signal."""
    rows: Sequence[int]
    outs: Sequence[Values]
    """One destination per row."""
    decode: Callable[[Mapping[str, Values], Values], object]
    """(stored array's name → a clip's values, destination). Called in several threads at once."""


class _Destination(NamedTuple):
    """A row's destination, and the function that fills it. Equal names and rows have equal values."""

    name: str
    row: int
    out: Values
    fill: Callable[[int, Values], None]


class Reading(Generic[Answer]):
    """A read under way. Whoever began it either waits for its `result`, or calls `cancel`."""

    def __init__(self, answer: Answer, fetches: Sequence[Future[None]], then: Callable[[], None]) -> None:
        """``then``: what is left to do once all is fetched."""
        self.answer, self._fetches, self._then = answer, fetches, then
        """``answer``'s memory is being filled."""

    def of(self, answer: Other) -> Reading[Other]:
        """The same read, with an answer made of this one's memory."""
        return Reading(answer, self._fetches, self._then)

    @staticmethod
    def together(readings: Sequence[Reading[Any]], answer: Other) -> Reading[Other]:
        """Several reads as one, with an answer made of their memory."""

        def then() -> None:
            for reading in readings:
                reading._then()  # noqa: SLF001  # of the same class

        return Reading(answer, [fetch for reading in readings for fetch in reading._fetches], then)  # noqa: SLF001

    def result(self) -> Answer:
        """The answer, when it is whole. Raises what a fetch raised, and begins no more of them."""
        try:
            for fetch in wait(self._fetches, return_when=FIRST_EXCEPTION).done:
                fetch.result()
        finally:
            self.cancel()
        self._then()
        return self.answer

    def cancel(self) -> None:
        """Begin none of the fetches that have not begun."""
        for fetch in self._fetches:
            fetch.cancel()


class ChunkReader:
    """Reads committed rows of a store's arrays. Since they are committed, a missing chunk means damage. Safe in threads."""

    def __init__(
        self,
        objects: Objects,
        clips_per_shard: int,
        committed: Callable[[StoredArray, int], CommittedShard],
        tier: ChunkTier | None = None,
        in_flight: int | None = None,
    ) -> None:
        """``committed`` looks up an array's shard, by number, in the log. ``in_flight``: see `InFlight`."""
        self._objects, self._clips_per_shard, self._committed, self._tier = objects, clips_per_shard, committed, tier
        self._ends: OrderedDict[str, Future[_ShardEnd]] = OrderedDict()
        self._lock = threading.Lock()
        self.buffers, self.in_flight = BufferPool(), InFlight(in_flight)

    def read(self, wanted: Iterable[tuple[StoredArray, Sequence[int]]]) -> dict[str, Values]:
        """Array's name → values of the wanted rows, in order: (row, *shape), in the array's dtype. The caller owns them.

        Raises `StoreDamaged` if a chunk is missing or fails its checksum, and `Unreachable`.
        """
        return self.begin(wanted).result()

    def read_each(self, wanted: Iterable[ClipsToDecode]) -> None:
        """Decode rows into the caller's arrays, each as soon as it has arrived. Raises what `read` raises."""
        self.begin_each(wanted, None).result()

    def begin(
        self, wanted: Iterable[tuple[StoredArray, Sequence[int]]], empty: Empty | None = None
    ) -> Reading[dict[str, Values]]:
        """`read`, begun. ``empty`` allocates the memory."""
        values: dict[str, Values] = {}
        destinations: list[_Destination] = []
        for array, rows in wanted:
            values[array.name] = clip_buffer(array, len(rows), empty or self.buffers.empty)
            fill = partial(self._read_chunk, array)
            destinations += [
                _Destination(array.name, row, out, fill) for row, out in zip(rows, values[array.name], strict=True)
            ]
        return self._fill(values, destinations)

    def begin_each(self, wanted: Iterable[ClipsToDecode], answer: Answer) -> Reading[Answer]:
        """`read_each`, begun: ``answer`` is of the memory that it fills."""
        return self._fill(
            answer,
            (
                _Destination(clips.arrays[0].name, row, out, partial(self._decode_clip, clips))
                for clips in wanted
                for row, out in zip(clips.rows, clips.outs, strict=True)
            ),
        )

    def _fill(self, answer: Answer, destinations: Iterable[_Destination]) -> Reading[Answer]:
        """Begin to fill every destination. Those with equal name and row share one request."""
        first: dict[tuple[str, int], _Destination] = {}
        repeats = [
            destination
            for destination in destinations
            if first.setdefault((destination.name, destination.row), destination) is not destination
        ]
        # Longest first, so that no long fetch is left running alone at the end.
        longest_first = sorted(first.values(), key=lambda destination: -destination.out.nbytes)
        fetches = [self.in_flight.submit(partial(one.fill, one.row, one.out)) for one in longest_first]

        def repeat() -> None:
            for destination in repeats:
                destination.out[...] = first[destination.name, destination.row].out

        return Reading(answer, fetches, repeat)

    def _read_chunk(self, array: StoredArray, row: int, out: Values) -> None:
        with self._damage_told(array, row):
            decode_chunk(self._chunk(array, row), array, out)

    def _decode_clip(self, clips: ClipsToDecode, row: int, out: Values) -> None:
        stored = {}
        for array in clips.arrays:
            with self._damage_told(array, row):
                chunk = self._chunk(array, row)
                # A chunk's memory is valid until this thread reads its next chunk, so only the last array may use it in place.
                values = view_chunk(chunk, array) if array is clips.arrays[-1] else None
                if values is None:
                    values = clip_buffer(array, 1, self.buffers.empty)[0]
                    decode_chunk(chunk, array, values)
                stored[array.name] = values
        clips.decode(stored, out)

    @contextmanager
    def _damage_told(self, array: StoredArray, row: int) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise self._damaged(array, row, "is committed, but its chunk is missing") from None
        except (ValueError, StoreDamaged) as error:
            raise self._damaged(array, row, f"cannot be read ({error})") from None

    def _damaged(self, array: StoredArray, row: int, what: str) -> StoreDamaged:
        return StoreDamaged(f"row {row} of {array.name} in {self._objects.url} {what}; `teacher-cache verify` lists all damage")

    def _chunk(self, array: StoredArray, row: int) -> Buffer:
        """The chunk's bytes with checksum, valid until this thread reads its next chunk. Raises `FileNotFoundError`."""
        shard, slot = divmod(row, self._clips_per_shard)
        key, committed = shard_key(array, shard), self._committed(array, shard)
        end = self._end(array, key, committed)
        if not end.present[slot]:
            raise FileNotFoundError(key)
        start, length = map(int, end.index[slot])
        if start >= end.offset:
            return memoryview(end.data)[start - end.offset : start - end.offset + length]
        if self._tier is None:
            return self._range(key, start, start + length)

        def fetch() -> bytes:
            data = self._range(key, start, start + length)
            if not split_checksum(data)[1]:  # checked before the tier keeps it
                raise StoreDamaged("the chunk fails its checksum")
            return bytes(data)

        return self._tier.get(committed.store, f"{committed.name}#{start}+{length}", fetch)

    def _range(self, key: str, start: int, stop: int) -> memoryview:
        data = self.in_flight.timed(lambda: self._objects.get_range(key, start, stop))
        if data is None:
            raise FileNotFoundError(key)
        return data

    def _end(self, array: StoredArray, key: str, committed: CommittedShard) -> _ShardEnd:
        """The shard's end. The first thread that asks reads it; the others wait."""
        with self._lock:
            known = self._ends.get(key)
            if known is not None:
                self._ends.move_to_end(key)
            else:
                mine: Future[_ShardEnd] = Future()
                self._ends[key] = mine
                if len(self._ends) > _KEPT_SHARDS:
                    self._ends.popitem(last=False)
        if known is not None:
            return known.result()
        try:
            mine.set_result(self._read_end(array, key, committed))
        except BaseException as error:
            with self._lock:
                self._ends.pop(key, None)  # a later read may find it repaired, or the server reachable again
            mine.set_exception(error)
            raise
        return mine.result()

    def _read_end(self, array: StoredArray, key: str, committed: CommittedShard) -> _ShardEnd:
        length = index_length(self._clips_per_shard)
        if array.nbytes * self._clips_per_shard <= _SMALL_SHARD:
            length += _SMALL_SHARD
        start = max(0, committed.length - length)

        def fetch() -> bytes:
            data = bytes(self._range(key, start, committed.length))
            self._index(data, committed)  # checked before the tier keeps it
            return data

        data = fetch() if self._tier is None else self._tier.get(committed.store, f"{committed.name}#end", fetch)
        index = self._index(data, committed)
        return _ShardEnd(index, has_chunk(index), start, data)

    def _index(self, end: bytes, committed: CommittedShard) -> Values:
        """The index at a shard's end. Raises `StoreDamaged` if it does not hold, or is not of the committed shard."""
        index = read_index(end, self._clips_per_shard, committed.length)
        # Shards are packed without gaps, so the last chunk's end gives the packed object's length.
        if int(index[has_chunk(index)].sum(axis=1).max(initial=0)) + index_length(self._clips_per_shard) != committed.length:
            raise StoreDamaged("another shard lies at its key")
        return index
