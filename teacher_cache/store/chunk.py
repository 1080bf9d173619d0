"""One clip's array → the bytes of one Zarr chunk, as Zarr's own codecs would write them.

Encoding here, and not through a Zarr array, lets a worker keep a clip's few compressed megabytes in place of its
raw ones until the shard is full.
"""

from __future__ import annotations

from typing import Any

import google_crc32c
import numpy as np
from numcodecs.blosc import Blosc
from numcodecs.zstd import Zstd
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, TransposeCodec, ZstdCodec

from teacher_cache.encodings.base import SHUFFLED, Compression, StoredArray

_CHECKSUM_BYTES = 4


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


def checksum(data: bytes | memoryview) -> bytes:
    """crc32c as four little-endian bytes, as Zarr appends it."""
    return int(google_crc32c.value(bytes(data))).to_bytes(_CHECKSUM_BYTES, "little")


def split_checksum(data: bytes) -> tuple[bytes, bool]:
    """(what the checksum covers, whether the checksum holds)."""
    body = data[:-_CHECKSUM_BYTES]
    return body, len(data) > _CHECKSUM_BYTES and checksum(body) == data[-_CHECKSUM_BYTES:]
