"""The log's actions in, in order; what is committed at a version out, as arrays indexed by row or by shard."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.clip import FailureReason
from schemas.errors import StoreDamaged
from schemas.log import (
    MOST_ROWS,
    PARTS,
    Action,
    Deleted,
    Deleting,
    PartAdded,
    PartName,
    RecordLost,
    RecordsReplaced,
    RowsAdded,
    RowsRetired,
    StoreCreated,
    UnitCommitted,
)
from schemas.report import ClipCounts
from schemas.signal import SIGNALS, Shape, exact_array
from teacher_cache.store.layout import ARRAYS, array_of, part_of, shard_of

PENDING, COMMITTED, FAILED, RETIRED = range(4)
"""Status of a row, in one part or over several."""

UNITS = pa.schema(
    {
        "version": pa.int64(),
        "shard": pa.int64(),
        "parts": pa.string(),
        "rows": pa.int64(),
        "failed": pa.list_(pa.struct({"row": pa.int64(), "reason": pa.string(), "detail": pa.string()})),
        "exact": pa.list_(pa.struct({"array": pa.string(), "row": pa.int64()})),
        "arrays": pa.string(),
        "lengths": pa.list_(pa.int64()),
        "digests": pa.list_(pa.uint64()),
        "undecodable_tail_frames": pa.list_(pa.struct({"frames": pa.int64(), "row": pa.int64()})),
    }
)
"""What readers need of each committed unit. ``parts`` and ``arrays`` are joined by commas; ``version`` is that of its record,
``lengths`` are those of its objects in ``arrays``, and ``digests`` the first 64 bits of their sha256."""

_ADDED_AT_ONCE = 4096
"""Units that wait to be added to the arrays together, since adding a few costs as much as adding thousands."""


class State:
    """The state of a store at a version: its rows, its parts, and what is committed of them.

    One thread may take in actions while others ask. Takes memory for the actions as they are, some 100 bytes for each of their
    JSON's, and 8 bytes for each row or shard that they name and array; there are 2^22 rows more than tables at most, and those
    that lost records may have added.
    """

    def __init__(self, clips_per_shard: int, is_there: Callable[[RowsAdded], bool] = lambda _: True) -> None:
        """``is_there`` tells whether a table of added rows is as long as the log says; it is asked where rows are many."""
        self.clips_per_shard, self._is_there = clips_per_shard, is_there
        self.version = -1
        """Number of the last record; -1 before the first."""
        self.tip: str | None = ""
        """sha256 of the last record's bytes, which the next one names; None where that is unknown."""
        self.origin = ""
        """sha256 of the bytes of record 0, which no two stores share."""
        self.others: list[Action] = []
        """All actions but committed units, in order."""
        self.rows_added: list[RowsAdded] = []
        self.parts: dict[PartName, Shape] = {}
        """Part → shape of one clip, for the parts whose arrays exist."""
        self.known_damage: dict[str, str | None] = {}
        """Key → digest (None if missing) of each object that is known to be damaged."""
        self.announced: set[str] = set()
        """Keys that `gc` has announced to delete, ever. None of them is committed again."""
        self.undeleted: set[str] = set()
        """Those whose deletion is not recorded yet."""
        self.lost: set[int] = set()
        """Numbers of the records whose content is lost. Whoever folds a log around damage adds to it."""
        self._retired: set[int] = set()
        self._exact: dict[str, NDArray[np.bool_]] = {}
        self._lengths: dict[str, NDArray[np.int64]] = {}
        self._digests: dict[str, NDArray[np.uint64]] = {}
        self._versions: dict[str, NDArray[np.int64]] = {}
        """Part → by shard: one more than the version that committed it; 0 if none has."""
        self._failures: dict[str, dict[int, tuple[str, str]]] = {}
        """Part → row → (reason, detail). It grows in place, so whoever walks over it holds the lock."""
        self._tails: dict[str, NDArray[np.int64]] = {}
        """``frames`` → by row: how many at its video's end it was made without."""
        self._tables: list[pa.Table] = []
        self._waiting: list[dict[str, Any]] = []
        self._lock = threading.RLock()

    # -- what came

    def apply(self, version: int, actions: Iterable[Action]) -> None:
        """Take in the actions of record ``version``. Raises `StoreDamaged` for what no writer writes."""
        with self._lock:
            for action in actions:
                if isinstance(action, UnitCommitted):
                    self._require_rows(action)
                    self._waiting.append(_unit_row(version, action))
                else:
                    self.others.append(action)
                    self._apply_other(action)
            self.version = version
            if len(self._waiting) >= _ADDED_AT_ONCE:
                self._settle()

    def _apply_other(self, action: Action) -> None:
        match action:
            case RowsAdded():
                self._add_rows(action)
            case PartAdded():
                _require_shape(action)
                self.parts.setdefault(action.part, action.shape)
            case RowsRetired():
                self._retired |= set(action.rows)
                self.known_damage |= action.found
            case Deleting():
                self.announced |= set(action.keys)
                self.undeleted |= set(action.keys)
            case Deleted():
                self.undeleted -= set(action.keys)
            case RecordLost():
                self.lost.add(action.version)
            case StoreCreated() | RecordsReplaced():
                pass

    def _add_rows(self, added: RowsAdded) -> None:
        first, stop = added.first_row, added.first_row + added.rows
        if first % self.clips_per_shard or not self.rows <= first < self._rows_known + self.clips_per_shard:
            raise StoreDamaged(f"the log adds rows from {added.first_row} on, and {self.rows} exist")
        if stop > MOST_ROWS:
            raise StoreDamaged(f"the log adds rows beyond {MOST_ROWS}, the most that a store has")
        if stop > _BELIEVED and not self._is_there(added):
            raise StoreDamaged(f"the log adds rows up to {stop - 1}, and their table is not as long as it says")
        self.rows_added.append(added)

    def _require_rows(self, unit: UnitCommitted) -> None:
        first = unit.shard * self.clips_per_shard
        rows = range(first, min(first + unit.rows, self._rows_known))
        named = [failed.row for failed in unit.failed]
        of_rows = (*unit.exact.values(), *unit.decoders.values(), *unit.undecodable_tail_frames.values())
        named += [row for of in (*of_rows, *(figure.rows for figure in unit.figures)) for row in of]
        if len(rows) != unit.rows or unit.rows > self.clips_per_shard or not all(row in rows for row in named):
            raise StoreDamaged(
                f"the log commits {unit.rows} rows of shard {unit.shard}, or names others as theirs; {self.rows} rows exist "
                f"in shards of {self.clips_per_shard}"
            )
        for key in unit.objects:
            array = _known(array_of(key), ARRAYS)
            if part_of(array) not in unit.parts or shard_of(key) != unit.shard:
                raise StoreDamaged(f"the log commits {key} as part of unit {unit.unit.name}")

    def add_units(self, units: pa.Table) -> None:
        """Take in committed units: a table with the schema `UNITS`, as a checkpoint holds them. Raises `StoreDamaged`."""
        self._tables.append(units)
        shards, versions, most = units["shard"].to_numpy(), units["version"].to_numpy(), self.shards
        self._require_shards(shards, units["rows"].to_numpy())
        for parts, members in _groups(units["parts"]):
            for part in parts.split(","):
                _put(self._versions, _known(part, PARTS), shards[members], versions[members] + 1, most)
        failed = units.filter(pa.array(units["failed"].combine_chunks().value_lengths().to_numpy() > 0))
        with self._lock:
            for parts, failures in zip(failed["parts"].to_pylist(), failed["failed"].to_pylist(), strict=True):
                of_row = {failure["row"]: (failure["reason"], failure["detail"]) for failure in failures}
                for part in parts.split(","):
                    self._failures.setdefault(part, {}).update(of_row)
        exact = _flat(units["exact"])
        for array, members in _groups(exact.field("array")):
            in_array = exact.field("row").to_numpy()[members]
            _put(self._exact, _known(array, ARRAYS), in_array, np.ones(len(members), bool), self._rows_known)
        tails = _flat(units["undecodable_tail_frames"])
        _put(self._tails, "frames", tails.field("row").to_numpy(), tails.field("frames").to_numpy(), self._rows_known)
        self._put_objects(units, "lengths", self._lengths)
        self._put_objects(units, "digests", self._digests)

    def _require_shards(self, shards: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
        if not len(shards):
            return
        are_there = 0 <= shards.min() <= shards.max() < self.shards
        if not are_there or not 1 <= counts.min() <= counts.max() <= self.clips_per_shard:
            raise StoreDamaged(
                f"the log commits {counts.min()} to {counts.max()} rows in shards {shards.min()} to {shards.max()}; there are "
                f"{self.shards} of {self.clips_per_shard}"
            )

    def _put_objects(self, units: pa.Table, name: str, of: dict[str, NDArray[Any]]) -> None:
        """A column of one number for each of a unit's objects, by array and shard."""
        shards, values = units["shard"].to_numpy(), units[name].combine_chunks()
        counts, flat = values.value_lengths().to_numpy(), values.flatten().to_numpy()
        starts = np.cumsum(counts) - counts
        for texts, members in _groups(units["arrays"]):
            arrays = texts.split(",") if texts else []
            if (counts[members] != len(arrays)).any():
                raise StoreDamaged(f"the log gives other than {len(arrays)} {name} of objects in {texts}")
            for number, array in enumerate(arrays):
                _put(of, _known(array, ARRAYS), shards[members], flat[starts[members] + number], self.shards)

    def _settle(self) -> None:
        with self._lock:
            if self._waiting:
                waiting, self._waiting = self._waiting, []
                self.add_units(pa.Table.from_pylist(waiting, schema=UNITS))

    # -- what it says

    @property
    def rows(self) -> int:
        """Length of the clip axis: one past the last row."""
        return self.rows_added[-1].first_row + self.rows_added[-1].rows if self.rows_added else 0

    @property
    def _rows_known(self) -> int:
        """One past the last row that may be named: a lost record may have added rows that nothing else tells of."""
        return min(MOST_ROWS, self.rows + _MOST_LOST * bool(self.lost))

    @property
    def shards(self) -> int:
        """One past the last shard that may be named."""
        return -(-self._rows_known // self.clips_per_shard)

    @property
    def units(self) -> pa.Table:
        """All committed units: a table with the schema `UNITS`."""
        with self._lock:
            self._settle()
            self._tables = [pa.concat_tables([UNITS.empty_table(), *self._tables])]
            return self._tables[0]

    @property
    def retired(self) -> frozenset[int]:
        """Rows that damage has hit, and whose clips belong in new rows."""
        return frozenset(self._retired)

    @property
    def barred(self) -> frozenset[tuple[PartName, int]]:
        """(part, shard) of each part that can no longer be committed in a shard, since one of its keys was announced."""
        self._settle()
        found = {(part_of(array_of(key)), shard) for key in self.announced if (shard := shard_of(key)) is not None}
        return frozenset((part, shard) for part, shard in found if not self.is_done(part, np.array([shard]))[0])

    def status(self, rows: NDArray[np.int64], parts: Sequence[PartName]) -> NDArray[np.uint8]:
        """Status of each row over all of ``parts``: uint8 (row,). Row -1 is pending.

        `RETIRED`, else `FAILED` if any part failed, else `PENDING` if any is pending, else `COMMITTED`.
        """
        self._settle()
        shards = rows // self.clips_per_shard
        last = int(shards.max(initial=-1)) + 1
        done = np.full(last + 1, bool(parts))
        done[last] = False  # where row -1, of a clip that there is not, looks
        for part in parts:
            done[:last] &= _at(self._versions.get(part), np.arange(last)) > 0
        result = np.where(done, np.uint8(COMMITTED), np.uint8(PENDING))[shards]
        with self._lock:
            failed = [row for part in parts for row in self._failures.get(part, ())]
        if failed:
            result[np.isin(rows, failed)] = FAILED
        if self._retired:
            result[np.isin(rows, list(self._retired))] = RETIRED
        return np.asarray(result, np.uint8)

    def failure(self, row: int, parts: Iterable[PartName]) -> tuple[str, str] | None:
        """(reason, detail) of the row's failure in the first of ``parts`` in which it failed; None if it failed in none."""
        self._settle()
        return next((found for part in parts if (found := self._failures.get(part, {}).get(row)) is not None), None)

    def undecodable_tails(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many frames at its video's end each row was made without, since they do not decode: int64 (row,)."""
        self._settle()
        return _at(self._tails.get("frames"), rows)

    def rows_failed_for(self, reason: FailureReason) -> list[int]:
        """Rows that failed for this reason in some part."""
        self._settle()
        with self._lock:
            return sorted({row for of in self._failures.values() for row, (found, _) in of.items() if found == reason})

    def is_done(self, part: PartName, shards: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each shard is committed in the part: bool (shard,)."""
        self._settle()
        done: NDArray[np.bool_] = _at(self._versions.get(part), shards) > 0
        return done

    def committed_at(self, part: PartName, shard: int) -> int:
        """Version that committed the shard in the part; -1 if none has."""
        self._settle()
        return int(_at(self._versions.get(part), np.array([shard]))[0]) - 1

    def is_exact(self, array: str, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each row is in the array ``SIGNAL_exact``: bool (row,)."""
        self._settle()
        return _at(self._exact.get(array), rows).astype(bool)

    def shard_length(self, array: str, shard: int) -> int:
        """Length in bytes of a committed shard object; 0 if there is none."""
        self._settle()
        return int(_at(self._lengths.get(array), np.array([shard]))[0])

    def shard_digest(self, array: str, shard: int) -> int:
        """The first 64 bits of the sha256 of a committed shard object's bytes; 0 if there is none."""
        self._settle()
        return int(_at(self._digests.get(array), np.array([shard]))[0])

    def shard_lengths(self, array: str) -> NDArray[np.int64]:
        """Lengths in bytes of an array's shard objects, int64, by shard number; 0 where there is none."""
        self._settle()
        return self._lengths.get(array, np.zeros(0, np.int64))

    def bytes_of(self, array: str) -> int:
        """Committed bytes of an array."""
        return int(self.shard_lengths(array).sum())

    def arrays(self) -> list[str]:
        """Names of the arrays that have committed objects."""
        self._settle()
        return sorted(self._lengths)


def clip_counts(rows: NDArray[np.int64], state: State, parts: Sequence[PartName]) -> ClipCounts:
    """Number of rows that are committed in all of ``parts``, failed in any, or pending. A retired row counts as pending."""
    status = state.status(rows, parts)
    committed, failed = int((status == COMMITTED).sum()), int((status == FAILED).sum())
    return ClipCounts(planned=len(rows), committed=committed, failed=failed, pending=len(rows) - committed - failed)


_MOST_LOST = 2**22
"""The most rows that records may have added that are lost."""

_BELIEVED = 2**22
"""Rows for which memory is taken, 8 bytes a row and array, on the log's word that their tables are there."""

# About twenty times the values of the largest teacher's F4D. A reader allocates all of a clip's values at once.
_MOST_VALUES = 2**28


def _require_shape(added: PartAdded) -> None:
    axes = 1 if added.part == "clock" else len(SIGNALS[added.part].dims)
    if len(added.shape) != axes or min(added.shape) < 1 or math.prod(added.shape) > _MOST_VALUES:
        raise StoreDamaged(f"the log gives {added.part} the shape {added.shape}, which is none of a clip's")


def _unit_row(version: int, unit: UnitCommitted) -> dict[str, Any]:
    return {
        "version": version,
        "shard": unit.shard,
        "parts": ",".join(unit.parts),
        "rows": unit.rows,
        "failed": [failed.model_dump() for failed in unit.failed],
        "exact": [{"array": exact_array(signal), "row": row} for signal, rows in unit.exact.items() for row in rows],
        "arrays": ",".join(map(array_of, unit.objects)),
        "lengths": [stored.length for stored in unit.objects.values()],
        "digests": [int(stored.digest.removeprefix("sha256:")[:16], 16) for stored in unit.objects.values()],
        "undecodable_tail_frames": [
            {"frames": frames, "row": row} for frames, rows in unit.undecodable_tail_frames.items() for row in rows
        ],
    }


def _flat(column: pa.ChunkedArray) -> pa.StructArray:
    return column.combine_chunks().flatten()


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


def _known(name: str, names: Collection[str]) -> str:
    if name not in names:
        raise StoreDamaged(f"the log commits {name}, which no store has")
    return name


def _put(arrays: dict[str, NDArray[Any]], name: str, rows: NDArray[np.int64], values: NDArray[Any], most: int) -> None:
    """Set ``values`` at ``rows``, which are below ``most``."""
    if not len(rows):
        return
    array, needed = arrays.get(name, np.zeros(0, values.dtype)), int(rows.max()) + 1
    if needed > most or rows.min() < 0:
        raise StoreDamaged(f"the log names rows or shards {rows.min()} to {needed - 1}, and there are {most}")
    if needed > len(array):
        # Grows by half, so that adding records one by one stays linear.
        array = np.concatenate([array, np.zeros(max(needed, len(array) * 3 // 2) - len(array), array.dtype)])
    array[rows] = values
    arrays[name] = array
