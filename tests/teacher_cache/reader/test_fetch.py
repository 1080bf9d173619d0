"""The reading engine gives what zarr-python gives, wherever the store lies, and takes no damage for data."""

from __future__ import annotations

import itertools
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.errors import StoreDamaged
from teacher_cache.encodings.base import RAW, Compression, StoredArray
from teacher_cache.io.bucket import IN_ONE_PIECE
from teacher_cache.reader import fetch
from teacher_cache.reader.fetch import ChunkReader, ChunkTier, ClipsToDecode, ClipsToRead, CommittedShard
from teacher_cache.store.chunk import checksum, encode_chunk, encode_chunks
from teacher_cache.store.layout import metadata_key, shard_key
from teacher_cache.store.objects import Objects
from teacher_cache.store.shard import index_length, pack_clips, pack_shard, shard_index_length
from teacher_cache.store.template import array_metadata

K = 4
SMALL = StoredArray("small", (3,), np.dtype("<f8"), ("x",), float("nan"))
LARGE = StoredArray("large", (40, 1000), np.dtype("<i2"), ("x", "y"), -(2**15))
RAW_LARGE = replace(LARGE, name="raw", compression=RAW)
TURNED = replace(LARGE, name="turned", compression=Compression("none", order=(1, 0)))
ZSTD = replace(LARGE, name="zstd", compression=Compression("zstd", level=1))
PIECES = replace(LARGE, name="pieces", together=10)
RAW_PIECES = replace(PIECES, name="raw-pieces", compression=Compression("none", order=(0, 1)))
_numbers = itertools.count()


