"""A file that lists videos in; tables of its rows out, some thousand at a time, whatever its format.

What a row must be is checked here for all formats: by columns where a chunk has none but ours, and otherwise row by row.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from schemas.credentials import holds_credentials
from schemas.errors import BadInput
from schemas.prompt import PromptName
from teacher_cache.clips.extra import packed
from teacher_cache.clips.list_formats import READERS, ROWS, URI_COLUMNS, ListFile, Numbered, Record, format_of
from teacher_cache.clips.prompts import prompt_of
from teacher_cache.io.places import OPENED_URL, require_openable

LISTED = pa.schema(
    {
        "uri": pa.string(),
        "id": pa.string(),
        "segment_start": pa.float64(),
        "segment_end": pa.float64(),
        "prompt": pa.string(),
        "extra": pa.string(),
    }
)
"""Schema of a table of listed rows: the URI as it is written, the id if there is one, the segment, what the row gives
a teacher that takes more than frames, and the other columns."""

# Matches an empty text, and any that `require_keepable` might refuse.
_SUSPICIOUS = r"^$|://.*(?:[@?#;]|%40)|[\x00-\x1f\x7f]|\xc2[\x80-\x9f]"


def read_list(file: ListFile) -> Iterator[pa.Table]:
    """The list's rows as tables of `LISTED`, in order. Raises `BadInput` that names the file and the row."""
    read, unit = READERS[format_of(file)]
    for chunk in read(file):
        table = None if file.columns else chunk.table
        if table is None or not _is_well_formed(table):
            yield from _checked(chunk.records(), f"{file.name}, {unit}", file)
        else:
            start = pc.if_else(pc.is_valid(table["end"]), pc.fill_null(table["start"], 0.0), table["start"])
            nothing = pa.nulls(table.num_rows, pa.string())
            columns = [table["uri"], table["id"], start, table["end"], nothing, nothing]
            yield pa.table(columns, schema=LISTED)


def _is_well_formed(listed: pa.Table) -> bool:
    """Of a table with our columns: whether every row is one, without looking at each."""
    if listed["start"].null_count < listed.num_rows or listed["end"].null_count < listed.num_rows:
        start = pc.fill_null(listed["start"], 0.0)
        is_some = pc.and_(pc.greater_equal(start, 0.0), pc.less(start, pc.fill_null(listed["end"], math.inf)))
        is_finite = pc.fill_null(pc.is_finite(listed["end"]), fill_value=True)
        if not pc.all(pc.and_(is_some, is_finite)).as_py():
            return False
    return not listed["uri"].null_count and _are_plain(listed)


def _are_plain(listed: pa.Table) -> bool:
    """Whether every uri and id is one that a store keeps and that is opened, without looking at each."""
    suspects = (pc.match_substring_regex(listed[name].cast(pa.binary()), _SUSPICIOUS) for name in ("uri", "id"))
    if any(pc.any(suspect).as_py() for suspect in suspects):
        return False
    urls = listed["uri"].filter(pc.match_substring(listed["uri"], "://"))
    return pc.all(pc.match_substring_regex(urls, OPENED_URL)).as_py() is not False


Row = tuple[str, str | None, float | None, float | None, str | None, str | None]
"""As `LISTED`."""


def _checked(records: Iterable[Numbered], where: str, about: ListFile) -> Iterator[pa.Table]:
    records = iter(records)
    while some := list(islice(records, ROWS)):
        rows = []
        for number, record in some:
            try:
                rows.append(_row(record, about))
            except BadInput as error:
                raise BadInput(f"{where} {number}: {error}") from None
        yield _tabled(rows, (f"{where} {number}" for number, _ in some))


def _tabled(rows: Sequence[Row], places: Iterable[str]) -> pa.Table:
    try:
        table = pa.table(dict(zip(LISTED.names, zip(*rows, strict=True), strict=True)), schema=LISTED)
    except UnicodeEncodeError:  # half a surrogate, which JSON can write
        table = None
    if table is None or not _are_plain(table):
        for (uri, name, *_), where in zip(rows, places, strict=True):
            require_keepable([uri] if name is None else [uri, name], where)
            try:
                require_openable(uri)
            except BadInput as error:
                raise BadInput(f"{where}: {error}") from None
    return table


def _row(record: Record, about: ListFile) -> Row:
    """Raises `BadInput` that says what is wrong with the record, but not where it is."""
    rest, columns = dict(record), about.columns
    named = columns.get("uri") or next((name for name in URI_COLUMNS if name in rest), "uri")
    uri = rest.pop(named, None)
    if not isinstance(uri, str) or not uri:
        others = "" if columns.get("uri") else f" (or {', '.join(URI_COLUMNS[1:])})"
        raise BadInput(
            f'needed an object with a text "{named}"{others}; found {str(record)[:80]!r}. Another name of it can be given in '
            "`videos.columns`."
        )
    name = rest.pop(columns.get("id", "id"), None)
    if isinstance(name, int) and not isinstance(name, bool):
        name = str(name)
    if name is not None and (not isinstance(name, str) or not name):
        raise BadInput(f'needed a text "id"; found {name!r}')
    start, end = (_seconds(rest.pop(columns.get(key, key), None), key) for key in ("start", "end"))
    if end is not None:
        start = start or 0.0
        if end <= start:
            raise BadInput(f"a segment from {start:g} to {end:g} s is empty; needed start < end")
    given: dict[PromptName, Any] = {key: rest.pop(columns.get(key, key), None) for key in about.takes}
    prompt = prompt_of(given, about.root).text if given else None
    return uri, name, start, end, prompt, packed(rest, about.dropped) if rest else None


def _seconds(value: Any, key: str) -> float | None:
    if value is None:
        return None
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise BadInput(f'needed "{key}" in seconds, at least 0; found {str(value)[:80]!r}')
    return seconds


def require_all_keepable(texts: pa.ChunkedArray, where: str) -> None:
    """`require_keepable` of a column, of which it looks at suspicious ones alone. Raises `BadInput`."""
    for chunk in texts.chunks:
        suspects = chunk.filter(pc.match_substring_regex(chunk.cast(pa.binary()), _SUSPICIOUS))
        require_keepable(suspects.to_pylist(), where)


def require_keepable(texts: Iterable[str], where: str) -> None:
    """Raises `BadInput` for a URI or id with credentials or control characters, or not in UTF-8: a catalog cannot keep it."""
    for text in texts:
        if holds_credentials(text):
            raise BadInput(
                f"{where}: the URL {text} holds credentials, or a query or fragment that may, and the store would keep them. "
                "Use a URL and an id without them, such as the s3:// URL behind a signed one; credentials belong in the "
                "environment (AWS_*)."
            )
        if any(unicodedata.category(c) in {"Cc", "Cs"} for c in text):
            raise BadInput(f"{where}: {text!a} has control characters, or is not UTF-8; give the video another name")
