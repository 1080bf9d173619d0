"""A shard: the chunks of consecutive clips in one object, in Zarr's `sharding_indexed` format.

Bytes: the chunks one after another, then for each of the shard's rows (offset, length) as two little-endian uint64,
both 2^64 - 1 where the row has no chunk, then the crc32c of that index.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from schemas.errors import StoreDamaged
from teacher_cache.store.chunk import Buffer, checksum, split_checksum

_NO_CHUNK = np.uint64(2**64 - 1)


def pack_shard(chunks: Mapping[int, bytes], clips_per_shard: int) -> bytes:
    """``chunks`` maps a row's slot, its position in the shard (0 ≤ slot < clips_per_shard), to its bytes.

    Equal input gives equal bytes.
    """
    index = np.full((clips_per_shard, 2), _NO_CHUNK, dtype="<u8")
    offset = 0
    for slot in sorted(chunks):
        index[slot] = offset, len(chunks[slot])
        offset += len(chunks[slot])
    packed_index = index.tobytes()
    return b"".join([*(chunks[slot] for slot in sorted(chunks)), packed_index, checksum(packed_index)])


def index_length(clips_per_shard: int) -> int:
    """Bytes of the index and its checksum, at the object's end."""
    return clips_per_shard * 16 + 4


def read_index(tail: Buffer, clips_per_shard: int) -> np.ndarray[Any, Any]:
    """Where the chunks lie, from a shard's last bytes (`index_length` of them or more).

    Returns uint64 (slot, (offset, length)), both 2^64 - 1 where a slot has no chunk. Raises `StoreDamaged` if the index
    does not hold.
    """
    length = index_length(clips_per_shard)
    packed_index, holds = split_checksum(tail[-length:])
    if len(tail) < length or not holds:
        raise StoreDamaged("the shard's index fails its checksum")
    return np.frombuffer(packed_index, dtype="<u8").reshape(clips_per_shard, 2)


def has_chunk(index: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(slot,) bool: which slots of `read_index` hold a chunk."""
    present: np.ndarray[Any, Any] = (index != _NO_CHUNK).any(axis=1)
    return present


def unpack_shard(data: bytes, clips_per_shard: int) -> dict[int, bytes]:
    """The inverse of `pack_shard`. Raises `StoreDamaged` if the index does not hold."""
    index = read_index(data, clips_per_shard)
    end = len(data) - index_length(clips_per_shard)
    chunks: dict[int, bytes] = {}
    for slot in np.flatnonzero(has_chunk(index)).tolist():
        start, size = map(int, index[slot])
        if start + size > end:
            raise StoreDamaged(f"the shard's index points past its end for row {slot} of the shard")
        chunks[slot] = data[start : start + size]
    return chunks
