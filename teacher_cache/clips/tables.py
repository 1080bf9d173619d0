"""Videos and clips as Arrow tables, and ids in, 64-bit keys out: the forms that scale to millions."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.errors import BadInput

VIDEOS = pa.schema(
    {
        "id": pa.string(),
        "uri": pa.string(),
        "segment_start": pa.float64(),
        "segment_end": pa.float64(),
        "prompt": pa.string(),
        "extra": pa.string(),
        "content_digest": pa.string(),
        "key": pa.uint64(),
    }
)
"""Schema of a table of videos, or of segments of them: the user's id, the URI, the `schemas.clip.Segment` (null for the whole
video), the `schemas.prompt.Prompt` as JSON (null for a teacher that takes frames alone), the list's other columns (see
`teacher_cache.clips.extra`), what tells that the video changed (null if the list does not say it: see
`teacher_cache.clips.identity`), and the key of the id."""

CLIPS = pa.schema(
    {
        "clip_id": pa.string(),
        "video": pa.string(),
        "video_id": pa.string(),
        "content_digest": pa.string(),
        "window_start": pa.int64(),
        "window_stop": pa.int64(),
        "segment_start": pa.float64(),
        "segment_end": pa.float64(),
        "flipped": pa.bool_(),
        "prompt": pa.string(),
        "extra": pa.string(),
    }
)
"""Schema of a table of clips that have no rows yet: the fields of `schemas.clip.Clip` without the row, and ``extra``."""


def times_text(start: float | None, end: float | None) -> str:
    """A segment's times in the id of its clip: ``3-7.5``, or ``12-`` for one without an end."""
    return "-".join("" if seconds is None else repr(seconds).removesuffix(".0") for seconds in (start, end))


SEGMENT = ("segment_start", "segment_end")


def other_segment(now: pa.Table, then: pa.Table) -> NDArray[np.bool_]:
    """Whether each row of one table is of another segment than that of the other: bool (row,)."""
    given = [(pc.fill_null(now[name], -1.0).to_numpy(), pc.fill_null(then[name], -1.0).to_numpy()) for name in SEGMENT]
    differs: NDArray[np.bool_] = np.any([one != other for one, other in given], axis=0)
    return differs


Keys = NDArray[np.uint64]

_HASHED_AT_ONCE = 2**16


def keys_of(texts: Iterable[str]) -> Keys:
    """The 64-bit key of each text, uint64 (text,): the first half of its 16-byte BLAKE2b digest, read as little-endian."""
    return _digests(texts)[:, 0].copy()


def checks_of(texts: Iterable[str]) -> Keys:
    """The other half of each text's digest, uint64 (text,): it tells apart the texts of one key."""
    return _digests(texts)[:, 1].copy()


def _digests(texts: Iterable[str]) -> Keys:
    blake2b = hashlib.blake2b
    joined = b"".join([blake2b(text.encode(), digest_size=16).digest() for text in texts])
    return np.frombuffer(joined, dtype="<u8").reshape(-1, 2)


def column_keys(column: pa.ChunkedArray) -> Keys:
    """`keys_of` a column, without holding all of its texts in memory at once."""
    return _in_slices(keys_of, column)


def column_checks(column: pa.ChunkedArray) -> Keys:
    """`checks_of` a column, likewise."""
    return _in_slices(checks_of, column)


def _in_slices(hashes: Callable[[Iterable[str]], Keys], column: pa.ChunkedArray) -> Keys:
    starts = range(0, len(column), _HASHED_AT_ONCE)
    return np.concatenate([np.empty(0, np.uint64), *(hashes(column.slice(s, _HASHED_AT_ONCE).to_pylist()) for s in starts)])


_SOUGHT_AT_ONCE = 2**20


def indices_among(keys: Keys, known: Keys) -> NDArray[np.int64]:
    """Index of each key in ``known``, which must be ascending; -1 if it is not there. int64 (key,).

    Keys are looked up in ascending order, which keeps the search in the CPU's caches: many times faster for ten million keys.
    """
    found = np.full(len(keys), -1)
    for start in range(0, len(keys) if len(known) else 0, _SOUGHT_AT_ONCE):
        some = keys[start : start + _SOUGHT_AT_ONCE]
        order = np.argsort(some)
        index = np.minimum(np.searchsorted(known, some[order]), len(known) - 1)
        found[start + order] = np.where(known[index] == some[order], index, -1)
    return found


def among(keys: Keys, known: Keys) -> NDArray[np.bool_]:
    """Whether each key is one of ``known``."""
    return indices_among(keys, np.sort(known)) >= 0


def distinct(
    table: pa.Table, name: str, columns: Sequence[str], complaint: str, remedy: str = "give each its own id"
) -> pa.Table:
    """The first row of each ``name``. Raises `BadInput`, of ``complaint`` and ``remedy``, if a later differs in ``columns``."""
    keys = np.sort(table["key"].to_numpy()) if "key" in table.column_names else None
    if keys is not None and (keys[1:] != keys[:-1]).all():
        return table  # different keys mean different names
    names = pc.unique(table[name])
    if len(names) == table.num_rows:
        return table
    of = pc.index_in(table[name], names).to_numpy()
    first = np.full(len(names), table.num_rows)
    np.minimum.at(first, of, np.arange(table.num_rows))
    for column in columns:
        firsts = table[column].take(pa.array(first[of]))
        is_same = pc.or_(
            pc.fill_null(pc.equal(table[column], firsts), fill_value=False), pc.and_(*map(pc.is_null, (table[column], firsts)))
        )
        for row in np.flatnonzero(~is_same.to_numpy())[:1].tolist():
            raise BadInput(
                f"{complaint} {table[name][row].as_py()!r}: {_shown(firsts[row])} and {_shown(table[column][row])}; {remedy}"
            )
    return table.take(pa.array(np.sort(first)))


def _shown(value: pa.Scalar) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


_LONGEST_SHOWN = 2**10
