"""What a list says of a video beside its place in, one JSON text out, and back as columns.

A store keeps these columns as one text a row, so that its format does not depend on what lists hold.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any

import pyarrow as pa

from schemas.credentials import holds_credentials

LONGEST_EXTRA = 4096
"""Bytes of a row's JSON text, at most."""
MOST_COLUMNS = 256
"""Columns of a list that are kept, at most."""
_LONGEST_NAME = 64
_AT_ONCE = 2**16
"""Rows whose values are Python's at once."""
_MOST_COUNTS = 100
_INTEGERS = range(-(2**63), 2**63)


class Dropped:
    """Counts the values that are not kept, by column and reason."""

    def __init__(self) -> None:
        self._values: Counter[tuple[str, str]] = Counter()
        self.kept: set[str] = set()
        """The names of columns of which something is kept, at most `MOST_COLUMNS`."""

    def add(self, column: str, reason: str) -> None:
        """Count one value."""
        key = ascii(column)[1:-1][:_LONGEST_NAME], reason
        self._values[key if key in self._values or len(self._values) < _MOST_COUNTS else ("…", "as above")] += 1

    def notes(self) -> list[str]:
        """One sentence for each column and reason, the most frequent first."""
        return [
            f"{count} values of the column {name!r} are not kept: {why}" for (name, why), count in self._values.most_common()
        ]


def packed(record: Mapping[str, Any], dropped: Dropped) -> str | None:
    """The JSON text of a record's texts, numbers and truth values, at most `LONGEST_EXTRA` bytes; None if it has none.

    Whatever else it holds is counted in ``dropped``, and so are its longest texts, until the rest is short enough.
    """
    kept = {}
    for name, value in record.items():
        reason = _refusal(name, value)
        if reason is None and name not in dropped.kept and value is not None and len(dropped.kept) >= MOST_COLUMNS:
            reason = f"a list may have {MOST_COLUMNS} other columns"
        if reason is not None:
            dropped.add(str(name), reason)
        elif value is not None:
            kept[name] = value
            dropped.kept.add(name)
    text = _text(kept)
    while len(text) * 4 > LONGEST_EXTRA and len(text.encode()) > LONGEST_EXTRA:
        longest = max(kept, key=lambda name: len(str(kept[name])) + len(name))
        del kept[longest]
        dropped.add(longest, f"a row's columns may take {LONGEST_EXTRA} bytes")
        text = _text(kept)
    return text if kept else None


_text = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def _refusal(name: Any, value: Any) -> str | None:
    """Why a store does not keep a value; None if it does, or if the value is null."""
    if not _is_name(name):
        return f"its name is no printable text of at most {_LONGEST_NAME} letters"
    if isinstance(value, str):
        return _refusal_of_text(value)
    if value is not None and not isinstance(value, (bool, int, float)):
        return "only texts, numbers and truth values are"
    is_held = math.isfinite(value) if isinstance(value, float) else value is None or value in _INTEGERS
    return None if is_held else "a number is finite, and an integer has 64 bits"


@lru_cache
def _is_name(name: Any) -> bool:
    return isinstance(name, str) and 0 < len(name) <= _LONGEST_NAME and name.isprintable() and not holds_credentials(name)


def _refusal_of_text(text: str) -> str | None:
    if holds_credentials(text):
        return "the URL in it holds credentials, or a query that may"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "the text is not UTF-8"
    return None


def unpacked(texts: pa.ChunkedArray, taken: Collection[str] = ()) -> dict[str, pa.ChunkedArray]:
    """The columns in rows' JSON texts, the first `MOST_COLUMNS` of them; null where a row lacks one.

    A column is bool, int64 or float64 if all its values are, and otherwise string, with JSON for what is no text. A column
    whose name is one of ``taken`` gets a ``_`` after it. Raises `ValueError` for what `packed` does not write.
    """
    parts: dict[str, list[pa.Array]] = {}
    for start in range(0, len(texts) if texts.null_count < len(texts) else 0, _AT_ONCE):
        some = texts.slice(start, _AT_ONCE)
        found = _columns(some.to_pylist(), parts.keys())
        for name in dict.fromkeys((*parts, *found)):
            before = [pa.nulls(start)] if name not in parts and start else []
            parts.setdefault(name, before).append(found.get(name, pa.nulls(len(some))))
    columns: dict[str, pa.ChunkedArray] = {}
    for name, arrays in parts.items():
        free = name
        while free in taken or free in columns:
            free += "_"
        columns[free] = _joined(arrays)
    return columns


def _columns(texts: Sequence[str | None], known: Collection[str]) -> dict[str, pa.Array]:
    columns: dict[str, list[Any]] = {}
    for row, text in enumerate(texts):
        for name, value in () if text is None else _record(text).items():
            if name in columns or name in known or len({*columns, *known}) < MOST_COLUMNS:
                values = columns.setdefault(name, [])
                values.extend([None] * (row - len(values)))
                values.append(value)
    return {name: _column(values + [None] * (len(texts) - len(values))) for name, values in columns.items()}


def _record(text: str) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except RecursionError:
        record = None
    if not isinstance(record, dict) or any(_refusal(name, value) for name, value in record.items()):
        raise ValueError("a row's other columns are not as they are written")
    return record


def _column(values: Sequence[Any]) -> pa.Array:
    kinds = {type(value) for value in values if value is not None}
    if kinds in ({bool}, {int}, {float}):
        return pa.array(values)
    if kinds == {int, float}:
        return pa.array([None if value is None else float(value) for value in values], pa.float64())
    return pa.array([value if value is None or isinstance(value, str) else _text(value) for value in values], pa.string())


def _joined(arrays: Sequence[pa.Array]) -> pa.ChunkedArray:
    kinds = {array.type for array in arrays} - {pa.null()}
    kind = kinds.pop() if len(kinds) == 1 else pa.float64() if kinds == {pa.int64(), pa.float64()} else pa.string()
    return pa.chunked_array([array.cast(kind) for array in arrays], kind)
