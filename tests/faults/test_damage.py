"""`verify` finds damage of every kind and names the clips it hits, and a reader never takes it for data."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import FAULTS, tree
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.vendor.pretty import RepresentationPrinter
from log_files import contents

from schemas.errors import CacheError
from schemas.job import Job, VideoSource
from teacher_cache import open_cache
from teacher_cache.jobs.run import run_job
from teacher_cache.reader.cache import Cache, Values
from teacher_cache.store import log
from teacher_cache.store.garbage import collect_garbage
from teacher_cache.store.verify import verify

RENAMED = "scene-1"
NAMES = ("f4d", "flow", "regions", "objects", "timestamps", "frame_index")


@dataclass(frozen=True, repr=False)
class Whole:
    """A store without damage: how it is, how it reads, and what might be put in the place of one of its objects."""

    path: Path
    objects: Mapping[str, bytes]
    values: Mapping[tuple[str, str], Values]
    """(clip id, name) → values, of every committed clip."""
    before: int
    """Its version before it grew, in which `RENAMED` is another row."""
    others: Sequence[tuple[str, bytes]]
    """Objects of this store as it was before it grew, and of another one under the same recipe."""

    def __repr__(self) -> str:
        return str(self.path)

    @property
    def clip_ids(self) -> list[str]:
        return sorted({clip_id for clip_id, _ in self.values})

    def alike(self, key: str) -> list[str]:
        """Other objects of the same kind."""
        return [k for k in self.objects if _kind(k) == _kind(key) and self.objects[k] != self.objects[key]]

    def foreign(self, key: str) -> list[bytes]:
        """Objects of the same kind that belong elsewhere."""
        return sorted({data for k, data in self.others if _kind(k) == _kind(key)} - {self.objects[key]})

    @contextmanager
    def damaged(self, damage: Mapping[str, bytes | None]) -> Iterator[None]:
        """Some objects with other bytes, or none, for as long as the context is open."""
        try:
            for key, data in damage.items():
                path = self.path / key
                path.parent.mkdir(parents=True, exist_ok=True)
                path.unlink() if data is None else path.write_bytes(data)
            yield
        finally:
            for key in damage:
                if key in self.objects:
                    (self.path / key).write_bytes(self.objects[key])
                else:
                    (self.path / key).unlink(missing_ok=True)


def _kind(key: str) -> str:
    return "zarr.json" if key.endswith("/zarr.json") else re.sub(r"[0-9a-f]{16,}|\d+", "#", key)


@pytest.fixture(scope="module")
def whole(folder: Path, two_jobs: tuple[Job, Job]) -> Whole:
    """One that grew by a video, two signals, and other phrases for a clip."""
    first, second = two_jobs
    rows = list(map(json.loads, Path(str(second.videos.manifest)).read_text().splitlines()))
    rows[1]["phrases"] = ["a left shoe", *rows[1]["phrases"]]
    second = second.model_copy(update={"videos": listed(folder / "grown.jsonl", rows)})
    backwards = listed(folder / "backwards.jsonl", rows[::-1])
    stores = folder / "store", folder / "earlier", folder / "other"
    run_job(first.model_copy(update={"store": str(stores[1])}))
    shutil.copytree(stores[1], stores[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log, "WORTH_A_CHECKPOINT", 1)
        run_job(second.model_copy(update={"store": str(stores[0])}))
    run_job(second.model_copy(update={"store": str(stores[2]), "videos": backwards}))
    cache, at_once = (open_cache(str(stores[n])) for n in (0, 2))
    ids = cache.committed_ids()
    values = {(i, n): v for n, read in cache.read(NAMES, ids).items() for i, v in zip(ids, read, strict=True)}
    assert len(values) == 4 * len(NAMES)
    assert cache.objects(ids) == at_once.objects(ids)
    np.testing.assert_array_equal([values[i, "regions"] for i in ids], at_once.read(["regions"], ids)["regions"])
    assert all(list(stores[0].glob(f"{array}/c/*/**/0")) for array in ("f4d", "flow", "flow_exact", "regions", "objects"))
    before = open_cache(str(stores[1]))
    assert before.clip(RENAMED).row != cache.clip(RENAMED).row
    return Whole(stores[0], tree(stores[0]), values, before.version, [*tree(stores[1]).items(), *tree(stores[2]).items()])


def listed(path: Path, rows: Sequence[Mapping[str, Any]]) -> VideoSource:
    path.write_text("\n".join(map(json.dumps, rows)))
    return VideoSource(manifest=str(path))


def test_a_whole_store_has_no_findings(whole: Whole) -> None:
    report = verify(str(whole.path))
    assert report.findings == ()
    assert report.objects_checked == sum("/c/" in key for key in whole.objects)
    assert report.bytes_checked == sum(len(data) for key, data in whole.objects.items() if "/c/" in key)
    assert report.clips.model_dump() == {"planned": 5, "committed": 4, "failed": 1, "pending": 0}


@dataclass(frozen=True, repr=False)
class Damage:
    what: str
    objects: Mapping[str, bytes | None]
    """Key → its bytes from now on, None for a lost object. Two keys where objects are swapped."""

    def __repr__(self) -> str:
        return self.what

    def _repr_pretty_(self, printer: RepresentationPrinter, _cycle: bool) -> None:
        """Hypothesis would print the objects' bytes."""
        printer.text(self.what)

    is_foreign: bool = False
    """Whether what is there now is a whole object, and another one."""
    is_longer: bool = False

    @property
    def is_loss(self) -> bool:
        return None in self.objects.values()