@pytest.fixture(params=["disk", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "disk":
        return str(tmp_path)
    return str(request.getfixturevalue("s3"))


def written(url: str, array: StoredArray, values: dict[int, np.ndarray]) -> Objects:
    """A store of one array with these rows."""
    objects = Objects(url)
    for shard in {row // K for row in values}:
        clips = {row % K: encode_chunks(v, array) for row, v in values.items() if row // K == shard}
        data = pack_clips(clips, array, K)
        objects.create(shard_key(array, shard), data)
        _lengths[url, shard_key(array, shard)] = len(data)
    objects.create(metadata_key(array.name), array_metadata(array, max(values) + 1, K))
    return objects


_lengths: dict[tuple[str, str], int] = {}


def reader_of(objects: Objects, tier: ChunkTier | None = None) -> ChunkReader:
    """A reader with a log that knows what `written` wrote."""

    def committed(array: StoredArray, shard: int) -> CommittedShard:
        key = shard_key(array, shard)
        return CommittedShard(_lengths[objects.url, key], "here", key)

    return ChunkReader(objects, K, committed, tier)


def random_rows(array: StoredArray, rows: set[int], seed: int = 0) -> dict[int, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {row: rng.integers(-1000, 1000, array.shape).astype(array.dtype) for row in rows}


@given(data=st.data(), rows=st.sets(st.integers(0, 11), min_size=1), seed=st.integers(0, 99))
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("array", [SMALL, LARGE, RAW_LARGE, TURNED, ZSTD, PIECES], ids=lambda array: array.name)
def test_any_rows_in_any_order_are_what_zarr_reads(
    place: str, array: StoredArray, data: st.DataObject, rows: set[int], seed: int
) -> None:
    url = f"{place}/{next(_numbers)}"
    objects = written(url, array, random_rows(array, rows, seed))
    wanted = data.draw(st.lists(st.sampled_from(sorted(rows)), max_size=15))
    read = reader_of(objects).read([ClipsToRead(array, wanted)])[array.name]
    plain = zarr.open_array(f"{objects.url}/{array.name}", mode="r")  # over fsspec, as whoever opens it plainly
    assert read.dtype == array.dtype
    assert read.shape == (len(wanted), *array.shape)
    rows_of_zarr = {row: np.asarray(plain[row]) for row in set(wanted)}
    for row, values in zip(wanted, read, strict=True):
        np.testing.assert_array_equal(values, rows_of_zarr[row])


def test_arrays_are_read_together_each_with_its_own_rows(tmp_path: Path) -> None:
    small, large = random_rows(SMALL, {0, 1, 5}), random_rows(LARGE, {2, 5})
    written(str(tmp_path), SMALL, small)
    objects = written(str(tmp_path), LARGE, large)
    read = reader_of(objects).read([ClipsToRead(SMALL, [5, 0]), ClipsToRead(LARGE, [2])])
    np.testing.assert_array_equal(read["small"], [small[5], small[0]])
    np.testing.assert_array_equal(read["large"], [large[2]])


@pytest.mark.parametrize("array", [SMALL, LARGE, RAW_LARGE, TURNED, PIECES], ids=lambda array: array.name)
def test_clips_are_decoded_each_where_it_belongs(place: str, array: StoredArray) -> None:
    """Chunk by chunk; a row that is wanted twice is decoded once."""
    rows = random_rows(array, {0, 1, 2, 5})
    objects = written(f"{place}/{next(_numbers)}", array, rows)
    order, decoded = [5, 0, 5, 2, 1], []
    outs = [np.zeros(array.shape, np.float64) for _ in order]

    def decode(stored: Mapping[str, np.ndarray], out: np.ndarray) -> None:
        decoded.append(None)
        out[...] = 2 * stored[array.name]

    reader_of(objects).read_each([ClipsToDecode(array, order, outs, decode)])
    assert len(decoded) == 4 * array.chunks
    for row, out in zip(order, outs, strict=True):
        np.testing.assert_array_equal(out, 2 * rows[row])


@given(data=st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("tiered", [False, True], ids=["store", "tier"])
@pytest.mark.parametrize("array", [LARGE, PIECES, RAW_PIECES], ids=lambda array: array.name)
def test_some_entries_are_what_the_whole_has_there_and_no_more_is_fetched(
    tmp_path: Path, array: StoredArray, tiered: bool, data: st.DataObject
) -> None:
    """As they are stored and decoded; one request for chunks side by side, and none for others'."""
    folder = str(tmp_path / str(next(_numbers)))
    rows = random_rows(array, {0, 1, 5})
    written(folder, array, rows)
    entries = sorted(data.draw(st.sets(st.integers(0, array.shape[0] - 1), min_size=1)))
    chunks = {entry // array.chunk_shape[0] for entry in entries}
    runs = sum(chunk - 1 not in chunks for chunk in chunks)
    order = [5, 0, 5]
    objects, tier = Counted(folder), DictTier() if tiered else None
    stored = reader_of(objects, tier).read([ClipsToRead(array, order, entries)])[array.name]
    assert objects.asked.count("range") == 2 * runs
    assert objects.bytes <= 2 * sum(map(len, encode_chunks(rows[5], array))) * len(chunks) / array.chunks * 1.1
    outs = [np.zeros((len(entries), *array.shape[1:])) for _ in order]
    reader = reader_of(objects, tier)
    reader.read_each([ClipsToDecode(array, order, outs, lambda stored, out: np.copyto(out, stored[array.name]), entries)])
    assert objects.asked.count("range") == 2 * runs * (1 if tiered else 2)
    for row, one, other in zip(order, stored, outs, strict=True):
        np.testing.assert_array_equal(one, rows[row][entries])
        np.testing.assert_array_equal(other, rows[row][entries])


def test_a_tier_gives_all_of_a_clip_from_its_chunks(tmp_path: Path) -> None:
    """What some fetched serves all, and what all fetched serves some."""
    values = random_rows(PIECES, {0, 1})
    written(str(tmp_path), PIECES, values)
    tier, objects = DictTier(), Counted(str(tmp_path))
    reader = reader_of(objects, tier)
    reader.read([ClipsToRead(PIECES, [0], range(PIECES.together or 0))])
    np.testing.assert_array_equal(reader.read([ClipsToRead(PIECES, [0, 1])])["pieces"], [values[0], values[1]])
    assert objects.asked.count("range") == 3
    reader.read([ClipsToRead(PIECES, [1, 0], [0, 39])])
    assert objects.asked.count("range") == 3
    assert len(tier.kept) == 2 * PIECES.chunks + 1


@pytest.mark.parametrize("entries", [None, [0]], ids=["all", "some"])
def test_a_clip_that_lacks_one_of_its_chunks_is_damaged(tmp_path: Path, entries: list[int] | None) -> None:
    """Or has them elsewhere than side by side. What is asked for of its other chunks still reads, if the index holds."""
    values = random_rows(PIECES, {0, 1})
    objects = written(str(tmp_path), PIECES, values)
    chunks = dict(enumerate(encode_chunks(values[0], PIECES)))
    one = chunks.pop(PIECES.chunks - 1)
    apart = {**chunks, PIECES.chunks: one, PIECES.chunks - 1: one}  # in the place of the next clip's first chunk, and after it
    for kept, told in ((chunks, "its chunk is missing"), (apart, "do not fill it one after another")):
        data = bytearray(pack_shard(kept, K * PIECES.chunks))
        if kept is apart:
            index = np.frombuffer(data, "<u8", K * PIECES.chunks * 2, len(data) - shard_index_length(PIECES, K)).reshape(-1, 2)
            index[[PIECES.chunks - 1, PIECES.chunks]] = index[[PIECES.chunks, PIECES.chunks - 1]]
            data[-4:] = checksum(bytes(data[-shard_index_length(PIECES, K) : -4]))
        (tmp_path / shard_key(PIECES, 0)).write_bytes(data)
        _lengths[objects.url, shard_key(PIECES, 0)] = len(data)
        if entries is None or kept is apart:
            with pytest.raises(StoreDamaged, match=rf"row 0 of pieces .*{told}"):
                reader_of(objects).read([ClipsToRead(PIECES, [0], entries)])
        else:
            read = reader_of(objects).read([ClipsToRead(PIECES, [0], entries)])["pieces"]
            np.testing.assert_array_equal(read, [values[0][entries]])


def test_chunks_that_come_in_pieces_are_whole(s3: str) -> None:
    array = StoredArray("noise", (IN_ONE_PIECE // 2 + 3, 3), np.dtype("i1"), ("x", "y"), -128)
    values = np.random.default_rng(0).integers(-127, 128, array.shape, dtype=np.int8)
    assert len(encode_chunk(values)) > IN_ONE_PIECE
    objects = written(f"{s3}/noise", array, {0: values, 1: values[::-1]})
    read = reader_of(objects).read([ClipsToRead(array, [1, 0, 1])])["noise"]
    np.testing.assert_array_equal(read, [values[::-1], values, values[::-1]])


class Counted(Objects):
    """Objects that note what is asked of them."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.asked: list[str] = []
        self.bytes = 0
        """Of ranges of chunks."""

    def get_range(self, key: str, start: int, stop: int) -> memoryview | None:
        is_end = stop == _lengths[self.url, key]
        self.asked.append("end" if is_end else "range")
        self.bytes += 0 if is_end else stop - start
        return super().get_range(key, start, stop)


@pytest.mark.parametrize(("array", "ranges"), [(SMALL, 0), (LARGE, 4), (PIECES, 4)], ids=["small", "large", "pieces"])
def test_requests_are_as_few_as_they_can_be(tmp_path: Path, array: StoredArray, ranges: int) -> None:
    """One for each clip and one for each shard's index, which is kept; none for chunks that lie beside it."""
    written(str(tmp_path), array, random_rows(array, {0, 1, 2, 3}))
    objects = Counted(str(tmp_path))
    reader = reader_of(objects)
    reader.read([ClipsToRead(array, [3, 1, 3, 0, 1, 2])])
    assert sorted(objects.asked) == ["end"] + ["range"] * ranges
    reader.read([ClipsToRead(array, [2, 2])])
    assert sorted(objects.asked) == ["end"] + ["range"] * (ranges and ranges + 1)


def test_kept_indexes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_KEPT_SHARDS", 2)
    values = random_rows(LARGE, {0, 4, 8})
    written(str(tmp_path), LARGE, values)
    objects = Counted(str(tmp_path))
    reader = reader_of(objects)
    for row in (0, 4, 0, 8, 0, 4):
        np.testing.assert_array_equal(reader.read([ClipsToRead(LARGE, [row])])["large"][0], values[row])
    assert objects.asked.count("end") == 4  # 0, 4, 8 (which displaces 4, the longest unused), and 4 again
    assert len(reader._ends) == 2


class DictTier:
    """A tier that keeps everything."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    def get(self, store: str, key: str, fetch: Callable[[], bytes]) -> bytes:
        assert store == "here"
        if key not in self.kept:
            self.kept[key] = fetch()
        return self.kept[key]


def test_a_tier_keeps_chunks_and_is_asked_first(tmp_path: Path) -> None:
    values = random_rows(LARGE, {0, 1})
    written(str(tmp_path), LARGE, values)
    tier, objects = DictTier(), Counted(str(tmp_path))
    for _ in range(2):
        read = reader_of(objects, tier).read([ClipsToRead(LARGE, [1, 0])])["large"]
        np.testing.assert_array_equal(read, [values[1], values[0]])
    assert objects.asked.count("range") == 2
    assert all(key.startswith("large/c/0/0/0#") for key in tier.kept)
    assert all(type(chunk) is bytes for chunk in tier.kept.values())
    key = next(iter(tier.kept))
    tier.kept[key] = tier.kept[key][:-1] + b"?"
    with pytest.raises(StoreDamaged, match="fails its checksum"):
        reader_of(objects, tier).read([ClipsToRead(LARGE, [1, 0])])


def damage(url: str, key: str, change: Callable[[bytearray], bytes | bytearray | None]) -> None:
    fs, root = fsspec.url_to_fs(url)
    changed = change(bytearray(fs.cat_file(f"{root}/{key}")))
    fs.rm_file(f"{root}/{key}")
    if changed is not None:
        fs.pipe_file(f"{root}/{key}", bytes(changed))


def flipped(at: int) -> Callable[[bytearray], bytearray]:
    def change(data: bytearray) -> bytearray:
        data[at] ^= 16
        return data

    return change


KINDS = {
    "a bit of a chunk": (flipped(100), "cannot be read"),
    "a bit of a chunk's checksum": (flipped(-index_length(K) - 1), "cannot be read"),
    "a bit of the index": (flipped(-7), "cannot be read"),
    "a bit of the index's checksum": (flipped(-1), "cannot be read"),
    "cut at the end": (lambda data: data[:-9], "cannot be read"),
    "cut at the front": (lambda data: data[9:], "cannot be read"),
    "cut to less than an index": (lambda data: data[-10:], "cannot be read"),
    "only the index": (lambda data: data[-index_length(K) :], "cannot be read"),
    "empty": (lambda _: b"", "cannot be read"),
    "gone": (lambda _: None, "is committed, but its chunk is missing"),
    "without the chunk": (lambda _: pack_shard({3: encode_chunk(np.zeros(3))}, K), "cannot be read|its chunk is missing"),
    "another array's": (lambda _: pack_shard({0: encode_chunk(np.zeros(7))}, K), "cannot be read"),
}


@pytest.mark.parametrize("array", [SMALL, LARGE], ids=lambda array: array.name)
@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_told_and_the_rest_still_reads(place: str, array: StoredArray, kind: str) -> None:
    change, told = KINDS[kind]
    url = f"{place}/{next(_numbers)}"
    values = random_rows(array, {0, 5})
    objects = written(url, array, values)
    damage(url, shard_key(array, 0), change)
    reader = reader_of(objects)
    for _ in range(2):  # what failed is not kept
        with pytest.raises(StoreDamaged, match=rf"row 0 of {array.name} in .*({told}).*; `teacher-cache verify` lists"):
            reader.read([ClipsToRead(array, [5, 0])])
    np.testing.assert_array_equal(reader.read([ClipsToRead(array, [5])])[array.name], [values[5]])


@pytest.mark.parametrize("array", [SMALL, LARGE, RAW_LARGE, TURNED, ZSTD, PIECES], ids=lambda array: array.name)
@pytest.mark.parametrize("change", [-1, 1], ids=["shorter", "longer"])
def test_a_chunk_of_another_length_than_a_clip_is_damage(tmp_path: Path, array: StoredArray, change: int) -> None:
    """Whole by its checksum, in a shard as long as it was committed: of a clip with fewer or more values than the array's."""
    clip = replace(array, shape=(*array.shape[:-1], array.shape[-1] + change))
    objects = written(str(tmp_path), array, random_rows(clip, {0}) | random_rows(array, {1}))
    reader = reader_of(objects)
    with pytest.raises(StoreDamaged, match=rf"row 0 of {array.name} in .* cannot be read"):
        reader.read([ClipsToRead(array, [0])])
    with pytest.raises(StoreDamaged, match=rf"row 0 of {array.name} in .* cannot be read"):
        reader.read_each([ClipsToDecode(array, [0], [np.zeros(array.shape)], max)])
    np.testing.assert_array_equal(reader.read([ClipsToRead(array, [1])])[array.name], [random_rows(array, {1})[1]])


@pytest.mark.parametrize("tiered", [False, True], ids=["store", "tier"])
@pytest.mark.parametrize("array", [SMALL, LARGE, ZSTD], ids=lambda array: array.name)
def test_another_shard_of_the_same_array_is_damage_until_it_is_mended(tmp_path: Path, array: StoredArray, tiered: bool) -> None:
    """Whole in itself, and of another length than was committed; no tier keeps any of it."""
    values, others = random_rows(array, {0, 1, 2}), random_rows(array, {0, 1, 2, 3}, seed=1)
    objects = written(str(tmp_path), array, values)
    path = tmp_path / shard_key(array, 0)
    whole = path.read_bytes()
    reader = reader_of(objects, DictTier() if tiered else None)
    for rows in ({0, 1}, {0, 1, 2, 3}):
        path.write_bytes(pack_shard({row: encode_chunk(others[row], array.compression) for row in rows}, K))
        for row in (0, 1):
            with pytest.raises(StoreDamaged, match=rf"row {row} of {array.name} in .* cannot be read"):
                reader.read([ClipsToRead(array, [row])])
    path.write_bytes(whole)
    np.testing.assert_array_equal(reader.read([ClipsToRead(array, [2, 0])])[array.name], [values[2], values[0]])


def test_a_shard_that_was_mended_is_read_again(tmp_path: Path) -> None:
    values = random_rows(LARGE, {0})
    objects = written(str(tmp_path), LARGE, values)
    path = tmp_path / shard_key(LARGE, 0)
    reader, whole = reader_of(objects), path.read_bytes()
    path.write_bytes(b"")
    with pytest.raises(StoreDamaged):
        reader.read([ClipsToRead(LARGE, [0])])
    path.write_bytes(whole)
    np.testing.assert_array_equal(reader.read([ClipsToRead(LARGE, [0])])["large"], [values[0]])


def test_threads_that_read_at_once_share_indexes_and_buffers_safely(tmp_path: Path) -> None:
    values = random_rows(LARGE, set(range(12)))
    written(str(tmp_path), LARGE, values)
    objects = Counted(str(tmp_path))
    reader = reader_of(objects)
    wrong: list[int] = []

    def read(seed: int) -> None:
        order = np.random.default_rng(seed).permutation(12).tolist()
        for row, read in zip(order, reader.read([ClipsToRead(LARGE, order)])["large"], strict=True):
            if not np.array_equal(read, values[row]):
                wrong.append(row)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert objects.asked.count("end") == 3


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("AWS_SECRET_ACCESS_KEY", "wrong-secret-77aa", "access to s3://bucket/store was refused"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9", "AWS_ENDPOINT_URL (now http://127.0.0.1:9)"),
    ],
)
def test_a_server_that_refuses_or_is_not_there_is_told_without_credentials(
    s3: str, variable: str, value: str, told: str
) -> None:
    """In a process of its own: s3fs takes its settings once."""
    written(f"{s3}/store", LARGE, random_rows(LARGE, {0}))
    code = (
        "from teacher_cache.store.objects import Objects\n"
        "try:\n"
        f"    Objects('{s3}/store').get_range('large/c/0/0/0', 0, 9)\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error, repr(error))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {variable: value}, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.startswith(("Unreachable", "Refused"))
    assert told in done.stdout
    assert len(done.stdout.splitlines()) == 1
    for secret in ("test-access", "test-secret", "wrong-secret"):
        assert secret not in done.stdout + done.stderr


def test_objects_read_ranges_after_a_copy_to_another_process(place: str) -> None:
    objects = Objects(f"{place}/{next(_numbers)}")
    objects.create("a", b"0123456789")
    copy = pickle.loads(pickle.dumps(objects))
    assert bytes(copy.get_range("a", 2, 5)) == b"234"
    assert bytes(copy.get_range("a", 8, 50)) == b"89"
    assert copy.get_range("b", 0, 1) is None
