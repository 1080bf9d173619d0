"""Chunks of consecutive clips in, one shard object out, and back: Zarr's `sharding_indexed` format.

Bytes: the chunks one after another, clip by clip; then the index, an entry for each chunk of each of the shard's rows: its
(offset, length) as two little-endian uint64, both 2^64 - 1 for a chunk that is not there; then the crc32c of the index.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    clip = array.nbytes + array.nbytes // 2**14 + 64 * array.chunks
    return (LARGEST_OBJECT - index_length(0)) // (clip + index_length(array.chunks) - index_length(0))


def pack_clips(clips: Mapping[int, Sequence[bytes]], array: StoredArray, clips_per_shard: int) -> bytes:
    """The bytes of a shard. ``clips`` maps a slot, the row's position in the shard (0 ≤ slot < clips_per_shard), to the clip's
    chunks. Equal input gives equal bytes.
    """
    chunks = {slot * array.chunks + number: chunk for slot, clip in clips.items() for number, chunk in enumerate(clip)}
    return pack_shard(chunks, clips_per_shard * array.chunks)


def unpack_clips(data: bytes, array: StoredArray, clips_per_shard: int) -> dict[int, list[memoryview]]:
    """The inverse of `pack_clips`, copying nothing, of the clips of which no chunk is missing. Raises what `read_index` raises;
    the chunks' checksums are not checked.
    """
    chunks, count = unpack_shard(data, clips_per_shard * array.chunks), array.chunks
    clips = {slot: range(slot * count, (slot + 1) * count) for slot in range(clips_per_shard)}
    return {slot: [chunks[entry] for entry in entries] for slot, entries in clips.items() if chunks.keys() >= set(entries)}


def pack_shard(chunks: Mapping[int, bytes], entries: int) -> bytes:
    """The bytes of a shard. ``chunks`` maps an entry of its index (0 ≤ entry < entries) to the chunk."""
    index = np.full((entries, 2), _NO_CHUNK, dtype="<u8")
    offset = 0
    for entry in sorted(chunks):
        index[entry] = offset, len(chunks[entry])
        offset += len(chunks[entry])
    packed_index = index.tobytes()
    return b"".join([*(chunks[entry] for entry in sorted(chunks)), packed_index, checksum(packed_index)])


def index_length(entries: int) -> int:
    """Length in bytes of the index and its checksum, at the object's end."""
    return entries * 16 + 4


def shard_index_length(array: StoredArray, clips_per_shard: int) -> int:
    """`index_length` of a shard of the array: 16 bytes for each chunk that a clip has."""
    return index_length(clips_per_shard * array.chunks)


def read_index(tail: Buffer, entries: int, shard_length: int) -> np.ndarray[Any, Any]:
    """The index, from the last bytes (at least `index_length` of them) of a shard of ``shard_length`` bytes.

    Returns uint64 (entry, (offset, length)), both 2^64 - 1 where there is no chunk; the others fill what is before the index,
    one after another. Raises `StoreDamaged` if the index fails its checksum, or names other bytes.
    """
    length = index_length(entries)
    packed_index, holds = split_checksum(tail[-length:])
    if len(tail) < length or not holds:
        raise StoreDamaged("the shard's index fails its checksum")
    index = np.frombuffer(packed_index, dtype="<u8").reshape(entries, 2)
    offsets, lengths = index[has_chunk(index)].T
    end = np.uint64(max(0, shard_length - length))
    if (offsets > end).any() or (lengths > end - offsets).any():  # no sum, which might overflow
        raise StoreDamaged("the shard's index names bytes that are not there")
    ends = offsets + lengths
    if not np.array_equal(np.append(offsets, end), np.append(np.uint64(0), ends)):
        raise StoreDamaged("the chunks that the shard's index names do not fill it one after another")
    return index


def has_chunk(index: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Which entries of an index have a chunk: bool (entry,)."""
    present: np.ndarray[Any, Any] = (index != _NO_CHUNK).any(axis=1)
    return present


def unpack_shard(data: bytes, entries: int) -> dict[int, memoryview]:
    """The inverse of `pack_shard`, copying nothing. Raises what `read_index` raises; the chunks' checksums are not checked."""
    index = read_index(data, entries, len(data))
    chunks: dict[int, memoryview] = {}
    for entry in np.flatnonzero(has_chunk(index)).tolist():
        start, size = map(int, index[entry])
        chunks[entry] = memoryview(data)[start : start + size]
    return chunks
