"""A file that lists videos in, `Chunk` by `Chunk` of its rows out: one function a format, and how to tell which it is."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TextIO, get_args

import pyarrow as pa
import pyarrow.json as pj
import pyarrow.parquet as pq

from schemas.errors import BadInput
from schemas.job import ListColumn, ListFormat
from schemas.prompt import PromptName
from teacher_cache.clips.extra import Dropped

URI_COLUMNS = ("uri", "file_name", "video", "video_path", "path")
"""The columns that may name the video; the first of them that a row has does."""
SUFFIXES: Mapping[str, ListFormat] = {
    ".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json",
}  # fmt: skip

ROWS = 2**14
"""Rows of a chunk, at most."""
_BYTES = 1 << 24
"""Bytes of JSON that are parsed at once."""
_LONGEST_ITEM = 1 << 26
"""Characters of one item of a JSON array, at most."""
_LONGEST_OBJECT = 1 << 28
"""Bytes of a file that is one object of records, at most: it is read whole."""

Record = dict[str, Any]
Numbered = tuple[int, Record]
"""The line, row or item that a record is, from 1, and the record."""


@dataclass(frozen=True)
class Chunk:
    """Some rows of a list."""

    records: Callable[[], Iterator[Numbered]]
    """The rows, one by one. Raises `BadInput` that names one that is none."""
    table: pa.Table | None = None
    """The same rows, if all of their columns are ours: ``uri``, ``id``, ``start``, ``end``."""


@dataclass(frozen=True)
class ListFile:
    """A local copy of a list, and how to read it."""

    path: Path
    name: str
    """Its path or URL, for messages."""
    format: ListFormat | None = None
    """None to tell it by name and first bytes."""
    columns: Mapping[ListColumn, str] = field(default_factory=dict)
    """The list's own names of our columns."""
    takes: tuple[PromptName, ...] = ()
    """What the teacher takes beside frames."""
    root: str = ""
    """What relative masks start from."""
    dropped: Dropped = field(default_factory=Dropped)
    """Counts what is not kept of the other columns."""


def format_of(file: ListFile) -> ListFormat:
    """The format that is given; or by the first bytes, since names lie: JSON lines are called .json, and arrays .jsonl.

    Raises `BadInput`.
    """
    if file.format is not None:
        return file.format
    start, name = _start_of(file), file.name
    if start.startswith(b"PAR1"):
        return "conversations" if _are_told_in_columns(file) else "parquet"
    by_name = SUFFIXES.get(Path(name).suffix.lower())
    if by_name in {"csv", "parquet"}:
        return by_name
    text = start.lstrip()
    if text[:1] == b"[":
        return "conversations" if _tells_conversations(text) else "json"
    if text[:1] == b"{":
        return "conversations" if _tells_conversations(text.partition(b"\n")[0]) or b'"annos"' in text else "jsonl"
    if by_name is None:
        raise BadInput(
            f"{name} begins with {text[:40].decode(errors='replace')!r}, which is neither JSON nor Parquet. Say what it is "
            f"with `videos.format`: {', '.join(get_args(ListFormat))}."
        )
    return "jsonl"  # whose reader names the line


def _are_told_in_columns(file: ListFile) -> bool:
    """Whether a Parquet file has conversations or questions, and no column that would name a video of its rows."""
    try:
        names = set(pq.read_schema(file.path).names)
    except (pa.ArrowException, OSError):
        return False  # its reader says why
    named = {*URI_COLUMNS, *file.columns.values()}
    return not names & named and bool(names & {"conversations", "messages", "question", "videos"})


def _tells_conversations(text: bytes) -> bool:
    return any(key in text for key in (b'"conversations"', b'"messages"', b'"annos"'))


def _start_of(file: ListFile) -> bytes:
    with file.path.open("rb") as opened:
        start = opened.read(_BYTES)
    if start.startswith(_GZIP):
        raise BadInput(f"{file.name}: it is packed by gzip, and lists are read as they are; unpack it with `gunzip --keep`")
    return start.removeprefix(_MARK)


