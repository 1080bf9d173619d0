"""One clip's array → the bytes of one Zarr chunk, as Zarr's own codecs would write them.

Encoding here, and not through a Zarr array, lets a worker keep a clip's few compressed megabytes in place of its
raw ones until the shard is full.
"""

from __future__ import annotations

from typing import Any

import google_crc32c
import numpy as np
from numcodecs.blosc import Blosc
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec

_LEVEL = 3
_CHECKSUM_BYTES = 4


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


def checksum(data: bytes | memoryview) -> bytes:
    """crc32c as four little-endian bytes, as Zarr appends it."""
    return int(google_crc32c.value(bytes(data))).to_bytes(_CHECKSUM_BYTES, "little")


def split_checksum(data: bytes) -> tuple[bytes, bool]:
    """(what the checksum covers, whether the checksum holds)."""
    body = data[:-_CHECKSUM_BYTES]
    return body, len(data) > _CHECKSUM_BYTES and checksum(body) == data[-_CHECKSUM_BYTES:]
