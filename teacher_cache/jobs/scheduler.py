"""Units of work in; the next clips to decode and the next units to teach out. Independent of any engine.

A unit's clips are decoded in *blocks*, which never cross units. Decoders take blocks in *spans*, which never split a video, so
each video is fetched, opened and read once for all of its clips, whatever units they are in.
"""

from __future__ import annotations

import threading
from bisect import insort
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, islice
from typing import Protocol

from schemas.clip import Clip, Part
from schemas.errors import VideoError
from schemas.log import WorkItem
from teacher_cache.clips.video import DecodedClip

Decoded = DecodedClip | VideoError

CLIPS_PER_BLOCK = 4
"""Clips that a decoder hands over at once, fewer at a unit's end. Few, so that units start early and share decoders."""


@dataclass(frozen=True)
class Block:
    """Consecutive clips of one unit, decoded together."""

    unit: int
    """Number of the unit in the run."""
    number: int
    """Number of the block in its unit."""
    clips: tuple[Clip, ...]


@dataclass(frozen=True)
class Span:
    """Consecutive blocks for one decoder. No other span has clips of the same videos."""

    blocks: tuple[Block, ...]


class DecodesClips(Protocol):
    """The part of `teacher_cache.clips.decoder.Decoder` that decoding a span needs."""

    def clips(self, uri: str, parts: Sequence[Part], length: int) -> Iterator[Decoded]:
        """The decoded clip, or its `VideoError`, for each part of a video, in order; ``length``: its bytes, 0 if not known."""


def decode_span(decoder: DecodesClips, span: Span) -> Iterator[tuple[Decoded, ...]]:
    """Decode a span: yields the clips of each of its blocks, in order."""
    every = chain.from_iterable(block.clips for block in span.blocks)
    videos = (list(clips) for _, clips in groupby(every, lambda clip: clip.video))
    decoded = chain.from_iterable(
        decoder.clips(clips[0].video, [clip.part for clip in clips], clips[0].video_bytes) for clips in videos
    )
    for block in span.blocks:
        yield tuple(islice(decoded, len(block.clips)))


class Scheduler:
    """Decides the order of a run's work. Not thread-safe.

    ``items`` are consumed lazily and dropped once finished. Back-pressure: decoded clips are kept for at most ``ahead`` units
    at once, each in a slot. A slow unit (a video that hangs its decoder) holds one slot while others overtake it. The oldest
    unit always gets a slot, so decoders waiting for slots cannot deadlock.
    """

    def __init__(self, items: Iterable[WorkItem], ahead: int) -> None:
        self.ahead = ahead
        self._coming = iter(items)
        self._next = next(self._coming, None)
        self._opened = 0
        self._items: dict[int, WorkItem] = {}
        self._untaught: list[int] = []
        """Units not yet taught, ascending."""
        self._replaced: set[int] = set()
        """Units that are another item than they once were."""
        self._slots: set[int] = set()
        """The untaught units whose clips are decoded, being decoded or next to be."""
        self._unbegun: list[int] = []
        """Units that no teacher has taken, ascending."""
        self._spans: deque[Span] = deque()
        self._again: deque[Span] = deque()
        """Spans of units that have to start over."""
        self._unended: list[Block] = []
        """Blocks of the span under construction: its last video may continue in the next unit."""

    @property
    def is_finished(self) -> bool:
        """Whether every unit is committed."""
        return not self._items and self._next is None

    def item(self, unit: int) -> WorkItem:
        """The work item of an opened, unfinished unit."""
        return self._items[unit]

    def blocks(self, unit: int) -> int:
        """Number of blocks of the unit."""
        return len(_blocks(unit, self._items[unit]))

    def claim_slot(self, unit: int) -> bool:
        """Reserve a slot for the unit's decoded clips; returns whether it has one. A taught unit needs none."""
        if not self.wants(unit) or not self._items[unit].clips:
            return True
        has_room = unit in self._slots or unit == self._untaught[0] or len(self._slots) < self.ahead
        # A unit that starts over needs a decoder. Were all of them waiting for slots, it would wait forever, so they go on.
        has_room = has_room or bool(self._again)
        if has_room:
            self._slots.add(unit)
        return has_room

    def wants(self, unit: int) -> bool:
        """Whether the unit's decoded clips are still needed: not once it is taught, or another run has done it."""
        return unit in self._untaught

    def next_span(self) -> Span | None:
        """The next span to decode; None if none is left, or while there is no free slot for it."""
        if self._again:
            return self._again.popleft()
        while not self._spans and self._next is not None and (self._unended or self._may_open()):
            self._open()  # a video that continues in later units stays in one span
        if not self._spans or not self.claim_slot(self._spans[0].blocks[0].unit):
            return None
        return self._spans.popleft()

    def next_unit(self) -> int | None:
        """The next unit to teach, which then belongs to the caller; None if there is none now."""
        if not self._unbegun and self._next is not None and self._may_open():
            self._open()
        # In order: if all teachers had units whose videos are not decoded yet, no slot would become free for the decoders.
        if not self._unbegun or not self.claim_slot(self._unbegun[0]):
            return None
        return self._unbegun.pop(0)

    def taught(self, unit: int) -> None:
        """Report that the unit is taught, so that its decoded clips are dropped and its slot is free."""
        self._untaught.remove(unit)
        self._slots.discard(unit)

    def finish(self, unit: int) -> None:
        """Report that the unit is committed."""
        del self._items[unit]

    def begin_again(self, unit: int) -> None:
        """Report that the unit's teacher died and its decoded clips are lost: decode and teach it again."""
        if unit not in self._untaught:
            insort(self._untaught, unit)
        self._slots.add(unit)
        insort(self._unbegun, unit)
        self._again.extend(Span((block,)) for block in _blocks(unit, self._items[unit]))

    def decode_again(self, unit: int, number: int) -> None:
        """Report that a block of the unit could not be decoded where it was tried."""
        self._again.append(Span((_blocks(unit, self._items[unit])[number],)))

    def replace(self, unit: int, item: WorkItem) -> None:
        """Let a unit be another item of the same rows, before it begins again."""
        self._items[unit] = item
        self._replaced.add(unit)

    def expects(self, block: Block) -> bool:
        """Whether the block's decoded clips are still needed; not if they are of an item that was replaced since."""
        if not self.wants(block.unit):  # such a unit may be finished, so that it has no item
            return False
        return block.unit not in self._replaced or block in _blocks(block.unit, self._items[block.unit])

    def _may_open(self) -> bool:
        return len(self._slots) < self.ahead or not self._untaught

    def _open(self) -> None:
        item, unit = self._next, self._opened
        assert item is not None
        self._next = next(self._coming, None)
        self._opened += 1
        self._items[unit] = item
        self._untaught.append(unit)
        self._unbegun.append(unit)
        for block in _blocks(unit, item):
            if self._unended and self._unended[-1].clips[-1].video != block.clips[0].video:
                self._end_span()
            self._unended.append(block)
        if self._unended and not self._goes_on(self._unended[-1].clips[-1].video):
            self._end_span()

    def _end_span(self) -> None:
        self._spans.append(Span(tuple(self._unended)))
        self._unended = []

    def _goes_on(self, video: str) -> bool:
        """Whether the next unit begins with the same video."""
        return self._next is not None and bool(self._next.clips) and self._next.clips[0].video == video


