"""The order of work: every clip is decoded, each video by one decoder, within the room there is, and nobody waits forever."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.clip import Clip
from schemas.errors import VideoError
from schemas.log import FailedRow, Unit, WorkItem
from teacher_cache.jobs.scheduler import CLIPS_PER_BLOCK, Block, Inbox, InboxClosed, Scheduler, Span, decode_span

# How many clips each video has, and how many rows a unit: together they cut the clips into units.
videos = st.lists(st.integers(1, 23), max_size=12)


def items_of(videos: list[int], per_unit: int, settled: set[int] = frozenset()) -> list[WorkItem]:
    """Units over the clips of the videos; those of ``settled`` numbers have nothing to teach."""
    names = [(f"video-{v}", n) for v, count in enumerate(videos) for n in range(count)]
    clips = [
        Clip(clip_id=f"{video}#{n}", row=row, video=video, video_id=video, content_digest="d")
        for row, (video, n) in enumerate(names)
    ]
    items = []
    for shard, start in enumerate(range(0, len(clips), per_unit)):
        rows = clips[start : start + per_unit]
        done = tuple(FailedRow(row=c.row, reason="superseded", detail="") for c in rows)
        unit = Unit(shard=shard, parts=("depth",))
        items.append(
            WorkItem(unit=unit, clips=(), settled=done) if shard in settled else WorkItem(unit=unit, clips=rows, settled=())
        )
    return items


@dataclass(frozen=True)
class Pool:
    """How many units have room, and how many decode and teach."""

    ahead: int
    decoders: int
    teachers: int


pools = st.builds(Pool, st.integers(1, 5), st.integers(1, 4), st.integers(1, 3))


class Work:
    """A run without processes: decoders, teachers and what they hold, moved on a step at a time in any order."""

    def __init__(self, items: list[WorkItem], pool: Pool) -> None:
        self.items = items
        self.scheduler = Scheduler(items, pool.ahead)
        self.decoders, self.teachers = pool.decoders, pool.teachers
        self.spans: list[list[Block]] = []
        self.seen_spans: list[Span] = []
        self.decoded: dict[int, dict[int, Block]] = {}
        self.teaching: list[int] = []
        self.done: Counter[int] = Counter()
        self.most_kept = 0

    def steps(self) -> Iterator[tuple[str, int]]:
        """What could happen next."""
        if len(self.spans) < self.decoders:
            yield "decode", 0
        yield from (("block", n) for n in range(len(self.spans)))
        if len(self.teaching) < self.teachers:
            yield "begin", 0
        yield from (("teach", unit) for unit in self.teaching)

    def step(self, what: str, which: int) -> bool:
        """Do it; False if it cannot be done now."""
        return bool(getattr(self, f"_{what}")(which))

    def _decode(self, _: int) -> bool:
        span = self.scheduler.next_span()
        if span is not None:
            self.spans.append(list(span.blocks))
            self.seen_spans.append(span)
        return span is not None

    def _block(self, number: int) -> bool:
        block = self.spans[number][0]
        if not self.scheduler.claim_slot(block.unit):
            return False
        self.spans[number].pop(0)
        if not self.spans[number]:
            self.spans.pop(number)
        if self.scheduler.wants(block.unit):
            self.decoded.setdefault(block.unit, {})[block.number] = block
            self.most_kept = max(self.most_kept, len(self.decoded))
        return True

    def _begin(self, _: int) -> bool:
        unit = self.scheduler.next_unit()
        if unit is not None:
            self.teaching.append(unit)
        return unit is not None

    def _teach(self, unit: int) -> bool:
        blocks = self.decoded.get(unit, {})
        if len(blocks) < self.scheduler.blocks(unit):
            return False
        clips = [clip for number in sorted(blocks) for clip in blocks[number].clips]
        assert tuple(clips) == self.scheduler.item(unit).clips == self.items[unit].clips
        self.end(unit)
        self.done[unit] += 1
        return True

    def end(self, unit: int) -> None:
        self.decoded.pop(unit, None)
        self.scheduler.taught(unit)
        self.scheduler.finish(unit)
        self.teaching.remove(unit)

    def lose(self, unit: int) -> None:
        """The teacher that has the unit dies."""
        self.decoded.pop(unit, None)
        self.teaching.remove(unit)
        self.scheduler.begin_again(unit)

    def finish(self, order: random.Random) -> None:
        while not self.scheduler.is_finished:
            steps = list(self.steps())
            order.shuffle(steps)
            assert any(self.step(*step) for step in steps), "nothing can go on"
        assert self.done == Counter(range(len(self.items)))


@given(videos, st.integers(1, 9), st.sets(st.integers(0, 9)), pools, st.randoms())
def test_all_is_done_once_in_any_order_within_its_room(
    videos: list[int], per_unit: int, settled: set[int], pool: Pool, order: random.Random
) -> None:
    work = Work(items_of(videos, per_unit, settled), pool)
    work.finish(order)
    assert work.most_kept <= pool.ahead + 1
    assert all(1 <= len(b.clips) <= CLIPS_PER_BLOCK for span in work.seen_spans for b in span.blocks)
    owners = Counter(video for span in work.seen_spans for video in {c.video for b in span.blocks for c in b.clips})
    assert settled or set(owners.values()) <= {1}


@given(videos, st.integers(1, 9), pools, st.randoms())
def test_units_whose_teacher_is_lost_are_done_by_another(
    videos: list[int], per_unit: int, pool: Pool, order: random.Random
) -> None:
    work = Work(items_of(videos, per_unit), pool)
    for _ in range(100):
        steps = list(work.steps())
        if steps:
            work.step(*order.choice(steps))
        if work.teaching and order.random() < 0.1:
            work.lose(order.choice(work.teaching))
    work.finish(order)


def test_a_unit_that_another_run_did_is_passed() -> None:
    work = Work(items_of([3, 3, 30], 6), Pool(1, 1, 1))
    assert work.step("decode", 0)
    assert work.step("begin", 0)
    work.end(0)
    work.done[0] += 1
    work.finish(random.Random(0))


def test_a_block_of_before_its_unit_was_replaced_may_come_at_any_time() -> None:
    scheduler = Scheduler(items_of([1] * 8, 8), ahead=2)
    unit = scheduler.next_unit()
    old = scheduler.next_span()
    scheduler.begin_again(unit)
    assert unit is not None
    assert old is not None
    assert scheduler.expects(old.blocks[0])
    item = scheduler.item(unit)
    scheduler.replace(unit, item.model_copy(update={"clips": item.clips[1:]}))
    assert not scheduler.expects(old.blocks[0])
    scheduler.taught(unit)
    assert not scheduler.expects(old.blocks[0])
    scheduler.finish(unit)
    assert not scheduler.expects(old.blocks[0])


def test_a_video_that_takes_long_does_not_hold_up_the_others() -> None:
    work = Work(items_of([1] * 40, 2), Pool(3, 2, 2))
    assert work.step("decode", 0)  # and this decoder hangs
    stuck = work.spans.pop(0)
    work.decoders = 1
    for _ in range(400):
        for step in list(work.steps()):
            work.step(*step)
    assert len(work.done) >= 17
    work.spans.append(stuck)
    work.finish(random.Random(0))


def test_only_as_many_items_are_made_as_are_worked_on() -> None:
    made = 0

    def items() -> Iterator[WorkItem]:
        nonlocal made
        for item in items_of([1] * 1000, 4):
            made += 1
            yield item

    scheduler = Scheduler(items(), ahead=3)
    while scheduler.next_span() is not None:
        pass
    assert made <= 5


class Numbering:
    """A decoder that gives the number of each request, and fails one."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []

    def clips(self, uri: str, windows: list[object], _length: int) -> Iterator[object]:
        self.asked.append((uri, len(windows)))
        for number in range(len(windows)):
            yield VideoError("decode_error", "bad") if (uri, number) == ("video-1", 1) else (uri, number)


def test_a_span_s_videos_are_each_asked_for_once_and_given_by_the_block() -> None:
    scheduler = Scheduler(items_of([2, 11, 1], 7), ahead=9)
    decoder = Numbering()
    found = []
    while (span := scheduler.next_span()) is not None:
        blocks = list(decode_span(decoder, span))
        assert list(map(len, blocks)) == [len(block.clips) for block in span.blocks]
        found += [clip for block in blocks for clip in block]
    assert decoder.asked == [("video-0", 2), ("video-1", 11), ("video-2", 1)]
    assert [type(clip) is VideoError for clip in found] == [n == 3 for n in range(14)]


def test_an_inbox_gives_blocks_in_order_and_ends_whoever_waits() -> None:
    inbox = Inbox()
    inbox.put(7, 1, ("c", "d"))
    inbox.put(7, 0, ("a", "b"))
    inbox.put(8, 0, ("x",))
    assert list(inbox.clips(7, 2)) == ["a", "b", "c", "d"]
    inbox.forget(8)
    waiting = inbox.clips(8, 1)
    threading.Timer(0.05, inbox.close).start()
    with pytest.raises(InboxClosed):
        next(waiting)
