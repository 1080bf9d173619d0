"""A store's log in, every record of it read, also around damage; for `verify`, `repair` and `teacher-cache log`.

Readers begin at a checkpoint and stop at damage (`teacher_cache.store.log`); this reads all there is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from schemas.base import sha256_digest
from schemas.errors import StoreDamaged
from schemas.log import (
    Deleted,
    Deleting,
    PartAdded,
    Record,
    RecordLost,
    RecordsReplaced,
    RowsAdded,
    RowsRetired,
    UnitCommitted,
)
from schemas.report import LogEntry, LogReport
from schemas.storage import StorageOptions
from teacher_cache.store.layout import LONGEST_CHECKPOINT, LONGEST_RECORD, checkpoint_version, record_key, version_of
from teacher_cache.store.log import read_checkpoint, read_record
from teacher_cache.store.objects import Objects
from teacher_cache.store.store import open_store

_AT_ONCE = 256
"""Records fetched together: up to some hundred kilobytes each."""


@dataclass(frozen=True)
class DamagedRecord:
    """A record that cannot be read."""

    version: int
    detail: str
    data: bytes | None
    """What lies at its key."""


def records(objects: Objects, last: int) -> Iterator[tuple[Record, bytes] | DamagedRecord]:
    """Every record up to number ``last``, in order: itself with its bytes, or what is wrong with it.

    Where a record does not follow the one before it, one of the two comes from elsewhere. It is the earlier one if another
    follows the later one.
    """
    ends: tuple[_Read, ...] = (None, None)
    read: Iterator[_Read] = chain(ends[:1], _reads(objects, last), ends)
    before, this, after = next(read), next(read), next(read)
    is_before_foreign = False
    for afterwards in read:
        assert this is not None
        is_foreign = (_follows(this, before) is False and not is_before_foreign and _follows(after, this) is not True) or (
            _follows(after, this) is False and _follows(afterwards, after) is True
        )
        if is_foreign and isinstance(this, tuple):
            yield DamagedRecord(this[0].version, "it comes from elsewhere: the records around it do not belong to it", this[1])
        else:
            yield this
        before, this, after, is_before_foreign = this, after, afterwards, is_foreign


_Read = tuple[Record, bytes] | DamagedRecord | None


def _reads(objects: Objects, last: int) -> Iterator[tuple[Record, bytes] | DamagedRecord]:
    """The records themselves, whatever comes before and after them."""
    for start in range(0, last + 1, _AT_ONCE):
        numbers = range(start, min(last + 1, start + _AT_ONCE))
        found = objects.get_many([record_key(number) for number in numbers], LONGEST_RECORD)
        for number in numbers:
            data = found.get(record_key(number))
            if data is None:
                yield DamagedRecord(number, "it is missing, and later ones exist", None)
                continue
            try:
                yield read_record(number, data, objects.url), data
            except StoreDamaged as error:
                yield DamagedRecord(number, str(error), data)


def _follows(later: _Read, earlier: _Read) -> bool | None:
    """Whether one record was appended to the other; None if a record is none, or was put in a lost one's place."""
    if not isinstance(later, tuple) or not isinstance(earlier, tuple) or _is_lost(later[0]) or _is_lost(earlier[0]):
        return None
    return later[0].previous == sha256_digest(earlier[1])


def _is_lost(record: Record) -> bool:
    return any(isinstance(action, RecordLost) for action in record.actions)


def last_version(keys: Collection[str]) -> int:
    """The highest number of a record or checkpoint among a store's keys; -1 if there is none."""
    found = [version_of(key) for key in keys]
    found += [checkpoint_version(key) for key in keys]
    return max((number for number in found if number is not None), default=-1)


def damaged_checkpoints(objects: Objects, listed: Mapping[str, object], clips_per_shard: int) -> Iterator[str]:
    """Keys of the checkpoints that are not what their names say."""
    for key in listed:
        if checkpoint_version(key) is not None:
            data = objects.get(key, LONGEST_CHECKPOINT)
            if data is not None and read_checkpoint(key, data, clips_per_shard) is None:
                yield key


def log_report(url: str, storage_options: StorageOptions | None = None) -> LogReport:
    """The history of the store at ``url``. Raises `StoreNotFound`, and `StoreDamaged` if a record is damaged."""
    store = open_store(url, storage_options)
    entries = []
    for found in records(store.objects, store.version):
        if isinstance(found, DamagedRecord):
            raise StoreDamaged(f"{record_key(found.version)} of {url}: {found.detail}")
        entries.append(_entry(found[0]))
    return LogReport(store=url, fingerprint=store.recipe.fingerprint, version=store.version, entries=tuple(entries))


def _entry(record: Record) -> LogEntry:
    units = [action for action in record.actions if isinstance(action, UnitCommitted)]
    return LogEntry(
        version=record.version,
        time=record.time,
        writer=record.writer,
        rows_added=sum(action.rows for action in record.actions if isinstance(action, RowsAdded)),
        parts_added=tuple(action.part for action in record.actions if isinstance(action, PartAdded)),
        units=len(units),
        committed=sum(unit.rows - len(unit.failed) for unit in units),
        failed=sum(len(unit.failed) for unit in units),
        bytes=sum(stored.length for unit in units for stored in unit.objects.values()),
        retired=sum(len(action.rows) for action in record.actions if isinstance(action, RowsRetired)),
        announced=sum(len(action.keys) for action in record.actions if isinstance(action, Deleting)),
        deleted=sum(len(action.keys) for action in record.actions if isinstance(action, Deleted)),
        replaced=sum(len(action.versions) for action in record.actions if isinstance(action, RecordsReplaced)),
        lost=any(isinstance(action, RecordLost) for action in record.actions),
    )
