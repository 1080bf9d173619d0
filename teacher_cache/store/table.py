"""Arrow tables in, Parquet objects out, and back. A file is named by its own digest, and a record of the log names the file."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.base import sha256_digest
from schemas.errors import StoreDamaged
from schemas.log import TableFile
from teacher_cache.store.objects import Objects
from teacher_cache.store.records import REPAIR_ADVICE

# A file up to this length is fetched whole and its digest checked; of a longer one, only the requested columns are fetched.
_WHOLE = 16 * 2**20
# A file up to this length is kept in memory once fetched.
_KEPT = 2**20
_TAIL = 8
"""The last bytes of a Parquet file: the length of its footer, and the magic number."""
ROWS_PER_GROUP = 2**16


def create_table(objects: Objects, stem: str, table: pa.Table) -> TableFile:
    """Write the table as ``stem``-digest.parquet, with the first 16 hex digits of its digest."""
    file, data = table_file(stem, table)
    if not objects.create(file.key, data) and objects.get(file.key) != data:
        objects.replace(file.key, data)  # an earlier writer's, damaged since: its name says what it must be
    return file


def table_file(stem: str, table: pa.Table) -> tuple[TableFile, bytes]:
    """The file's description and bytes, as `create_table` writes them. Equal tables give equal bytes."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True, row_group_size=ROWS_PER_GROUP)
    data = buffer.getvalue()
    return described(f"{stem}-{short_digest(data)}.parquet", data), data


def short_digest(data: bytes) -> str:
    """The first 16 hex digits of the bytes' sha256, which a file's name ends in."""
    return sha256_digest(data).removeprefix("sha256:")[:16]


def described(key: str, data: bytes) -> TableFile:
    """What a record says of the file."""
    footer_length = _TAIL + int.from_bytes(data[-_TAIL:-4], "little")
    footer_digest = sha256_digest(data[-footer_length:])
    return TableFile(
        key=key, digest=sha256_digest(data), length=len(data), footer_length=footer_length, footer_digest=footer_digest
    )


class StoredTable:
    """Reads columns of a stored table. Every byte used is checked against a digest or page checksum. Picklable."""

    def __init__(self, objects: Objects, file: TableFile) -> None:
        self._objects = objects
        self._file = file
        self._kept: bytes | None = None

    def __reduce__(self) -> tuple[type[StoredTable], tuple[Objects, TableFile]]:
        return StoredTable, (self._objects, self._file)

    @property
    def digest(self) -> str:
        """The file's digest, from its record."""
        return self._file.digest

    def read(self, columns: Sequence[str], groups: Sequence[int] | None = None) -> pa.Table:
        """The named columns, of all row groups or of ``groups``. Raises `StoreDamaged`."""
        file = self._file
        try:
            with self._opened() as parquet:
                _require_our_groups(parquet.metadata)
                wanted = list(range(parquet.num_row_groups) if groups is None else groups)
                # No threads: with torch loaded, Arrow's I/O threads sometimes abort the process when it exits.
                return parquet.read_row_groups(wanted, columns=list(columns), use_threads=False)
        except (pa.ArrowException, OSError, KeyError) as error:
            reason = str(error).splitlines()[0]
            raise StoreDamaged(f"{file.key} of {self._objects.url} cannot be read ({reason}). {REPAIR_ADVICE}") from None

    def check(self) -> str | None:
        """What is wrong with the whole file; None if nothing is."""
        data = self._objects.get(self._file.key)
        if data is None:
            return "its record names it, and it is gone"
        if sha256_digest(data) != self._file.digest:
            return "its bytes are not those that its record names"
        return None

    def _opened(self) -> pq.ParquetFile:
        return pq.ParquetFile(self._source(), pre_buffer=False, page_checksum_verification=True)

    def _source(self) -> Any:
        file, objects = self._file, self._objects
        if file.length <= _WHOLE:
            data = self._kept or objects.get(file.key)
            self._require(data is not None and sha256_digest(data) == file.digest)
            self._kept = data if file.length <= _KEPT else None
            return pa.BufferReader(data)
        ranges = _RangeFile(objects, file)
        self._require(sha256_digest(ranges.footer) == file.footer_digest)
        return ranges

    def _require(self, holds: bool) -> None:
        if not holds:
            raise StoreDamaged(
                f"{self._file.key} of {self._objects.url} is gone, or not what its record names. {REPAIR_ADVICE}"
            )


def _require_our_groups(footer: pq.FileMetaData) -> None:
    """Raises `pa.ArrowInvalid` for a row group longer than any ever written: groups are read whole, and a footer can lie."""
    longest = max((footer.row_group(number).num_rows for number in range(footer.num_row_groups)), default=0)
    if longest > ROWS_PER_GROUP:
        raise pa.ArrowInvalid(f"a row group of {longest} rows, and at most {ROWS_PER_GROUP} are written")


class _RangeFile(io.RawIOBase):
    """A long object as a file that fetches only what is read, and its footer once."""

    def __init__(self, objects: Objects, file: TableFile) -> None:
        self._objects, self._key, self._length = objects, file.key, file.length
        self._footer_start = file.length - file.footer_length
        self.footer = self._fetched(self._footer_start, file.length)
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._length}[whence]
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        start, stop = self._at, self._length if size is None or size < 0 else min(self._at + size, self._length)
        self._at = stop
        split = min(max(start, self._footer_start), stop)
        before = self._fetched(start, split) if start < split else b""
        return before + self.footer[split - self._footer_start : stop - self._footer_start]

    def _fetched(self, start: int, stop: int) -> bytes:
        found = self._objects.get_range(self._key, start, stop)
        if found is None:
            raise OSError(f"{self._key} is gone")
        return bytes(found)
