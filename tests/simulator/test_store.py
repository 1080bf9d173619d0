"""The store's real code in the simulator: whoever runs beside whom, nothing is lost.

A case is some actors over one store; `simulator.truth` says what must hold after every change, and `ends_well` at the end. What
once went wrong, and where it is shown that it does not:

1.  A repair of a whole store retires good clips: `run_and_repair`.
2.  gc deletes what a run has just taken over: `two_drivers_and_gc`, and, were it so, `deletes_unannounced`.
3.  A second repair never succeeds: `repaired_again`.
4.  Listings are cached: `lists_the_records`; that none is, tests/contracts/test_objects.py, ``test_a_listing_is_never_old``;
    `readers_beside_a_run` has a follower, which advances.
5.  Create-if-absent is not kept: `test_a_place_without_create_if_absent_is_refused` and `creates_over_what_is_there`.
6.  A killed unit, and a decode that fails differently, stop the whole run: `late_worker_and_new_worker`, `two_drivers`,
    `driver_and_the_next`, and, were it so, `gives_up`.
7.  Depth beyond float32, NaN figures: tests/teacher_cache/encodings.
8.  A chunk that holds fewer values: tests/teacher_cache/store/test_chunk.py.
9.  Commits stall teachers: `test_teachers_never_wait_for_commits`; how fast they are, tests/benchmarks/commits.py.
10. An object over 5 GiB: tests/contracts/test_objects.py, and tests/teacher_cache/jobs/test_discovery.py for the job.
11. Reads by a 64-bit key alone: tests/teacher_cache/store/test_catalog.py, ``test_an_id_is_not_found_by_another_s_key``.
12. NaN clips fail: tests/teacher_cache/encodings. Figures of what was taken over: tests/teacher_cache/jobs/test_unit_worker.py,
    and `trusts_its_own_rows` here. A folder that is not synced: tests/contracts/test_objects.py.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from conftest import FAULTS
from simulator import real_store
from simulator.memory_store import MemoryStore
from simulator.real_store import SETTLED, URL, RealStore, Work, clips_of
from simulator.search import Case, WentWrong, explore, wander
from simulator.truth import Truth, is_of
from simulator.world import Bounds, World

from schemas.errors import CouldNotRun, Stopped, StoreDamaged
from schemas.log import Record
from teacher_cache.jobs import commit
from teacher_cache.jobs.unit_worker import TaughtUnit
from teacher_cache.jobs.work_list import new_rows
from teacher_cache.monitor.follow import StoreFollower
from teacher_cache.reader.cache import Cache, open_cache
from teacher_cache.store import garbage, log, store
from teacher_cache.store.catalog import store_rows
from teacher_cache.store.garbage import collect_garbage
from teacher_cache.store.layout import record_key, version_of
from teacher_cache.store.log import Log
from teacher_cache.store.records import seal
from teacher_cache.store.repair import retire_damaged
from teacher_cache.store.state import State
from teacher_cache.store.store import open_store
from teacher_cache.store.verify import verify

# What actors do


def read_twice(version: int | None = None) -> tuple[int, tuple[str, ...]]:
    """Read all that is committed at a version, by default the newest; then the same version again, which gives the same.

    Returns the version and the clips.
    """
    cache = open_cache(URL, version=version)
    ids = cache.committed_ids()
    for again in (cache, open_cache(URL, version=cache.version)):
        assert again.committed_ids() == ids
        values = again.read(again.signals, ids) if ids else {}
        for signal, of_clips in values.items():
            for clip_id, found in zip(ids, of_clips, strict=True):
                assert is_of(found, ord(str(again.clip(clip_id).content_digest)), signal), (
                    f"{signal} of {clip_id} is not its own"
                )
    return cache.version, tuple(ids)


def follow(*, only_grows: bool = True) -> None:
    """Look twice at a store, to which clips are only added."""
    follower, committed = StoreFollower(open_store(URL)), 0
    for _ in range(2):
        counts = follower.look().clips
        assert (committed if only_grows else 0) <= counts.committed <= counts.planned
        committed = counts.committed


def verify_whole(*, is_growing: bool = False) -> None:
    """Nothing is ever found in a store that nothing has damaged, but what runs have left or are about to commit.

    While rows are added, arrays may be as long as they were.
    """
    found = [finding for finding in verify(URL).findings if finding.kind != "orphan"]
    assert not [finding for finding in found if not (is_growing and finding.kind == "metadata")], found


def ends_well(real: RealStore, truth: Truth, work: Work, *, may_fail: str = "", repair: bool = False) -> None:
    """At the end of every run: one more job, by itself, brings the store to where nothing is left to do or to say."""

    def check() -> None:
        if once_for_each_end(real, work, may_fail):
            finish(real, truth, work, may_fail, repair=repair)

    real.world.at_end(check)


_ends: set[object] = set()


def once_for_each_end(real: RealStore, *about: object) -> bool:
    end = real.world.store.mark, real.clips_per_shard, about
    is_new = end not in _ends
    _ends.add(end)
    return is_new


def finish(real: RealStore, truth: Truth, work: Work, may_fail: str, *, repair: bool) -> None:
    real.calm()
    real.run("at-the-end", work, repair=repair)
    if "missing_in_shard" in truth.said().outcomes().values():  # an earlier run left a shard without a clip that decodes now
        real.run("at-the-end", work)
    truth.check()
    said = truth.said()
    for clip, outcome in said.outcomes().items():
        assert outcome == "committed" or (outcome == "decode_error" and clip in may_fail), f"{clip}: {outcome}"
    assert read_twice() == (said.version, tuple(said.committed()))
    for version in set() if repair else {0, said.version // 2, said.version - 1}:
        assert read_twice(version) == (version, tuple(truth.said(version).committed()))

    verify_whole()
    collect_garbage(URL)
    truth.check()
    left = [found.key for found in verify(URL).findings]
    # The table of rows that are about to be added may be another run's, until rows are added.
    assert all(key.startswith(("log/rows-", "log/superseded-")) for key in left), f"{left} are left"

    before = all_but_checkpoints(real)
    real.run("once-more", work)
    assert not collect_garbage(URL).removed
    assert all_but_checkpoints(real) == before, "a run that has nothing to do changes the store"


def all_but_checkpoints(real: RealStore) -> dict[str, bytes]:
    keys = [found.key for found in real.world.store.list("") if not found.key.startswith("log/checkpoint-")]
    return {key: real.world.store.get(key) for key in keys}


# Small cases, in every order

PLANNED = Work("ab", units=0)
"""The rows are there, and nothing is taught."""
ADDING = (Work("ab", ("depth",)), Work("ab", ("camray", "depth"), units=0))
"""One signal is committed, and another, of one array, is about to be."""
BOTH = Work("ab", ("camray", "depth"))

METADATA = tuple(f"{array}/zarr.json" for array in ("timestamps", "frame_index", "camray", "depth", "depth_exact"))
GROWN = (*SETTLED, "log/", "log/checkpoint-", *METADATA)
"""What never changes where no rows are added, nothing of the log is deleted, and there are too few records for a checkpoint."""


def two_drivers(world: World) -> None:
    """They teach one unit, with other last bits, and one of them cannot decode a clip."""
    real = RealStore(world, PLANNED, settled=GROWN, ahead=1)
    truth = Truth(real)
    world.actor("one", lambda: real.run("one", Work("ab")))
    world.actor("two", lambda: real.run("two", Work("ab", noise=1, undecodable="b")))
    ends_well(real, truth, Work("ab"), may_fail="b")


GARBAGE = "depth_exact/c/0/0/0/0"
"""Where ``ADDING`` has committed depth without it: what lies there is no writer's."""