def _blocks(unit: int, item: WorkItem) -> list[Block]:
    return [Block(unit, number, clips) for number, clips in enumerate(_in_blocks(item.clips))]


def _in_blocks(clips: Sequence[Clip]) -> Iterator[tuple[Clip, ...]]:
    """Runs of at most `CLIPS_PER_BLOCK` clips, cut between videos where possible."""
    block: list[Clip] = []
    for _, run in groupby(clips, lambda clip: clip.video):
        of_video = list(run)
        if block and len(block) + len(of_video) > CLIPS_PER_BLOCK:
            yield tuple(block)
            block = []
        block += of_video
        while len(block) > CLIPS_PER_BLOCK:
            yield tuple(block[:CLIPS_PER_BLOCK])
            block = block[CLIPS_PER_BLOCK:]
    if block:
        yield tuple(block)


class InboxClosed(Exception):
    """The run or its teacher has ended, or the unit is withdrawn, so the awaited clips will not come."""


class Inbox:
    """Passes decoded blocks to the units that wait for them. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._blocks: dict[tuple[int, int], tuple[Decoded, ...]] = {}
        self._begun: set[int] = set()
        """Units of which a block was taken."""
        self._withdrawn: set[int] = set()
        self._is_closed = False

    def put(self, unit: int, number: int, clips: tuple[Decoded, ...]) -> None:
        """Deliver block ``number`` of the unit."""
        with self._changed:
            self._blocks[unit, number] = clips
            self._changed.notify_all()

    def clips(self, unit: int, blocks: int) -> Iterator[Decoded]:
        """The clips of the unit's ``blocks`` blocks, in order, waiting for each. Raises `InboxClosed`."""
        for number in range(blocks):
            yield from self._block((unit, number))

    def _block(self, key: tuple[int, int]) -> tuple[Decoded, ...]:
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or key[0] in self._withdrawn or key in self._blocks)
            if self._is_closed or key[0] in self._withdrawn:
                raise InboxClosed
            self._begun.add(key[0])
            return self._blocks.pop(key)

    def withdraw(self, units: Iterable[int]) -> None:
        """Make every current and later wait for these units raise `InboxClosed`, unless a block of the unit was taken."""
        with self._changed:
            self._withdrawn |= set(units) - self._begun
            self._changed.notify_all()

    def forget(self, unit: int) -> None:
        """Drop all blocks of the unit."""
        with self._changed:
            for key in [key for key in self._blocks if key[0] == unit]:
                del self._blocks[key]
            self._begun.discard(unit)
            self._withdrawn.discard(unit)

    def close(self) -> None:
        """Make every current and later wait raise `InboxClosed`."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
