"""One clip's array in, the bytes of its Zarr chunks out, exactly as Zarr's own codecs write them; and back.

Encoding chunks here, not through a Zarr array, lets a worker hold compressed instead of raw clips until its shard is full.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

import google_crc32c
import numpy as np
from numcodecs import blosc
from numcodecs.blosc import Blosc
from numcodecs.zstd import Zstd
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, TransposeCodec, ZstdCodec

from teacher_cache.encodings.base import SHUFFLED, Compression, StoredArray

Buffer = bytes | memoryview
Empty = Callable[[tuple[int, ...], np.dtype[Any]], np.ndarray[Any, Any]]

# With its own threads, blosc writes a chunk's blocks in the order in which they finish, so equal values would not give equal
# bytes. The callers here use threads themselves.
blosc.use_threads = False

_CHECKSUM_BYTES = 4
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
# c-blosc's README_CHUNK_FORMAT.rst: version, the compressor's version, flags, bytes of a value; then bytes once decompressed,
# bytes of a block, and bytes of this header and all that follows.
_BLOSC_HEADER = struct.Struct("<4B3I")
_BLOSC_SHUFFLED, _BLOSC_COPIED, _BLOSC_WHOLE_BLOCKS_OF_ZSTD = 0x01, 0x02, 0x90


def _shuffle(dtype: np.dtype[Any]) -> str:
    # Single bytes have nothing to shuffle; wider numbers gather their slow-changing high bytes.
    return "noshuffle" if dtype.itemsize == 1 else "shuffle"


def zarr_codecs(array: StoredArray) -> tuple[list[TransposeCodec], BytesCodec, list[BloscCodec | ZstdCodec | Crc32cCodec]]:
    """The codec chain for an array's metadata, as Zarr's (filters, serializer, compressors).

    In order: transpose to the array's layout, little-endian bytes, the compressor if there is one, crc32c.
    """
    compression, item_size = array.compression, array.dtype.itemsize
    filters = []
    if compression.order is not None:
        filters.append(TransposeCodec(order=(0, *(axis + 1 for axis in compression.order))))  # the clip axis stays first
    compressors: list[BloscCodec | ZstdCodec | Crc32cCodec] = [Crc32cCodec()]
    if compression.codec == "zstd":
        compressors.insert(0, ZstdCodec(level=compression.level))
    elif compression.codec == "blosc":
        shuffle = _shuffle(array.dtype)
        blosc_codec = BloscCodec(typesize=item_size, cname="zstd", clevel=compression.level, shuffle=shuffle, blocksize=0)  # type: ignore[arg-type]
        compressors.insert(0, blosc_codec)
    return filters, BytesCodec(endian="little"), compressors


def encode_chunks(values: np.ndarray[Any, Any], array: StoredArray) -> list[bytes]:
    """The clip's chunks. ``values`` have the array's shape and dtype."""
    return [encode_chunk(part, array.compression) for part in np.split(values, array.chunks)]


def decode_chunks(chunks: Sequence[Buffer], array: StoredArray, out: np.ndarray[Any, Any]) -> None:
    """The inverse of `encode_chunks`, into ``out``, one clip of a `clip_buffer`. Raises what `decode_chunk` raises."""
    for chunk, part in zip(chunks, np.split(out, array.chunks), strict=True):
        decode_chunk(chunk, array, part)


def encode_chunk(values: np.ndarray[Any, Any], compression: Compression = SHUFFLED) -> bytes:
    """The chunk's bytes, as `zarr_codecs` would write them. ``values`` are of one clip: all, or some of its first axis."""
    laid_out = values if compression.order is None else values.transpose(compression.order)
    little = np.ascontiguousarray(laid_out, dtype=values.dtype.newbyteorder("<"))
    packed: Any = little.reshape(-1).view(np.uint8)
    if compression.codec == "zstd":
        packed = Zstd(level=compression.level).encode(little)
    elif compression.codec == "blosc":
        shuffle = {"noshuffle": Blosc.NOSHUFFLE, "shuffle": Blosc.SHUFFLE}[_shuffle(values.dtype)]
        packed = Blosc(cname="zstd", clevel=compression.level, shuffle=shuffle, blocksize=0).encode(little)
    return b"".join((packed, checksum(packed)))


def clip_buffer(array: StoredArray, clips: int, empty: Empty = np.empty, entries: int | None = None) -> np.ndarray[Any, Any]:
    """An uninitialised (clip, *shape) array for `decode_chunks`, or with so many ``entries`` of the clips' first axis.

    In memory, each clip has the layout of its chunks, one after another; if that has another axis order, this is a strided
    view. ``empty`` allocates the memory.
    """
    order = _order(array)
    shape = array.shape if entries is None else (entries, *array.shape[1:])
    laid_out = empty((clips, *(shape[axis] for axis in order)), array.dtype)
    return laid_out.transpose(0, *(1 + order.index(axis) for axis in range(len(order))))


