"""Ledger entries: what one unit of work committed. An entry is written once, after its objects, and never changed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, FiniteFloat, StringConstraints

from schemas.base import Frozen, Sealed
from schemas.clip import Clip, FailureReason
from schemas.signal import SIGNAL_NAMES, SignalName, exact_array, is_exact_array

PartName = SignalName | Literal["clock"]
PARTS: tuple[PartName, ...] = ("clock", *SIGNAL_NAMES)
"""The parts that a unit can write: the clock (the times of the frames) and the signals."""


ObjectKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*$")]
"""A key relative to the store. No part is empty or starts with a dot, so no key leads out of the store."""


MOST_ROWS = 2**30
"""The most rows of a store. Readers allocate memory for all rows up to the last one in the ledger."""


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


class StoredObject(Frozen):
    """An immutable object of the store, as it was created."""

    digest: str
    """sha256 of its bytes."""
    length: int = Field(ge=0)
    """Length in bytes."""


class ErrorFigure(Frozen):
    """The encoding error of one clip's signal, measured as it was written. No figure is infinite or NaN, which JSON has not."""

    measure: str
    """The quantity whose largest value ``measured`` and ``bound`` give, in words."""
    measured: FiniteFloat
    """Largest error of the clip."""
    bound: FiniteFloat
    """Largest error that the encoding allows."""
    relative_rms: FiniteFloat
    """Root mean square of the error, divided by that of the values."""


class RowOutcome(Frozen):
    """What became of one clip of the unit."""

    row: int = Field(ge=0, lt=MOST_ROWS)
    """Index on the first axis of every array."""
    clip_id: str
    status: Literal["committed", "failed"]
    reason: FailureReason | None = None
    """Why it failed; null if it was committed."""
    detail: str | None = None
    """The reason in words."""
    decoder: str | None = None
    """Name and version of the decoder that decoded the frames."""
    errors: dict[str, ErrorFigure] = Field(default_factory=dict)
    """Signal → its encoding error."""
    optional_arrays: tuple[str, ...] = ()
    """Arrays ``SIGNAL_exact`` that hold this clip instead of the signals' usual arrays."""

    def holds(self, array: str) -> bool:
        """Whether the row must have a chunk in ``array``, one of its unit's arrays."""
        if self.status == "failed":
            return False
        return array in self.optional_arrays or not (is_exact_array(array) or exact_array(array) in self.optional_arrays)


class WorkItem(Frozen):
    """A unit, with what a worker needs to do it."""

    unit: Unit
    clips: tuple[Clip, ...]
    """Rows to teach."""
    settled: tuple[RowOutcome, ...]
    """Rows of the shard that failed earlier or are superseded: recorded again without another try."""


class LedgerEntry(Sealed):
    """One committed unit. It has no time, host or path, so that equal work gives equal bytes."""

    unit: Unit
    fingerprint: str
    """Fingerprint of the store's recipe."""
    objects: dict[ObjectKey, StoredObject]
    """Key in the store → the object created there."""
    rows: tuple[RowOutcome, ...]


class Retirement(Sealed):
    """Rows whose committed objects are damaged. Their clips are taught again in new rows.

    The damaged objects stay as they are and are recorded here, so that a later check can tell them from new damage.
    """

    rows: tuple[int, ...]
    clip_ids: tuple[str, ...]
    found: dict[str, str | None]
    """Key of each damaged object → digest of the bytes found there; null if the object is missing."""
