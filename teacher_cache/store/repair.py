"""A damaged store in; derivable objects rewritten and damaged rows retired out. The next run teaches their clips again."""

from __future__ import annotations

import math
from collections import defaultdict
from datetime import UTC, datetime
from functools import partial
from uuid import uuid4

from pydantic import ValidationError

from schemas.errors import StoreDamaged
from schemas.log import Record, RecordLost, RecordsReplaced, RowsAdded, RowsRetired, TableFile
from schemas.storage import StorageOptions
from teacher_cache.io.progress import Progress, no_progress
from teacher_cache.store.declared import expected_metadata
from teacher_cache.store.history import DamagedRecord, damaged_checkpoints, last_version, records
from teacher_cache.store.layout import LOG, ROWS, SUPERSEDED, checkpoint_version, first_row_of, record_key
from teacher_cache.store.objects import Objects
from teacher_cache.store.parquet import UNREADABLE, row_count
from teacher_cache.store.records import seal
from teacher_cache.store.state import State
from teacher_cache.store.store import open_store
from teacher_cache.store.table import described, short_digest
from teacher_cache.store.verify import Damage, examine

_AT_ONCE = 2**14
"""Damaged objects whose rows are retired by one record, which has a bound."""
_RETIRES = {"missing", "truncated", "digest", "chunk_missing"}


def retire_damaged(url: str, progress: Progress = no_progress, storage_options: StorageOptions | None = None) -> bool:
    """Verify a store, rewrite objects that can be derived from others, and retire the rows that damage has hit.

    The planner gives their clips new rows. Safe beside runs and other repairs. Returns True if the heads are damaged, which
    only the teacher can rewrite. Raises `StoreDamaged` if the tables of rows are damaged: nothing else says which row is which
    clip.
    """
    store = open_store(url, storage_options)
    if replaced := mend_log(store.objects, store.recipe.layout.clips_per_shard):
        store.log.append(lambda _: [RecordsReplaced(versions=replaced)], "run --repair")
    store = open_store(url, storage_options)
    examined = examine(store, progress)
    damages = examined.damages
    if lost := [damage for damage in damages if damage.finding.kind == "catalog"]:
        raise StoreDamaged(
            f"{lost[0].finding.key} of {store.url} cannot be repaired from the rest: {lost[0].finding.detail}. "
            f"Restore {LOG}/ from a backup, or begin a new store."
        )
    if any(damage.finding.kind == "metadata" for damage in damages):
        for key, data in expected_metadata(store, store.catalog().rows).items():
            if store.objects.get(key, len(data)) != data:
                store.objects.replace(key, data)
    # Also an object that no row in force needs: its damage becomes known, and is told once.
    hit = [damage for damage in damages if damage.finding.kind in _RETIRES]
    for start in range(0, len(hit), _AT_ONCE):
        retired = _retired(hit[start : start + _AT_ONCE])
        store.log.append(partial(_left_to_retire, retired), "run --repair")
    return any(damage.finding.kind == "heads" for damage in damages)


def _left_to_retire(retired: RowsRetired, state: State) -> list[RowsRetired]:
    is_known = set(retired.rows) <= state.retired and retired.found.items() <= state.known_damage.items()
    return [] if is_known else [retired]


def _retired(damages: list[Damage]) -> RowsRetired:
    rows = {row for damage in damages for row in damage.rows}
    return RowsRetired(rows=tuple(sorted(rows)), found={damage.finding.key: damage.digest for damage in damages})


