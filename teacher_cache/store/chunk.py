"""One clip's array → the bytes of one Zarr chunk, as Zarr's own codecs would write them.

Encoding here, and not through a Zarr array, lets a worker keep a clip's few compressed megabytes in place of its
raw ones until the shard is full.
"""

from __future__ import annotations

import struct
from typing import Any

import google_crc32c
import numpy as np
from numcodecs import blosc
from numcodecs.blosc import Blosc
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec

from teacher_cache.encodings.base import StoredArray

Buffer = bytes | memoryview

# With threads of its own, blosc lays out a chunk's blocks in the order in which they happened to be done, so equal values would
# not give equal bytes. Its callers here have threads themselves.
blosc.use_threads = False

_LEVEL = 3
_CHECKSUM_BYTES = 4
# The second field of blosc's header: bytes once decompressed.
_BLOSC_LENGTH = struct.Struct("<I")


def _shuffle(dtype: np.dtype[Any]) -> str:
    # Single bytes have nothing to shuffle; wider numbers gather their slow-changing high bytes.
    return "noshuffle" if dtype.itemsize == 1 else "shuffle"


def zarr_codecs(dtype: np.dtype[Any]) -> tuple[BytesCodec, BloscCodec, Crc32cCodec]:
    """The codec chain that an array's metadata states: little-endian bytes, blosc with zstd, crc32c."""
    blosc = BloscCodec(typesize=dtype.itemsize, cname="zstd", clevel=_LEVEL, shuffle=_shuffle(dtype), blocksize=0)  # type: ignore[arg-type]
    return BytesCodec(endian="little"), blosc, Crc32cCodec()


def encode_chunk(values: np.ndarray[Any, Any]) -> bytes:
    """The chunk's bytes under `zarr_codecs`. ``values`` are one clip's, in the array's dtype."""
    little = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    shuffle = {"noshuffle": Blosc.NOSHUFFLE, "shuffle": Blosc.SHUFFLE}[_shuffle(values.dtype)]
    packed = Blosc(cname="zstd", clevel=_LEVEL, shuffle=shuffle, blocksize=0).encode(little)
    return bytes(packed) + checksum(packed)


def clip_buffer(array: StoredArray, clips: int) -> np.ndarray[Any, Any]:
    """An empty (clip, *shape) array whose clips lie in memory as their chunks hold them, for `decode_chunk`."""
    return np.empty((clips, *array.shape), array.dtype)


def decode_chunk(data: Buffer, array: StoredArray, out: np.ndarray[Any, Any]) -> None:
    """The inverse of `encode_chunk`, into ``out``: one clip of a `clip_buffer`. Nothing is copied on the way.

    Raises `ValueError` if the bytes fail their checksum or are not such a chunk.
    """
    packed, holds = split_checksum(data)
    if not holds:
        raise ValueError("the chunk fails its checksum")
    try:
        (length,) = _BLOSC_LENGTH.unpack_from(packed, 4)
        if length != out.nbytes:
            raise ValueError(f"the chunk holds {length} bytes, and a clip of {array.name} has {out.nbytes}")
        Blosc().decode(packed, out=out)
    except (RuntimeError, struct.error) as error:
        raise ValueError(str(error)) from None


def checksum(data: Buffer) -> bytes:
    """crc32c as four little-endian bytes, as Zarr appends it."""
    # An array and not a memoryview, which the C function refuses.
    return int(google_crc32c.value(np.frombuffer(data, np.uint8))).to_bytes(_CHECKSUM_BYTES, "little")


def split_checksum(data: Buffer) -> tuple[memoryview, bool]:
    """(what the checksum covers, whether the checksum holds). Copies nothing."""
    view = memoryview(data)
    body = view[:-_CHECKSUM_BYTES]
    return body, len(view) > _CHECKSUM_BYTES and checksum(body) == view[-_CHECKSUM_BYTES:]
