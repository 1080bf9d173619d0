"""The log: a store's history as numbered records of what was added, committed, retired and deleted; and units of work."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, Field, FiniteFloat, StringConstraints, model_validator

from schemas.base import Frozen, Sealed
from schemas.clip import Clip, FailureReason
from schemas.signal import SIGNAL_NAMES, Shape, SignalName, exact_array, is_exact_array

PartName = SignalName | Literal["clock"]
PARTS: tuple[PartName, ...] = ("clock", *SIGNAL_NAMES)
"""The parts that a unit can write: the clock (the times of the frames) and the signals."""


ObjectKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*$")]
"""A key relative to the store. No part is empty or starts with a dot, so no key leads out of the store."""


MOST_ROWS = 2**30
"""The most rows of a store. Readers allocate memory for all rows up to the last one in the log."""

LONGEST_SEGMENT = 2**20
"""The most rows added at once; more are added in several actions, so that reading one table never takes gigabytes."""

LEAST_ROW_BYTES = 16
"""The least that a row takes in its table: two hashes of its clip's id, which nothing compresses."""

LARGEST_OBJECT = 5000 * 2**20
"""Bytes that every server takes in one request: Azure 5000 MiB, S3 and GCS 5 GiB. One request is atomic and conditional
everywhere; a multipart upload, which larger objects need, is not."""

LONGEST_FOOTER = 2**20
"""Bytes of a table's footer: some kilobytes for each of its row groups, of which there are at most sixteen."""

Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]

Length = Annotated[int, Field(ge=0, le=LARGEST_OBJECT)]
"""Length of an object in bytes."""

Row = Annotated[int, Field(ge=0, lt=MOST_ROWS)]
"""Index on the first axis of every array."""


class Unit(Frozen):
    """One unit of work: the rows of one shard, for a set of parts."""

    shard: int = Field(ge=0, lt=MOST_ROWS)
    """Index of the shard on the first axis of every array."""
    parts: tuple[PartName, ...] = Field(min_length=1)
    """In the order of `PARTS`."""

    @property
    def name(self) -> str:
        """The unit's name in messages."""
        return f"{self.shard:08d}-{'-'.join(self.parts)}"


class FailedRow(Frozen):
    """A row of a unit whose clip has no targets."""

    row: Row
    reason: FailureReason
    detail: str
    """The reason in words."""


class WorkItem(Frozen):
    """A unit, with what a worker needs to do it."""

    unit: Unit
    clips: tuple[Clip, ...]
    """Rows to teach."""
    settled: tuple[FailedRow, ...]
    """Rows of the shard that failed earlier or are superseded: recorded again without another try."""


class ErrorFigure(Frozen):
    """The encoding error of one clip's signal, measured as it was written."""

    measure: str
    """The quantity whose largest value ``measured`` and ``bound`` give, in words."""
    measured: FiniteFloat
    """Largest error of the clip."""
    bound: FiniteFloat
    """Largest error that the encoding allows."""
    relative_rms: FiniteFloat
    """Root mean square of the error, divided by that of the values."""


class ErrorFigures(Frozen):
    """`ErrorFigure` of several clips of a unit in one signal, by row."""

    signal: SignalName
    measure: str
    bound: FiniteFloat
    rows: tuple[Row, ...]
    measured: tuple[FiniteFloat, ...]
    relative_rms: tuple[FiniteFloat, ...]


class TableFile(Frozen):
    """A Parquet file of the store, as it was created."""

    key: ObjectKey
    """Its key in the store."""
    digest: Digest
    """sha256 of its bytes."""
    length: Length
    """Length in bytes."""
    footer_length: int = Field(ge=0, le=LONGEST_FOOTER)
    """Length in bytes of the footer at the end, which locates the file's pages."""
    footer_digest: Digest
    """sha256 of the footer, to check a file that is read in part; its pages have their own checksums."""


class StoredObject(Frozen):
    """An immutable object of the store, as it was created."""

    digest: Digest
    """sha256 of its bytes."""
    length: Length
    """Length in bytes."""


class StoreCreated(Frozen):
    """The first action of every store."""

    action: Literal["store_created"] = "store_created"
    fingerprint: str
    """Fingerprint of the store's recipe."""


class RowsAdded(Frozen):
    """Consecutive rows from ``first_row``, each described by a row of the table."""

    action: Literal["rows_added"] = "rows_added"
    first_row: int = Field(ge=0, lt=MOST_ROWS)
    """A multiple of the clips per shard, so that no committed shard ever gains rows."""
    rows: int = Field(ge=1, le=LONGEST_SEGMENT)
    """Number of rows."""
    table: TableFile
    superseded: TableFile | None = None
    """Table of the earlier rows that are no longer in force, since these hold their clips, or their video has other content."""

    @model_validator(mode="after")
    def _a_table_that_can_hold_them(self) -> Self:
        if self.table.length < self.rows * LEAST_ROW_BYTES:
            raise ValueError(f"{self.rows} rows cannot be in a table of {self.table.length} bytes")
        return self


