"""A chunk gives back its own clip or is refused: never another length, never memory that was not its own."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numcodecs.blosc import Blosc
from numcodecs.zstd import Zstd

from teacher_cache.encodings.base import Compression, StoredArray
from teacher_cache.store.chunk import checksum, clip_buffer, decode_chunk, encode_chunk, view_chunk

Codec = Literal["zstd", "blosc", "none"]


def array_of(codec: Codec, dtype: str, shape: tuple[int, ...], order: tuple[int, ...] | None = None) -> StoredArray:
    return StoredArray("a", shape, np.dtype(dtype), tuple("xyz"[: len(shape)]), 7, compression=Compression(codec, 1, order))


def values_of(array: StoredArray, *, noise: bool) -> np.ndarray:
    rng = np.random.default_rng(0)
    values = rng.integers(-99, 99, array.shape) if noise else np.arange(array.nbytes)[: np.prod(array.shape)] // 300
    return values.reshape(array.shape).astype(array.dtype)


def sealed(body: bytes) -> bytes:
    return body + checksum(body)


def decoded(data: bytes, array: StoredArray, sentinel: int = 0x5A) -> np.ndarray:
    """Into memory full of a sentinel, as a reader's is of other clips."""

    def full(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        return np.full(np.prod(shape) * dtype.itemsize, sentinel, np.uint8).view(dtype).reshape(shape)

    (out,) = clip_buffer(array, 1, full)
    decode_chunk(data, array, out)
    return out


def gives_its_own_or_is_refused(data: bytes, array: StoredArray, values: np.ndarray) -> None:
    try:
        out = decoded(data, array)
    except ValueError as error:
        assert str(error)  # noqa: PT017  # the other way out is no error at all
    else:
        assert out.tobytes() == values.tobytes()


CHUNKS = {
    # One block, several, some with a last block that is shorter, some that do not compress, one too short to compress.
    "blosc, one block": (array_of("blosc", "<i2", (3000,)), False),
    "blosc, blocks": (array_of("blosc", "<f4", (60_001,)), False),
    "blosc, planar": (array_of("blosc", "<i2", (150, 90, 4), (2, 0, 1)), False),
    "blosc, bytes": (array_of("blosc", "i1", (90_000,)), False),
    "blosc, noise": (array_of("blosc", "<i2", (80_000,)), True),
    "blosc, copied": (array_of("blosc", "<f8", (16,)), False),
    "zstd": (array_of("zstd", "i1", (5000,)), False),
    "zstd, 255": (array_of("zstd", "i1", (255,)), False),
    "zstd, 65791": (array_of("zstd", "<i2", (32_895,)), False),
    "zstd, noise": (array_of("zstd", "i1", (200_000,)), True),
    "none": (array_of("none", "<f4", (30, 20), (1, 0)), True),
}
BYTES = {
    name: (array, values := values_of(array, noise=noise), encode_chunk(values, array.compression))
    for name, (array, noise) in CHUNKS.items()
}


@pytest.mark.parametrize("name", CHUNKS)
def test_a_chunk_gives_its_clip(name: str) -> None:
    array, values, data = BYTES[name]
    assert decoded(data, array).tobytes() == values.tobytes()
    view = view_chunk(data, array)
    assert view is None if array.compression.codec != "none" else np.array_equal(view, values)


@pytest.mark.parametrize("name", [name for name in CHUNKS if name != "none"])
@given(place=st.integers(0, 15), value=st.integers(0, 255))
@settings(max_examples=200, deadline=None)
def test_a_changed_header_is_refused_or_does_not_matter(name: str, place: int, value: int) -> None:
    """Any byte of the header, also of its lengths, under a checksum that holds."""
    array, values, data = BYTES[name]
    body = bytearray(data[:-4])
    if array.compression.codec == "zstd":
        place %= 5 + (1 if array.nbytes < 256 else 2 if array.nbytes < 2**16 + 256 else 4)  # what comes after are values
    body[place] = value
    gives_its_own_or_is_refused(sealed(bytes(body)), array, values)


@pytest.mark.parametrize("name", [name for name in CHUNKS if name.startswith("blosc") and "copied" not in name])
@given(field=st.integers(0, 99), number=st.one_of(st.integers(0, 2**32 - 1), st.integers(0, 400)), data=st.data())
@settings(max_examples=200, deadline=None)
def test_blosc_s_numbers_are_not_trusted(name: str, field: int, number: int, data: st.DataObject) -> None:
    """Lengths, the block size, where blocks start, and how long the first is: as any number at all, two of them at once."""
    array, values, chunk = BYTES[name]
    body = bytearray(chunk[:-4])
    length, block = struct.unpack_from("<2I", body, 4)
    fields = 3 + -(-length // block) + 1
    struct.pack_into("<I", body, 4 * (1 + field % fields), number)
    if data.draw(st.booleans()):
        struct.pack_into("<I", body, 12, data.draw(st.sampled_from([len(body), number, 2**31 - 1, array.nbytes + 16])))
    gives_its_own_or_is_refused(sealed(bytes(body)), array, values)


@pytest.mark.parametrize("name", CHUNKS)
@given(cut=st.integers(1, 300_000), more=st.binary(min_size=1, max_size=40))
@example(cut=1, more=b"\0")
@settings(max_examples=100, deadline=None)
def test_a_chunk_that_was_cut_or_goes_on_is_refused(name: str, cut: int, more: bytes) -> None:
    array, _, data = BYTES[name]
    body = data[:-4]
    refused(sealed(body[: max(0, len(body) - cut)]), array)
    refused(sealed(body + more), array)


def refused(data: bytes, array: StoredArray, match: str | None = None) -> None:
    with pytest.raises(ValueError, match=match):
        decoded(data, array)


@pytest.mark.parametrize("name", CHUNKS)
@given(places=st.lists(st.tuples(st.integers(0, 300_000), st.integers(0, 255)), min_size=1, max_size=4))
@settings(max_examples=100, deadline=None)
def test_no_changed_byte_anywhere_leaves_memory_as_it_was(name: str, places: list[tuple[int, int]]) -> None:
    """Changed values may come out of a forged checksum, but all of them come out of the chunk: twice the same."""
    array, _, data = BYTES[name]
    body = bytearray(data[:-4])
    for place, value in places:
        body[place % len(body)] = value
    try:
        first = decoded(sealed(bytes(body)), array)
    except ValueError:
        return
    assert first.tobytes() == decoded(sealed(bytes(body)), array, sentinel=0xA5).tobytes()


BYTES_ARRAY = array_of("zstd", "i1", (200,))
FULL = bytes(range(200))


def frame(values: bytes) -> bytes:
    return bytes(Zstd(level=1).encode(values))


def without_length(values: bytes) -> bytes:
    """A frame of one raw block whose header does not say how long it is (RFC 8878, 3.1.1)."""
    return b"\x28\xb5\x2f\xfd" + b"\x00\x00" + (len(values) << 3 | 1).to_bytes(3, "little") + values


def claiming(length: int, values: bytes) -> bytes:
    """A frame of one raw block that says it holds ``length`` bytes."""
    return b"\x28\xb5\x2f\xfd" + bytes([0x20, length]) + (len(values) << 3 | 1).to_bytes(3, "little") + values


def skipped(claim: int) -> bytes:
    """A frame to be skipped whose bytes, taken for a zstd frame's header, say that it holds ``claim`` bytes."""
    return b"\x50\x2a\x4d\x18" + (0x20 | claim << 8).to_bytes(4, "little") + bytes(0x20 | claim << 8)


FORGED: dict[str, tuple[bytes, str]] = {
    "says so and holds fewer": (claiming(200, FULL[:150]), "decompress"),
    "says so and holds more": (claiming(200, FULL + b"x"), "decompress"),
    "does not say": (without_length(FULL), "does not say how long"),
    "does not say, and holds fewer": (without_length(FULL[:150]), "does not say how long"),
    "holds fewer": (frame(FULL[:150]), "holds 150 bytes, and one of a has 200"),
    "holds more": (frame(FULL + FULL), "holds 400 bytes, and one of a has 200"),
    "two halves": (frame(FULL[:100]) + frame(FULL[100:]), "holds 100 bytes, and one of a has 200"),
    "two": (frame(FULL) + frame(FULL), "buffer too small"),
    "two, and says it of the first": (claiming(200, FULL[:100]) + claiming(100, FULL[100:]), "buffer too small|decompress"),
    "goes on": (frame(FULL) + b"\0", "decompress"),
    "begins as zstd may": (skipped(0) + frame(FULL), "does not begin with a zstd frame"),
    "a skipped frame says so": (skipped(200) + frame(FULL[:150]), "does not begin with a zstd frame"),
    "empty": (b"", "checksum|unpack"),
    "no frame": (FULL, "does not begin with a zstd frame"),
}


@pytest.mark.parametrize("kind", FORGED)
def test_a_zstd_chunk_of_another_length_is_refused(kind: str) -> None:
    body, told = FORGED[kind]
    refused(sealed(body), BYTES_ARRAY, told)


def test_a_frame_of_ours_by_hand_is_read() -> None:
    """So that the ones above are refused for what they lack. What adds nothing to it adds nothing."""
    for body in (claiming(200, FULL), claiming(200, FULL) + skipped(3), claiming(200, FULL) + without_length(b"")):
        assert decoded(sealed(body), BYTES_ARRAY).tobytes() == FULL


def test_a_short_blosc_chunk_does_not_read_the_memory_behind_it() -> None:
    """A copied buffer that says it holds 1.6 MB, in 68 bytes."""
    array = array_of("blosc", "<i2", (800_000,))
    header = struct.pack("<4B3I", 2, 1, 0x93, 2, array.nbytes, 2**18, array.nbytes + 16)
    refused(sealed(header + bytes(48)), array, "its header says 1600016, and it has 64 bytes")


def other_blosc(**settings: object) -> Callable[[np.ndarray], bytes]:
    return lambda values: bytes(Blosc(**{"cname": "zstd", "clevel": 4, "shuffle": Blosc.SHUFFLE, **settings}).encode(values))


@pytest.mark.parametrize(
    "encode",
    [
        other_blosc(cname="lz4"),
        other_blosc(shuffle=Blosc.NOSHUFFLE),
        other_blosc(shuffle=Blosc.BITSHUFFLE),
        other_blosc(typesize=4),
    ],
    ids=["compressor", "no shuffle", "bit shuffle", "size of a value"],
)
def test_another_kind_of_blosc_is_refused(encode: Callable[[np.ndarray], bytes]) -> None:
    array, values, _ = BYTES["blosc, one block"]
    refused(sealed(encode(values)), array, "is not blosc's for a")


@pytest.mark.parametrize("codec", ["zstd", "blosc", "none"])
def test_a_clip_of_another_array_is_refused(codec: Codec) -> None:
    array = array_of(codec, "<i2", (700,))
    data = encode_chunk(values_of(array, noise=True), array.compression)
    for other in ((699,), (701,), (350,)):
        refused(data, replace(array, shape=other), rf"holds 1400 bytes, and one of a has {2 * other[0]}")
    refused(data[:-1], array, "fails its checksum")
