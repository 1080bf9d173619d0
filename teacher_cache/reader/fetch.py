"""Rows of stored arrays in; their values out, decoded straight into the caller's batch. One request for chunks side by side.

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
from itertools import groupby
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from schemas.errors import StoreDamaged
from teacher_cache.encodings.base import StoredArray
from teacher_cache.reader.buffers import BufferPool
from teacher_cache.reader.in_flight import InFlight
from teacher_cache.store.chunk import Buffer, Empty, clip_buffer, decode_chunk, split_checksum, view_chunk
from teacher_cache.store.layout import shard_key
from teacher_cache.store.objects import Objects
from teacher_cache.store.shard import has_chunk, read_index, shard_index_length

# A shard with at most this many bytes of values is read whole, together with its index.
_SMALL_SHARD = 16 * 2**10
# Shard ends kept in memory: of 32 clips in 4 chunks each, 2 KiB; up to `_SMALL_SHARD` for small ones.
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
    """uint64 (chunk, (offset, length))."""
    present: Values
    """bool (chunk,)."""
    offset: int
    """Position in the object at which ``data`` begins."""
    data: bytes


class ClipsToRead(NamedTuple):
    """Rows of an array to read as they are stored."""

    array: StoredArray
    rows: Sequence[int]
    entries: Sequence[int] | None = None
    """Which entries of the clips' first axis, ascending; None for all."""


class ClipsToDecode(NamedTuple):
    """Rows of an array to decode, and their destinations."""

    array: StoredArray
    rows: Sequence[int]
    outs: Sequence[Values]
    """One destination per row: (entry, …)."""
    decode: Callable[[Mapping[str, Values], Values], object]
    """(the array's name → values of some entries of a clip, their destination). Called in several threads at once."""
    entries: Sequence[int] | None = None
    """Which entries of the clips' first axis, ascending; None for all."""


class _Piece(NamedTuple):
    """A chunk of a clip, and what is wanted of it."""

    chunk: int
    """Its number in the clip."""
    taken: list[int] | None
    """Which of its entries; None for all."""
    out: slice
    """Their place among what its run gives."""


class _Run(NamedTuple):
    """Chunks of a clip that lie side by side, which one request fetches."""

    pieces: list[_Piece]
    out: slice
    """The place of what it gives among all that is wanted of the clip."""


