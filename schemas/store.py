"""Records of a store that say where its tables are."""

from __future__ import annotations

from pydantic import Field

from schemas.base import Frozen, Sealed
from schemas.ledger import ObjectKey

LONGEST_SEGMENT = 2**20
"""Rows. Longer ones are cut, so that reading one is never a matter of gigabytes."""


class TableFile(Frozen):
    """A Parquet file as it was when it was created."""

    key: ObjectKey
    digest: str
    length: int = Field(ge=0)
    """Bytes."""
    footer_length: int = Field(ge=0)
    """Bytes of the file's end that say where everything is."""
    footer_digest: str
    """What part of a long file can be checked against when it is not read whole; its pages have checksums of their own."""


class Segment(Sealed):
    """One segment of the catalog: consecutive rows from ``first_row``, each described by a row of the table."""

    first_row: int = Field(ge=0)
    rows: int = Field(ge=1, le=LONGEST_SEGMENT)
    revises: bool
    """Whether any of its videos has earlier rows. Where no segment does, every row is current."""
    table: TableFile


class VolumeRecord(Sealed):
    """A bound volume of the ledger."""

    entries: int = Field(ge=0)
    state: TableFile
    """What opening a store takes of each entry."""
    texts: TableFile
    """Every entry as it was written."""
