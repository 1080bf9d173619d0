"""Chunks of consecutive clips in, one shard object out, and back: Zarr's `sharding_indexed` format.

Bytes: the chunks one after another; then the index, (offset, length) of each of the shard's rows as two little-endian uint64,
both 2^64 - 1 for a row without a chunk; then the crc32c of the index.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from schemas.errors import StoreDamaged
from teacher_cache.encodings.base import StoredArray
from teacher_cache.store.chunk import Buffer, checksum, split_checksum
from teacher_cache.store.objects import LARGEST_OBJECT

_NO_CHUNK = np.uint64(2**64 - 1)


def most_clips(array: StoredArray) -> int:
    """The most clips that a shard of the array can have in one object, even if none of their values compress."""
    # Where nothing compresses, zstd adds 3 bytes to every 128 KiB, and zstd, blosc and the checksum less than 64 to a chunk.
    chunk = array.nbytes + array.nbytes // 2**14 + 64
    return (LARGEST_OBJECT - index_length(0)) // (chunk + index_length(1) - index_length(0))


def pack_shard(chunks: Mapping[int, bytes], clips_per_shard: int) -> bytes:
    """The bytes of a shard. ``chunks`` maps a slot, the row's position in the shard (0 ≤ slot < clips_per_shard), to its chunk.

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
    """Length in bytes of the index and its checksum, at the object's end."""
    return clips_per_shard * 16 + 4


def read_index(tail: Buffer, clips_per_shard: int) -> np.ndarray[Any, Any]:
    """The index, from a shard's last bytes (at least `index_length` of them).

    Returns uint64 (slot, (offset, length)), both 2^64 - 1 for a slot without a chunk. Raises `StoreDamaged` if the index
    fails its checksum.
    """
    length = index_length(clips_per_shard)
    packed_index, holds = split_checksum(tail[-length:])
    if len(tail) < length or not holds:
        raise StoreDamaged("the shard's index fails its checksum")
    return np.frombuffer(packed_index, dtype="<u8").reshape(clips_per_shard, 2)


def has_chunk(index: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Which slots of an index hold a chunk: bool (slot,)."""
    present: np.ndarray[Any, Any] = (index != _NO_CHUNK).any(axis=1)
    return present


def unpack_shard(data: bytes, clips_per_shard: int) -> dict[int, bytes]:
    """The inverse of `pack_shard`. Raises `StoreDamaged` if the index is damaged; the chunks' checksums are not checked."""
    index = read_index(data, clips_per_shard)
    end = len(data) - index_length(clips_per_shard)
    chunks: dict[int, bytes] = {}
    for slot in np.flatnonzero(has_chunk(index)).tolist():
        start, size = map(int, index[slot])
        if start + size > end:
            raise StoreDamaged(f"the shard's index points past its end for row {slot} of the shard")
        chunks[slot] = data[start : start + size]
    return chunks