class PartAdded(Frozen):
    """The arrays of a part exist from here on."""

    action: Literal["part_added"] = "part_added"
    part: PartName
    shape: Shape
    """Shape of one clip of the signal; (frame,) for the clock."""


class UnitCommitted(Frozen):
    """The rows of one shard, in some parts: each has its targets now, or has failed."""

    action: Literal["unit_committed"] = "unit_committed"
    shard: int = Field(ge=0, lt=MOST_ROWS)
    parts: tuple[PartName, ...] = Field(min_length=1)
    """In the order of `PARTS`. Each part of a shard is committed once."""
    rows: int = Field(ge=1, le=4096)
    """Rows of the shard, from its first on."""
    failed: tuple[FailedRow, ...] = ()
    """The rows without targets, ascending; all others have theirs."""
    exact: dict[SignalName, tuple[Row, ...]] = Field(default_factory=dict)
    """Signal → the rows that are in its array ``SIGNAL_exact`` instead of its usual array, ascending."""
    objects: dict[ObjectKey, StoredObject] = Field(default_factory=dict)
    """Key in the store → the shard object created there."""
    figures: tuple[ErrorFigures, ...] = ()
    """Encoding errors of the committed rows."""
    decoders: dict[str, tuple[Row, ...]] = Field(default_factory=dict)
    """Name and version of a decoder → the committed rows whose frames it decoded."""
    undecodable_tail_frames: dict[Annotated[int, Field(ge=1, lt=2**31)], tuple[Row, ...]] = Field(default_factory=dict)
    """Number of frames that do not decode at the end of a video → the committed rows that were made without them; no zero."""

    @property
    def unit(self) -> Unit:
        """The unit of work."""
        return Unit(shard=self.shard, parts=self.parts)

    def rows_in(self, array: str, clips_per_shard: int) -> list[int]:
        """The rows that must have a chunk in ``array``, one of the unit's arrays."""
        first = self.shard * clips_per_shard
        exact = next((rows for signal, rows in self.exact.items() if array in {signal, exact_array(signal)}), ())
        without = {row.row for row in self.failed} | (set() if is_exact_array(array) else set(exact))
        wanted = exact if is_exact_array(array) else range(first, first + self.rows)
        return [row for row in wanted if row not in without]


class RowsRetired(Frozen):
    """Rows whose committed objects are damaged. Their clips are taught again in new rows.

    The damaged objects stay as they are and are named here, so that a later check can tell them from new damage.
    """

    action: Literal["rows_retired"] = "rows_retired"
    rows: tuple[Row, ...]
    found: dict[ObjectKey, str | None]
    """Key of each damaged object → digest of the bytes found there; null if the object is missing."""


class Deleting(Frozen):
    """Objects that ``gc`` is about to delete. A key that is named here is never committed from here on."""

    action: Literal["deleting"] = "deleting"
    keys: tuple[str, ...]


class Deleted(Frozen):
    """The objects of earlier `Deleting` actions that are gone."""

    action: Literal["deleted"] = "deleted"
    keys: tuple[str, ...]


class RecordLost(Frozen):
    """What this record said was damaged beyond repair. Units that it committed are done again: their objects stand."""

    action: Literal["record_lost"] = "record_lost"
    version: int = Field(ge=0)
    """The record's number."""


class RecordsReplaced(Frozen):
    """Earlier records were damaged and say `RecordLost` now.

    Whoever has read them as they were, or begins at a checkpoint that has, reads the log anew from its first record.
    """

    action: Literal["records_replaced"] = "records_replaced"
    versions: tuple[int, ...]


Action = Annotated[
    StoreCreated | RowsAdded | PartAdded | UnitCommitted | RowsRetired | Deleting | Deleted | RecordLost | RecordsReplaced,
    Field(discriminator="action"),
]


class Record(Sealed):
    """One record of the log. The state of a store is what its records 0 … N say, in order; N is its version."""

    version: int = Field(ge=0)
    """The record's number."""
    previous: str
    """sha256 of the bytes of the record before; "" for record 0."""
    time: AwareDatetime
    """When it was written, by its writer's clock. Nothing depends on it."""
    writer: str
    """What wrote it: command, version and host."""
    mark: str
    """A random number, by which a writer that lost the answer knows its own record."""
    actions: tuple[Action, ...] = Field(min_length=1)