def two_drivers_and_gc(world: World) -> None:
    """Both take over what a stopped run left, beside a gc, which has something else to delete (2 of the issue)."""
    real = RealStore(world, *ADDING, replace(BOTH, noise=2, is_mute=True), settled=GROWN, ahead=1)
    world.store.create(GARBAGE, b"garbage")
    truth = Truth(real)
    world.actor("one", lambda: real.run("one", BOTH))
    world.actor("two", lambda: real.run("two", replace(BOTH, noise=1, undecodable="b")))
    world.actor("gc", lambda: collect_garbage(URL))
    ends_well(real, truth, BOTH, may_fail="b")


def run_and_gc_of_the_unfinished(world: World) -> None:
    """The run may be told that its work was deleted, and the next one does it in new rows."""
    real = RealStore(
        world, *ADDING, replace(BOTH, noise=2, is_mute=True), settled=(*SETTLED, "log/checkpoint-", "depth"), ahead=1
    )
    truth = Truth(real)
    world.actor("run", lambda: real.run("run", BOTH), may_raise=CouldNotRun)
    world.actor("gc", lambda: collect_garbage(URL, unfinished=True))
    ends_well(real, truth, BOTH)


def gc_and_the_next(world: World) -> None:
    """The first is killed anywhere, or believed so."""
    real = RealStore(world, *ADDING, settled=GROWN, ahead=1)
    for key in (GARBAGE, "depth_exact/c/7/0/0/0"):
        world.store.create(key, b"garbage")
    truth = Truth(real)
    world.actor("gc", lambda: collect_garbage(URL))
    world.actor("next", lambda: collect_garbage(URL))
    ends_well(real, truth, BOTH)


