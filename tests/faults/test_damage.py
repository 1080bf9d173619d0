"""`verify` finds damage of every kind and names the clips it hits, and a reader never takes it for data."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from conftest import FAULTS, tree
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from schemas.errors import CacheError
from schemas.job import Job, VideoSource
from schemas.report import VerifyReport
from teacher_cache import open_cache
from teacher_cache.run import run_job
from teacher_cache.store.reader import Cache, Values
from teacher_cache.verify import collect_garbage, verify

NAMES = ("camray", "motion", "timestamps", "frame_index")


@dataclass(frozen=True, repr=False)
class Whole:
    """A store without damage: how it is, how it reads, and what might be put in the place of one of its objects."""

    path: Path
    objects: Mapping[str, bytes]
    values: Mapping[tuple[str, str], Values]
    """(clip id, name) → values, of every committed clip."""
    others: Sequence[tuple[str, bytes]]
    """Objects of this store as it was before it grew, and of another one under the same recipe."""

    def __repr__(self) -> str:
        return str(self.path)

    @property
    def clip_ids(self) -> list[str]:
        return sorted({clip_id for clip_id, _ in self.values})

    def alike(self, key: str) -> list[str]:
        """Other objects of the same kind."""
        return [k for k, data in self.objects.items() if _kind(k) == _kind(key) and data != self.objects[key]]

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
    first, second = two_jobs
    videos = Path(str(second.videos.manifest))
    backwards = videos.with_name("backwards.jsonl")
    backwards.write_text("\n".join(reversed(videos.read_text().splitlines())))
    stores = folder / "store", folder / "earlier", folder / "other"
    run_job(first.model_copy(update={"store": str(stores[1])}))
    shutil.copytree(stores[1], stores[0])
    run_job(second.model_copy(update={"store": str(stores[0])}))
    run_job(second.model_copy(update={"store": str(stores[2]), "videos": VideoSource(manifest=str(backwards))}))
    cache = open_cache(str(stores[0]))
    ids = cache.committed_ids()
    values = {(i, n): v for n, read in cache.read(NAMES, ids).items() for i, v in zip(ids, read, strict=True)}
    assert len(values) == 4 * len(NAMES)
    return Whole(stores[0], tree(stores[0]), values, [*tree(stores[1]).items(), *tree(stores[2]).items()])


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
            return Damage(f"bit {bit} of byte {place} of {key}: {data[place - 20 : place + 20]!r}", {key: flipped})
        case "cut":
            length = draw(st.integers(0, len(data) - 1))
            return Damage(f"{key} cut to {length} of {len(data)} bytes", {key: data[:length]})
        case "append":
            more = draw(st.binary(min_size=1, max_size=40))
            return Damage(f"{more!r} behind {key}", {key: data + more})
        case "swap":
            other = draw(st.sampled_from(alike))
            return Damage(f"{key} and {other} swapped", {key: whole.objects[other], other: data})
        case "replace":
            number = draw(st.integers(0, len(foreign) - 1))
            return Damage(f"{key} replaced by number {number} of its kind from elsewhere", {key: foreign[number]})
        case _:
            return Damage(f"{key} lost", {key: None})


IN: dict[str, Callable[[str], bool]] = {
    "shards": lambda key: "/c/" in key,
    "ledger": lambda key: key.startswith("ledger/") and not key.endswith("zarr.json"),
    "catalog": lambda key: key.startswith("catalog/") and not key.endswith("zarr.json"),
    "heads": lambda key: key.startswith("heads/") and not key.endswith("zarr.json"),
    "metadata": lambda key: key.endswith("/zarr.json"),
    "root": lambda key: key == "zarr.json",
}


def test_every_object_is_one_to_be_damaged(whole: Whole) -> None:
    assert all(sum(holds(key) for holds in IN.values()) == 1 for key in whole.objects)


@pytest.mark.parametrize("place", IN)
def test_every_damage_is_found_and_none_is_read(whole: Whole, place: str) -> None:
    keys = [key for key in whole.objects if IN[place](key)]

    @settings(max_examples=350 * FAULTS, deadline=None)
    @given(damages(whole, keys), st.sampled_from(whole.clip_ids))
    def holds(damage: Damage, clip_id: str) -> None:
        with whole.damaged(damage.objects):
            if place == "root":
                _is_refused(whole)
                return
            report = verify(str(whole.path))
            _names(report, damage, is_pending_enough=place == "ledger" and damage.is_loss)
            if place == "shards":
                _names_the_clips_that_are_hit(whole, report, damage)
            else:
                _reads_right_or_not_at_all(whole, [clip_id])

    holds()


def _is_refused(whole: Whole) -> None:
    """Without its root nothing of a store can be trusted, not even where to look."""
    for use in (verify, open_cache):
        with pytest.raises(CacheError, match=re.escape(str(whole.path))):
            use(str(whole.path))


def _names(report: VerifyReport, damage: Damage, *, is_pending_enough: bool) -> None:
    """A lost ledger entry may look like work that was never done, which the next run does."""
    unnamed = damage.objects.keys() - {finding.key for finding in report.findings}
    assert not unnamed or (is_pending_enough and report.clips.pending > 0)


def _names_the_clips_that_are_hit(whole: Whole, report: VerifyReport, damage: Damage) -> None:
    """Those, and only those, that no longer read."""
    named = {(clip_id, f.key.split("/")[0]) for f in report.findings if f.key in damage.objects for clip_id in f.clip_ids}
    arrays = {key.split("/")[0] for key in damage.objects}
    assert named == _reads_right_or_not_at_all(whole, whole.clip_ids, [name for name in NAMES if name in arrays])


def _reads_right_or_not_at_all(whole: Whole, clip_ids: Sequence[str], names: Sequence[str] = NAMES) -> set[tuple[str, str]]:
    """Check every value that can be read; gives the (clip id, name) that cannot."""
    asked = {(clip_id, name) for clip_id in clip_ids for name in names}
    try:
        cache = open_cache(str(whole.path))
        unheard_of = set(cache.committed_ids()) - set(whole.clip_ids)
    except CacheError:
        return asked
    assert not any(_reads(cache, clip_id, name) is not None for clip_id in unheard_of for name in names)
    found = {pair: _reads(cache, *pair) for pair in asked}
    for pair, values in found.items():
        if values is not None:
            np.testing.assert_array_equal(values, whole.values[pair], err_msg=f"{pair} reads wrong")
    return {pair for pair, values in found.items() if values is None}


def _reads(cache: Cache, clip_id: str, name: str) -> Values | None:
    try:
        return cache.read([name], [clip_id])[name][0]
    except CacheError:
        return None


@pytest.mark.parametrize(("damage", "kind"), [(None, "missing"), (b"", "truncated"), (b"\0" * 10**6, "digest")])
def test_what_a_finding_is_called(whole: Whole, damage: bytes | None, kind: str) -> None:
    key = next(key for key in whole.objects if IN["shards"](key))
    with whole.damaged({key: damage}):
        assert [(f.kind, f.key) for f in verify(str(whole.path)).findings] == [(kind, key)]


folders = st.sampled_from(["", "camray/", "camray/c/", "camray/c/7/", "catalog/", "ledger/", "heads/", "other/"])
names = st.text("abc0123456789-._", min_size=1, max_size=12).filter(lambda name: name.strip("."))
suffixes = st.sampled_from(["", ".json", ".parquet", ".tmp", "/zarr.json"])


@settings(max_examples=100 * FAULTS, deadline=None)
@given(key=st.builds("{}{}{}".format, folders, names, suffixes))
def test_what_should_not_be_there_is_found(whole: Whole, key: str) -> None:
    assume(not (whole.path / key).exists())
    with whole.damaged({key: b"{}"}):
        assert key in {f.key for f in verify(str(whole.path)).findings}
        _reads_right_or_not_at_all(whole, whole.clip_ids[:1])


@settings(max_examples=30 * FAULTS, deadline=None)
@given(key=st.builds("{}{}{}".format, st.sampled_from(["", "camray/c/", "motion/c/7/"]), names, st.sampled_from(["", ".tmp"])))
def test_gc_removes_just_that(whole: Whole, key: str) -> None:
    assume(not (whole.path / key).exists())
    with whole.damaged({key: b"{}"}):
        assert collect_garbage(str(whole.path), older_than_hours=0, dry_run=False).removed == (key,)
        assert tree(whole.path) == whole.objects
