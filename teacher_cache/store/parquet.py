"""A Parquet file's footer and page headers in; a refusal out of what is not as this package writes it, or unpacks to too much.

Arrow allocates what the headers of pages claim, and a dictionary repeats a long text for a few bits. So tables are written with
plain pages under zstd alone, whose headers say how much comes out of them, and they are added up before anything is unpacked.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

ROWS_PER_GROUP = 2**16

MOST_UNPACKED = 256
"""How many times its own length a file's columns may have once they are unpacked: texts of a kilobyte, each repeated often."""
_ALWAYS = 2**20
"""Bytes that any file's columns may have."""

_PLAIN, _DATA_PAGE = 0, 0
_KINDS = {0, 2, 5, 6}  # BOOLEAN, INT64, DOUBLE, BYTE_ARRAY
_ZSTD = 6
_LONGEST_HEADER = 2**16
_MOST_IN_A_LIST = 2**14
"""Row groups or columns in a footer: a store has at most 2^30 rows."""

UNREADABLE = (ValueError, OSError, LookupError, TypeError, NotImplementedError, pa.lib.ArrowSerializationError)
"""What Arrow raises for a file that is none, and not for want of memory."""

Chunk = Callable[[int, int], bytes]
"""(start, stop) → those bytes of the file."""


def parquet_bytes(table: pa.Table) -> bytes:
    """The table as a file that `read_parquet` reads. Equal tables give equal bytes."""
    buffer = io.BytesIO()
    pq.write_table(
        table,
        buffer,
        compression="zstd",
        use_dictionary=False,
        write_statistics=False,
        write_page_checksum=True,
        row_group_size=ROWS_PER_GROUP,
    )
    return buffer.getvalue()


def read_parquet(
    source: Any, length: int, chunk: Chunk, schema: pa.Schema, *, rows: range, groups: Sequence[int] | None = None
) -> pa.Table:
    """The columns of ``schema``, of all row groups or of ``groups``, from a file of ``length`` bytes.

    Raises one of `UNREADABLE` for a file that `parquet_bytes` does not write, and for one whose number of rows is not in
    ``rows``. Takes memory for `MOST_UNPACKED` times the file's length, the rows and 1 MiB at most.
    """
    footer = _Footer(chunk, length)
    wanted = footer.require_ours(rows, groups)
    unpacked = sum(footer.unpacked(group, schema.names) for group in wanted)
    if unpacked > MOST_UNPACKED * length + _ALWAYS:
        raise ValueError(f"its {length} bytes would unpack to {unpacked}")
    names = schema.names
    with _opened(source, length) as parquet:
        if (found := pa.schema([parquet.schema_arrow.field(name) for name in names])) != schema:
            raise ValueError(f"its columns are {found.to_string()}".replace("\n", ", "))
        # No threads: with torch loaded, Arrow's I/O threads sometimes abort the process when it exits.
        table = parquet.read_row_groups(wanted, columns=names, use_threads=False)
    table.validate(full=True)
    _require_filled(table)
    if table.num_rows != sum(footer.lengths[group] for group in wanted) or table.column_names != names:
        raise ValueError("its pages hold other columns than its footer says")
    return table


_MAY_LACK = {"content_digest", "window_start", "window_stop", "segment_start", "segment_end", "prompt", "extra"}


def _require_filled(table: pa.Table) -> None:
    lacking = [name for name in table.column_names if _lacks(table[name]) and name not in _MAY_LACK]
    if lacking:
        raise ValueError(f"it has rows without {', '.join(lacking)}")


def _lacks(column: pa.ChunkedArray | pa.Array) -> bool:
    """Whether a value of the column, or anything in one, is null."""
    inside = [pc.list_flatten(column)] if pa.types.is_list(column.type) else []
    if pa.types.is_struct(column.type):
        inside = [pc.struct_field(column, [number]) for number in range(column.type.num_fields)]
    return column.null_count > 0 or any(map(_lacks, inside))


def metadata_of(source: Any, length: int) -> dict[bytes, bytes]:
    """What the table was given as its schema's metadata. Raises what `read_parquet` raises."""
    with _opened(source, length) as parquet:
        return dict(parquet.schema_arrow.metadata or {})


def row_count(data: bytes) -> int:
    """Rows of a file by its footer. Raises what `read_parquet` raises."""
    return sum(_Footer(lambda start, stop: data[start:stop], len(data)).lengths)


def _opened(source: Any, length: int) -> pq.ParquetFile:
    limits = {"thrift_string_size_limit": max(length, 1), "thrift_container_size_limit": _MOST_IN_A_LIST}
    return pq.ParquetFile(source, pre_buffer=False, page_checksum_verification=True, **limits)


