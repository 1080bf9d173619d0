"""Clips' stored values from committed shards: one request a chunk, decoded straight into the caller's batch.

The index of a shard lies at its end. It is read once and kept, together with the chunks themselves where they are so small
that the whole shard comes in the same request.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple, Protocol

import numpy as np

from schemas.errors import StoreDamaged
from teacher_cache.encodings.base import StoredArray
from teacher_cache.reader.buffers import BufferPool
from teacher_cache.store.chunk import Buffer, clip_buffer, decode_chunk, split_checksum, view_chunk
from teacher_cache.store.layout import shard_key
from teacher_cache.store.objects import Objects
from teacher_cache.store.shard import has_chunk, index_length, read_index

# More requests in flight than this no longer pay, and each holds a chunk in memory.
_IN_FLIGHT = 8
# A shard whose values are no longer than this is read whole with its index.
_SMALL_SHARD = 16 * 2**10
# Shards whose ends are kept: some hundred bytes each for large chunks, up to `_SMALL_SHARD` for small ones.
_KEPT_SHARDS = 16384

Values = np.ndarray[Any, Any]


class ChunkTier(Protocol):
    """A nearer cache of chunks, such as a local disk."""

    def get(self, key: str, fetch: Callable[[], bytes]) -> bytes:
        """The bytes kept under ``key``, or else those that ``fetch`` gives, which it may keep."""


class CommittedShard(NamedTuple):
    """What the ledger says of a shard object."""

    length: int
    """Bytes."""
    name: str
    """Under which a tier keeps parts of it: equal names mean equal bytes."""


@dataclass(frozen=True)
class _ShardEnd:
    """A shard's index, and as much of its end as was read with it."""

    index: Values
    """uint64 (slot, (offset, length))."""
    present: Values
    """bool (slot,)."""
    offset: int
    """Where ``data`` begins in the object."""
    data: bytes


class ClipsToDecode(NamedTuple):
    """Rows of one signal, and where their values go."""

    arrays: Sequence[StoredArray]
    """Which hold it."""
    rows: Sequence[int]
    outs: Sequence[Values]
    """For each row."""
    decode: Callable[[Mapping[str, Values], Values], object]
    """(stored array's name → a clip's values, where the decoded ones go). Called in several threads at once."""


class _Destination(NamedTuple):
    """Where a row's values go, and what puts them there. Of equal names and rows the values are equal."""

    name: str
    row: int
    out: Values
    fill: Callable[[int, Values], None]


