"""Units of work in; out of them, which clips to decode next, and to which unit what was decoded belongs. Knows no engine.

A unit's clips are decoded in *blocks*, which never cross units, and blocks in *spans*, which never split a video: so each video
is fetched, opened and read once for all its clips, however many units these are in.
"""

from __future__ import annotations

import threading
from bisect import insort
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, islice
from typing import Protocol

from schemas.clip import Clip, Window
from schemas.errors import VideoError
from schemas.ledger import WorkItem
from teacher_cache.clips.decode import DecodedClip

Decoded = DecodedClip | VideoError

CLIPS_PER_BLOCK = 4
"""What a decoder hands over at once, save at a unit's end: small, so that a unit can begin soon and be decoded by many."""


@dataclass(frozen=True)
class Block:
    """Some consecutive clips of one unit."""

    unit: int
    """Place of the unit among the run's."""
    number: int
    """Place of the block in its unit."""
    clips: tuple[Clip, ...]


@dataclass(frozen=True)
class Span:
    """Consecutive blocks that one decoder takes. No other span has a clip of their videos."""

    blocks: tuple[Block, ...]


class DecodesClips(Protocol):
    """`teacher_cache.clips.decoder.Decoder`, to whoever only hands it spans."""

    def clips(self, uri: str, windows: Sequence[Window | None]) -> Iterator[Decoded]: ...


def decode_span(decoder: DecodesClips, span: Span) -> Iterator[tuple[Decoded, ...]]:
    """The decoded clips of each block of the span, in order."""
    every = chain.from_iterable(block.clips for block in span.blocks)
    videos = ((video, [clip.window for clip in clips]) for video, clips in groupby(every, lambda clip: clip.video))
    decoded = chain.from_iterable(decoder.clips(video, windows) for video, windows in videos)
    for block in span.blocks:
        yield tuple(islice(decoded, len(block.clips)))


class Scheduler:
    """The order of a run's work. Not safe between threads.

    ``items`` are made as they are wanted, and forgotten once finished. Of at most ``ahead`` units at once decoded clips are
    kept; a unit that takes long (a video that hangs its decoder) holds one slot, and the others pass it. The oldest one
    always has a slot, so that decoders that wait for one cannot wait for each other.
    """

    def __init__(self, items: Iterable[WorkItem], ahead: int) -> None:
        self.ahead = ahead
        self._coming = iter(items)
        self._next = next(self._coming, None)
        self._opened = 0
        self._items: dict[int, WorkItem] = {}
        self._untaught: list[int] = []
        """In order."""
        self._slots: set[int] = set()
        """The untaught units of which clips are, or will be, decoded."""
        self._unbegun: list[int] = []
        """In order."""
        self._spans: deque[Span] = deque()
        self._again: deque[Span] = deque()
        """Spans of units that were begun before."""
        self._unended: list[Block] = []
        """Blocks whose last video may go on in the next unit."""

    @property
    def is_finished(self) -> bool:
        return not self._items and self._next is None

    def item(self, unit: int) -> WorkItem:
        return self._items[unit]

    def blocks(self, unit: int) -> int:
        """How many blocks the unit has."""
        return len(_blocks(unit, self._items[unit]))

    def claim_slot(self, unit: int) -> bool:
        """Whether there is room for what is decoded of the unit; from then on, there is. A taught unit takes none."""
        if not self.wants(unit) or not self._items[unit].clips:
            return True
        has_room = unit in self._slots or unit == self._untaught[0] or len(self._slots) < self.ahead
        # Decoders that wait for room would wait for a unit that waits for one of them: they go on until one is free.
        has_room = has_room or bool(self._again)
        if has_room:
            self._slots.add(unit)
        return has_room

    def wants(self, unit: int) -> bool:
        """Whether anything is to be done with what is decoded of the unit: not where another run has done it meanwhile."""
        return unit in self._untaught

    def next_span(self) -> Span | None:
        """What to decode next; None if nothing is left, or while there is no room for it."""
        if self._again:
            return self._again.popleft()
        while not self._spans and self._next is not None and (self._unended or self._may_open()):
            self._open()  # a video that goes on in later units is handed over whole
        if not self._spans or not self.claim_slot(self._spans[0].blocks[0].unit):
            return None
        return self._spans.popleft()

    def next_unit(self) -> int | None:
        """The next unit to teach, which is then somebody's; None if there is none now."""
        if not self._unbegun and self._next is not None and self._may_open():
            self._open()
        # In order: were all teachers at units whose videos a decoder has not come to, the decoders would wait for them.
        if not self._unbegun or not self.claim_slot(self._unbegun[0]):
            return None
        return self._unbegun.pop(0)

    def taught(self, unit: int) -> None:
        """Nothing decoded of the unit is kept any more."""
        self._untaught.remove(unit)
        self._slots.discard(unit)

    def finish(self, unit: int) -> None:
        """The unit is committed."""
        del self._items[unit]

    def begin_again(self, unit: int) -> None:
        """Whoever had the unit is gone, with what was decoded of it: it is to be decoded and taught anew."""
        if unit not in self._untaught:
            insort(self._untaught, unit)
        self._slots.add(unit)
        insort(self._unbegun, unit)
        self._again.extend(Span((block,)) for block in _blocks(unit, self._items[unit]))

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
        """Whether the next unit begins with that video."""
        return self._next is not None and bool(self._next.clips) and self._next.clips[0].video == video


def _blocks(unit: int, item: WorkItem) -> list[Block]:
    return [Block(unit, number, clips) for number, clips in enumerate(_in_blocks(item.clips))]


def _in_blocks(clips: Sequence[Clip]) -> Iterator[tuple[Clip, ...]]:
    """Runs of at most `CLIPS_PER_BLOCK` clips, cut between videos where that can be."""
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
    """What a unit's clips were waited for is over: the run ends, or its teacher does."""


class Inbox:
    """Decoded blocks on their way to the units that wait for them. Safe between threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._blocks: dict[tuple[int, int], tuple[Decoded, ...]] = {}
        self._is_closed = False

    def put(self, unit: int, number: int, clips: tuple[Decoded, ...]) -> None:
        with self._changed:
            self._blocks[unit, number] = clips
            self._changed.notify_all()

    def clips(self, unit: int, blocks: int) -> Iterator[Decoded]:
        """The clips of the unit's so many blocks, in order, each waited for. Raises `InboxClosed`."""
        for number in range(blocks):
            yield from self._block((unit, number))

    def _block(self, key: tuple[int, int]) -> tuple[Decoded, ...]:
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or key in self._blocks)
            if self._is_closed:
                raise InboxClosed
            return self._blocks.pop(key)

    def forget(self, unit: int) -> None:
        """Nobody wants what may have come of the unit."""
        with self._changed:
            for key in [key for key in self._blocks if key[0] == unit]:
                del self._blocks[key]

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
