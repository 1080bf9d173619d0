"""Our shards are Zarr's: packed by us, read by zarr, whatever rows they hold."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import MemoryStore

from schemas.errors import StoreDamaged
from teacher_cache.encodings.base import Compression, StoredArray
from teacher_cache.store.chunk import decode_chunk, encode_chunk, split_checksum
from teacher_cache.store.shard import pack_shard, unpack_shard
from teacher_cache.store.template import array_metadata

DTYPES = ["i1", "<i2", "<u2", "<i4", "<f4", "<f8"]


SHAPES: list[tuple[int, ...]] = [(5,), (2, 3), (3, 4, 4)]


@given(
    places=st.sets(st.integers(0, 6)), dtype=st.sampled_from(DTYPES), seed=st.integers(0, 2**16), shape=st.sampled_from(SHAPES)
)
@settings(max_examples=60, deadline=None)
def test_zarr_reads_what_we_pack(places: set[int], dtype: str, seed: int, shape: tuple[int, ...]) -> None:
    array = StoredArray("a", shape, np.dtype(dtype), tuple("xyz"[: len(shape)]), 7)
    rng = np.random.default_rng(seed)
    values = {place: rng.integers(8, 100, shape).astype(dtype) for place in places}
    data = pack_shard({place: encode_chunk(v) for place, v in values.items()}, 7)

    store = MemoryStore()
    for key, content in {"a/zarr.json": array_metadata(array, 7, 7), "a/c/0/" + "/".join("0" * len(shape)): data}.items():
        sync(store.set(key, default_buffer_prototype().buffer.from_bytes(content)))
    read = zarr.open_array(store, path="a", mode="r")
    for place in range(7):
        expected = values.get(place, np.full(shape, 7, dtype))
        np.testing.assert_array_equal(np.asarray(read[place]), expected)
    assert unpack_shard(data, 7).keys() == places


@given(st.binary(min_size=1, max_size=200), st.integers(0, 7), st.data())
@settings(max_examples=100, deadline=None)
def test_no_flipped_bit_goes_unseen(chunk: bytes, bit: int, data: st.DataObject) -> None:
    from teacher_cache.store.chunk import checksum

    shard = bytearray(pack_shard({1: chunk + checksum(chunk)}, 3))
    place = data.draw(st.integers(0, len(shard) - 1))
    shard[place] ^= 1 << bit
    try:
        chunks = unpack_shard(bytes(shard), 3)
    except StoreDamaged:
        return
    assert not split_checksum(chunks[1])[1]


def test_equal_values_give_equal_bytes() -> None:
    """In chunks of many blocks too, which blosc's own threads would lay out in another order each time."""
    values = np.random.default_rng(0).standard_normal((4, 500_000), np.float32)
    assert len({encode_chunk(values) for _ in range(5)}) == 1


@pytest.mark.parametrize("length", [1, 255, 256, 257, 65_535, 65_791, 65_792, 600_000, 20_000_000])
@pytest.mark.parametrize("codec", ["zstd", "blosc", "none"])
def test_a_chunk_gives_back_a_clip_of_its_own_length_alone(length: int, codec: Literal["zstd", "blosc", "none"]) -> None:
    """The lengths at which zstd writes them in another way, and longer than what it looks back at."""
    array = StoredArray("a", (length,), np.dtype("i1"), ("x",), 7, compression=Compression(codec, level=1))
    values = np.resize(np.random.default_rng(0).integers(-99, 99, 1000, dtype=np.int8), length)
    data, out = encode_chunk(values, array.compression), np.zeros(length, np.int8)
    decode_chunk(data, array, out)
    np.testing.assert_array_equal(out, values)
    for other in (length - 1, length + 1):
        with pytest.raises(ValueError, match=r"bytes|reshape"):
            decode_chunk(data, replace(array, shape=(other,)), np.zeros(other, np.int8))


def test_a_cut_shard_is_refused() -> None:
    data = pack_shard({0: encode_chunk(np.arange(10))}, 2)
    for length in (0, 3, len(data) - 1):
        with pytest.raises(StoreDamaged):
            unpack_shard(data[:length], 2)