def late_worker_and_new_worker(world: World) -> None:
    """A worker believed dead goes on, with other bytes and without a clip, beside the one that does its unit again."""
    real = RealStore(world, PLANNED, settled=GROWN, ahead=1)
    truth = Truth(real)
    world.actor("late", lambda: real.run("late", Work("ab", noise=1, undecodable="b", is_mute=True)), may_raise=Stopped)
    world.actor("run", lambda: real.run("run", Work("ab")))
    ends_well(real, truth, Work("ab"), may_fail="b")


def driver_and_the_next(world: World) -> None:
    """The next run begins when the first is dead, and requests of that one may still land. Rows are added, and an array."""
    real = RealStore(world, Work("a", ("depth",)), settled=(*SETTLED, "log/checkpoint-"), ahead=1, clips_per_shard=1)
    truth = Truth(real)
    world.actor("run", lambda: real.run("run", Work("ab", ("camray",))))

    def wait_and_run() -> None:
        world.pause("until the other is dead", until=lambda: world.has_ended("run"))
        real.run("next", Work("ab", ("camray",), noise=1))

    world.actor("next", wait_and_run, mortal=False)
    ends_well(real, truth, Work("ab", ("camray", "depth")))


def run_and_repair(world: World) -> None:
    """The store is whole: to repair it changes nothing (1 of the issue)."""
    real = RealStore(world, *ADDING, settled=(*GROWN, "timestamps", "frame_index", "depth"), ahead=1)
    truth = Truth(real)
    world.actor("run", lambda: real.run("run", BOTH))
    world.actor("repair", lambda: real.run("repair", replace(BOTH, noise=1), repair=True))
    ends_well(real, truth, BOTH)


def readers_beside_a_run(world: World) -> None:
    """One of the newest version, one of an older one, and one that follows."""
    real = RealStore(world, *ADDING, settled=(*GROWN, "timestamps", "frame_index", "depth"), ahead=1)
    truth = Truth(real)
    world.actor("run", lambda: real.run("run", BOTH))
    world.actor("reader", read_twice)
    world.actor("pinned", lambda: read_twice(3))
    world.actor("follower", follow)
    ends_well(real, truth, BOTH)


# Damage


def flipped(data: bytes) -> bytes:
    """A bit of it is another."""
    return data[:10] + bytes([data[10] ^ 1]) + data[11:]


def damage(world: World, key: str) -> str:
    world.store.replace(key, flipped(world.store.get(key)))
    return key


def damaged_shard(world: World) -> None:
    """Runs, of which one repairs, beside a reader."""
    real = RealStore(world, Work("ab"), settled=(*GROWN[:4], *METADATA, "timestamps", "frame_index", "camray/c/0/"), ahead=1)
    truth = Truth(real, [damage(world, "camray/c/0/0/0/0/0")])
    world.actor("run", lambda: real.run("run", Work("ab", noise=1)))
    world.actor("repair", lambda: real.run("repair", Work("ab"), repair=True))
    ends_well(real, truth, Work("ab"), repair=True)


def damaged_record(world: World) -> None:
    """A record that commits a unit is damaged, and two repair it."""
    real = RealStore(
        world,
        Work("abcd"),
        settled=("zarr.json", "heads/", "log/rows-", *METADATA, "timestamps", "frame_index", "camray"),
        ahead=1,
    )
    truth = Truth(real, [damage(world, record_key(3))])
    world.actor("run", lambda: real.run("run", Work("abcd", noise=1)), may_raise=StoreDamaged)
    world.actor("repair", lambda: real.run("repair", Work("abcd", noise=2), repair=True))
    ends_well(real, truth, Work("abcd"), repair=True)


