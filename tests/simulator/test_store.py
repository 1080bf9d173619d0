"""The store's real code in the simulator: whoever runs beside whom, nothing is lost."""

from __future__ import annotations

import pytest
from simulator.real_store import SETTLED, URL, RealStore, Work
from simulator.search import Case, WentWrong, explore, replay, some_or_a_million, wander
from simulator.truth import Truth, is_of
from simulator.world import Bounds, World

from schemas.errors import CouldNotRun, Stopped
from schemas.signal import SIGNAL_NAMES
from teacher_cache.monitor.follow import StoreFollower
from teacher_cache.reader.cache import open_cache
from teacher_cache.store.garbage import collect_garbage
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
                assert is_of(found, ord(str(again.clip(clip_id).content_digest)), signal), f"{signal} of {clip_id} is not its own"
    return cache.version, tuple(ids)


def follow(looks: int = 2) -> None:
    """Look at a store to which clips are only added."""
    follower, committed = StoreFollower(open_store(URL)), 0
    for _ in range(looks):
        counts = follower.look().clips
        assert committed <= counts.committed <= counts.planned
        committed = counts.committed


def verify_whole() -> None:
    """Nothing is ever found in a store that nothing has damaged, but what runs have left or are about to commit."""
    found = [finding for finding in verify(URL).findings if finding.kind != "orphan"]
    assert not found, found


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
    for version in {0, said.version // 2, said.version - 1}:
        assert read_twice(version) == (version, tuple(truth.said(version).committed()))

    verify_whole()
    collect_garbage(URL)
    truth.check()
    left = [found.key for found in verify(URL).findings]
    # The table of rows that are about to be added may be another run's, until rows are added.
    assert all(key.startswith(("log/rows-", "log/superseded-")) for key in left), f"{left} are left"

    mark = real.world.store.mark
    real.run("once-more", work)
    assert not collect_garbage(URL).removed
    assert real.world.store.mark == mark, "a run that has nothing to do changes the store"


# Small cases, in every order

PLANNED = Work("ab", ("camray",), units=0)
BEGUN = (Work("ab", ("depth",)), Work("ab", ("camray", "depth"), units=0))
"""One signal is committed, and another one, of one array, is to be added."""
WORK = Work("ab", ("camray", "depth"))
ALL_SETTLED = (*SETTLED, "log/", "timestamps", "frame_index", "camray/zarr.json", "depth")


def two_drivers(world: World) -> None:
    real = RealStore(world, PLANNED, settled=(*SETTLED, "log/rows", "log/checkpoint-", "timestamps/z", "frame_index/z", "camray/z"), ahead=1)
    truth = Truth(world)
    world.actor("one", lambda: real.run("one", Work("ab")))
    world.actor("two", lambda: real.run("two", Work("ab", noise=1, undecodable="b")))
    ends_well(real, truth, Work("ab"), may_fail="b")
