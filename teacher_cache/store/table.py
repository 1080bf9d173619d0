"""Arrow tables in, Parquet objects out, and back. A file is named by its own digest, and a record of the log names the file."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pyarrow as pa

from schemas.base import sha256_digest
from schemas.errors import StoreDamaged
from schemas.log import TableFile
from teacher_cache.store.objects import Objects
from teacher_cache.store.parquet import UNREADABLE, parquet_bytes, read_parquet
from teacher_cache.store.records import REPAIR_ADVICE

# A file up to this length is fetched whole and its digest checked; of a longer one, only the requested columns are fetched.
_WHOLE = 16 * 2**20
# A file up to this length is kept in memory once fetched.
_KEPT = 2**20
_TAIL = 8
"""The last bytes of a Parquet file: the length of its footer, and the magic number."""


def create_table(objects: Objects, stem: str, table: pa.Table) -> TableFile:
    """Write the table as ``stem``-digest.parquet, with the first 16 hex digits of its digest."""
    file, data = table_file(stem, table)
    if not objects.create(file.key, data) and objects.get(file.key, len(data)) != data:
        objects.replace(file.key, data)  # an earlier writer's, damaged since: its name says what it must be
    return file


def table_file(stem: str, table: pa.Table) -> tuple[TableFile, bytes]:
    """The file's description and bytes, as `create_table` writes them. Equal tables give equal bytes."""
    data = parquet_bytes(table)
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

    def __init__(self, objects: Objects, file: TableFile, schema: pa.Schema, rows: range) -> None:
        """``schema`` has all its columns. The log says that their length is one of ``rows``."""
        self._objects, self._file, self._schema, self._rows = objects, file, schema, rows
        self._kept: bytes | None = None

    def __reduce__(self) -> tuple[type[StoredTable], tuple[Objects, TableFile, pa.Schema, range]]:
        return StoredTable, (self._objects, self._file, self._schema, self._rows)

    @property
    def key(self) -> str:
        """The file's key in the store."""
        return self._file.key

    @property
    def digest(self) -> str:
        """The file's digest, from its record."""
        return self._file.digest

    def read(self, columns: Sequence[str], groups: Sequence[int] | None = None) -> pa.Table:
        """The named columns, of all row groups or of ``groups``. Raises `StoreDamaged`.

        Takes memory for what the file may unpack to (`teacher_cache.store.parquet`), and fetches what it needs of it.
        """
        return self._read(None, columns, groups)

    def _read(self, source: _RangeFile | None, columns: Sequence[str], groups: Sequence[int] | None) -> pa.Table:
        file, schema = self._file, pa.schema([self._schema.field(name) for name in columns])
        try:
            source = source or self._source()
            return read_parquet(pa.PythonFile(source, "r"), file.length, source.kept, schema, rows=self._rows, groups=groups)
        except UNREADABLE as error:
            reason = str(error).partition("\n")[0]
            raise StoreDamaged(f"{file.key} of {self._objects.url} cannot be read ({reason}). {REPAIR_ADVICE}") from None

    def check(self) -> str | None:
        """What is wrong with the whole file; None if nothing is."""
        data = self._objects.get(self._file.key, self._file.length)
        if data is None:
            return "its record names it, and it is gone"
        if sha256_digest(data) != self._file.digest:
            return "its bytes are not those that its record names"
        try:
            self._read(_RangeFile(self._objects, self._file, data), self._schema.names, None)
        except StoreDamaged as error:
            return str(error)
        return None

    def is_there(self) -> bool:
        """Whether the object is just as long as its record says. Fetches one byte."""
        found = self._objects.get_range(self._file.key, self._file.length - 1, self._file.length + 1)
        return found is not None and len(found) == 1

    def _source(self) -> _RangeFile:
        file, objects = self._file, self._objects
        if file.length <= _WHOLE:
            data = self._kept or objects.get(file.key, file.length)
            self._require(data is not None and sha256_digest(data) == file.digest)
            self._kept = data if file.length <= _KEPT else None
            return _RangeFile(objects, file, data)
        ranges = _RangeFile(objects, file)
        self._require(sha256_digest(ranges.kept(file.length - file.footer_length, file.length)) == file.footer_digest)
        return ranges

    def _require(self, holds: bool) -> None:
        if not holds:
            raise StoreDamaged(
                f"{self._file.key} of {self._objects.url} is gone, or not what its record names. {REPAIR_ADVICE}"
            )


class _RangeFile(io.RawIOBase):
    """An object as a file that fetches only what is read, and its footer, and what is ``kept``, once."""

    def __init__(self, objects: Objects, file: TableFile, whole: bytes | None = None) -> None:
        self._objects, self._key, self._length = objects, file.key, file.length
        self._footer_start = file.length - file.footer_length
        self._pieces: dict[int, bytes] = {} if whole is None else {0: whole}
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
        self._at = max(start, stop)
        split = min(max(start, self._footer_start), stop)
        return self._bytes(start, split) + self._bytes(split, stop)

    def kept(self, start: int, stop: int) -> bytes:
        """Bytes [start, stop), which are held for later reads. Raises `OSError` if they are not there."""
        data = self._bytes(start, stop)
        if len(data) != stop - start:
            raise OSError(f"{self._key} is shorter than its record says")
        self._pieces[start] = data
        return data

    def _bytes(self, start: int, stop: int) -> bytes:
        if start >= stop:
            return b""
        for first, piece in self._pieces.items():
            if first <= start and stop <= first + len(piece):
                return piece[start - first : stop - first]
        found = self._objects.get_range(self._key, start, stop)
        if found is None:
            raise OSError(f"{self._key} is gone")
        return bytes(found)