_MARK = b"\xef\xbb\xbf"
"""The byte-order mark of UTF-8, which Windows puts before texts."""
_GZIP = b"\x1f\x8b"


# --- the formats ---


def _json_lines(about: ListFile) -> Iterator[Chunk]:
    """Only a newline ends a line: U+2028 and its like are letters in JSON."""
    number = 1
    with about.path.open("rb") as file:
        for data in _whole_lines(file):
            yield Chunk(_records_of(data, number, about.name), _parsed(data))
            number += data.count(b"\n")


def _whole_lines(file: BinaryIO) -> Iterator[bytes]:
    rest = file.read(len(_MARK)).removeprefix(_MARK)
    while more := file.read(_BYTES):
        lines, newline, rest = (rest + more).rpartition(b"\n")
        if newline:
            yield lines + newline
    if rest:
        yield rest


def _records_of(data: bytes, first: int, name: str) -> Callable[[], Iterator[Numbered]]:
    def records() -> Iterator[Numbered]:
        for number, line in enumerate(data.split(b"\n"), start=first):
            if line.strip():
                yield number, _record(line, f"{name}, line {number}")

    return records


def _record(line: bytes, where: str) -> Record:
    try:
        value = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise BadInput(f"{where}: it is not UTF-8 ({error.reason} at its byte {error.start})") from None
    except (ValueError, RecursionError):
        raise BadInput(f"{where}: needed one JSON object; found {_shown(line)}") from None
    return _object(value, where)


def _object(value: Any, where: str) -> Record:
    if not isinstance(value, dict):
        raise BadInput(f"{where}: needed one JSON object; found {_shown(json.dumps(value).encode())}")
    return value


def _shown(line: bytes) -> str:
    return repr(line[:240].decode(errors="replace")[:80])


_OURS = pa.schema({"uri": pa.string(), "id": pa.string(), "start": pa.float64(), "end": pa.float64()})


def _parsed(data: bytes) -> pa.Table | None:
    """JSON lines as a table, millions in seconds; None where a line has something else, or is none."""
    # No threads: with torch loaded, Arrow's I/O threads sometimes abort the process when it exits.
    reading = pj.ReadOptions(use_threads=False, block_size=len(data) + 1)
    parsing = pj.ParseOptions(explicit_schema=_OURS, unexpected_field_behavior="error")
    try:
        table = pj.read_json(io.BytesIO(data), read_options=reading, parse_options=parsing)
        table.validate(full=True)
    except pa.ArrowInvalid:
        return None
    return table


def _json_array(about: ListFile) -> Iterator[Chunk]:
    """Items are parsed as they are read, so that a long array is never in memory as a whole."""
    with about.path.open(encoding="utf-8-sig", newline="") as text:
        items = enumerate(_items(text, about.name), start=1)
        yield from _in_chunks((number, _object(item, f"{about.name}, item {number}")) for number, item in items)


def _items(text: TextIO, name: str) -> Iterator[Any]:
    decoder, buffer, at, line, count = json.JSONDecoder(), _more(text, name), 0, 1, 0
    while True:
        at = _past_blanks(buffer, at)
        if at < len(buffer) and buffer[at] == ("," if count else "["):
            at = _past_blanks(buffer, at + 1)
        ends = at < len(buffer) and buffer[at] == "]"
        try:
            if ends:
                return
            item, end = decoder.raw_decode(buffer, at)
            if end == len(buffer) and (more := _more(text, name)):  # a number may go on
                buffer += more
                continue
        except (ValueError, RecursionError):
            more = _more(text, name, max(_BYTES, len(buffer) - at)) if len(buffer) - at < _LONGEST_ITEM else ""
            if not more:
                line += buffer.count("\n", 0, at)
                found = _shown(buffer[at : at + 80].encode(errors="replace")) if at < len(buffer) else "the file's end"
                raise BadInput(
                    f"{name}, line {line}: needed item {count + 1} of a JSON array, or its end; found {found}"
                ) from None
            line += buffer.count("\n", 0, at)
            buffer, at = buffer[at:] + more, 0
            continue
        yield item
        at, count = end, count + 1


