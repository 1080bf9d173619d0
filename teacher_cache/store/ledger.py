"""The ledger: what is committed. A row or an object that no entry names does not exist for readers.

Entries are JSON objects in the folder of a volume. A volume that has grown long is closed, and then bound: its entries are
folded into two Parquet files, named by the volume's record, after which nobody lists or opens them one by one. What is in
the record is the volume; an entry that a writer believed dead adds later counts for nothing.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.base import Sealed, canonical_json
from schemas.errors import StoreDamaged
from schemas.ledger import MOST_ROWS, LedgerEntry, PartName, Retirement, RowOutcome
from schemas.report import ClipCounts
from schemas.store import VolumeRecord
from teacher_cache.store.layout import (
    LEDGER,
    RETIREMENT,
    VOLUME,
    array_of,
    closed_key,
    entry_key,
    numbered,
    shard_of,
    volume_folder,
)
from teacher_cache.store.objects import Objects
from teacher_cache.store.records import REPAIR_ADVICE, seal, unseal, unsealed
from teacher_cache.store.table import StoredTable, require_own_key, table_file

PENDING, COMMITTED, FAILED, RETIRED = range(4)
"""What a row is in one part, or over several."""

_STATE = pa.schema(
    {
        "shard": pa.int64(),
        "parts": pa.string(),
        "rows": pa.list_(pa.int64()),
        "failed": pa.list_(pa.bool_()),
        "optional_arrays": pa.list_(pa.string()),
        "failures": pa.list_(pa.struct({"row": pa.int64(), "reason": pa.string(), "detail": pa.string()})),
        "arrays": pa.list_(pa.string()),
        "lengths": pa.list_(pa.int64()),
    }
)
"""What opening a store takes of each entry: ``parts`` and each row's ``optional_arrays`` joined by commas."""

_ENTRIES = pa.schema({"key": pa.string(), "entry": pa.binary()})
"""Every entry as it was written, for `verify` and for whoever wants the error figures."""

# A thousand entries' JSON is some tens of megabytes.
_FETCHED_AT_ONCE = 512