class _Footer:
    """A file's footer (parquet.thrift, FileMetaData).

    Read here, not by pyarrow: where its numbers contradict each other, what pyarrow gives of a column ends the process.
    """

    def __init__(self, chunk: Chunk, length: int) -> None:
        self._chunk = chunk
        self._end = length - _TAIL - int.from_bytes(chunk(max(0, length - _TAIL), length)[:4], "little")
        if self._end < 0:
            raise ValueError("its footer would be longer than itself")
        about, _ = _struct(chunk(self._end, length - _TAIL), 0)
        self._groups = _of(about, 4, list)
        self.lengths = [_of(group, 3, int) for group in self._groups]
        """Rows of each row group."""
        if _of(about, 3, int) != sum(self.lengths) or min(self.lengths, default=0) < 0:
            raise ValueError(f"it has {about[3]} rows, and its row groups other ones")
        if not _of(about, 6, bytes).startswith(b"parquet-cpp-arrow"):
            raise ValueError("another program wrote it")

    def require_ours(self, expected: range, groups: Sequence[int] | None) -> list[int]:
        """The numbers of the row groups, or of those among ``groups``, if they are as `parquet_bytes` cuts them."""
        rows, lengths = sum(self.lengths), self.lengths
        if rows not in expected:
            raise ValueError(f"it has {rows} rows, and the log says {expected[0]} to {expected[-1]}")
        if lengths != [min(ROWS_PER_GROUP, rows - start) for start in range(0, max(rows, len(lengths[:1])), ROWS_PER_GROUP)]:
            raise ValueError(f"its row groups have {lengths[:3]} … of {rows} rows; needed {ROWS_PER_GROUP} each")
        there = range(len(lengths))
        if groups is not None and not set(groups) <= set(there):
            raise ValueError(f"it has {len(lengths)} row groups")
        return list(there if groups is None else groups)

    def unpacked(self, group: int, names: Sequence[str]) -> int:
        """Bytes of the named columns of a row group once they are unpacked."""
        columns = [_of(column, 3, dict) for column in _of(self._groups[group], 1, list) if not set(column) - _OF_A_COLUMN]
        if len(columns) != len(self._groups[group][1]):
            raise ValueError("it has columns that lie elsewhere, or are encrypted")
        named = [(b".".join(_of(column, 3, list)).decode(), column) for column in columns]
        chosen = set(names)
        return sum(self._unpacked(path, column, group) for path, column in named if path.split(".")[0] in chosen)

    def _unpacked(self, path: str, column: dict[int, Any], group: int) -> int:
        start, packed, rows = _of(column, 9, int), _of(column, 7, int), self.lengths[group]
        is_ours = _of(column, 1, int) in _KINDS and _of(column, 4, int) == _ZSTD and not {10, 11} & set(column)
        if not is_ours or not 0 <= start <= start + packed <= self._end:
            raise ValueError(f"its column {path} is not of plain pages under zstd")
        data = self._chunk(start, start + packed)
        at = values = unpacked = 0
        while at < len(data):
            header, at = _struct(data[at : at + _LONGEST_HEADER], at)
            page, sizes = _of(header, 5, dict), (_of(header, 2, int), _of(header, 3, int))
            if _of(header, 1, int) != _DATA_PAGE or _of(page, 2, int) != _PLAIN or min(*sizes, _of(page, 1, int)) < 0:
                raise ValueError(f"its column {path} has a page that is not plain")
            unpacked, at, values = unpacked + sizes[0], at + sizes[1], values + page[1]
        if at != packed or values != _of(column, 5, int) or not rows <= values <= rows + unpacked:
            raise ValueError(f"its column {path} has {values} values in {rows} rows, and ends at {at} of {packed}")
        return unpacked


_OF_A_COLUMN = {2, 3, 4, 5, 6, 7}  # not the path of another file, nor a key
_TAIL = 8


def _of(fields: Any, number: int, kind: type[Any]) -> Any:
    value = fields.get(number) if isinstance(fields, dict) else None
    if type(value) is not kind:
        raise ValueError(f"a header lacks its field {number}")
    return value


_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _STRUCT = 1, 2, 3, 7, 8, 9, 12
_INTEGERS = (4, 5, 6)
_DEEPEST = 8


def _struct(data: bytes, offset: int) -> tuple[dict[int, Any], int]:
    """(fields by number, ``offset`` + bytes read) of a struct in Thrift's compact protocol."""
    try:
        reader = _Thrift(data)
        return reader.value(_STRUCT, 0), offset + reader.at
    except IndexError:
        raise ValueError("a header is cut off") from None


class _Thrift:
    """Reads Thrift's compact protocol (thrift-compact-protocol.md), as far as Parquet uses it."""

    def __init__(self, data: bytes) -> None:
        self._data, self.at = data, 0

    def value(self, kind: int, depth: int) -> Any:
        """The next value, of a kind: integers, bytes, lists, and structs by their fields' numbers."""
        if depth > _DEEPEST:
            raise ValueError("a header is nested too deep")
        if kind in {_TRUE, _FALSE}:
            return kind == _TRUE
        if kind in _INTEGERS:
            return self._integer()
        if kind == _STRUCT:
            return self._fields(depth + 1)
        if kind == _LIST:
            return self._list(depth + 1)
        if kind not in {_BYTE, _DOUBLE, _BINARY}:
            raise ValueError(f"a header holds a value of kind {kind}")
        return self._bytes({_BYTE: 1, _DOUBLE: 8}.get(kind) or self._varint())

    def _fields(self, depth: int) -> dict[int, Any]:
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._integer()
            if number in fields:
                raise ValueError("a header says something twice")
            fields[number] = self.value(head & 15, depth)
        return fields

    def _list(self, depth: int) -> list[Any]:
        head = self._byte()
        length, kind = head >> 4, head & 15
        length = self._varint() if length == 15 else length
        if length > len(self._data) - self.at:
            raise ValueError(f"a header has {length} things in the bytes of fewer")
        if kind in {_TRUE, _FALSE}:
            return list(self._bytes(length))
        return [self.value(kind, depth) for _ in range(length)]

    def _bytes(self, length: int) -> bytes:
        if length > len(self._data) - self.at:
            raise ValueError("a header is cut off")
        self.at += length
        return self._data[self.at - length : self.at]

    def _byte(self) -> int:
        self.at += 1
        return self._data[self.at - 1]

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 63:
                raise ValueError("a header holds a number without an end")

    def _integer(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
