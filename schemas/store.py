"""Records of a store that locate its Parquet tables."""

from __future__ import annotations

from pydantic import Field

from schemas.base import Frozen, Sealed
from schemas.ledger import ObjectKey

LONGEST_SEGMENT = 2**20
"""The most rows of a segment; longer ones are split, so that reading one never takes gigabytes."""


class TableFile(Frozen):
    """A Parquet file of the store, as it was created."""

    key: ObjectKey
    """Its key in the store."""
    digest: str
    """sha256 of its bytes."""
    length: int = Field(ge=0)
    """Length in bytes."""
    footer_length: int = Field(ge=0)
    """Length in bytes of the footer at the end, which locates the file's pages."""
    footer_digest: str
    """sha256 of the footer, to check a file that is read in part; its pages have their own checksums."""


class Segment(Sealed):
    """One segment of the catalog: consecutive rows from ``first_row``, each described by a row of the table."""

    first_row: int = Field(ge=0)
    rows: int = Field(ge=1, le=LONGEST_SEGMENT)
    """Number of rows."""
    revises: bool
    """Whether any of its videos has rows in earlier segments. If no segment revises, every row is current."""
    table: TableFile


class VolumeRecord(Sealed):
    """A volume of the ledger: many entries, bound into two tables."""

    entries: int = Field(ge=0)
    """Number of entries."""
    state: TableFile
    """The fields of each entry that opening a store needs."""
    texts: TableFile
    """The full text of each entry."""