class _Destination(NamedTuple):
    """A destination for a run of a row's chunks, and the function that fills it. Those with an equal key have equal values."""

    key: tuple[str, int, int]
    """(array's name, row, the run's first chunk)."""
    out: Values
    fill: Callable[[], None]


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

    def read(self, wanted: Iterable[ClipsToRead]) -> dict[str, Values]:
        """Array's name → values of the wanted rows, in order: (row, *shape), in the array's dtype, or the wanted entries of
        their first axis. The caller owns them.

        Raises `StoreDamaged` if a chunk is missing or fails its checksum, and `Unreachable`.
        """
        return self.begin(wanted).result()

    def read_each(self, wanted: Iterable[ClipsToDecode]) -> None:
        """Decode rows into the caller's arrays, each as soon as it has arrived. Raises what `read` raises."""
        self.begin_each(wanted, None).result()

    def begin(self, wanted: Iterable[ClipsToRead], empty: Empty | None = None) -> Reading[dict[str, Values]]:
        """`read`, begun. ``empty`` allocates the memory."""
        values: dict[str, Values] = {}
        destinations: list[_Destination] = []
        for array, rows, entries in wanted:
            count = None if entries is None else len(entries)
            outs = values[array.name] = clip_buffer(array, len(rows), empty or self.buffers.empty, count)
            destinations += _destinations(array, rows, outs, entries, partial(self._read_run, array))
        return self._fill(values, destinations)

    def begin_each(self, wanted: Iterable[ClipsToDecode], answer: Answer) -> Reading[Answer]:
        """`read_each`, begun: ``answer`` is of the memory that it fills."""
        destinations: list[_Destination] = []
        for clips in wanted:
            fill = partial(self._decode_run, clips.array, clips.decode)
            destinations += _destinations(clips.array, clips.rows, clips.outs, clips.entries, fill)
        return self._fill(answer, destinations)

    def _fill(self, answer: Answer, destinations: Iterable[_Destination]) -> Reading[Answer]:
        """Begin to fill every destination. Those with equal keys share one request."""
        first: dict[tuple[str, int, int], _Destination] = {}
        repeats = [
            destination for destination in destinations if first.setdefault(destination.key, destination) is not destination
        ]
        # Longest first, so that no long fetch is left running alone at the end.
        longest_first = sorted(first.values(), key=lambda destination: -destination.out.nbytes)
        fetches = [self.in_flight.submit(one.fill) for one in longest_first]

        def repeat() -> None:
            for destination in repeats:
                destination.out[...] = first[destination.key].out

        return Reading(answer, fetches, repeat)

    def _read_run(self, array: StoredArray, row: int, pieces: Sequence[_Piece], out: Values) -> None:
        values = self._values(array)
        with self._damage_told(array, row):
            for piece, chunk in zip(pieces, self._chunks(array, row, pieces), strict=True):
                if piece.taken is None:
                    decode_chunk(chunk, array, out[piece.out])
                else:
                    out[piece.out] = values(chunk)[piece.taken]

    def _decode_run(
        self,
        array: StoredArray,
        decode: Callable[[Mapping[str, Values], Values], object],
        row: int,
        pieces: Sequence[_Piece],
        out: Values,
    ) -> None:
        values = self._values(array)
        with self._damage_told(array, row):
            chunks = self._chunks(array, row, pieces)
        for piece, chunk in zip(pieces, chunks, strict=True):
            with self._damage_told(array, row):
                found = values(chunk)
            decode({array.name: found if piece.taken is None else found[piece.taken]}, out[piece.out])

    def _values(self, array: StoredArray) -> Callable[[Buffer], Values]:
        """Gives a chunk's values: in its own memory if they are not compressed, else in one that the next chunk's will take."""
        scratch: list[Values] = []

        def values(chunk: Buffer) -> Values:
            view = view_chunk(chunk, array)
            if view is not None:
                return view
            if not scratch:  # once: fresh pages cost as much as decoding into them
                scratch.extend(clip_buffer(array, 1, self.buffers.empty, array.chunk_shape[0]))
            decode_chunk(chunk, array, scratch[0])
            return scratch[0]

        return values

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

    def _chunks(self, array: StoredArray, row: int, pieces: Sequence[_Piece]) -> Sequence[Buffer]:
        """Chunks side by side, with checksums, valid until this thread reads the next ones. Raises `FileNotFoundError`."""
        shard, slot = divmod(row, self._clips_per_shard)
        key, committed = shard_key(array, shard), self._committed(array, shard)
        end = self._end(array, key, committed)
        first = slot * array.chunks + pieces[0].chunk
        chosen = slice(first, first + len(pieces))
        if not end.present[chosen].all():
            raise FileNotFoundError(key)
        spans = [(start, start + length) for start, length in end.index[chosen].tolist()]
        if spans[0][0] >= end.offset:
            return _cut(memoryview(end.data), end.offset, spans)
        if self._tier is None:
            return _cut(self._range(key, spans[0][0], spans[-1][1]), spans[0][0], spans)
        return self._from_tier(self._tier, key, committed, spans)

    def _from_tier(
        self, tier: ChunkTier, key: str, committed: CommittedShard, spans: Sequence[tuple[int, int]]
    ) -> Sequence[Buffer]:
        """Each chunk by itself, so that some of a clip serve whoever wants all. What the first miss fetches has the rest."""
        fetched: dict[tuple[int, int], memoryview] = {}

        def fetch(number: int) -> bytes:
            span, rest = spans[number], spans[number:]
            if span not in fetched:
                fetched.update(zip(rest, _cut(self._range(key, span[0], rest[-1][1]), span[0], rest), strict=True))
            data = bytes(fetched[span])
            if not split_checksum(data)[1]:  # checked before the tier keeps it
                raise StoreDamaged("the chunk fails its checksum")
            return data

        return [
            tier.get(committed.store, f"{committed.name}#{start}+{stop - start}", partial(fetch, number))
            for number, (start, stop) in enumerate(spans)
        ]

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
        length = shard_index_length(array, self._clips_per_shard)
        if array.nbytes * self._clips_per_shard <= _SMALL_SHARD:
            length += _SMALL_SHARD
        start = max(0, committed.length - length)

        def fetch() -> bytes:
            data = bytes(self._range(key, start, committed.length))
            self._index(data, array, committed)  # checked before the tier keeps it
            return data

        data = fetch() if self._tier is None else self._tier.get(committed.store, f"{committed.name}#end", fetch)
        index = self._index(data, array, committed)
        return _ShardEnd(index, has_chunk(index), start, data)

    def _index(self, end: bytes, array: StoredArray, committed: CommittedShard) -> Values:
        """The index at a shard's end. Raises `StoreDamaged` if it does not hold, or is not of the committed shard."""
        return read_index(end, self._clips_per_shard * array.chunks, committed.length)


def _destinations(
    array: StoredArray,
    rows: Sequence[int],
    outs: Iterable[Values],
    entries: Sequence[int] | None,
    fill: Callable[[int, Sequence[_Piece], Values], None],
) -> Iterator[_Destination]:
    """A destination for each run of chunks of each row, of which ``fill`` fills (row, pieces, destination)."""
    runs = _runs(array, entries)
    for row, out in zip(rows, outs, strict=True):
        for pieces, place in runs:
            key = (array.name, row, pieces[0].chunk)
            yield _Destination(key, out[place], partial(fill, row, pieces, out[place]))


def _runs(array: StoredArray, entries: Sequence[int] | None) -> list[_Run]:
    """The runs of chunks that hold these entries of a clip's first axis, ascending; None for all."""
    together = array.chunk_shape[0]
    runs: list[_Run] = []
    stop = 0
    for chunk, group in groupby(range(array.shape[0]) if entries is None else entries, lambda entry: entry // together):
        taken = [entry % together for entry in group]
        start, stop = stop, stop + len(taken)
        if not runs or runs[-1].pieces[-1].chunk != chunk - 1:
            runs.append(_Run([], slice(start, start)))
        pieces, place = runs[-1]
        pieces.append(_Piece(chunk, None if len(taken) == together else taken, slice(start - place.start, stop - place.start)))
        runs[-1] = _Run(pieces, slice(place.start, stop))
    return runs


def _cut(data: memoryview, offset: int, spans: Sequence[tuple[int, int]]) -> list[memoryview]:
    """The bytes of each span of an object, from its bytes at ``offset``."""
    return [data[start - offset : stop - offset] for start, stop in spans]