@st.composite
def damages(draw: st.DrawFn, whole: Whole, keys: Sequence[str]) -> Damage:
    key = draw(st.sampled_from(keys))
    data, alike, foreign = whole.objects[key], whole.alike(key), whole.foreign(key)
    ways = ["bit", "bit", "bit", "cut", "append", "lose", *["swap"] * bool(alike), *["replace"] * bool(foreign)]
    match draw(st.sampled_from(ways)):
        case "bit":
            place, bit = draw(st.integers(0, len(data) - 1)), draw(st.integers(0, 7))
            flipped = data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]
            return Damage(f"bit {bit} of byte {place} of {key}: {data[max(0, place - 20) : place + 20]!r}", {key: flipped})
        case "cut":
            length = draw(st.integers(0, len(data) - 1))
            return Damage(f"{key} cut to {length} of {len(data)} bytes", {key: data[:length]})
        case "append":
            more = draw(st.binary(min_size=1, max_size=40))
            return Damage(f"{more!r} behind {key}", {key: data + more}, is_longer=True)
        case "swap":
            other = draw(st.sampled_from(alike))
            return Damage(f"{key} and {other} swapped", {key: whole.objects[other], other: data}, True)
        case "replace":
            number = draw(st.integers(0, len(foreign) - 1))
            return Damage(f"{key} replaced by number {number} of its kind from elsewhere", {key: foreign[number]}, True)
        case _:
            return Damage(f"{key} lost", {key: None})


IN: dict[str, Callable[[str], bool]] = {
    "shards": lambda key: "/c/" in key,
    "records": lambda key: key.startswith("log/0"),
    "tables": lambda key: key.startswith(("log/rows-", "log/superseded-")),
    "checkpoints": lambda key: key.startswith("log/checkpoint-"),
    "heads": lambda key: key.startswith("heads/") and not key.endswith("zarr.json"),
    "metadata": lambda key: key.endswith("/zarr.json"),
    "root": lambda key: key == "zarr.json",
}


def test_every_object_is_one_to_be_damaged(whole: Whole) -> None:
    assert all(sum(holds(key) for holds in IN.values()) == 1 for key in whole.objects)


# How many of the examples are tried: a tenth, or all.
tenth_or_all = pytest.mark.parametrize("part", [10, pytest.param(1, marks=pytest.mark.complete)], ids=["tenth", "all"])


