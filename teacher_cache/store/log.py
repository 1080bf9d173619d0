"""A store's log: its records in, read forward and folded; actions out, appended as the next record. Readers and writers agree
here and nowhere else.

Record N is the object ``log/N.json``, created only if it is absent. Whoever finds the number taken reads what came, decides
again, and tries the next one. Records are reached by their numbers, so nothing depends on a listing; only the newest
checkpoint, which saves reading all records before it, is found by one.
"""

from __future__ import annotations

import os
import platform
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import pyarrow as pa

from schemas.base import Frozen, canonical_json, sha256_digest
from schemas.errors import BadInput, StoreDamaged
from schemas.log import PARTS, Action, Record, RecordLost, RecordsReplaced, RowsAdded
from teacher_cache.store.catalog import rows_table
from teacher_cache.store.layout import CHECKPOINT, LONGEST_CHECKPOINT, LONGEST_RECORD, checkpoint_version, record_key
from teacher_cache.store.objects import Objects
from teacher_cache.store.parquet import UNREADABLE, metadata_of, parquet_bytes, read_parquet
from teacher_cache.store.records import REPAIR_ADVICE, seal, unseal
from teacher_cache.store.state import UNITS, State
from teacher_cache.store.table import short_digest

FEWEST_AHEAD, MOST_AHEAD = 4, 32
"""Records asked for at once. More than one even at the log's end, to notice a record that is gone before others."""

MOST_RECORDS, LEAST_BYTES = 128, 8 * 2**20
"""A checkpoint is due after that many records, or that many bytes of them and as many as the last checkpoint has.

So a reader reads little more than twice a checkpoint, and all checkpoints together stay within a few times the records.
"""
_READ_ANEW_AT_ONCE = 256
WORTH_A_CHECKPOINT = 16
"""Records after which a run that ends makes one: a store whose work is done is opened often."""

Choose = Callable[[State], Sequence[Action]]


class Log:
    """A store's history up to some version, which `read` moves on and `append` adds to. One thread at a time may write."""

    def __init__(self, objects: Objects, clips_per_shard: int) -> None:
        self._objects, self._per_shard = objects, clips_per_shard
        self.state = State(clips_per_shard, self._is_table_there)
        self._is_begun = False
        self._records = 0
        """Records since the last checkpoint."""
        self._bytes = 0
        """Their bytes."""
        self._checkpoint_bytes = 0

    def read(self, version: int | None = None) -> State:
        """The state at the newest version, or at ``version``; always the same object, moved on.

        Raises `BadInput` if the store has no such version, `StoreDamaged` if a record is damaged or missing.
        """
        if not self._is_begun:
            self._start(version)
            self._is_begun = True
        ahead = FEWEST_AHEAD
        while version is None or self.state.version < version:
            last = self.state.version + ahead if version is None else min(version, self.state.version + ahead)
            numbers = range(self.state.version + 1, last + 1)
            found = self._objects.get_many([record_key(number) for number in numbers], LONGEST_RECORD)
            for number in numbers:
                data = found.get(record_key(number))
                if data is None and any(later > number and record_key(later) in found for later in numbers):
                    data = self._created_since(number)
                if data is None:
                    self._require_version(version)
                    return self.state
                self._fold(number, data)
            ahead = min(2 * ahead, MOST_AHEAD)
        self._require_version(version)
        return self.state

    def _require_version(self, version: int | None) -> None:
        if version is not None and self.state.version != version:
            raise BadInput(f"version {version} of {self._objects.url} was asked for, and it has 0 to {self.state.version}")

    def _created_since(self, number: int) -> bytes:
        """A record that was absent while a later one existed: it was created in between, or it is lost."""
        data = self._objects.get(record_key(number), LONGEST_RECORD)
        if data is None:
            raise StoreDamaged(f"{record_key(number)} of {self._objects.url} is missing, and later ones exist. {REPAIR_ADVICE}")
        return data

    def _fold(self, number: int, data: bytes) -> None:
        record = read_record(number, data, self._objects.url)
        is_lost = any(isinstance(action, RecordLost) for action in record.actions)
        replaced = {n for action in record.actions if isinstance(action, RecordsReplaced) for n in action.versions}
        if not replaced <= self.state.lost:
            self._read_anew(number)
            return
        if self.state.tip is not None and not is_lost and record.previous != self.state.tip:
            raise StoreDamaged(
                f"{record_key(number)} of {self._objects.url} does not follow the record before it: "
                "one of them was replaced or comes from another store"
            )
        try:
            self.state.apply(number, record.actions)
        except StoreDamaged as error:
            raise StoreDamaged(f"{record_key(number)} of {self._objects.url}: {error}. {REPAIR_ADVICE}") from None
        self.state.tip = None if is_lost else sha256_digest(data)
        if number == 0:
            self.state.origin = sha256_digest(data)
        self._records += 1
        self._bytes += len(data)

    @property
    def origin(self) -> str:
        """sha256 of the bytes of record 0, which no two stores share."""
        return self.state.origin

    def _is_table_there(self, added: RowsAdded) -> bool:
        return rows_table(self._objects, added).is_there()

    def _read_anew(self, number: int) -> None:
        """Read all records up to ``number`` from the first on: some were replaced since the state was made."""
        state = State(self._per_shard, self._is_table_there)
        for start in range(0, number + 1, _READ_ANEW_AT_ONCE):
            numbers = range(start, min(number + 1, start + _READ_ANEW_AT_ONCE))
            found = self._objects.get_many([record_key(n) for n in numbers], LONGEST_RECORD)
            for n in numbers:
                data = found.get(record_key(n)) or self._created_since(n)
                record = read_record(n, data, self._objects.url)
                state.apply(n, record.actions)
                state.tip = None if n in state.lost else sha256_digest(data)
                state.origin = state.origin or sha256_digest(data)
        self.state, self._records, self._bytes = state, MOST_RECORDS, 0  # a checkpoint is due

    def append(self, choose: Choose, command: str) -> bool:
        """Append what ``choose`` makes of the newest state, as one record. False if that is nothing.

        If another writer appends first, ``choose`` is called again with the state that it left. ``command`` is what the record
        says of its writer, besides process and host.
        """
        if not self._is_begun:
            self.read()
        while actions := tuple(choose(self.state)):
            number, mark = self.state.version + 1, uuid.uuid4().hex
            record = Record(
                version=number,
                previous=self.state.tip or "",
                time=datetime.now(UTC),
                writer=f"{command}, process {os.getpid()} on {platform.node()}",
                mark=mark,
                actions=actions,
            )
            data, key = seal(record), record_key(number)
            if len(data) > LONGEST_RECORD:
                raise BadInput(f"a record of {len(data):,} bytes is more than the {LONGEST_RECORD:,} that readers take")
            if self._objects.create(key, data) or self._objects.get(key, len(data)) == data:
                self._fold(number, data)
                return True
            self.read()
        return False

    def make_checkpoint(self, *, at_end: bool = False) -> bool:
        """Write a checkpoint if one is due: after many records, or ``at_end`` of a run after some. Returns whether it did."""
        is_due = self._records >= MOST_RECORDS or self._bytes >= max(LEAST_BYTES, self._checkpoint_bytes)
        if not (is_due or (at_end and self._records >= WORTH_A_CHECKPOINT)):
            return False
        self.read()  # a repair may have replaced records since
        key, data = checkpoint_file(self.state)
        self._objects.create(key, data)
        self._records, self._bytes, self._checkpoint_bytes = 0, 0, len(data)
        return True

    def _start(self, version: int | None) -> None:
        """Begin at the newest checkpoint that is not after ``version``. Damaged ones are passed over: they save time only."""
        for key in sorted(checkpoints(self._objects), reverse=True):
            number = checkpoint_version(key)
            if number is None or (version is not None and number > version):
                continue
            data = self._objects.get(key, LONGEST_CHECKPOINT)
            state = None if data is None else read_checkpoint(key, data, self._per_shard, self._is_table_there)
            if state is not None:
                self.state, self._checkpoint_bytes = state, len(data or b"")
                return


