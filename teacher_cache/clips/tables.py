"""Videos and clips by the million: as Arrow tables, and ids as 64-bit keys."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.errors import BadInput

VIDEOS = pa.schema({"id": pa.string(), "uri": pa.string()})
"""A table of videos: what the user calls each, and where it is."""

CLIPS = pa.schema(
    {
        "clip_id": pa.string(),
        "video": pa.string(),
        "video_id": pa.string(),
        "content_digest": pa.string(),
        "window_start": pa.int64(),
        "window_stop": pa.int64(),
    }
)
"""A table of clips before they have rows: the fields of `schemas.clip.Clip` but the row."""

Keys = NDArray[np.uint64]


def keys_of(texts: Iterable[str | None]) -> Keys:
    """The 64-bit key of each text: the first eight bytes, little-endian, of its BLAKE2b-64; 0 for None."""
    blake2b = hashlib.blake2b
    packed = b"".join(bytes(8) if text is None else blake2b(text.encode(), digest_size=8).digest() for text in texts)
    return np.frombuffer(packed, dtype="<u8")


def distinct(table: pa.Table, name: str, place: str, complaint: str) -> pa.Table:
    """The first row of each ``name``. Raises `BadInput` where a later one differs in ``place``."""
    names = pc.unique(table[name])
    if len(names) == table.num_rows:
        return table
    of = pc.index_in(table[name], names).to_numpy()
    first = np.full(len(names), table.num_rows)
    np.minimum.at(first, of, np.arange(table.num_rows))
    differs = pc.not_equal(table[place], table[place].take(pa.array(first[of]))).to_numpy()
    for row in np.flatnonzero(differs)[:1].tolist():
        one, other = table[place][int(first[of[row]])], table[place][row]
        raise BadInput(f"{complaint} {table[name][row].as_py()!r}: {one} and {other}; give each its own id")
    return table.take(pa.array(np.sort(first)))
