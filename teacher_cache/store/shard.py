"""A shard: the chunks of consecutive clips in one object, in Zarr's `sharding_indexed` format.

Bytes: the chunks one after another, then for each of the shard's rows (offset, length) as two little-endian uint64,
both 2^64 - 1 where the row has no chunk, then the crc32c of that index.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from schemas.errors import StoreDamaged
from teacher_cache.store.chunk import checksum, split_checksum

_NO_CHUNK = np.uint64(2**64 - 1)


def pack_shard(chunks: Mapping[int, bytes], clips_per_shard: int) -> bytes:
    """``chunks`` maps a row's place in the shard (0 ≤ place < clips_per_shard) to its bytes. Equal input gives equal bytes."""
    index = np.full((clips_per_shard, 2), _NO_CHUNK, dtype="<u8")
    offset = 0
    for place in sorted(chunks):
        index[place] = offset, len(chunks[place])
        offset += len(chunks[place])
    packed_index = index.tobytes()
    return b"".join([*(chunks[place] for place in sorted(chunks)), packed_index, checksum(packed_index)])


def index_length(clips_per_shard: int) -> int:
    """Bytes of the index and its checksum, at the object's end."""
    return clips_per_shard * 16 + 4


def unpack_shard(data: bytes, clips_per_shard: int) -> dict[int, bytes]:
    """The inverse of `pack_shard`. Raises `StoreDamaged` if the index does not hold."""
    length = index_length(clips_per_shard)
    packed_index, holds = split_checksum(data[-length:])
    if len(data) < length or not holds:
        raise StoreDamaged("the shard's index fails its checksum")
    index = np.frombuffer(packed_index, dtype="<u8").reshape(clips_per_shard, 2)
    chunks: dict[int, bytes] = {}
    for place, (offset, size) in enumerate(index):
        if offset == _NO_CHUNK and size == _NO_CHUNK:
            continue
        start, stop = int(offset), int(offset) + int(size)
        if stop > len(data) - length:
            raise StoreDamaged(f"the shard's index points past its end for row {place} of the shard")
        chunks[place] = data[start:stop]
    return chunks