def _past_blanks(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _more(text: TextIO, name: str, size: int = _BYTES) -> str:
    try:
        return text.read(size)
    except UnicodeDecodeError as error:
        raise BadInput(f"{name}: it is not UTF-8 ({error.reason})") from None


def _csv(about: ListFile) -> Iterator[Chunk]:
    with about.path.open(encoding="utf-8-sig", newline="") as text:
        yield from _in_chunks(_csv_rows(text, about))


def _csv_rows(text: TextIO, about: ListFile) -> Iterator[Numbered]:
    rows = csv.reader(text, delimiter="\t" if about.name.lower().endswith(".tsv") else ",", strict=True)
    names: list[str] | None = None
    padded: list[str] = []
    try:
        for row in rows:
            if names is None:
                names = [name.strip() for name in row]
                padded = [name for name, written in zip(names, row, strict=True) if name != written]
            elif row:
                if len(row) != len(names):
                    raise BadInput(
                        f"{about.name}, line {rows.line_num}: {len(row)} values; the header names {len(names)} columns"
                    )
                named = ((n, v.strip() if n in padded else v) for n, v in zip(names, row, strict=True))
                yield rows.line_num, {n: _typed(n, v, about) for n, v in named if v}
    except (csv.Error, UnicodeDecodeError) as error:
        raise BadInput(f"{about.name}, line {rows.line_num}: it is not CSV in UTF-8 ({error})") from None


def _typed(name: str, value: str, about: ListFile) -> Any:
    """A CSV value that is written just as JSON writes a number is one; ``007`` stays a text."""
    if name in URI_COLUMNS or name in about.columns.values():
        return value
    if value in {"true", "false", "True", "False"}:
        return value.lower() == "true"
    try:
        number = json.loads(value) if value[-1:].isdigit() else value
    except ValueError:
        return value
    return number if repr(number) == value else value


def _parquet(about: ListFile) -> Iterator[Chunk]:
    """Some rows at a time, and of each only the columns that may be kept."""
    try:
        parquet = pq.ParquetFile(about.path)
        chosen = list(_chosen(parquet, about))
        number = 1
        for batch in parquet.iter_batches(ROWS, columns=chosen, use_threads=False):
            table = pa.table(batch)
            yield Chunk(_rows_of(table, number), _ours(table))
            number += table.num_rows
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"cannot read {about.name} as Parquet: {str(error).splitlines()[0]}") from None


def _chosen(parquet: pq.ParquetFile, about: ListFile) -> Iterator[str]:
    """The columns of plain values, and the paths of Hugging Face's videos, which are structs of ``bytes`` and ``path``."""
    for column in parquet.schema_arrow:
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if pa.types.is_struct(kind) and {kind.field(n).name for n in range(kind.num_fields)} == {"bytes", "path"}:
            if _holds(parquet.metadata, f"{column.name}.bytes"):
                raise BadInput(
                    f"{about.name}: its column {column.name!r} holds the videos themselves, and only paths are read. Write the "
                    "videos to files and list those, or cast the column to `Video(decode=False)` and save its paths."
                )
            yield f"{column.name}.path"
        elif (
            (pa.types.is_primitive(kind) and not pa.types.is_temporal(kind))
            or pa.types.is_string(kind)
            or pa.types.is_large_string(kind)
            or ("phrases" in about.takes and column.name == about.columns.get("phrases", "phrases"))
        ):
            yield column.name
        else:
            about.dropped.add(column.name, "only texts, numbers and truth values are")


def _holds(metadata: pq.FileMetaData, path: str) -> bool:
    """Whether a column has any value, by the file's footer."""
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    chunks = [group.column(n) for group in groups for n in range(group.num_columns) if group.column(n).path_in_schema == path]
    return any(
        chunk.statistics.null_count < chunk.num_values
        if chunk.statistics is not None and chunk.statistics.has_null_count
        else chunk.total_uncompressed_size > chunk.num_values + _NO_VALUES
        for chunk in chunks
    )


_NO_VALUES = 1024
"""Bytes that a chunk of a column without values takes, and a byte for each row."""