@tenth_or_all
@pytest.mark.parametrize(
    ("place", "examples"),
    [("records", 400), ("tables", 300), ("checkpoints", 100), ("heads", 100), ("metadata", 300), ("root", 200)],
)
def test_every_damage_is_found(whole: Whole, place: str, examples: int, part: int) -> None:
    @settings(max_examples=examples * FAULTS // part, deadline=None)
    @given(damages(whole, _keys(whole, place)))
    def holds(damage: Damage) -> None:
        with whole.damaged(damage.objects):
            assert _is_told(whole, damage)

    holds()


@pytest.mark.parametrize(
    ("place", "examples"),
    [
        ("records", 300),
        ("tables", 300),
        ("checkpoints", 150),
        ("metadata", 300),
        ("root", 150),
    ],
)
@tenth_or_all
def test_no_damage_is_read(whole: Whole, place: str, examples: int, part: int) -> None:
    @settings(max_examples=examples * FAULTS // part, deadline=None)
    @given(damages(whole, _keys(whole, place)), st.sampled_from(whole.clip_ids))
    def holds(damage: Damage, clip_id: str) -> None:
        with whole.damaged(damage.objects):
            assert _unread(whole, [clip_id], NAMES) is not None

    holds()


@tenth_or_all
def test_damage_to_a_shard_is_found_with_the_clips_that_are_hit(whole: Whole, part: int) -> None:
    """Those, and only those, that no longer read, now or as they were before they got another row; all of the shard where it
    is another's, or where other Zarr readers, which look for the index at an object's end, find none.
    """

    @settings(max_examples=500 * FAULTS // part, deadline=None)
    @given(damages(whole, _keys(whole, "shards")))
    def holds(damage: Damage) -> None:
        with whole.damaged(damage.objects):
            findings = {finding.key: finding for finding in verify(str(whole.path)).findings}
            assert findings.keys() == damage.objects.keys()
            for key, finding in findings.items():
                name = _signal(key)
                hit = {clip_id for clip_id, _ in _unread(whole, whole.clip_ids, [name], is_foreign=damage.is_foreign)}
                earlier = open_cache(str(whole.path), version=whole.before)
                was_there = name in {*earlier.signals, "timestamps", "frame_index"}
                hit |= {RENAMED} if was_there and _read(earlier, RENAMED, name) is None else set()
                in_shard = {clip_id for f in findings.values() for clip_id in f.clip_ids}
                assert set(finding.clip_ids) == hit or ((damage.is_foreign or damage.is_longer) and hit <= in_shard)

    holds()


def test_a_foreign_shard_is_not_read(whole: Whole) -> None:
    """It is told by its length. One just as long only `verify` tells: where chunks are not compressed, as those of F4D and of
    exact arrays, or come out alike, as those of ``frame_index`` do.
    """
    shards, told = _keys(whole, "shards"), set()
    for key in shards:
        name = _signal(key)
        for data in whole.foreign(key):
            is_alike = len(data) == len(whole.objects[key])
            with whole.damaged({key: data}):
                unread = _unread(whole, whole.clip_ids, [name], is_foreign=is_alike)
                assert key in {finding.key for finding in verify(str(whole.path)).findings}
            assert not is_alike or name in {"frame_index", "f4d"} or key.startswith("flow_exact/")
            told |= {name} if unread and not is_alike else set()
    assert told == set(NAMES)


def _signal(key: str) -> str:
    """What is read from a shard."""
    return key.split("/", maxsplit=1)[0].removesuffix("_exact")


def _keys(whole: Whole, place: str) -> list[str]:
    return [key for key in whole.objects if IN[place](key)]


def _is_told(whole: Whole, damage: Damage) -> bool:
    """Whether a damaged object is named, in a finding of its own or, where it is gone, in that of its folder or its file.

    Where the root is damaged nothing says what the store is: an error does as well. Where the last record is lost, or a
    checkpoint, the store is as it was before it.
    """
    try:
        report = verify(str(whole.path))
    except CacheError as error:
        return "zarr.json" in damage.objects and str(whole.path) in str(error)
    told = " ".join(f"{finding.key} {finding.detail}" for finding in report.findings)
    last = max(filter(IN["records"], whole.objects))
    is_undone = damage.is_loss and any(key == last or IN["checkpoints"](key) for key in damage.objects)
    return any(key.removesuffix(".json") in told for key in damage.objects) or is_undone


def _unread(whole: Whole, clip_ids: Sequence[str], names: Sequence[str], *, is_foreign: bool = False) -> set[tuple[str, str]]:
    """The (clip id, name) that do not read. What reads is right; where it ``is_foreign``, what is wrong counts as unread."""
    asked = {(clip_id, name) for clip_id in clip_ids for name in names}
    try:
        cache = open_cache(str(whole.path))
        unheard_of = set(cache.committed_ids()) - set(whole.clip_ids)
    except CacheError:
        return asked
    assert not any(_read(cache, clip_id, name) is not None for clip_id in unheard_of for name in names)
    found = {pair: _read(cache, *pair) for pair in asked}
    wrong = {pair for pair, v in found.items() if v is not None and not np.array_equal(v, whole.values[pair], equal_nan=True)}
    assert not wrong or is_foreign, f"{wrong} read wrong"
    return {pair for pair, values in found.items() if values is None} | wrong


def _read(cache: Cache, clip_id: str, name: str) -> Values | None:
    try:
        return cache.read([name], [clip_id])[name][0]
    except CacheError:
        return None


@pytest.mark.parametrize(("damage", "kind"), [(None, "missing"), (b"", "truncated"), (b"\0" * 10**6, "digest")])
def test_what_a_finding_is_called(whole: Whole, damage: bytes | None, kind: str) -> None:
    key = next(key for key in whole.objects if IN["shards"](key))
    with whole.damaged({key: damage}):
        assert [(f.kind, f.key) for f in verify(str(whole.path)).findings] == [(kind, key)]


folders = st.sampled_from(["", "f4d/", "f4d/c/", "f4d/c/7/", "log/", "heads/", "other/"])
names = st.text("abc0123456789-._", min_size=1, max_size=12).filter(lambda name: name.strip("."))
suffixes = st.sampled_from(["", ".json", ".parquet", ".tmp", "/zarr.json"])


# What a writer makes, and nothing in the store names: shards of rows that there are not, an array that nobody added,
# tables that came too late; and the temporary file of anything.
keys_of_the_format = st.tuples(
    st.builds("{}/c/{}{}".format, st.just("f4d"), st.integers(7, 2**30 - 1), st.just("/0" * 5))
    | st.builds("{}/c/{}{}".format, st.sampled_from(["flow", "flow_exact"]), st.integers(7, 2**30 - 1), st.just("/0" * 4))
    | st.just("objects_exact/zarr.json")
    | st.builds("log/{}-0000000000-{:016x}.parquet".format, st.sampled_from(["rows", "superseded"]), st.integers(0, 2**64 - 1)),
    st.none() | st.integers(0, 2**128 - 1),
).map(lambda drawn: drawn[0] if drawn[1] is None else "{}/.{}.{:032x}.tmp".format(*drawn[0].rsplit("/", 1), drawn[1]))


@settings(max_examples=30 * FAULTS, deadline=None)
@given(key=st.builds("{}{}{}".format, folders, names, suffixes))
def test_what_should_not_be_there_is_found(whole: Whole, key: str) -> None:
    assume(not (whole.path / key).exists())
    with whole.damaged({key: b"{}"}):
        assert key in {f.key for f in verify(str(whole.path)).findings}
        assert _unread(whole, whole.clip_ids[:1], NAMES) == set()


@settings(max_examples=30 * FAULTS, deadline=None)
@given(key=keys_of_the_format)
def test_gc_removes_just_that(whole: Whole, key: str) -> None:
    assume(not (whole.path / key).exists())
    with whole.damaged({key: b"{}"}):
        assert collect_garbage(str(whole.path)).removed == (key,)
        assert contents(tree(whole.path)) == contents(whole.objects)


foreign_keys = st.builds(
    "{}{}{}".format,
    st.sampled_from(["", "f4d/c/", "flow/c/7/", "log/", "heads/", "l4p-giant/flow/c/7/0/0/0/"]),
    names,
    suffixes,
)


@settings(max_examples=30 * FAULTS, deadline=None)
@given(key=foreign_keys)
def test_gc_leaves_what_no_store_writes(whole: Whole, key: str) -> None:
    assume(not (whole.path / key).exists())
    with whole.damaged({key: b"{}"}):
        found = collect_garbage(str(whole.path))
        assert (found.removed, found.foreign, found.foreign_example) == ((), 1, key)
        assert (whole.path / key).read_bytes() == b"{}"