def decode_chunk(data: Buffer, array: StoredArray, out: np.ndarray[Any, Any]) -> None:
    """The inverse of `encode_chunk`, into ``out``, a chunk's part of a `clip_buffer`. Compressed chunks are decoded in place.

    Raises `ValueError` if the bytes fail their checksum or are not a chunk of this array.
    """
    packed = require_checksum(data)
    try:
        match array.compression.codec:
            case "none":
                out[...] = _as_they_are(packed, array)
            case "zstd":
                _require_length(_zstd_length(packed), array)
                Zstd().decode(packed, out=out.transpose(_order(array)))
            case "blosc":
                _require_blosc(packed, array)
                Blosc().decode(packed, out=out.transpose(_order(array)))
    except (RuntimeError, struct.error) as error:
        raise ValueError(str(error)) from None


def _require_length(length: int, array: StoredArray) -> None:
    """A decompressor does not mind room left in its output, and the rest would be whatever lay in memory there."""
    if length != array.chunk_nbytes:
        raise ValueError(f"the chunk holds {length} bytes, and one of {array.name} has {array.chunk_nbytes}")


def _zstd_length(frame: memoryview) -> int:
    """Bytes of a zstd frame once decompressed, by its header (RFC 8878, 3.1.1.1: descriptor, window, dictionary, length).

    zstd itself refuses a frame that gives another number of bytes than its header says, and whatever follows that gives more.
    """
    if frame[:4] != _ZSTD_MAGIC:  # such as a frame to be skipped, after which zstd would go on to another one
        raise ValueError("the chunk does not begin with a zstd frame")
    (descriptor,) = struct.unpack_from("B", frame, 4)
    is_single = bool(descriptor & 0x20)
    size = (int(is_single), 2, 4, 8)[descriptor >> 6]
    start = 5 + (not is_single) + (0, 1, 2, 4)[descriptor & 3]
    if not size or len(frame) < start + size:
        raise ValueError("the chunk does not say how long it is")  # as every chunk of ours does
    return int.from_bytes(frame[start : start + size], "little") + (256 if size == 2 else 0)


def _require_blosc(packed: memoryview, array: StoredArray) -> None:
    """Check that blosc's blocks lie one after another and fill the chunk, and that together they give a chunk's values.

    numcodecs does not tell c-blosc how long the chunk is, so c-blosc goes by its header and would read on past the chunk's end.
    """
    version, compressor, flags, value_bytes, length, block, total = _BLOSC_HEADER.unpack_from(packed)
    expected = _BLOSC_WHOLE_BLOCKS_OF_ZSTD | (_BLOSC_SHUFFLED if _shuffle(array.dtype) == "shuffle" else 0)
    if (version, compressor, flags & ~_BLOSC_COPIED, value_bytes) != (2, 1, expected, array.dtype.itemsize):
        raise ValueError(f"the chunk's header {packed[:4].hex()} is not blosc's for {array.name}")
    _require_length(length, array)
    if not 0 < block <= length:  # c-blosc takes memory for three of them
        raise ValueError(f"the chunk has blocks of {block} bytes, and one of {array.name} {length}")
    if flags & _BLOSC_COPIED:
        blocks: tuple[int, ...] = ()
        end = _BLOSC_HEADER.size + length
    else:
        blocks = struct.unpack_from(f"<{-(-length // block)}I", packed, _BLOSC_HEADER.size)
        end = _BLOSC_HEADER.size + 4 * len(blocks)
    for start in blocks:
        if start != end:
            raise ValueError(f"a block of the chunk begins at {start}, and the one before it ends at {end}")
        end += 4 + int.from_bytes(packed[start : start + 4], "little")
    if not end == total == len(packed):
        raise ValueError(f"the chunk's blocks end at {end}, its header says {total}, and it has {len(packed)} bytes")


def view_chunk(data: Buffer, array: StoredArray) -> np.ndarray[Any, Any] | None:
    """The values as a view of the chunk; None if they are compressed. Raises what `decode_chunk` raises."""
    return _as_they_are(require_checksum(data), array) if array.compression.codec == "none" else None


def require_checksum(data: Buffer) -> memoryview:
    """The chunk without its checksum. Raises `ValueError` if it fails it."""
    packed, holds = split_checksum(data)
    if not holds:
        raise ValueError("the chunk fails its checksum")
    return packed


def _as_they_are(packed: memoryview, array: StoredArray) -> np.ndarray[Any, Any]:
    _require_length(len(packed), array)
    order = _order(array)
    values = np.frombuffer(packed, array.dtype.newbyteorder("<")).reshape([array.chunk_shape[axis] for axis in order])
    return values.transpose([order.index(axis) for axis in range(len(order))])


def _order(array: StoredArray) -> tuple[int, ...]:
    """The clip's axes in the chunk's layout, outermost first."""
    return array.compression.order or tuple(range(len(array.shape)))


def checksum(data: Buffer) -> bytes:
    """crc32c as four little-endian bytes, as Zarr appends it."""
    # As an array, since the C function refuses a memoryview.
    return int(google_crc32c.value(np.frombuffer(data, np.uint8))).to_bytes(_CHECKSUM_BYTES, "little")


def split_checksum(data: Buffer) -> tuple[memoryview, bool]:
    """(the bytes without their checksum, whether the checksum matches). Copies nothing."""
    view = memoryview(data)
    body = view[:-_CHECKSUM_BYTES]
    return body, len(view) > _CHECKSUM_BYTES and checksum(body) == view[-_CHECKSUM_BYTES:]