class ChunkReader:
    """Reads rows of a store's arrays, which the ledger must vouch for: what is not there is damage. Safe in threads."""

    def __init__(
        self,
        objects: Objects,
        clips_per_shard: int,
        committed: Callable[[StoredArray, int], CommittedShard],
        tier: ChunkTier | None = None,
    ) -> None:
        """``committed`` is what the ledger says of an array's shard of that number."""
        self._objects, self._clips_per_shard, self._committed, self._tier = objects, clips_per_shard, committed, tier
        self._ends: OrderedDict[str, Future[_ShardEnd]] = OrderedDict()
        self._lock = threading.Lock()
        self.buffers = BufferPool()

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(_IN_FLIGHT, thread_name_prefix="chunks")

    def read(self, wanted: Iterable[tuple[StoredArray, Sequence[int]]]) -> dict[str, Values]:
        """Array's name → its values of the rows wanted, in their order: (row, *shape), in the array's dtype, the caller's own.

        Raises `StoreDamaged` where a chunk is gone or fails its checksum, and `Unreachable`.
        """
        values: dict[str, Values] = {}
        destinations: list[_Destination] = []
        for array, rows in wanted:
            values[array.name] = clip_buffer(array, len(rows), self.buffers.empty)
            fill = partial(self._read_chunk, array)
            destinations += [
                _Destination(array.name, row, out, fill) for row, out in zip(rows, values[array.name], strict=True)
            ]
        self._fill(destinations)
        return values

    def read_each(self, wanted: Iterable[ClipsToDecode]) -> None:
        """Decode rows into arrays of the caller's, each as soon as it is there. Raises what `read` raises."""
        self._fill(
            _Destination(clips.arrays[0].name, row, out, partial(self._decode_clip, clips))
            for clips in wanted
            for row, out in zip(clips.rows, clips.outs, strict=True)
        )

    def _fill(self, destinations: Iterable[_Destination]) -> None:
        """Fill every destination; those of the same name and row with one request."""
        first: dict[tuple[str, int], _Destination] = {}
        repeats = [
            destination
            for destination in destinations
            if first.setdefault((destination.name, destination.row), destination) is not destination
        ]
        longest_first = sorted(
            first.values(), key=lambda destination: -destination.out.nbytes
        )  # so that no long one is left for the end
        fetches = [self._threads.submit(destination.fill, destination.row, destination.out) for destination in longest_first]
        try:
            for fetch in wait(fetches, return_when=FIRST_EXCEPTION).done:
                fetch.result()
        finally:
            for fetch in fetches:
                fetch.cancel()
        for destination in repeats:
            destination.out[...] = first[destination.name, destination.row].out

    def _read_chunk(self, array: StoredArray, row: int, out: Values) -> None:
        with self._damage_told(array, row):
            decode_chunk(self._chunk(array, row), array, out)

    def _decode_clip(self, clips: ClipsToDecode, row: int, out: Values) -> None:
        stored = {}
        for array in clips.arrays:
            with self._damage_told(array, row):
                chunk = self._chunk(array, row)
                # The chunk's own memory is good until this thread's next chunk, so that of the last one may be used.
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
            raise self._damaged(array, row, "is committed, but its chunk is gone") from None
        except (ValueError, StoreDamaged) as error:
            raise self._damaged(array, row, f"cannot be read ({error})") from None

    def _damaged(self, array: StoredArray, row: int, what: str) -> StoreDamaged:
        return StoreDamaged(
            f"row {row} of {array.name} in {self._objects.url} {what}; `teacher-cache verify` lists what is damaged"
        )

    def _chunk(self, array: StoredArray, row: int) -> Buffer:
        """The chunk's bytes, checksum included; valid until this thread's next. Raises `FileNotFoundError`."""
        shard, slot = divmod(row, self._clips_per_shard)
        key, committed = shard_key(array, shard), self._committed(array, shard)
        end = self._end(array, key, committed)
        if not end.present[slot]:
            raise FileNotFoundError(key)
        start, length = map(int, end.index[slot])
        if start >= end.offset:
            return memoryview(end.data)[start - end.offset : start - end.offset + length]
        if self._tier is None:
            return _found(self._objects.get_range(key, start, start + length), key)

        def fetch() -> bytes:
            data = _found(self._objects.get_range(key, start, start + length), key)
            if not split_checksum(data)[1]:  # before it is kept
                raise StoreDamaged("the chunk fails its checksum")
            return bytes(data)

        return self._tier.get(f"{committed.name}#{start}+{length}", fetch)

    def _end(self, array: StoredArray, key: str, committed: CommittedShard) -> _ShardEnd:
        """The shard's end, read by the first thread that asks while the others wait for it."""
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
                self._ends.pop(key, None)  # another read may find it repaired, or the server back
            mine.set_exception(error)
            raise
        return mine.result()

    def _read_end(self, array: StoredArray, key: str, committed: CommittedShard) -> _ShardEnd:
        length = index_length(self._clips_per_shard)
        if int(np.prod(array.shape)) * array.dtype.itemsize * self._clips_per_shard <= _SMALL_SHARD:
            length += _SMALL_SHARD
        start = max(0, committed.length - length)

        def fetch() -> bytes:
            data = bytes(_found(self._objects.get_range(key, start, committed.length), key))
            self._index(data, committed)  # before it is kept
            return data

        data = fetch() if self._tier is None else self._tier.get(f"{committed.name}#end", fetch)
        index = self._index(data, committed)
        return _ShardEnd(index, has_chunk(index), start, data)

    def _index(self, end: bytes, committed: CommittedShard) -> Values:
        """The index at a shard's end. Raises `StoreDamaged` if it does not hold, or is not of the committed shard."""
        index = read_index(end, self._clips_per_shard)
        # Shards are packed without gaps, so the last chunk's end says how long the object was when it was packed.
        if int(index[has_chunk(index)].sum(axis=1).max(initial=0)) + index_length(self._clips_per_shard) != committed.length:
            raise StoreDamaged("another shard lies at its key")
        return index


def _found(data: memoryview | None, key: str) -> memoryview:
    if data is None:
        raise FileNotFoundError(key)
    return data
