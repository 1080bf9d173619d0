"""Ledger entries: what one unit of work committed. Written last, once, and never changed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from schemas.base import Frozen, Sealed
from schemas.clip import Clip, FailureReason
from schemas.signal import SIGNAL_NAMES, SignalName, exact_array, is_exact_array

PartName = SignalName | Literal["clock"]
PARTS: tuple[PartName, ...] = ("clock", *SIGNAL_NAMES)
"""What a unit can write: the clock (when each frame was shown) and the signals."""


ObjectKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*$")]
"""A key relative to the store. No part is empty or begins with a dot, so that none leads out of the store."""


MOST_ROWS = 2**30
"""Of a store. Readers make room for every row up to the last that the ledger speaks of."""


class Unit(Frozen):
    """One unit of work: the rows of one shard, for a set of parts."""

    shard: int = Field(ge=0, lt=MOST_ROWS)
    parts: tuple[PartName, ...] = Field(min_length=1)
    """In the order of `PARTS`."""

    @property
    def name(self) -> str:
        """What messages call the unit."""
        return f"{self.shard:08d}-{'-'.join(self.parts)}"


class StoredObject(Frozen):
    """An immutable object, as it was when it was created."""

    digest: str
    length: int = Field(ge=0)
    """Bytes."""


class ErrorFigure(Frozen):
    """The error of one clip's encoding, measured when it was written."""

    measure: str
    """What ``measured`` and ``bound`` are the largest value of, in words."""
    measured: float
    bound: float
    relative_rms: float
    """Root mean square of the error over that of the values."""


class RowOutcome(Frozen):
    """What became of one clip of the unit."""

    row: int = Field(ge=0, lt=MOST_ROWS)
    clip_id: str
    status: Literal["committed", "failed"]
    reason: FailureReason | None = None
    detail: str | None = None
    decoder: str | None = None
    """Name and version of the decoder that gave the frames."""
    errors: dict[str, ErrorFigure] = Field(default_factory=dict)
    optional_arrays: tuple[str, ...] = ()
    """Arrays that hold this clip in place of its signals' usual ones: ``SIGNAL_exact``."""

    def holds(self, array: str) -> bool:
        """Whether the row must have a chunk in an array of its unit."""
        if self.status == "failed":
            return False
        return array in self.optional_arrays or not (is_exact_array(array) or exact_array(array) in self.optional_arrays)


class WorkItem(Frozen):
    """A unit with what a worker needs to do it."""

    unit: Unit
    clips: tuple[Clip, ...]
    """Rows to teach."""
    settled: tuple[RowOutcome, ...]
    """Rows of the shard that failed before, or were superseded: recorded again, not tried again."""


class LedgerEntry(Sealed):
    """One committed unit. Holds no time, host or path, so that equal work gives equal bytes."""

    unit: Unit
    fingerprint: str
    objects: dict[ObjectKey, StoredObject]
    """Key in the store → what was created there."""
    rows: tuple[RowOutcome, ...]


class Retirement(Sealed):
    """Rows that are no longer good, because what was committed of them is damaged. Their clips are taught again in new rows.

    What is damaged stays as it is, and as it was found: so a later check can tell it from new damage.
    """

    rows: tuple[int, ...]
    clip_ids: tuple[str, ...]
    found: dict[str, str | None]
    """Key of each damaged object → the digest of what lies there now; None where it is gone."""
