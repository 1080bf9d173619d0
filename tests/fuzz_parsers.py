"""A store in; every parser of its bytes run on forgeries of them out, in a process of its own with bounded memory.

A crash or a large allocation then ends this process, not the tests'. Prints one JSON object: of each parser the cases, and how
many were read and refused. What is forged is sealed again: digests are no signatures.

    python tests/fuzz_parsers.py STORE FOLDER CASES [SEED]
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import resource
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from log_files import record_paths

from schemas.base import sha256_digest
from schemas.errors import CacheError
from schemas.heads import HeadsCard
from schemas.log import Record, RowsAdded
from schemas.recipe import Recipe
from teacher_cache.encodings.base import RAW, SHUFFLED, Compression, StoredArray
from teacher_cache.reader.cache import open_cache
from teacher_cache.reader.disk_tier import DiskTier
from teacher_cache.store import table as table_module
from teacher_cache.store.catalog import read_catalog, rows_table
from teacher_cache.store.chunk import checksum, clip_buffer, decode_chunk, encode_chunk
from teacher_cache.store.layout import HEADS_CARD, HEADS_FILE, record_key
from teacher_cache.store.log import checkpoint_file, read_checkpoint, read_record
from teacher_cache.store.objects import Objects
from teacher_cache.store.parquet import parquet_bytes
from teacher_cache.store.records import unseal
from teacher_cache.store.shard import index_length, pack_shard, unpack_shard
from teacher_cache.store.state import UNITS, State
from teacher_cache.store.store import open_store, status
from teacher_cache.store.table import described
from teacher_cache.store.template import array_rows, read_root
from teacher_cache.store.verify import verify
from teacher_cache.teachers import node_cache

HEADROOM = 384 * 2**20
"""Bytes that a case may take beyond what the process has when all is imported. The forged objects have a megabyte at most."""

NUMBERS = sorted({b + d for e in (0, 7, 8, 15, 16, 20, 24, 30, 31, 32, 40, 62, 63, 64) for b in (2**e,) for d in (-1, 0, 1)})
places = st.one_of(st.integers(0, 63), st.integers(-300, -1), st.integers(0, 2**24))

# -- bytes

edits = st.one_of(
    st.tuples(st.just("bit"), places, st.integers(0, 7)),
    st.tuples(st.just("byte"), places, st.integers(0, 255)),
    st.tuples(st.just("number"), places, st.sampled_from([1, 2, 4, 8]), st.sampled_from(NUMBERS)),
    st.tuples(st.just("cut"), places),
    st.tuples(st.just("insert"), places, st.binary(min_size=1, max_size=20)),
    st.tuples(st.just("copy"), places, places, st.integers(1, 64)),
)


def edited(data: bytes, changes: list[Any]) -> bytes:
    """The bytes with each of the changes, whose places are counted around them."""
    body = bytearray(data)
    for kind, place, *rest in changes:
        at = place % max(1, len(body))
        if kind == "bit" and body:
            body[at] ^= 1 << rest[0]
        elif kind == "byte" and body:
            body[at] = rest[0]
        elif kind == "number":
            body[at : at + rest[0]] = (rest[1] % 2 ** (8 * rest[0])).to_bytes(rest[0], "little")
        elif kind == "cut":
            del body[at:]
        elif kind == "insert":
            body[at:at] = rest[0]
        elif kind == "copy":
            other = rest[0] % max(1, len(body))
            body[at : at + rest[1]] = body[other : other + rest[1]]
    return bytes(body)


# -- JSON


def deep(depth: int, inner: Any = 0) -> Any:
    for _ in range(depth):
        inner = [inner]
    return inner


VALUES: list[Any] = [
    *NUMBERS, *(-n for n in NUMBERS), 10**30, 10**400, None, True, False, 0.5, 1e308, math.inf, math.nan, "", "x", "\ud800",
    "sha256:" + "0" * 64, "../../etc/passwd", "depth/c/1073741823/0/0/0", [], {}, [[]], {"a": {}}, deep(40), {"a": deep(300)},
    [0] * 10_000, "long" * 20_000, ["clock", "depth"], [2**20, 2**20, 2**20], [16, 2**27, 1], [1, 1, 1], [4, 8, 2, 2, 2**20],
]  # fmt: skip
forgeries = st.lists(
    st.tuples(st.sampled_from(["set", "delete", "repeat", "move"]), st.integers(0, 2**16), st.integers(0, len(VALUES) - 1)),
    min_size=1,
    max_size=3,
)


def nodes(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key or index) of everything in a JSON value."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from nodes(value[key])


def forged(value: Any, changes: list[Any]) -> Any:
    """A copy of a JSON value with some of what is in it set, deleted, repeated or put in another's place."""
    value = copy.deepcopy(value)
    for kind, number, choice in changes:
        found = list(nodes(value))
        if not found:
            break
        container, key = found[number % len(found)]
        if kind == "delete":
            del container[key]
        elif kind == "repeat" and isinstance(container, list):
            container.insert(key, container[key])
        elif kind == "move":
            other, there = found[choice * 7919 % len(found)]
            container[key] = copy.deepcopy(other[there])
        else:
            container[key] = copy.deepcopy(VALUES[choice])
    return value


