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
_KINDS = {"INT64", "BYTE_ARRAY"}
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
    with _opened(source, length) as parquet:
        footer = parquet.metadata
        _require_ours(footer, rows)
        names = schema.names
        if (found := pa.schema([parquet.schema_arrow.field(name) for name in names])) != schema:
            raise ValueError(f"its columns are {found.to_string()}".replace("\n", ", "))
        wanted = list(range(footer.num_row_groups) if groups is None else groups)
        if not set(wanted) <= set(range(footer.num_row_groups)):
            raise ValueError(f"it has {footer.num_row_groups} row groups")
        unpacked = sum(_unpacked(footer.row_group(group), names, chunk, length) for group in wanted)
        if unpacked > MOST_UNPACKED * length + _ALWAYS:
            raise ValueError(f"its {length} bytes would unpack to {unpacked}")
        # No threads: with torch loaded, Arrow's I/O threads sometimes abort the process when it exits.
        table = parquet.read_row_groups(wanted, columns=names, use_threads=False)
    table.validate(full=True)
    _require_filled(table)
    if table.num_rows != sum(footer.row_group(group).num_rows for group in wanted) or table.column_names != names:
        raise ValueError("its pages hold other columns than its footer says")
    return table


_MAY_LACK = {"content_digest", "window_start", "window_stop"}


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
    with _opened(pa.BufferReader(data), len(data)) as parquet:
        return int(parquet.metadata.num_rows)


def _opened(source: Any, length: int) -> pq.ParquetFile:
    limits = {"thrift_string_size_limit": max(length, 1), "thrift_container_size_limit": _MOST_IN_A_LIST}
    return pq.ParquetFile(source, pre_buffer=False, page_checksum_verification=True, **limits)


def _require_ours(footer: pq.FileMetaData, expected: range) -> None:
    rows = footer.num_rows
    if rows not in expected:
        raise ValueError(f"it has {rows} rows, and the log says {expected[0]} to {expected[-1]}")
    if not footer.created_by.startswith("parquet-cpp-arrow"):
        raise ValueError(f"{footer.created_by} wrote it")
    lengths = [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]
    if lengths != [min(ROWS_PER_GROUP, rows - start) for start in range(0, max(rows, len(lengths) and 1), ROWS_PER_GROUP)]:
        raise ValueError(f"its row groups have {lengths[:3]} … of {rows} rows; needed {ROWS_PER_GROUP} each")


def _unpacked(group: pq.RowGroupMetaData, names: Sequence[str], chunk: Chunk, length: int) -> int:
    """Bytes of the named columns of a row group once they are unpacked."""
    columns = [group.column(number) for number in range(group.num_columns)]
    wanted = [column for column in columns if column.path_in_schema.split(".")[0] in set(names)]
    return sum(_unpacked_column(column, group.num_rows, chunk, length) for column in wanted)


def _unpacked_column(column: pq.ColumnChunkMetaData, rows: int, chunk: Chunk, length: int) -> int:
    start, packed = column.data_page_offset, column.total_compressed_size
    is_ours = column.physical_type in _KINDS and column.compression == "ZSTD" and not column.has_dictionary_page
    if not is_ours or not 0 <= start <= start + packed <= length:
        raise ValueError(f"its column {column.path_in_schema} is not of plain pages under zstd")
    data = chunk(start, start + packed)
    at = values = unpacked = 0
    while at < len(data):
        header, at = _struct(data[at : at + _LONGEST_HEADER], at)
        page = header.get(5)
        if header.get(1) != _DATA_PAGE or not isinstance(page, dict) or page.get(2) != _PLAIN:
            raise ValueError(f"its column {column.path_in_schema} has a page that is not plain")
        sizes = [header.get(2), header.get(3), page.get(1)]
        if not all(isinstance(size, int) and size >= 0 for size in sizes):
            raise ValueError(f"its column {column.path_in_schema} has a page without its lengths")
        unpacked, at, values = unpacked + header[2], at + header[3], values + page[1]
    if at != packed or values != column.num_values or not rows <= values <= rows + unpacked:
        where = f"its column {column.path_in_schema}"
        raise ValueError(f"{where} has {values} values in {rows} rows, and ends at {at} of {packed}")
    return unpacked


_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _STRUCT = 1, 2, 3, 7, 8, 12
_INTEGERS = (4, 5, 6)
_DEEPEST = 3


def _struct(data: bytes, offset: int) -> tuple[dict[int, Any], int]:
    """(integers and structs by number, ``offset`` + bytes read) of a struct in Thrift's compact protocol."""
    try:
        reader = _Thrift(data)
        return reader.struct(0), offset + reader.at
    except IndexError:
        raise ValueError("a page's header is cut off") from None


class _Thrift:
    """Reads Thrift's compact protocol (thrift-compact-protocol.md), as far as page headers use it."""

    def __init__(self, data: bytes) -> None:
        self._data, self.at = data, 0

    def struct(self, depth: int) -> dict[int, Any]:
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._integer()
            if number in fields:
                raise ValueError("a page's header says something twice")
            fields[number] = self._value(head & 15, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in {_TRUE, _FALSE}:
            return kind == _TRUE
        if kind in _INTEGERS:
            return self._integer()
        if kind == _STRUCT and depth < _DEEPEST:
            return self.struct(depth + 1)
        if kind not in {_BYTE, _DOUBLE, _BINARY}:
            raise ValueError(f"a page's header holds a value of kind {kind}")
        self.at += {_BYTE: 1, _DOUBLE: 8}.get(kind) or self._varint()
        return None

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
                raise ValueError("a page's header holds a number without an end")

    def _integer(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
