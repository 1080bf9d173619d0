"""The ledger: finished units in; committed rows and objects out. Readers ignore every row and object that no entry names.

Entries are JSON objects in the folder of a *volume*. A long volume is closed to new entries and then *bound*: its entries
are merged into two Parquet files, which the volume's record names, so that nobody has to list and read them one by one. The
record settles what is in the volume: an entry that a slow writer adds after binding is ignored.
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
"""Status of a row, in one part or over several."""

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
"""What a reader needs of each entry. ``parts``, and the ``optional_arrays`` of each row, are joined by commas."""

_ENTRIES = pa.schema({"key": pa.string(), "entry": pa.binary()})
"""Every entry in full, for `verify` and for the recorded encoding errors."""

# The JSON of a thousand entries is some tens of megabytes.
_FETCHED_AT_ONCE = 512


@dataclass
class Ledger:
    """What is committed, as arrays indexed by row or by shard. `add` takes in entries; adding one twice changes nothing."""

    _status: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    _optional: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    _lengths: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    _done: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    _failures: dict[tuple[str, int], tuple[str, str]] = field(default_factory=dict)
    _retired: set[int] = field(default_factory=set)
    open_volume: int = 0
    """The volume that accepts entries now."""
    open_entries: int = 0
    """Number of entries in it."""
    bound_volumes: int = 0

    def status(self, rows: NDArray[np.int64], parts: Sequence[PartName]) -> NDArray[np.uint8]:
        """Status of each row over all of ``parts``: uint8 (row,).

        `RETIRED`, else `FAILED` if any part failed, else `PENDING` if any is pending, else `COMMITTED`.
        """
        found = [_at(self._status.get(part), rows) for part in parts]
        if not found:
            return np.full(len(rows), PENDING, np.uint8)
        result = np.min(found, axis=0)
        result[np.any([status == FAILED for status in found], axis=0)] = FAILED
        if self._retired:
            result[np.isin(rows, list(self._retired))] = RETIRED
        return np.asarray(result, np.uint8)

    def failure(self, row: int, parts: Iterable[PartName]) -> tuple[str, str] | None:
        """(reason, detail) of the row's failure in the first of ``parts`` in which it failed; None if it failed in none."""
        return next((self._failures[part, row] for part in parts if (part, row) in self._failures), None)

    @property
    def retired(self) -> frozenset[int]:
        """Rows that damage has hit, and whose clips belong in new rows."""
        return frozenset(self._retired)

    def is_done(self, part: PartName, shards: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each shard is committed in the part: bool (shard,)."""
        return _at(self._done.get(part), shards)

    def has_optional(self, array: str, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each row has a chunk in the optional array: bool (row,)."""
        return _at(self._optional.get(array), rows)

    def shard_length(self, array: str, shard: int) -> int:
        """Length in bytes of a committed shard object; 0 if there is none."""
        return int(_at(self._lengths.get(array), np.array([shard]))[0])

    def shard_lengths(self, array: str) -> NDArray[np.int64]:
        """Lengths in bytes of an array's shard objects, int64, by shard number; 0 where there is none."""
        return self._lengths.get(array, np.zeros(0, np.int64))

    def bytes_of(self, array: str) -> int:
        """Committed bytes of an array."""
        return int(self.shard_lengths(array).sum())

    def arrays(self) -> list[str]:
        """Names of the arrays that have committed objects."""
        return sorted(self._lengths)

    def add(self, state: pa.Table) -> None:
        """Take in entries: a table with the schema `_STATE`. Raises `StoreDamaged` for rows out of range."""
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
        """Mark rows as retired."""
        self._retired |= set(rows)


class _Lists:
    """A column of lists: their values concatenated, and the length of each list."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        whole = column.combine_chunks()
        self.values: pa.Array = whole.flatten()
        self.lengths: NDArray[np.int64] = whole.value_lengths().to_numpy().astype(np.int64)

    def of(self, members: NDArray[np.int64]) -> NDArray[np.int64]:
        """Indices into ``values`` of the lists ``members``."""
        if len(members) == len(self.lengths):
            return np.arange(len(self.values))
        return np.flatnonzero(np.isin(np.repeat(np.arange(len(self.lengths)), self.lengths), members))


def _groups(texts: pa.Array | pa.ChunkedArray) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Each distinct text, with the indices at which it occurs."""
    whole = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
    coded = whole.dictionary_encode()
    indices = coded.indices.to_numpy(zero_copy_only=False)
    for code, text in enumerate(coded.dictionary.to_pylist()):
        yield text, np.flatnonzero(indices == code)


def _at(values: NDArray[Any] | None, rows: NDArray[np.int64]) -> NDArray[Any]:
    """``values`` at ``rows``; 0 beyond their end."""
    if values is None or not len(values):
        return np.zeros(len(rows), np.int64 if values is None else values.dtype)
    return np.where(rows < len(values), values[np.minimum(rows, len(values) - 1)], values.dtype.type(0))


def _put(arrays: dict[str, NDArray[Any]], name: str, rows: NDArray[np.int64], values: NDArray[Any]) -> None:
    if not len(rows):
        return
    array, needed = arrays.get(name, np.zeros(0, values.dtype)), int(rows.max()) + 1
    if needed > MOST_ROWS or rows.min() < 0:
        raise StoreDamaged(f"the ledger names rows {rows.min()} to {needed - 1}; a store has rows 0 to {MOST_ROWS - 1}")
    if needed > len(array):
        # Grows by half, so that adding volumes one by one stays linear.
        array = np.concatenate([array, np.zeros(max(needed, len(array) * 3 // 2) - len(array), array.dtype)])
    array[rows] = values
    arrays[name] = array


def clip_counts(rows: NDArray[np.int64], ledger: Ledger, parts: Sequence[PartName]) -> ClipCounts:
    """Number of rows that are committed in all of ``parts``, failed in any, or pending. A retired row counts as pending."""
    status = ledger.status(rows, parts)
    committed, failed = int((status == COMMITTED).sum()), int((status == FAILED).sum())
    return ClipCounts(planned=len(rows), committed=committed, failed=failed, pending=len(rows) - committed - failed)


def _state(texts: Mapping[str, bytes], url: str) -> pa.Table:
    """The entries as a table with the schema `_STATE`. Raises `StoreDamaged`.

    Their digests prove that they are what a worker wrote, so these thousands of entries are not validated field by field.
    """
    entries = [_in_place(key, unsealed(data, key, url), url) for key, data in texts.items()]
    try:
        return pa.Table.from_pylist([_state_of(entry) for entry in entries], schema=_STATE)
    except (LookupError, TypeError, AttributeError, OverflowError, pa.ArrowException):
        # The digests match, but the content is not what a worker writes: validation says in which entry, and which field.
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
    """The ledger's volumes, and its records of retired rows."""

    bound: Mapping[int, VolumeRecord]
    unbound: tuple[int, ...]
    retirements: Mapping[str, Retirement]

    @property
    def open(self) -> int:
        """The volume that accepts entries: the last unbound one, or a new one."""
        return self.unbound[-1] if self.unbound else max(self.bound, default=-1) + 1

    @property
    def retired_rows(self) -> frozenset[int]:
        """All retired rows."""
        return frozenset(row for retirement in self.retirements.values() for row in retirement.rows)

    @property
    def known_damage(self) -> dict[str, str | None]:
        """Key → digest (None if missing) of each object that is known to be damaged."""
        return {key: digest for retirement in self.retirements.values() for key, digest in retirement.found.items()}


NO_VOLUMES = Volumes({}, (), {})


def read_volumes(objects: Objects, known: Volumes = NO_VOLUMES) -> Volumes:
    """Read the list of volumes and records. Those ``known`` from an earlier reading are not fetched again."""
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
    """Read the whole ledger. Raises `StoreDamaged` if an entry is unreadable or stored under another unit's key."""
    return LedgerReader(objects).read()


class LedgerReader:
    """Reads the ledger repeatedly, each time only what was added since: a listing or two, and the new entries.

    An entry that was added too late for its volume may be counted before its worker has committed it in the next one.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._ledger = Ledger()
        self._volumes = NO_VOLUMES
        self._bound: set[int] = set()
        """Bound volumes that have been read."""
        self._seen: dict[int, set[str]] = {}
        """Unbound volume → the keys of its entries that have been read."""

    def read(self) -> Ledger:
        """The ledger as of now; always the same, updated object. Raises `StoreDamaged`, as `read_ledger` does."""
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
    """Keys of a volume's entries, sorted by shard and number."""
    folder = volume_folder(volume)
    found = [_ENTRY.fullmatch(name) for name, is_folder in objects.level(folder).items() if not is_folder]
    order = sorted((int(match[1]), int(match[2])) for match in found if match is not None)
    return [entry_key(volume, shard, number) for shard, number in order]


def _texts_of(objects: Objects, volume: int, ignoring: Collection[str] = ()) -> Iterator[dict[str, bytes]]:
    """A volume's entries, key → bytes, in groups."""
    keys = [key for key in entry_keys(objects, volume) if key not in ignoring]
    for start in range(0, len(keys), _FETCHED_AT_ONCE):
        wanted = keys[start : start + _FETCHED_AT_ONCE]
        found = objects.get_many(wanted)
        yield {key: found[key] for key in wanted if key in found}


def read_entry(key: str, data: bytes, url: str) -> LedgerEntry:
    """Parse an entry. Raises `StoreDamaged` if it is damaged, not an entry, or stored under another shard's key."""
    _in_place(key, unsealed(data, key, url), url)
    return unseal(LedgerEntry, data, key, url)


def committed_texts(objects: Objects, volumes: Volumes, *, tolerant: bool = False) -> Iterator[dict[str, bytes]]:
    """Every entry in force, key → bytes, in groups. Those of a bound volume come from its Parquet file.

    If that file is damaged, raises `StoreDamaged`, or, if ``tolerant``, reads the single entries that it was made from.
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
    """One writer's access to the ledger. Safe in threads, which take turns.

    ``since`` is the volume that was open when the writer's work was planned. Whatever others have committed since is in that
    volume or a later one.
    """

    def __init__(self, objects: Objects, since: int) -> None:
        self._objects, self._volume = objects, since
        self._passed: dict[int, list[str]] = defaultdict(list)
        """Shard → keys of its entries in closed volumes, from ``since`` on."""
        self._looked: dict[int, tuple[int, list[LedgerEntry]]] = {}
        """Shard → (the open volume when its entries were last read, those entries), until the shard is committed."""
        self._lock = threading.RLock()

    def standing(self, shard: int) -> list[LedgerEntry]:
        """The shard's entries since the work was planned, in order. Raises `StoreDamaged`."""
        with self._lock:
            self._pass_closed()
            entries = [self._read(key) for key in self._passed[shard]]
            while (data := self._objects.get(key := self._next_key(shard, len(entries)))) is not None:
                entries.append(read_entry(key, data, self._objects.url))
            self._looked[shard] = self._volume, entries
            return entries

    def commit(self, entry: LedgerEntry) -> bool:
        """Commit a unit, which makes it visible. False if other workers committed all of its parts first.

        If another worker has committed some of its parts, only the remaining ones are committed: each part of a shard is
        committed exactly once.
        """
        shard = entry.unit.shard
        with self._lock:
            # The entries read before the unit was taught are good enough: `create` fails if they are out of date.
            volume, standing = self._looked.pop(shard, (None, []))
            if volume != self._volume:
                standing = self.standing(shard)
            while (left := _without(entry, standing)) is not None:
                key = self._next_key(shard, len(standing))
                if _created(self._objects, key, seal(left)) and self._counts(key):
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
        """Whether an entry just created is in its volume, and not too late: the volume may have been bound without it."""
        volume = self._volume
        self._pass_closed()
        return volume == self._volume or key in self._passed[shard_of(key)]

    def _pass_closed(self) -> None:
        """Move on to the first volume that accepts entries. Earlier ones are bound, so their content is settled."""
        while self._objects.get(closed_key(self._volume)) is not None:
            record = await_bound(self._objects, self._volume)
            for key in StoredTable(self._objects, record.texts).read(["key"])["key"].to_pylist():
                self._passed[shard_of(key)].append(key)
            self._volume += 1


def _without(entry: LedgerEntry, others: Iterable[LedgerEntry]) -> LedgerEntry | None:
    """The entry, reduced to the parts that no other entry commits; None if no part is left."""
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
    """The part that an array stores. Arrays are named after their signal, such as ``f4d_scale``."""
    name = array.partition("_")[0]
    return "clock" if array in {"timestamps", "frame_index"} else name  # type: ignore[return-value]


def close_volume(objects: Objects, volume: int) -> VolumeRecord:
    """Close a volume to new entries and bind it. Idempotent, and safe while others write."""
    objects.create(closed_key(volume), canonical_json({}))
    return bind(objects, volume)


# Binding takes about three milliseconds per entry.
_BELIEVED_DEAD_SECONDS_PER_ENTRY = 0.02


def await_bound(objects: Objects, volume: int) -> VolumeRecord:
    """The record of a closed volume, waiting for the process that closed it to bind it.

    A thousand writers may find the volume closed at once. If each bound it, each would read all its entries. So they wait
    until the process that closed it must be dead, for randomly different times, so that again only one of them binds it.
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
    """The record of a closed volume, created if missing. The first to create it settles what is in the volume."""
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
    """A volume's record for these entries (key → bytes, in groups), and the files that it names, key → bytes."""
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
    """Rewrite the parts of the ledger that can be derived from its other parts: bound volumes and their entries.

    A record of retired rows that cannot be read is emptied: its rows have been superseded, and the damage it listed is found
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
    """Retire rows permanently, by a new record in the ledger."""
    number = len(read_volumes(objects).retirements)
    while not _created(objects, numbered(RETIREMENT, number), seal(retirement)):
        number += 1


def _created(objects: Objects, key: str, data: bytes) -> bool:
    """Create an object. True also if this very object is there: the answer to an earlier request may have been lost."""
    return objects.create(key, data) or objects.get(key) == data