def mend_log(objects: Objects, clips_per_shard: int) -> tuple[int, ...]:
    """Replace records that cannot be read, and remove the checkpoints that hold what they said. Returns the records' numbers.

    Rows that such a record added are added again from their tables, which its bytes are not needed to find. The rest of it is
    done again: units by the next run, whose objects stand; retired rows, since their damage is found again.
    """
    listed = objects.listing()
    state = State(clips_per_shard)
    lost: list[tuple[int, int, bytes]] = []
    """(number, rows before it, what lies there) of each record that cannot be read."""
    named: set[str] = set()
    for found in records(objects, last_version(listed)):
        if isinstance(found, DamagedRecord):
            lost.append((found.version, state.rows, found.data or b""))
            state.lost.add(found.version)
            continue
        record, data = found
        try:
            state.apply(record.version, record.actions)
        except StoreDamaged:  # sealed, and not what any writer writes
            lost.append((record.version, state.rows, data))
            continue
        named |= {
            table.key
            for action in record.actions
            if isinstance(action, RowsAdded)
            for table in (action.table, action.superseded)
            if table is not None
        }
    # First, since a checkpoint tells what the record did not tell once it is replaced.
    first_lost = lost[0][0] if lost else math.inf
    stale = [key for key in listed if (number := checkpoint_version(key)) is not None and number >= first_lost]
    objects.delete_many([*stale, *damaged_checkpoints(objects, listed, clips_per_shard)])
    for version, rows_before, data in lost:
        later = [added.first_row for added in state.rows_added if added.first_row >= rows_before]
        free = {key for key in listed if first_row_of(key) is not None and key not in named}
        rebuilt = _rows_added(objects, _still_named(data, free), rows_before, min(later, default=None))
        named |= {action.table.key for action in rebuilt}
        record = Record(
            version=version,
            previous="",
            time=datetime.now(UTC),
            writer="run --repair",
            mark=uuid4().hex,
            actions=(RecordLost(version=version), *rebuilt),
        )
        objects.replace(record_key(version), seal(record))
    return tuple(version for version, _, _ in lost)


def _still_named(data: bytes, free: set[str]) -> set[str]:
    """The tables among ``free`` that a damaged record's bytes still name, by key or digest; all, if they name none of rows.

    A table that no record names may also be that of a run which came too late to add its rows, never did, or is about to. So a
    record that can be seen to have added no rows gets none.
    """
    if b'"action"' in data and b"rows_added" not in data:
        return set()
    named = {key for key in free if key.encode() in data or f"sha256:{_digits(key)}".encode() in data}
    return named if any(key.startswith(ROWS) for key in named) else free


def _digits(key: str) -> str:
    """The digits of a table's digest that end its name."""
    return key.rpartition("-")[2].removesuffix(".parquet")


def _rows_added(objects: Objects, free: set[str], first: int, stop: int | None) -> list[RowsAdded]:
    """What a lost record added: the tables of rows in [first, stop) that no other record names. Raises `StoreDamaged`."""
    by_row: dict[int, dict[str, list[str]]] = defaultdict(lambda: {ROWS: [], SUPERSEDED: []})
    for key in free:
        prefix = ROWS if key.startswith(ROWS) else SUPERSEDED
        number = first_row_of(key)
        if number is not None and number >= first and (stop is None or number < stop):
            by_row[number][prefix].append(key)
    actions = []
    for first_row, keys in sorted(by_row.items()):
        if not keys[ROWS]:
            continue
        if len(keys[ROWS]) > 1 or len(keys[SUPERSEDED]) > 1:
            raise StoreDamaged(
                f"a record of {objects.url} that added rows from {first_row} on is lost, and several tables may be the one "
                f"that it named: {', '.join(sorted(keys[ROWS] + keys[SUPERSEDED]))}. Restore {LOG}/ from a backup."
            )
        table, rows = _described(objects, keys[ROWS][0])
        superseded = _described(objects, keys[SUPERSEDED][0])[0] if keys[SUPERSEDED] else None
        try:
            actions.append(RowsAdded(first_row=first_row, rows=rows, table=table, superseded=superseded))
        except ValidationError:
            raise StoreDamaged(
                f"{table.key} of {objects.url} claims {rows} rows from {first_row} on; it is not a store's"
            ) from None
    return actions


def _described(objects: Objects, key: str) -> tuple[TableFile, int]:
    """(a table file as a record names it, its number of rows). Raises `StoreDamaged` if it is not what its key says."""
    data = objects.get(key) or b""
    if not key.endswith(f"-{short_digest(data)}.parquet"):
        raise StoreDamaged(
            f"{key} of {objects.url} is damaged, and so is the record that named it; restore {LOG}/ from a backup"
        )
    try:
        return described(key, data), row_count(data)
    except UNREADABLE as error:
        reason = str(error).partition("\n")[0]
        raise StoreDamaged(f"{key} of {objects.url} is no table ({reason}), and the record that named it is lost") from None