def read_record(number: int, data: bytes, url: str) -> Record:
    """Parse a record. Raises `StoreDamaged` if it is damaged, or was stored under another number."""
    key = record_key(number)
    record = unseal(Record, data, key, url)
    if record.version != number:
        raise StoreDamaged(f"{key} of {url} is record {record.version}; it was copied or renamed. {REPAIR_ADVICE}")
    return record


def checkpoints(objects: Objects) -> list[str]:
    """Keys of the checkpoints, ascending."""
    return list(objects.listing(CHECKPOINT))


class _About(Frozen):
    """What a checkpoint holds besides units."""

    version: int
    tip: str | None
    origin: str
    actions: tuple[Action, ...]


def checkpoint_file(state: State) -> tuple[str, bytes]:
    """(key, bytes) of a checkpoint: the committed units as columns, and all other actions in the file's metadata.

    Equal states give equal bytes.
    """
    about = _About(version=state.version, tip=state.tip, origin=state.origin, actions=tuple(state.others))
    data = parquet_bytes(state.units.replace_schema_metadata({"checkpoint": canonical_json(about.model_dump(mode="json"))}))
    return f"{CHECKPOINT}{state.version:020d}-{short_digest(data)}.parquet", data


def read_checkpoint(
    key: str, data: bytes, clips_per_shard: int, is_there: Callable[[RowsAdded], bool] = lambda _: True
) -> State | None:
    """The state that a checkpoint holds; None if its bytes are not those that its name states, or not a checkpoint's.

    ``is_there`` is as for `State`.
    """
    if not key.endswith(f"-{short_digest(data)}.parquet"):
        return None
    try:
        source = pa.BufferReader(data)
        about = _About.model_validate_json(metadata_of(source, len(data)).get(b"checkpoint", b""))
        state = State(clips_per_shard, is_there)
        state.apply(about.version, about.actions)
        # A part of a shard is committed once, and its rows are known by now.
        most = range(state.shards * len(PARTS) + 1)
        table = read_parquet(source, len(data), lambda start, stop: data[start:stop], UNITS, rows=most)
        state.add_units(table.replace_schema_metadata(None))
        state.tip, state.origin = about.tip, about.origin
    except (*UNREADABLE, StoreDamaged, RecursionError):
        return None
    return state if state.version == checkpoint_version(key) else None