def text_of(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def sealed(value: dict[str, Any]) -> bytes:
    """As `records.seal`, also of what no canonical JSON holds."""
    body = text_of(value)
    member = b'"digest":"%b"}' % sha256_digest(body).encode()
    return body[:-1] + (b"," if value else b"") + member


# -- parsers


@dataclass
class Parser:
    name: str
    cases: Any
    """Strategy of what is given to ``run``."""
    run: Callable[[Any], object]
    """Raises `CacheError` where it refuses; any other error, or a wrong value, is what is looked for. None also refuses."""
    share: float = 1
    """Of the cases that are asked for."""


class Wrong(AssertionError):
    """A value that was not meant."""


def parsers(store: Path, folder: Path) -> Iterator[Parser]:  # noqa: C901, PLR0915  # one corpus for all  # one corpus for all
    objects, opened = Objects(str(store)), open_store(str(store))
    recipe, state = opened.recipe, opened.state
    per_shard, url = recipe.layout.clips_per_shard, str(store)
    paths = record_paths(store)
    bodies = [{k: v for k, v in json.loads(path.read_bytes()).items() if k != "digest"} for path in paths]
    changes = st.lists(edits, min_size=1, max_size=4)
    which = st.integers(0, len(bodies) - 1)

    def one_record(case: Any) -> object:
        number, how = case
        data = paths[number].read_bytes()
        record = read_record(number, edited(data, how), url)
        if record != read_record(number, data, url):
            raise Wrong("a record that was changed, under the digest of another")
        return record

    yield Parser("record, bytes", st.tuples(which, changes), one_record)

    def a_record(case: Any) -> object:
        number, how = case
        found = State(per_shard)
        for before, body in enumerate(bodies):
            value = forged(body, how) if before == number else body
            record = read_record(before, sealed(value), url) if isinstance(value, dict) else None
            found.apply(before, record.actions if isinstance(record, Record) else ())
        rows = np.arange(min(found.rows, 2**16))
        found.status(rows, list(found.parts))
        for array in found.arrays():
            found.is_exact(array, rows), found.bytes_of(array), found.shard_length(array, 0), found.shard_digest(array, 0)
        return found.barred, found.retired, checkpoint_file(found)

    yield Parser("record, fields", st.tuples(which, forgeries), a_record)

    forgery = shutil.copytree(store, folder / "forged")
    ids = open_cache(str(store)).committed_ids()

    def in_a_store(case: Any) -> object:
        number, how, is_verified = case
        tip = ""
        for version, body in enumerate(bodies):
            value = forged(body, how) if version == number else copy.deepcopy(body)
            if isinstance(value, dict):
                value["previous"] = (
                    tip if version != number or value.get("previous") == body["previous"] else value.get("previous")
                )
            data = sealed(value) if isinstance(value, dict) else text_of(value)
            (forgery / record_key(version)).write_bytes(data)
            tip = sha256_digest(data)
        if is_verified:
            verify(str(forgery))
        cache = open_cache(str(forgery))
        found = cache.clips, cache.committed_ids(), status(open_store(str(forgery)))
        return found, cache.read([*cache.signals, "timestamps"], ids[:1])

    yield Parser("record, in a store", st.tuples(which, forgeries, st.booleans()), in_a_store, 0.15)

    root = (store / "zarr.json").read_bytes()

    def of_root(data: bytes) -> object:
        return read_root(data, url)

    yield Parser("root, bytes", changes.map(lambda how: edited(root, how)), of_root)

    def with_fingerprint(how: Any) -> object:
        value = forged(json.loads(root), how)
        with contextlib.suppress(Exception):  # as its forger would
            value["attributes"]["fingerprint"] = Recipe.model_validate(value["attributes"]["recipe"]).fingerprint
        return read_root(text_of(value), url)

    yield Parser("root, fields", forgeries, with_fingerprint)
    metadata = (store / "depth/zarr.json").read_bytes()
    yield Parser("array metadata, bytes", changes.map(lambda how: edited(metadata, how)), array_rows)
    yield Parser("array metadata, fields", forgeries.map(lambda how: text_of(forged(json.loads(metadata), how))), array_rows)

    added = state.rows_added[0]
    original = (store / added.table.key).read_bytes()

    def stored(data: bytes, *, is_long: bool) -> object:
        (folder / "tables/log").mkdir(parents=True, exist_ok=True)
        about = described("log/rows-0.parquet", data + bytes(max(0, 12 - len(data))))
        (folder / "tables/log/rows-0.parquet").write_bytes(data)
        action = RowsAdded.model_construct(first_row=0, rows=added.rows, table=about, superseded=about)
        at = Objects(str(folder / "tables"))
        table_module._WHOLE = 0 if is_long else 2**24
        catalog = read_catalog(at, [action.model_copy(update={"superseded": None})])
        found = rows_table(at, action).check(), catalog.current
        catalog.rows_of(ids)
        return found, [clip.window for clip in catalog.clips(catalog.current)]

    def of_table(case: Any) -> object:
        how, is_long = case
        try:
            return stored(edited(original, how), is_long=is_long)
        except ValueError as error:  # of `described`, as the record's own validation would
            if "TableFile" in str(error):
                return None
            raise

    yield Parser("table, bytes", st.tuples(changes, st.booleans()), of_table)
    ours = rows_table(objects, added)._schema
    rows = rows_table(objects, added).read(ours.names).to_pylist()

    def with_values(case: Any) -> object:
        how, is_long = case
        values = forged(rows, how)
        for schema in (ours, None):  # of other types, where the values need them
            try:
                data = parquet_bytes(pa.Table.from_pylist(values, schema=schema))
            except (pa.ArrowException, OverflowError, ValueError, TypeError, AttributeError):
                continue
            return stored(data, is_long=is_long)
        return None

    yield Parser("table, values", st.tuples(forgeries, st.booleans()), with_values, 0.5)

    key, whole = checkpoint_file(state)
    stem = key.rpartition("-")[0]

    def named(data: bytes) -> str:
        return f"{stem}-{sha256_digest(data)[7:23]}.parquet"

    def of_checkpoint(how: Any) -> object:
        data = edited(whole, how)
        return read_checkpoint(named(data), data, per_shard)

    yield Parser("checkpoint, bytes", changes, of_checkpoint)
    about = json.loads(_metadata(whole))
    units = state.units.to_pylist()

    def of_forged_checkpoint(case: Any) -> object:
        how, of_units = case
        said, listed = (about, forged(units, how)) if of_units else (forged(about, how), units)
        try:
            table = pa.Table.from_pylist(listed, schema=UNITS)
        except (pa.ArrowException, OverflowError, ValueError, TypeError, AttributeError):
            return None
        data = parquet_bytes(table.replace_schema_metadata({"checkpoint": text_of(said)}))
        found = read_checkpoint(named(data), data, per_shard)
        return found and found.status(np.arange(min(found.rows, 2**16)), list(found.parts))

    yield Parser("checkpoint, fields", st.tuples(forgeries, st.booleans()), of_forged_checkpoint)

    rng = np.random.default_rng(0)
    arrays = {
        "zstd": StoredArray("zstd", (4000,), np.dtype("i1"), ("x",), 7, compression=Compression("zstd", 1)),
        "blosc": StoredArray("blosc", (30_000,), np.dtype("<i2"), ("x",), 7, compression=SHUFFLED),
        "none": StoredArray("none", (20, 10), np.dtype("<f4"), ("x", "y"), 7, compression=RAW),
    }
    chunks = {name: _chunk_of(array, rng) for name, array in arrays.items()}

    def of_chunk(name: str, how: Any) -> object:
        body = edited(chunks[name][:-4], how)
        found = [_decoded(body + checksum(body), arrays[name], sentinel) for sentinel in (0x5A, 0xA5)]
        if found[0] != found[1]:
            raise Wrong("memory that was there before")
        return found[0]

    for name in arrays:
        yield Parser(f"chunk, {name}", changes, lambda how, name=name: of_chunk(name, how))

    array = arrays["blosc"]
    shard = pack_shard({0: chunks["blosc"], 2: chunks["blosc"]}, 3)
    tail = index_length(3)

    def of_shard(how: Any) -> object:
        index = edited(shard[-tail:-4], how)
        data = shard[:-tail] + index + checksum(index)
        return [_decoded(chunk, array, 1) is not None for chunk in unpack_shard(data, 3).values()]

    yield Parser("shard index", changes, of_shard)

    tier, content = DiskTier(folder / "tier", 10**6), bytes(rng.bytes(2000))
    tier.get("store", "key", lambda: content)
    (kept,) = (path for path in (folder / "tier").glob("store-*/??/*"))
    kept_bytes, total = kept.read_bytes(), folder / "tier/total"

    def of_tier(case: Any) -> object:
        how, of_total = case
        kept.write_bytes(kept_bytes if of_total else edited(kept_bytes, how))
        total.write_bytes(edited(b"2004", how) if of_total else b"2004")
        if (
            tier.get("store", "key", lambda: content) != content
            or tier.get("store", "other", lambda: content[:9]) != content[:9]
        ):
            raise Wrong("not what the store has")
        return True

    yield Parser("disk tier", st.tuples(changes, st.booleans()), of_tier, 0.5)

    def make(part: Path) -> None:
        part.write_bytes(b"weights" * 9)

    file = node_cache.made_once("weights", ["key"], ".bin", make)
    record = file.with_name(f"{file.name}.digest")
    of_it = record.read_bytes()

    def of_weights(case: Any) -> object:
        how, of_digest = case
        replaced = file.with_suffix(".new")  # a new file: a changed one may have the time of the one before it
        replaced.write_bytes(b"weights" * 9 if of_digest else edited(b"weights" * 9, how))
        replaced.rename(file)
        record.write_bytes(edited(of_it, how) if of_digest else of_it)
        if node_cache.made_once("weights", ["key"], ".bin", make).read_bytes() != b"weights" * 9:
            raise Wrong("other weights")
        return True

    yield Parser("weights' digest", st.tuples(changes, st.booleans()), of_weights, 0.3)

    from teacher_cache.teachers.heads.frozen import load_heads

    card, tensors = json.loads((store / HEADS_CARD).read_bytes()), (store / HEADS_FILE).read_bytes()
    del card["digest"]

    def of_heads(case: Any) -> object:
        how, fields, is_header = case
        said, data = card, tensors
        if is_header:
            length = int.from_bytes(tensors[:8], "little")
            header = text_of(forged(json.loads(tensors[8 : 8 + length]), fields))
            data = len(header).to_bytes(8, "little") + header + tensors[8 + length :]
        elif how:
            data = edited(tensors, how)
        else:
            said = forged(card, fields)
        if isinstance(said, dict) and (how or is_header):
            said = said | {"weights": sha256_digest(data)}
        return load_heads(data, unseal(HeadsCard, sealed(said), HEADS_CARD, url))

    yield Parser("heads", st.tuples(st.lists(edits, max_size=3), forgeries, st.booleans()), of_heads, 0.3)


def _metadata(data: bytes) -> bytes:
    import pyarrow.parquet as pq

    return bytes(pq.ParquetFile(pa.BufferReader(data)).schema_arrow.metadata[b"checkpoint"])


def _chunk_of(array: StoredArray, rng: np.random.Generator) -> bytes:
    return encode_chunk((rng.integers(-50, 50, array.shape) // 9).astype(array.dtype), array.compression)


def _decoded(data: Any, array: StoredArray, sentinel: int) -> bytes | None:
    (out,) = clip_buffer(
        array, 1, lambda shape, dtype: np.full(math.prod(shape) * dtype.itemsize, sentinel, np.uint8).view(dtype).reshape(shape)
    )
    try:
        decode_chunk(data, array, out)
    except ValueError:  # which the reader turns into `StoreDamaged`
        return None
    return out.tobytes()


def fuzz(parser: Parser, cases: int, start: int) -> dict[str, int]:
    told = {"cases": 0, "read": 0}

    @seed(start)
    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(parser.cases)
    def holds(case: Any) -> None:
        told["cases"] += 1
        try:
            told["read"] += parser.run(case) is not None
        except CacheError as error:
            assert str(error)  # noqa: PT017  # the other way out is no error at all

    try:
        holds()
    except BaseException:
        print(f"the parser: {parser.name}", file=sys.stderr)  # noqa: T201
        raise
    return told


def main() -> None:
    store, folder, cases = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    start = int(sys.argv[4]) if len(sys.argv) > 4 else 0
    only = sys.argv[5] if len(sys.argv) > 5 else ""
    warnings.simplefilter("error")
    all_of_them = list(parsers(store, folder))
    used = 1024 * int(
        next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData")).split()[1]
    )
    resource.setrlimit(resource.RLIMIT_DATA, (used + HEADROOM, used + HEADROOM))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    told = {}
    for parser in all_of_them:
        if only in parser.name:
            (folder / "now").write_text(parser.name)
            told[parser.name] = fuzz(parser, max(1, int(cases * parser.share)), start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps({"parsers": told, "peak_mib": peak // 1024}))  # noqa: T201


if __name__ == "__main__":
    main()
