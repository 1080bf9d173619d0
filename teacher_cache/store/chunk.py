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
from numcodecs.zstd import Zstd
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, TransposeCodec, ZstdCodec

from teacher_cache.encodings.base import SHUFFLED, Compression, StoredArray

Buffer = bytes | memoryview

# With threads of its own, blosc lays out a chunk's blocks in the order in which they happened to be done, so equal values would
# not give equal bytes. Its callers here have threads themselves.
blosc.use_threads = False

_CHECKSUM_BYTES = 4
# The second field of blosc's header: bytes once decompressed.
_BLOSC_LENGTH = struct.Struct("<I")


def _shuffle(dtype: np.dtype[Any]) -> str:
    # Single bytes have nothing to shuffle; wider numbers gather their slow-changing high bytes.
    return "noshuffle" if dtype.itemsize == 1 else "shuffle"


def zarr_codecs(array: StoredArray) -> tuple[list[TransposeCodec], BytesCodec, list[BloscCodec | ZstdCodec | Crc32cCodec]]:
    """The codec chain that an array's metadata states, as Zarr's (filters, serializer, compressors).

    The axes in the array's order of layout, little-endian bytes, the compressor, crc32c.
    """
    compression, item_size = array.compression, array.dtype.itemsize
    filters = []
    if compression.order is not None:
        filters.append(TransposeCodec(order=(0, *(axis + 1 for axis in compression.order))))  # the clip axis stays first
    compressor: BloscCodec | ZstdCodec
    if compression.codec == "zstd":
        compressor = ZstdCodec(level=compression.level)
    else:
        shuffle = _shuffle(array.dtype)
        compressor = BloscCodec(typesize=item_size, cname="zstd", clevel=compression.level, shuffle=shuffle, blocksize=0)  # type: ignore[arg-type]
    return filters, BytesCodec(endian="little"), [compressor, Crc32cCodec()]


def encode_chunk(values: np.ndarray[Any, Any], compression: Compression = SHUFFLED) -> bytes:
    """The chunk's bytes under `zarr_codecs`. ``values`` are one clip's, in the array's dtype."""
    laid_out = values if compression.order is None else values.transpose(compression.order)
    little = np.ascontiguousarray(laid_out, dtype=values.dtype.newbyteorder("<"))
    if compression.codec == "zstd":
        packed = Zstd(level=compression.level).encode(little)
    else:
        shuffle = {"noshuffle": Blosc.NOSHUFFLE, "shuffle": Blosc.SHUFFLE}[_shuffle(values.dtype)]
        packed = Blosc(cname="zstd", clevel=compression.level, shuffle=shuffle, blocksize=0).encode(little)
    return bytes(packed) + checksum(packed)


def clip_buffer(array: StoredArray, clips: int) -> np.ndarray[Any, Any]:
    """An empty (clip, *shape) array whose clips lie in memory as their chunks hold them, for `decode_chunk`.

    Where the chunk has other axes outermost than the clip, this is a strided view.
    """
    order = array.compression.order
    if order is None:
        return np.empty((clips, *array.shape), array.dtype)
    laid_out = np.empty((clips, *(array.shape[axis] for axis in order)), array.dtype)
    return laid_out.transpose(0, *(1 + order.index(axis) for axis in range(len(order))))


def decode_chunk(data: Buffer, array: StoredArray, out: np.ndarray[Any, Any]) -> None:
    """The inverse of `encode_chunk`, into ``out``: one clip of a `clip_buffer`. Nothing is copied on the way.

    Raises `ValueError` if the bytes fail their checksum or are not such a chunk.
    """
    packed, holds = split_checksum(data)
    if not holds:
        raise ValueError("the chunk fails its checksum")
    laid_out = out if array.compression.order is None else out.transpose(array.compression.order)
    try:
        if array.compression.codec == "zstd":
            Zstd().decode(packed, out=laid_out)
            return
        (length,) = _BLOSC_LENGTH.unpack_from(packed, 4)
        if length != out.nbytes:
            raise ValueError(f"the chunk holds {length} bytes, and a clip of {array.name} has {out.nbytes}")
        Blosc().decode(packed, out=laid_out)
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
