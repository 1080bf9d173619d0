"""Whatever bytes lie in a store or a cache, its parsers give what was meant or a named error, within a bound of memory.

What small objects ask for much is forged by hand; the rest is drawn, in a process of its own (`fuzz_parsers`).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import FAULTS
from log_files import rewrite

from schemas.base import sha256_digest
from schemas.errors import CacheError, StoreDamaged
from schemas.heads import HeadsCard
from teacher_cache import open_cache
from teacher_cache.store.chunk import checksum
from teacher_cache.store.layout import HEADS_CARD, LONGEST_METADATA, LONGEST_RECORD, record_key
from teacher_cache.store.records import _sealed, unseal
from teacher_cache.store.shard import index_length, read_index, unpack_shard
from teacher_cache.store.store import open_store
from teacher_cache.store.table import described
from teacher_cache.store.verify import verify

FUZZ = Path(__file__).parents[1] / "fuzz_parsers.py"


@pytest.mark.parametrize("cases", [200, pytest.param(4000, marks=pytest.mark.complete)], ids=["some", "many"])
def test_every_parser_gives_what_was_meant_or_a_named_error(tiny_store: Path, tmp_path: Path, cases: int) -> None:
    start = "0" if os.environ.get("CI") else str(int.from_bytes(os.urandom(4), "little"))
    arguments = [sys.executable, FUZZ, tiny_store, tmp_path, str(cases * FAULTS), start]
    here = {
        "P4D_CACHE_DIR": str(tmp_path / "cache"),
        "ARROW_DEFAULT_MEMORY_POOL": "system",  # the others reserve more than they use
        "PYTHONPATH": os.pathsep.join(map(str, (FUZZ.parents[1], FUZZ.parent))),
    }
    done = subprocess.run(arguments, capture_output=True, text=True, env=os.environ | here, check=False, timeout=3000)
    now = (tmp_path / "now").read_text() if (tmp_path / "now").exists() else "what is forged"
    assert done.returncode == 0, f"{now} ended it with {done.returncode}, seed {start}\n{done.stderr[-4000:]}"
    told = json.loads(done.stdout)
    assert sum(parser["cases"] for parser in told["parsers"].values()) > 13 * cases
    assert told["peak_mib"] < 400


@pytest.fixture
def store(tiny_store: Path, tmp_path: Path) -> Path:
    """A store that may be changed."""
    return shutil.copytree(tiny_store, tmp_path / "store")


def read(store: Path) -> Any:
    cache = open_cache(str(store))
    return cache.clips, cache.read(list(cache.signals), cache.committed_ids())


def refused_in_little_memory(store: Path, match: str, ask: Callable[[Path], Any] = read) -> None:
    """By readers and, where it says so of them, by `verify`; and neither takes more than 64 MiB meanwhile."""
    arrow = pa.default_memory_pool().max_memory()
    tracemalloc.start()
    try:
        with pytest.raises(CacheError, match=match):
            ask(store)
        told = " ".join(finding.detail for finding in verify(str(store)).findings)
        assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    finally:
        tracemalloc.stop()
    assert told
    assert pa.default_memory_pool().max_memory() <= max(arrow, 64 * 2**20)


FAR = {"shard": 2**30 - 1, "objects": {}, "figures": [], "decoders": {}, "undecodable_tail_frames": {}}


@pytest.mark.parametrize(
    ("action", "changes", "told"),
    [
        ("unit_committed", FAR, "rows of shard 1073741823"),
        ("unit_committed", {"exact": {"depth": [2**30 - 1]}}, "names others as theirs"),
        ("unit_committed", {"undecodable_tail_frames": {"1": [2**30 - 1]}}, "names others as theirs"),
        ("unit_committed", {"objects": {"depth/c/0/0/0/0": {"digest": f"sha256:{'0' * 64}", "length": 2**70}}}, "length"),
        ("unit_committed", {"objects": {"other/c/0/0": {"digest": f"sha256:{'0' * 64}", "length": 5}}}, "commits other"),
        ("rows_added", {"rows": 2**20}, "cannot be in a table of"),
        ("rows_added", {"first_row": 2**20}, "adds rows from 1048576 on"),
        ("part_added", {"part": "depth", "shape": [16, 4096, 4096]}, "16 frames of"),
        ("part_added", {"part": "f4d", "shape": [4, 4, 1, 1, 2**20]}, "is for more than 5 tokens"),
    ],
)
def test_a_record_that_asks_for_much_is_refused_first(store: Path, action: str, changes: dict[str, Any], told: str) -> None:
    rewrite(store, lambda found: found.update(changes), action)
    refused_in_little_memory(store, told)


def test_rows_beyond_some_millions_are_believed_when_their_tables_are_there(store: Path) -> None:
    """Records of a few hundred bytes each, that say of rows that nothing holds what is plausible."""

    def more(found: dict[str, Any]) -> None:
        first = found | {"rows": 2**20, "table": found["table"] | {"length": 2**25}}
        actions.extend(first | {"first_row": 2**20 * number} for number in range(1, 1000))

    path = store / record_key(1)
    value = json.loads(path.read_bytes())
    actions = value["actions"]
    more(next(action for action in actions if action["action"] == "rows_added"))
    del value["digest"]
    rows = [action for action in actions if action["action"] == "rows_added"]
    rows[0] |= {"rows": 2**20, "table": rows[1]["table"]}
    path.write_bytes(_sealed(value))
    assert path.stat().st_size < 2**20
    refused_in_little_memory(store, "their table is not as long as it says", lambda store: open_cache(str(store)).clips)


def with_table(store: Path, data: bytes) -> None:
    def change(found: dict[str, Any]) -> None:
        about = described(found["table"]["key"], data).model_dump()
        (store / about["key"]).write_bytes(data)
        found["table"] = about

    rewrite(store, change, "rows_added")


def rows_of(store: Path) -> pa.Table:
    (table,) = [pq.read_table(path) for path in (store / "log").glob("rows-*.parquet")]
    return table


def parquet(table: pa.Table, **settings: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **{"compression": "zstd", "use_dictionary": False} | settings)
    return sink.getvalue().to_pybytes()


def column(table: pa.Table, name: str, values: Any) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, pa.array(values, table.schema.field(name).type))


def test_a_long_text_that_a_dictionary_repeats_is_not_unpacked(store: Path) -> None:
    """256 GiB from less than a megabyte, if it were: 65536 rows, of which each may be 4 MiB long."""
    table = rows_of(store).take(pa.array([0] * 2**16))
    rows = column(table, "row", range(2**16))
    keys = np.random.default_rng(0).integers(0, 2**63, 2**16)
    rows = column(column(rows, "clip_key", keys), "clip_check", keys[::-1].copy())
    repeated = pa.DictionaryArray.from_arrays(pa.array([0] * 2**16, pa.int32()), ["v" * 2**22])
    rows = rows.set_column(rows.column_names.index("video"), "video", repeated)
    data = parquet(rows, use_dictionary=["video"], dictionary_pagesize_limit=2**24, store_schema=False)
    assert 2**20 < len(data) < 2**21
    with_table(store, data)
    rewrite(store, lambda found: found.update(rows=2**16), "rows_added")
    refused_in_little_memory(store, "its column video is not of plain pages", lambda store: open_cache(str(store)).clips)


TABLES: dict[str, tuple[Callable[[pa.Table], bytes], str]] = {
    "a dictionary": (lambda table: parquet(table, use_dictionary=True), "is not of plain pages"),
    "zeros": (lambda table: parquet(column(table, "video", ["\0" * 2**26, "b", "c", "d"])), "would unpack to"),
    "another codec": (lambda table: parquet(table, compression="gzip"), "is not of plain pages under zstd"),
    "deltas": (lambda table: parquet(table, column_encoding={"video": "DELTA_BYTE_ARRAY"}), "a page that is not plain"),
    "fewer rows": (lambda table: parquet(table.slice(1)), "it has 3 rows, and the log says 4"),
    "other groups": (lambda table: parquet(table, row_group_size=1), "its row groups have"),
    "nulls": (lambda table: parquet(column(table, "clip_key", [None, 1, 2, 3])), "rows without clip_key"),
    "no text": (lambda table: parquet(_not_utf8(table)), "(?i)utf8"),
    "other numbers": (lambda table: parquet(column(table, "row", [0, 1, 2, 9])), "numbers them otherwise"),
    "a window that is none": (lambda table: parquet(column(table, "window_start", [-5, None, None, None])), "which is none"),
    "other types": (lambda table: parquet(table.set_column(0, "row", pa.array(["a"] * 4))), "its columns are"),
}


def _not_utf8(table: pa.Table) -> pa.Table:
    broken = pa.Array.from_buffers(
        pa.string(), 4, [None, pa.py_buffer(np.arange(5, dtype="<i4")), pa.py_buffer(b"\xff\xfe\xff\xfe")]
    )
    return table.set_column(table.column_names.index("video"), "video", broken)


@pytest.mark.parametrize("kind", TABLES)
def test_a_table_of_another_form_is_told_before_it_is_unpacked(store: Path, kind: str) -> None:
    change, told = TABLES[kind]
    with_table(store, change(rows_of(store)))

    def ask(store: Path) -> None:
        cache = open_cache(str(store))
        assert cache.clips.num_rows
        for clip_id in cache.committed_ids():
            cache.clip(clip_id)

    refused_in_little_memory(store, told, ask) if kind not in {"other numbers", "a window that is none"} else _refused(
        store, told, ask
    )


def _refused(store: Path, told: str, ask: Callable[[Path], Any]) -> None:
    """What only whoever reads that clip can say."""
    with pytest.raises(StoreDamaged, match=told):
        ask(store)


def root_with(store: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads((store / "zarr.json").read_bytes())
    change(value["attributes"]["recipe"])
    body = json.dumps(value["attributes"]["recipe"], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    value["attributes"]["fingerprint"] = sha256_digest(body.encode("utf-8", "surrogatepass")).removeprefix("sha256:")
    (store / "zarr.json").write_text(json.dumps(value))


@pytest.mark.parametrize(
    "change",
    [
        lambda recipe: recipe["clips"].update(frames=2**40),
        lambda recipe: recipe["clips"].update(size=2**31),
        lambda recipe: recipe["teacher"].update(config={"x": float("inf")}),
        lambda recipe: recipe["teacher"].update(config={"x": "\ud800"}),
        lambda recipe: recipe["teacher"].update(config={"x": json.loads("[" * 300 + "]" * 300)}),
    ],
    ids=["frames", "size", "infinity", "half a character", "deep"],
)
def test_a_recipe_that_asks_for_much_is_no_recipe(store: Path, change: Callable[[dict[str, Any]], object]) -> None:
    root_with(store, change)
    with pytest.raises(CacheError, match=r"recipe|is not a store"):
        open_cache(str(store))


@pytest.mark.parametrize("change", [{"feature_dim": 2**31}, {"embed_dim": 7}, {"outputs": ["a", "b", "c"]}, {"grid": "other"}])
def test_a_card_that_does_not_fit_is_none(tiny_store: Path, change: dict[str, Any]) -> None:
    value = json.loads((tiny_store / HEADS_CARD).read_bytes())
    del value["digest"]
    value["heads"]["depth"] |= change
    with pytest.raises(StoreDamaged, match="not a record of this format"):
        unseal(HeadsCard, _sealed(value), HEADS_CARD, "here")


@pytest.mark.parametrize("header", [b"\xff" * 8, (2**40).to_bytes(8, "little"), b"\x02" + bytes(7) + b"[]", b""])
def test_a_heads_file_without_a_header_of_its_own_is_told(store: Path, header: bytes) -> None:
    card = json.loads((store / HEADS_CARD).read_bytes())
    del card["digest"]
    data = header + (store / "heads/heads.safetensors").read_bytes()[8:]
    (store / "heads/heads.safetensors").write_bytes(data)
    (store / HEADS_CARD).write_bytes(_sealed(card | {"weights": sha256_digest(data)}))
    refused_in_little_memory(store, "heads file is not a safetensors file", lambda store: open_cache(str(store)).heads())


@pytest.mark.parametrize(("offset", "length"), [(2**64 - 8, 8), (2**63, 2**63), (0, 2**63), (5, 2**64 - 1), (2**64 - 1, 9)])
def test_an_index_does_not_lead_out_of_its_shard(offset: int, length: int) -> None:
    """Nor where its numbers add up to one that is in it, modulo 2^64."""
    index = np.array([[offset, length], [2**64 - 1, 2**64 - 1]], "<u8").tobytes()
    data = bytes(100) + index + checksum(index)
    with pytest.raises(StoreDamaged, match="names bytes that are not there"):
        unpack_shard(data, 2)
    with pytest.raises(StoreDamaged, match="names bytes that are not there"):
        read_index(data[-index_length(2) :], 2, len(data))


def test_a_chunk_that_does_not_decode_is_a_finding(store: Path) -> None:
    """Though its checksum and its shard's digest hold: `verify` says what a reader would."""
    path = next(store.glob("depth/c/0/0/0/0"))
    data = bytearray(path.read_bytes())
    (start, length), *_ = read_index(bytes(data[-index_length(2 * 4) :]), 2 * 4, len(data)).tolist()
    data[start + 1] ^= 1
    data[start + length - 4 : start + length] = checksum(bytes(data[start : start + length - 4]))
    path.write_bytes(data)
    digest = sha256_digest(bytes(data))
    rewrite(store, lambda unit: unit["objects"]["depth/c/0/0/0/0"].update(digest=digest), shard=0)
    (finding,) = verify(str(store)).findings
    assert finding.key == "depth/c/0/0/0/0"
    assert "is not blosc's for depth" in finding.detail
    assert len(finding.clip_ids) == 1


@pytest.mark.parametrize(
    ("key", "most"), [("zarr.json", LONGEST_METADATA), (record_key(1), LONGEST_RECORD), (HEADS_CARD, 2**20)]
)
def test_an_object_longer_than_any_of_its_kind_is_not_fetched_whole(store: Path, key: str, most: int) -> None:
    """A gigabyte of nothing, in a sparse file, behind what was there."""
    os.truncate(store / key, 2**30)
    tracemalloc.start()
    try:
        with pytest.raises(CacheError):
            open_cache(str(store)).heads()
        assert tracemalloc.get_traced_memory()[1] < 3 * most + 2**24
    finally:
        tracemalloc.stop()


def test_the_bytes_that_a_longer_object_gives_are_one_too_many(store: Path) -> None:
    objects = open_store(str(store)).objects
    for length in (0, 1, 99):
        objects.create(f"log/{length}", bytes(length))
        assert [len(objects.get(f"log/{length}", most) or b"") for most in (0, 1, 98, 99)] == [
            min(length, m + 1) for m in (0, 1, 98, 99)
        ]
