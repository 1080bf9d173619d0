"""Chunks of consecutive clips in, one shard object out, and back: Zarr's `sharding_indexed` format.

Bytes: the chunks one after another; then the index, (offset, length) of each of the shard's rows as two little-endian uint64,
both 2^64 - 1 for a row without a chunk; then the crc32c of the index.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from schemas.errors import StoreDamaged
from schemas.log import LARGEST_OBJECT
from teacher_cache.encodings.base import StoredArray
from teacher_cache.store.chunk import Buffer, checksum, split_checksum

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


def read_index(tail: Buffer, clips_per_shard: int, shard_length: int) -> np.ndarray[Any, Any]:
    """The index, from the last bytes (at least `index_length` of them) of a shard of ``shard_length`` bytes.

    Returns uint64 (slot, (offset, length)), both 2^64 - 1 for a slot without a chunk; the others lie before the index. Raises
    `StoreDamaged` if the index fails its checksum, or names bytes that are not there.
    """
    length = index_length(clips_per_shard)
    packed_index, holds = split_checksum(tail[-length:])
    if len(tail) < length or not holds:
        raise StoreDamaged("the shard's index fails its checksum")
    index = np.frombuffer(packed_index, dtype="<u8").reshape(clips_per_shard, 2)
    offsets, lengths = index[has_chunk(index)].T
    end = np.uint64(max(0, shard_length - length))
    if (offsets > end).any() or (lengths > end - offsets).any():  # no sum, which might overflow
        raise StoreDamaged("the shard's index names bytes that are not there")
    return index


def has_chunk(index: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Which slots of an index hold a chunk: bool (slot,)."""
    present: np.ndarray[Any, Any] = (index != _NO_CHUNK).any(axis=1)
    return present


def unpack_shard(data: bytes, clips_per_shard: int) -> dict[int, memoryview]:
    """The inverse of `pack_shard`, copying nothing. Raises what `read_index` raises; the chunks' checksums are not checked."""
    index = read_index(data, clips_per_shard, len(data))
    chunks: dict[int, memoryview] = {}
    for slot in np.flatnonzero(has_chunk(index)).tolist():
        start, size = map(int, index[slot])
        chunks[slot] = memoryview(data)[start : start + size]
    return chunks