def _ours(table: pa.Table) -> pa.Table | None:
    if not {"uri"} <= set(table.column_names) <= set(_OURS.names):
        return None
    for ours in _OURS:
        if ours.name not in table.column_names:
            table = table.append_column(ours, pa.nulls(table.num_rows, ours.type))
    try:
        return table.select(_OURS.names).cast(_OURS)
    except pa.ArrowInvalid:
        return None


def _rows_of(table: pa.Table, first: int) -> Callable[[], Iterator[Numbered]]:
    def records() -> Iterator[Numbered]:
        for number, row in enumerate(table.to_pylist(), start=first):
            yield number, {column: value["path"] if isinstance(value, dict) else value for column, value in row.items()}

    return records


def _conversations(about: ListFile) -> Iterator[Chunk]:
    """Conversations, or questions, as published: the videos that they are about. What they say of them is not kept."""
    records = _of_parquet(about) if _start_of(about).startswith(b"PAR1") else json_objects(about.path, about.name)
    yield from _in_chunks(
        (number, video)
        for number, record in enumerate(records, start=1)
        for video in _videos(record, f"{about.name}, conversation {number}")
    )


_NAMES_OF_VIDEOS = ("video", "videos", "video_path")


def _of_parquet(about: ListFile) -> Iterator[Record]:
    """The columns that name videos, and the id: images, which may lie beside them, are not read."""
    try:
        with pq.ParquetFile(about.path) as parquet:
            chosen = [name for name in parquet.schema_arrow.names if name in {*_NAMES_OF_VIDEOS, "clip_id"}]
            for batch in parquet.iter_batches(ROWS, columns=chosen, use_threads=False) if chosen else ():
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"cannot read {about.name} as Parquet: {str(error).splitlines()[0]}") from None


def json_objects(path: Path, name: str) -> Iterator[dict[str, Any]]:
    """The objects of a JSON array, of JSON lines, or of an object of them by their ids, whatever the file is called.

    ``name`` is for messages. Raises `BadInput` that names the line, and what `Path.open` raises.
    """
    about = ListFile(path, name)
    start = _start_of(about).lstrip()
    if start[:1] == b"{" and (by_id := _by_id(path, start)) is not None:
        yield from ({"id": key, **record} for key, record in by_id.items())
        return
    for chunk in _json_array(about) if start[:1] == b"[" else _json_lines(about):
        for _, record in chunk.records():
            yield record


def _by_id(path: Path, start: bytes) -> dict[str, Record] | None:
    """The records of a file that is one object of them; None if it is another."""
    line, newline, rest = start.partition(b"\n")
    try:
        first = json.loads(line)
        if newline and rest.strip():
            return None  # JSON lines
        return first if _are_records(first) else None
    except (ValueError, RecursionError):
        pass  # one object over many lines, or one that is longer than what was read
    if path.stat().st_size > _LONGEST_OBJECT:
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    return found if _are_records(found) else None


def _are_records(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(one, dict) for one in value.values())


def _videos(record: Record, where: str) -> Iterator[Record]:
    found = next((record[name] for name in _NAMES_OF_VIDEOS if record.get(name) is not None), None)
    for video in found if isinstance(found, list) else [] if found is None else [found]:
        if not isinstance(video, str) or not video:
            raise BadInput(f"{where}: `video` is {str(video)[:80]!r}; needed a path, or a list of paths")
        yield {"uri": video, "id": (record.get("clip_id") if video is found else None) or video}


def _in_chunks(records: Iterable[Numbered]) -> Iterator[Chunk]:
    records = iter(records)
    while some := list(islice(records, ROWS)):
        yield Chunk(some.__iter__)


READERS: Mapping[ListFormat, tuple[Callable[[ListFile], Iterator[Chunk]], str]] = {
    "jsonl": (_json_lines, "line"), "json": (_json_array, "item"), "csv": (_csv, "line"), "parquet": (_parquet, "row"),
    "conversations": (_conversations, "conversation"),
}  # fmt: skip
"""Format → its reader, and what it calls a row."""