@dataclass
class Ledger:
    """What is committed, by row and by shard, as arrays. Grows by `add`: entries, and what it already has once more."""

    _status: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    _optional: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    _lengths: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    _done: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    _failures: dict[tuple[str, int], tuple[str, str]] = field(default_factory=dict)
    _retired: set[int] = field(default_factory=set)
    open_volume: int = 0
    """The volume that takes entries now."""
    open_entries: int = 0
    """How many it has."""
    bound_volumes: int = 0

    def status(self, rows: NDArray[np.int64], parts: Sequence[PartName]) -> NDArray[np.uint8]:
        """What each row is over all of ``parts``: retired, or failed if it failed in any, or pending while any is."""
        found = [_at(self._status.get(part), rows) for part in parts]
        if not found:
            return np.full(len(rows), PENDING, np.uint8)
        result = np.min(found, axis=0)
        result[np.any([status == FAILED for status in found], axis=0)] = FAILED
        if self._retired:
            result[np.isin(rows, list(self._retired))] = RETIRED
        return np.asarray(result, np.uint8)

    def failure(self, row: int, parts: Iterable[PartName]) -> tuple[str, str] | None:
        """(reason, detail) of the first of ``parts`` in which the row failed."""
        return next((self._failures[part, row] for part in parts if (part, row) in self._failures), None)

    @property
    def retired(self) -> frozenset[int]:
        return frozenset(self._retired)

    def is_done(self, part: PartName, shards: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each shard is committed in that part."""
        return _at(self._done.get(part), shards)

    def has_optional(self, array: str, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each row has a chunk in an optional array."""
        return _at(self._optional.get(array), rows)

    def shard_length(self, array: str, shard: int) -> int:
        """Bytes of a committed shard object; 0 where the ledger names none."""
        return int(_at(self._lengths.get(array), np.array([shard]))[0])

    def shard_lengths(self, array: str) -> NDArray[np.int64]:
        """Bytes of an array's shard objects, by the shard's number; 0 where the ledger names none."""
        return self._lengths.get(array, np.zeros(0, np.int64))

    def bytes_of(self, array: str) -> int:
        """Committed bytes of an array."""
        return int(self.shard_lengths(array).sum())

    def arrays(self) -> list[str]:
        """Names of the arrays that have committed objects."""
        return sorted(self._lengths)

    def add(self, state: pa.Table) -> None:
        """Take in entries, as `_STATE` has them."""
        rows_of = _Lists(state["rows"])
        failed = _Lists(state["failed"]).values.to_numpy(zero_copy_only=False).astype(bool)
        rows = rows_of.values.to_numpy()
        codes = np.where(failed, FAILED, COMMITTED).astype(np.uint8)
        for parts, members in _groups(state["parts"]):
            inside = rows_of.of(members)
            shards = state["shard"].to_numpy()[members]
            for part in parts.split(","):
                _put(self._status, part, rows[inside], codes[inside])
                _put(self._done, part, shards, np.ones(len(shards), bool))
        for names, members in _groups(_Lists(state["optional_arrays"]).values):
            for name in filter(None, names.split(",")):
                _put(self._optional, name, rows[members], np.ones(len(members), bool))
        objects = _Lists(state["arrays"])
        shards = np.repeat(state["shard"].to_numpy(), objects.lengths)
        lengths = _Lists(state["lengths"]).values.to_numpy()
        for name, members in _groups(objects.values):
            _put(self._lengths, name, shards[members], lengths[members])
        for parts, failures in zip(state["parts"].to_pylist(), state["failures"].to_pylist(), strict=True):
            for failure in failures:
                for part in parts.split(","):
                    self._failures[part, failure["row"]] = failure["reason"], failure["detail"]

    def retire(self, rows: Iterable[int]) -> None:
        self._retired |= set(rows)


class _Lists:
    """A column of lists: all their values one after another, and how many each list has."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        whole = column.combine_chunks()
        self.values: pa.Array = whole.flatten()
        self.lengths: NDArray[np.int64] = whole.value_lengths().to_numpy().astype(np.int64)

    def of(self, members: NDArray[np.int64]) -> NDArray[np.int64]:
        """Places of the values of some lists."""
        if len(members) == len(self.lengths):
            return np.arange(len(self.values))
        return np.flatnonzero(np.isin(np.repeat(np.arange(len(self.lengths)), self.lengths), members))


def _groups(texts: pa.Array | pa.ChunkedArray) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Each distinct text with the rows where it stands."""
    whole = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
    coded = whole.dictionary_encode()
    indices = coded.indices.to_numpy(zero_copy_only=False)
    for code, text in enumerate(coded.dictionary.to_pylist()):
        yield text, np.flatnonzero(indices == code)


def _at(values: NDArray[Any] | None, rows: NDArray[np.int64]) -> NDArray[Any]:
    """``values`` at ``rows``, 0 beyond their end."""
    if values is None or not len(values):
        return np.zeros(len(rows), np.int64 if values is None else values.dtype)
    return np.where(rows < len(values), values[np.minimum(rows, len(values) - 1)], values.dtype.type(0))


def _put(arrays: dict[str, NDArray[Any]], name: str, rows: NDArray[np.int64], values: NDArray[Any]) -> None:
    if not len(rows):
        return
    array, needed = arrays.get(name, np.zeros(0, values.dtype)), int(rows.max()) + 1
    if needed > MOST_ROWS or rows.min() < 0:
        raise StoreDamaged(f"the ledger speaks of rows {rows.min()} to {needed - 1}; a store has rows 0 to {MOST_ROWS - 1}")
    if needed > len(array):
        # Half as much again, so that growing by one volume after another stays linear.
        array = np.concatenate([array, np.zeros(max(needed, len(array) * 3 // 2) - len(array), array.dtype)])
    array[rows] = values
    arrays[name] = array


def clip_counts(rows: NDArray[np.int64], ledger: Ledger, parts: Sequence[PartName]) -> ClipCounts:
    """How many of the rows are committed in all of ``parts``, failed in any, or pending (a retired row is taught again)."""
    status = ledger.status(rows, parts)
    committed, failed = int((status == COMMITTED).sum()), int((status == FAILED).sum())
    return ClipCounts(planned=len(rows), committed=committed, failed=failed, pending=len(rows) - committed - failed)


def _state(texts: Mapping[str, bytes], url: str) -> pa.Table:
    """What opening a store takes of these entries. Raises `StoreDamaged`.

    Their digests say that they are what a worker wrote, so they are not validated field by field: there may be thousands.
    """
    entries = [_in_place(key, unsealed(data, key, url), url) for key, data in texts.items()]
    try:
        return pa.Table.from_pylist([_state_of(entry) for entry in entries], schema=_STATE)
    except (LookupError, TypeError, AttributeError, OverflowError, pa.ArrowException):
        # Someone else's: each one's digest holds, and it is not what a worker writes.
        for key, data in texts.items():
            unseal(LedgerEntry, data, key, url)
        raise


def _state_of(entry: dict[str, Any]) -> dict[str, Any]:
    rows, objects = entry["rows"], entry["objects"]
    return {
        "shard": entry["unit"]["shard"],
        "parts": ",".join(entry["unit"]["parts"]),
        "rows": [row["row"] for row in rows],
        "failed": [row["status"] == "failed" for row in rows],
        "optional_arrays": [",".join(row.get("optional_arrays", ())) for row in rows],
        "failures": [{name: row[name] for name in ("row", "reason", "detail")} for row in rows if row["status"] == "failed"],
        "arrays": [array_of(key) for key in objects],
        "lengths": [stored["length"] for stored in objects.values()],
    }


def _in_place(key: str, entry: dict[str, Any], url: str) -> dict[str, Any]:
    if not isinstance(entry.get("unit"), dict) or entry["unit"].get("shard") != shard_of(key):
        raise StoreDamaged(f"the ledger entry {key} of {url} is about another shard; it was copied or renamed. {REPAIR_ADVICE}")
    return entry


@dataclass(frozen=True)
class Volumes:
    """Which volumes there are, and which records of retired rows."""

    bound: Mapping[int, VolumeRecord]
    unbound: tuple[int, ...]
    retirements: Mapping[str, Retirement]

    @property
    def open(self) -> int:
        """The volume that takes entries: the last unbound one, or a new one."""
        return self.unbound[-1] if self.unbound else max(self.bound, default=-1) + 1

    @property
    def retired_rows(self) -> frozenset[int]:
        return frozenset(row for retirement in self.retirements.values() for row in retirement.rows)

    @property
    def known_damage(self) -> dict[str, str | None]:
        """Key → digest of each object that is known to be damaged."""
        return {key: digest for retirement in self.retirements.values() for key, digest in retirement.found.items()}


NO_VOLUMES = Volumes({}, (), {})


def read_volumes(objects: Objects, known: Volumes = NO_VOLUMES) -> Volumes:
    """Which volumes and records there are now. Those ``known`` from an earlier reading are not fetched again."""
    names = objects.level(LEDGER)
    records = [f"{LEDGER}/{name}" for name, is_folder in names.items() if not is_folder]
    records = [key for key in records if key.startswith((VOLUME, RETIREMENT)) and key.endswith(".json")]
    known_keys = {numbered(VOLUME, volume) for volume in known.bound} | known.retirements.keys()
    found = objects.get_many([key for key in records if key not in known_keys])
    bound = dict(known.bound)
    for key in (key for key in found if key.startswith(VOLUME)):
        record = unseal(VolumeRecord, found[key], key, objects.url)
        for table in (record.state, record.texts):
            require_own_key(table.key, key, objects.url)
        bound[int(key.removeprefix(VOLUME).removesuffix(".json"))] = record
    folders = [int(name) for name, is_folder in names.items() if is_folder and name.isdigit()]
    retirements = {key: unseal(Retirement, found[key], key, objects.url) for key in found if key.startswith(RETIREMENT)}
    return Volumes(bound, tuple(sorted(set(folders) - bound.keys())), {**known.retirements, **retirements})


def read_ledger(objects: Objects) -> Ledger:
    """Read what is committed. Raises `StoreDamaged` if an entry is unreadable or is not where its unit belongs."""
    return LedgerReader(objects).read()


class LedgerReader:
    """Reads the ledger again and again, each time only what was added since: a listing or two, and the new entries.

    An entry that came too late for its volume may be counted until its worker has committed it in the next one.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._ledger = Ledger()
        self._volumes = NO_VOLUMES
        self._bound: set[int] = set()
        """Bound volumes that were taken in."""
        self._seen: dict[int, set[str]] = {}
        """Unbound volume → the keys of its entries that were taken in."""

    def read(self) -> Ledger:
        """What is committed now, always in the same object. Raises `StoreDamaged`, as `read_ledger` does."""
        self._volumes = read_volumes(self._objects, self._volumes)
        for volume in sorted(self._volumes.bound.keys() - self._bound):
            self._ledger.add(StoredTable(self._objects, self._volumes.bound[volume].state).read(_STATE.names))
            self._bound.add(volume)
        self._seen = {volume: self._seen.get(volume, set()) for volume in self._volumes.unbound}
        for volume, seen in self._seen.items():
            for texts in _texts_of(self._objects, volume, ignoring=self._volumes.known_damage.keys() | seen):
                self._ledger.add(_state(texts, self._objects.url))
                seen.update(texts)
        self._ledger.open_volume, self._ledger.bound_volumes = self._volumes.open, len(self._volumes.bound)
        self._ledger.open_entries = len(self._seen.get(self._volumes.open, ()))
        for retirement in self._volumes.retirements.values():
            self._ledger.retire(retirement.rows)
        return self._ledger


_ENTRY = re.compile(r"(\d{8,})\.(\d+)\.json")


def entry_keys(objects: Objects, volume: int) -> list[str]:
    """Keys of a volume's entries, in the order of shards and numbers."""
    folder = volume_folder(volume)
    found = [_ENTRY.fullmatch(name) for name, is_folder in objects.level(folder).items() if not is_folder]
    order = sorted((int(match[1]), int(match[2])) for match in found if match is not None)
    return [entry_key(volume, shard, number) for shard, number in order]


def _texts_of(objects: Objects, volume: int, ignoring: Collection[str] = ()) -> Iterator[dict[str, bytes]]:
    """A volume's entries by key, as they were written, some at a time."""
    keys = [key for key in entry_keys(objects, volume) if key not in ignoring]
    for start in range(0, len(keys), _FETCHED_AT_ONCE):
        wanted = keys[start : start + _FETCHED_AT_ONCE]
        found = objects.get_many(wanted)
        yield {key: found[key] for key in wanted if key in found}


def read_entry(key: str, data: bytes, url: str) -> LedgerEntry:
    """Raises `StoreDamaged`."""
    _in_place(key, unsealed(data, key, url), url)
    return unseal(LedgerEntry, data, key, url)


def committed_texts(objects: Objects, volumes: Volumes, *, tolerant: bool = False) -> Iterator[dict[str, bytes]]:
    """Every entry that counts, by key, as it was written and some at a time; bound volumes by their own files.

    A damaged file of a bound volume raises `StoreDamaged`; a ``tolerant`` reader gets the entries that it was made of.
    """
    for volume, record in volumes.bound.items():
        try:
            table = StoredTable(objects, record.texts).read(_ENTRIES.names)
        except StoreDamaged:
            if not tolerant:
                raise
            yield from _texts_of(objects, volume, ignoring=volumes.known_damage)
        else:
            yield dict(zip(table["key"].to_pylist(), table["entry"].to_pylist(), strict=True))
    for volume in volumes.unbound:
        yield from _texts_of(objects, volume, ignoring=volumes.known_damage)


class Journal:
    """The ledger as one writer adds to it. Safe in threads, one at a time.

    ``since`` is the volume that was open when the writer's work was planned: what others committed meanwhile is in it or in
    a later one.
    """

    def __init__(self, objects: Objects, since: int) -> None:
        self._objects, self._volume = objects, since
        self._passed: dict[int, list[str]] = defaultdict(list)
        """Shard → its entries in the volumes from ``since`` on that are closed."""
        self._looked: dict[int, tuple[int, list[LedgerEntry]]] = {}
        """Shard → the open volume when its standing entries were last read, and these; until it is committed."""
        self._lock = threading.RLock()

    def standing(self, shard: int) -> list[LedgerEntry]:
        """The shard's entries since the work was planned, in order."""
        with self._lock:
            self._pass_closed()
            entries = [self._read(key) for key in self._passed[shard]]
            while (data := self._objects.get(key := self._next_key(shard, len(entries)))) is not None:
                entries.append(read_entry(key, data, self._objects.url))
            self._looked[shard] = self._volume, entries
            return entries

    def commit(self, entry: LedgerEntry) -> bool:
        """Make a unit visible; False if other workers committed all its parts first, whose entries stand.

        Should another worker have committed some of the parts meanwhile, only the others are committed: each part of a shard
        is committed once.
        """
        shard = entry.unit.shard
        with self._lock:
            # What was read before the unit was taught will do: the creation finds out whether it is out of date.
            volume, standing = self._looked.pop(shard, (None, []))
            if volume != self._volume:
                standing = self.standing(shard)
            while (left := _without(entry, standing)) is not None:
                key = self._next_key(shard, len(standing))
                if self._objects.create(key, seal(left)) and self._counts(key):
                    self._looked.pop(shard, None)
                    return True
                standing = self.standing(shard)
            self._looked.pop(shard, None)
            return False

    def _next_key(self, shard: int, standing: int) -> str:
        return entry_key(self._volume, shard, standing - len(self._passed[shard]))

    def _read(self, key: str) -> LedgerEntry:
        return read_entry(key, self._objects.get(key) or b"", self._objects.url)

    def _counts(self, key: str) -> bool:
        """Whether an entry just created is in its volume: it is not if that was closed meanwhile, and bound without it."""
        volume = self._volume
        self._pass_closed()
        return volume == self._volume or key in self._passed[shard_of(key)]

    def _pass_closed(self) -> None:
        """Go on to the first volume that takes entries. Those before it are bound, so that it is settled what they hold."""
        while self._objects.get(closed_key(self._volume)) is not None:
            record = await_bound(self._objects, self._volume)
            for key in StoredTable(self._objects, record.texts).read(["key"])["key"].to_pylist():
                self._passed[shard_of(key)].append(key)
            self._volume += 1


def _without(entry: LedgerEntry, others: Iterable[LedgerEntry]) -> LedgerEntry | None:
    """The entry for the parts alone that no other commits; None if there are none."""
    parts = {part for other in others for part in other.unit.parts}
    left = tuple(part for part in entry.unit.parts if part not in parts)
    if not left:
        return None
    if left == entry.unit.parts:
        return entry
    mine = {key: stored for key, stored in entry.objects.items() if part_of(array_of(key)) in left}
    rows = tuple(_row_without(row, left) for row in entry.rows)
    return entry.model_copy(update={"unit": entry.unit.model_copy(update={"parts": left}), "objects": mine, "rows": rows})


def _row_without(row: RowOutcome, parts: Sequence[PartName]) -> RowOutcome:
    errors = {signal: figure for signal, figure in row.errors.items() if signal in parts}
    optional = tuple(name for name in row.optional_arrays if part_of(name) in parts)
    return row.model_copy(update={"errors": errors, "optional_arrays": optional})


def part_of(array: str) -> PartName:
    """The part whose values an array holds: arrays are named after their signal, ``f4d_scale``."""
    name = array.partition("_")[0]
    return "clock" if array in {"timestamps", "frame_index"} else name  # type: ignore[return-value]


def close_volume(objects: Objects, volume: int) -> VolumeRecord:
    """Let a volume take no more entries, and bind it. Safe to repeat, and beside writers."""
    objects.create(closed_key(volume), canonical_json({}))
    return bind(objects, volume)


# Folding takes some three milliseconds an entry.
_BELIEVED_DEAD_SECONDS_PER_ENTRY = 0.02


def await_bound(objects: Objects, volume: int) -> VolumeRecord:
    """The record of a closed volume, which whoever closed it is about to create.

    A thousand writers come upon a closed volume at once: should each fold it too, each would read all of its entries. So
    they wait, until the one who closed it must be dead; and not all equally long, so that it is again one who folds.
    """
    key, start, limit_seconds = numbered(VOLUME, volume), time.monotonic(), None
    while (present := objects.get(key)) is None:
        if limit_seconds is None:
            entries = len(entry_keys(objects, volume))
            limit_seconds = entries * _BELIEVED_DEAD_SECONDS_PER_ENTRY * random.uniform(1, 5)  # noqa: S311
        if time.monotonic() - start >= limit_seconds:
            return bind(objects, volume)
        time.sleep(min(1, limit_seconds) * random.uniform(0.1, 1))  # noqa: S311
    return unseal(VolumeRecord, present, key, objects.url)


def bind(objects: Objects, volume: int) -> VolumeRecord:
    """The record of a closed volume; whoever creates it first says what is in the volume."""
    key = numbered(VOLUME, volume)
    present = objects.get(key)
    if present is None:
        record, tables = _bound(objects, volume, read_volumes(objects).known_damage)
        for name, data in tables.items():
            objects.create(name, data)
        if objects.create(key, seal(record)):
            return record
        present = objects.get(key)
    return unseal(VolumeRecord, present or b"", key, objects.url)


def _bound(objects: Objects, volume: int, ignoring: Collection[str]) -> tuple[VolumeRecord, dict[str, bytes]]:
    return bound(volume, _texts_of(objects, volume, ignoring), objects.url)


def bound(volume: int, entries: Iterable[Mapping[str, bytes]], url: str) -> tuple[VolumeRecord, dict[str, bytes]]:
    """The record of a volume with these entries (bytes by key, some at a time), and the files that it names by key."""
    states: list[pa.Table] = [_STATE.empty_table()]
    texts: dict[str, bytes] = {}
    for some in entries:
        states.append(_state(some, url))
        texts |= some
    stem = numbered(VOLUME, volume).removesuffix(".json")
    state, state_bytes = table_file(f"{stem}-state", pa.concat_tables(states))
    table = pa.table({"key": list(texts), "entry": list(texts.values())}, schema=_ENTRIES)
    file, file_bytes = table_file(f"{stem}-entries", table)
    record = VolumeRecord(entries=len(texts), state=state, texts=file)
    return record, {state.key: state_bytes, file.key: file_bytes}


def mend(objects: Objects) -> None:
    """Write anew what of the ledger follows from the rest of it: bound volumes, their entries, records of retirement.

    A record of retired rows that cannot be read is emptied: its rows have later ones, and the damage that it spoke of is found
    again. For `teacher_cache.store.repair`; no other writer may be at work.
    """
    names = objects.level(LEDGER)
    for key in (f"{LEDGER}/{name}" for name in names):
        if key.startswith(RETIREMENT) and not _is_record(objects, Retirement, key):
            objects.replace(key, seal(Retirement(rows=(), clip_ids=(), found={})))
    for volume in sorted(int(name) for name, is_folder in names.items() if is_folder and name.isdigit()):
        key = numbered(VOLUME, volume)
        if numbered(VOLUME, volume).rpartition("/")[2] not in names:
            continue
        _restore(objects, closed_key(volume), canonical_json({}))
        record = (
            unseal(VolumeRecord, objects.get(key) or b"", key, objects.url) if _is_record(objects, VolumeRecord, key) else None
        )
        texts = None if record is None else StoredTable(objects, record.texts)
        if record is not None and texts is not None and texts.check() is None:
            table = texts.read(_ENTRIES.names)
            for name, data in zip(table["key"].to_pylist(), table["entry"].to_pylist(), strict=True):
                _restore(objects, name, data)
        record, tables = _bound(objects, volume, ())
        for name, data in (tables | {key: seal(record)}).items():
            _restore(objects, name, data)


def _is_record(objects: Objects, model: type[Sealed], key: str) -> bool:
    try:
        unseal(model, objects.get(key) or b"", key, objects.url)
    except StoreDamaged:
        return False
    return True


def _restore(objects: Objects, key: str, data: bytes) -> None:
    if objects.get(key) != data:
        objects.replace(key, data)


def record_retirement(objects: Objects, retirement: Retirement) -> None:
    """Retire rows for good."""
    number = len(read_volumes(objects).retirements)
    while not objects.create(numbered(RETIREMENT, number), seal(retirement)):
        number += 1