def damaged_rows(world: World) -> None:
    """The record that adds the rows is damaged, while one adds rows and another repairs."""
    real = RealStore(world, Work("ab"), settled=("zarr.json", "heads/"), ahead=1)
    truth = Truth(real, [damage(world, record_key(1))])
    world.actor("run", lambda: real.run("run", Work("abc", noise=1)), may_raise=StoreDamaged)
    world.actor("repair", lambda: real.run("repair", Work("abd", noise=2), repair=True))
    ends_well(real, truth, Work("abcd"), repair=True)


def repaired_again(world: World) -> None:
    """What has replaced a damaged record, and what was committed again, is damaged in turn (3 of the issue)."""
    real = RealStore(world, Work("abcd"), settled=("zarr.json", "heads/", "log/rows-", *METADATA), ahead=1)
    truth = Truth(real, [record_key(3), record_key(4), record_key(5)])
    damage(world, record_key(3))

    def repair() -> None:
        for number in (3, 5, 4):
            real.run("repair", Work("abcd"), repair=True)
            key = record_key(number)
            world.backend.replace(key, flipped(world.store.get(key)))
        real.run("repair", Work("abcd"), repair=True)

    world.actor("repair", repair)
    ends_well(real, truth, Work("abcd"), repair=True)


@pytest.mark.parametrize("place", range(1, 40, 3))
def test_the_rows_of_a_lost_record_are_those_that_it_named(place: int) -> None:
    """Of two runs that add rows at once, the tables of the one that came too late lie beside the other's, until gc comes."""

    def case(world: World) -> None:
        real = RealStore(world, Work("ab"))
        early = open_store(URL)
        late = early.catalog()
        real.run("run", Work("abd"))
        store_rows(early.objects, late, new_rows(clips_of("Abc"), late, early.recipe), real.clips_per_shard)
        truth = Truth(real, [record_key(4)])
        data = world.store.get(record_key(4))
        at = len(data) * place // 40
        world.store.replace(record_key(4), data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        ends_well(real, truth, Work("Abcd"), repair=True)

    wander(case, 1)


# Larger cases, at random


def growth(world: World) -> None:
    """Three runs that add rows and a signal, which may be killed, beside everything that is safe beside them."""
    real = RealStore(world, Work("ab"), batched=True, records=3)
    truth = Truth(real)
    world.actor("one", lambda: real.run("one", Work("abcd")))
    world.actor("two", lambda: real.run("two", Work("abcde", noise=1, undecodable="c")))
    world.actor("late", lambda: real.run("late", Work("abcd", ("camray", "depth"), noise=2)))
    world.actor("gc", lambda: collect_garbage(URL))
    world.actor("reader", lambda: (read_twice(), read_twice()))
    world.actor("verify", lambda: verify_whole(is_growing=True))
    world.actor("follower", lambda: follow(only_grows=False))
    ends_well(real, truth, Work("abcde", ("camray", "depth")), may_fail="c")


def growth_and_loss(world: World) -> None:
    """Videos change, workers are believed dead, and gc takes what is unfinished; one run repairs what is whole."""
    real = RealStore(world, Work("ab"), records=4)
    truth = Truth(real)
    world.actor("one", lambda: real.run("one", Work("aBcd")), may_raise=CouldNotRun)
    world.actor("two", lambda: real.run("two", Work("abcd", ("depth",), noise=1, undecodable="d")), may_raise=CouldNotRun)
    world.actor("mute", lambda: real.run("mute", Work("aBcd", noise=2, undecodable="a", is_mute=True)), may_raise=Stopped)
    world.actor("repair", lambda: real.run("repair", Work("abc", noise=3), repair=True), may_raise=CouldNotRun)
    world.actor("gc", lambda: (collect_garbage(URL, unfinished=True), collect_garbage(URL)))
    world.actor("reader", lambda: (read_twice(), read_twice()))
    ends_well(real, truth, Work("aBcd", ("camray", "depth")), may_fail="d")


def damage_amid_all(world: World) -> None:
    """A record is bad, and a shard goes bad at any time."""
    real = RealStore(world, Work("ab"), Work("abcd"), batched=True, records=4, settled=("zarr.json", "heads/"))
    shard = "camray/c/0/0/0/0/0"
    truth = Truth(real, [damage(world, record_key(5)), shard])
    world.actor("rot", lambda: world.backend.replace(shard, flipped(world.store.get(shard))), mortal=False)
    world.actor("one", lambda: real.run("one", Work("abcde", noise=1)), may_raise=StoreDamaged)
    world.actor("repair", lambda: real.run("repair", Work("abcdf", noise=2), repair=True), may_raise=StoreDamaged)
    world.actor("again", lambda: real.run("again", Work("abcd", noise=3), repair=True), may_raise=StoreDamaged)
    world.actor("gc", lambda: collect_garbage(URL), may_raise=StoreDamaged)
    world.actor("reader", lambda: (read_twice(), read_twice()), may_raise=StoreDamaged)
    ends_well(real, truth, Work("abcdef"), repair=True)


# The cases, searched

NO_FAULTS = Bounds(kills=0, retries=0)
KILL, LOST, BOTH_AND_LATE = Bounds(kills=1, retries=0), Bounds(kills=0, retries=1, late=False), Bounds(kills=1, retries=1)
complete = pytest.mark.complete, pytest.mark.timeout(4 * 3600)

SMALL = [two_drivers, late_worker_and_new_worker, run_and_gc_of_the_unfinished, gc_and_the_next, driver_and_the_next]


@pytest.mark.parametrize("case", [*SMALL, run_and_repair, readers_beside_a_run])
@pytest.mark.parametrize(
    "bounds",
    [KILL, pytest.param(LOST, marks=complete), pytest.param(BOTH_AND_LATE, marks=complete)],
    ids=["kill", "lost", "both"],
)
def test_in_every_order(case: Case, bounds: Bounds) -> None:
    explore(case, bounds)


@pytest.mark.parametrize("bounds", [NO_FAULTS, KILL, BOTH_AND_LATE], ids=["none", "kill", "both"])
@pytest.mark.parametrize("case", [two_drivers_and_gc, damaged_shard, damaged_record, repaired_again])
@pytest.mark.complete
@pytest.mark.timeout(12 * 3600)
def test_in_every_order_of_larger_cases(case: Case, bounds: Bounds) -> None:
    explore(case, bounds, most_runs=2_000_000)


@pytest.mark.parametrize("nightly", [False, pytest.param(True, marks=[pytest.mark.complete, pytest.mark.timeout(12 * 3600)])])
@pytest.mark.parametrize(
    ("case", "runs", "many"),
    [
        (two_drivers_and_gc, 80, 1_000_000),
        (damaged_shard, 40, 100_000),
        (damaged_record, 40, 100_000),
        (damaged_rows, 40, 100_000),
        (repaired_again, 20, 10_000),
        (growth, 12, 100_000),
        (growth_and_loss, 12, 100_000),
        (damage_amid_all, 12, 100_000),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_at_random(case: Case, runs: int, many: int, nightly: bool) -> None:
    wander(case, many if nightly else runs * FAULTS)


# What the simulator finds, were the code as it must not be


def lists_the_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that lists its records, by a client that keeps listings for a while (4 of the issue)."""

    def read(log: Log, version: int | None = None) -> State:
        if not log._is_begun:
            log.listed, log._is_begun = log._objects.listing("log/0"), True
        for key in log.listed:
            number = version_of(key)
            if number is not None and number > log.state.version and (version is None or number <= version):
                log._fold(number, log._objects.get(key))
        return log.state

    monkeypatch.setattr(Log, "read", read)


def appends_without_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer whose number is taken tries the next, and says what it would have said before."""

    def append(log: Log, choose, command: str) -> bool:
        log.read()
        actions, number = tuple(choose(log.state)), log.state.version + 1
        while actions:
            record = Record(
                version=number, previous=str(log.state.tip), time=datetime.now(UTC), writer=command, mark="", actions=actions
            )
            if log._objects.create(record_key(number), seal(record)):
                break
            number += 1
        log.read()
        return bool(actions)

    monkeypatch.setattr(Log, "append", append)


def deletes_unannounced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gc that takes what no log names for garbage, whoever may be about to name it, and tells nobody."""
    monkeypatch.setattr(garbage, "_delete", lambda store, keys, _: store.objects.delete_many(keys))
    monkeypatch.setattr(garbage._Known, "is_open", lambda *_: False)


def commits_what_is_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit, "_require_objects", lambda *_: None)


def commits_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit, "_done_parts", lambda *_: set())


def trusts_its_own_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that takes what it wrote for what stands."""
    monkeypatch.setattr(TaughtUnit, "_created", lambda unit, key, own: (unit._store.objects.create(key, own), own)[1])


def trusts_its_own_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that takes over another's objects and keeps its own outcomes (12 of the issue)."""
    monkeypatch.setattr(TaughtUnit, "_take_over", lambda *_: None)


def gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that stops where what stands lacks a clip of its own (6 of the issue)."""

    def fail(*_: object) -> None:
        raise CouldNotRun("a shard that an earlier attempt left lacks a clip")

    monkeypatch.setattr(TaughtUnit, "_fail_row", fail)


def reads_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that follows the log."""
    ids = Cache.committed_ids
    monkeypatch.setattr(Cache, "committed_ids", lambda cache: (cache._store.log.read(), ids(cache))[1])


def creates_over_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that ignores If-None-Match, and nobody has asked (5 of the issue)."""
    monkeypatch.setattr(MemoryStore, "create", lambda store, key, data: (store.replace(key, data), True)[1])
    monkeypatch.setattr(store, "probe_create_if_absent", lambda *_: None)


def forgets_in_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = log.checkpoint_file

    def file(state: State) -> tuple[str, bytes]:
        state.others = state.others[:-1]
        return whole(state)

    monkeypatch.setattr(log, "checkpoint_file", file)


@pytest.mark.parametrize(
    ("spoil", "case", "said"),
    [
        (lists_the_records, two_drivers, "Endless"),
        (appends_without_looking, two_drivers, "committed twice|does not follow"),
        (deletes_unannounced, two_drivers_and_gc, "is committed, and gone"),
        (commits_what_is_announced, run_and_gc_of_the_unfinished, "a key that gc announced is committed"),
        (commits_again, two_drivers, "is committed twice"),
        (trusts_its_own_bytes, late_worker_and_new_worker, "has other bytes than committed"),
        (trusts_its_own_rows, late_worker_and_new_worker, "lacks"),
        (gives_up, late_worker_and_new_worker, "CouldNotRun"),
        (reads_on, readers_beside_a_run, "AssertionError"),
        (creates_over_what_is_there, two_drivers, "other bytes than committed|record 3 changed"),
        (forgets_in_checkpoints, growth, "is not what the records say"),
    ],
)
def test_it_would_be_found(spoil, case: Case, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real_store, "_begun", {})  # nothing that spoilt code has made is kept for others
    spoil(monkeypatch)
    with pytest.raises(WentWrong, match=said):
        wander(case, 300, Bounds(kills=1, retries=0, steps=400))


def test_a_place_without_create_if_absent_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """(5 of the issue.)"""
    monkeypatch.setattr(MemoryStore, "create", lambda store, key, data: (store.replace(key, data), True)[1])

    def case(world: World) -> None:
        real = RealStore(world)
        world.actor("run", lambda: real.run("run", Work("ab")))

    with pytest.raises(
        WentWrong, match=r"CouldNotRun: cannot keep a store at memory://store: its server ignores If-None-Match"
    ):
        wander(case, 1)


def test_teachers_never_wait_for_commits() -> None:
    """All units of a run may be taught and written before its first record has landed (9 of the issue)."""
    written = set()

    def case(world: World) -> None:
        real = RealStore(world, Work("abcdef", units=0), batched=True, settled=GROWN)
        Truth(real)
        world.actor("run", lambda: real.run("run", Work("abcdef")))
        world.invariant(lambda: record_key(3) in world.store or written.add(len(world.store.list("camray/c/"))))

    wander(case, 50, Bounds(kills=0, retries=0))
    assert written == {0, 1, 2, 3}


def test_a_checkpoint_of_a_run_that_read_a_record_before_it_was_damaged() -> None:
    """It says what the repaired record no longer does; whoever begins there is told so by a later record."""

    def case(world: World) -> None:
        real = RealStore(world, Work("ab"))
        truth = Truth(real, [record_key(3)])
        world.patch(log, "WORTH_A_CHECKPOINT", 1)
        early = open_store(URL)
        assert early.version == 3
        damage(world, record_key(3))
        retire_damaged(URL)
        assert early.log.make_checkpoint(at_end=True)
        ends_well(real, truth, Work("ab"))

    wander(case, 1)
