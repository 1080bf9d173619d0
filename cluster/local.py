"""The reference engine: work items go in, units are taught and written, events come out.

One worker in this process, whose threads decode, teach and write at the same time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from platform import node
from queue import Empty, SimpleQueue
from typing import Self, TypeVar

from schemas.event import EngineEvent, Stopping, TeacherStarted
from schemas.log import WorkItem
from teacher_cache.clips.decoder import Decoder
from teacher_cache.io.stop import Stop
from teacher_cache.jobs.scheduler import Block, Inbox, InboxClosed, Scheduler, decode_span
from teacher_cache.jobs.unit_worker import TaughtUnit, UnitWorker, WorkerSpec

_LOOK_SECONDS = 0.2
"""How often to check whether the run should stop."""
_TEACHER = "local"

Found = TypeVar("Found")


class LocalEngine:
    """Runs a job in this process. It is the reference: every other engine must end with the same store."""

    def run(self, spec: WorkerSpec, items: Sequence[WorkItem], stop: Stop) -> Iterator[EngineEvent | None]:
        """Do the work items and yield an event for each thing that happens, such as a `UnitReport` per written unit.

        Once ``stop`` is set, no unit begins, and those in work are finished within the grace period. Raises what a thread
        raised, such as `CouldNotRun`.
        """
        with UnitWorker(spec) as worker, _Threads(spec, worker, items) as threads:
            yield TeacherStarted(teacher=_TEACHER, node=node(), devices=worker.devices)
            stopping = False
            while not threads.is_done:
                if stop.is_set and not stopping:
                    stopping = True
                    threads.begin_no_more()
                    yield Stopping(reason=stop.reason, grace_seconds=spec.engine.grace_seconds)
                if stop.has_lasted(spec.engine.grace_seconds):
                    return
                yield threads.next_event()


class _Threads:
    """The threads of a run, and what they share. Use as a context manager."""

    def __init__(self, spec: WorkerSpec, worker: UnitWorker, items: Sequence[WorkItem]) -> None:
        engine = spec.engine
        self._worker = worker
        self._inbox = Inbox()
        self._events: SimpleQueue[EngineEvent | BaseException] = SimpleQueue()
        self._writers = ThreadPoolExecutor(engine.writers, thread_name_prefix="write")
        self._may_write = threading.Semaphore(engine.writers)
        """Bounds the taught units that are held in memory until written."""
        # Guards all mutable state below.
        self._changed = threading.Condition()
        self._scheduler = Scheduler(items, ahead=worker.teaching_at_once + engine.decoders)
        self._in_work = 0
        self._begins_more = True
        self._is_closed = False
        self._decoders = [worker.decoder() for _ in range(engine.decoders)]
        tasks: list[Callable[[], None]] = [partial(self._decode, decoder) for decoder in self._decoders]
        tasks += [self._teach] * worker.teaching_at_once
        self._threads = [threading.Thread(target=self._guarded, args=(task,), daemon=True) for task in tasks]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._inbox.close()
        for decoder in self._decoders:
            decoder.close()
        for thread in self._threads:
            thread.join()
        self._writers.shutdown(cancel_futures=True)

    @property
    def is_done(self) -> bool:
        """Whether no further event will come."""
        with self._changed:
            is_idle = self._scheduler.is_finished if self._begins_more else self._in_work == 0
            return is_idle and self._events.empty()

    def next_event(self) -> EngineEvent | None:
        """The next event; None if none comes within `_LOOK_SECONDS`. Raises what a thread raised."""
        try:
            event = self._events.get(timeout=_LOOK_SECONDS)
        except Empty:
            return None
        if isinstance(event, BaseException):
            raise event
        return event

    def begin_no_more(self) -> None:
        with self._changed:
            self._begins_more = False

    def _guarded(self, task: Callable[[], None]) -> None:
        try:
            task()
        except InboxClosed:
            pass
        except BaseException as error:  # noqa: BLE001  # raised again where the events are read
            if not self._is_closed:  # errors caused by the shutdown itself are no news
                self._events.put(error)

    def _decode(self, decoder: Decoder) -> None:
        while (span := self._wait_for(self._scheduler.next_span)) is not None:
            for block, clips in zip(self._where_room_is(span.blocks), decode_span(decoder, span), strict=False):
                with self._changed:
                    if self._scheduler.wants(block.unit):
                        self._inbox.put(block.unit, block.number, clips)

    def _where_room_is(self, blocks: Sequence[Block]) -> Iterator[Block]:
        """Yields each block once there is room for its clips; ends early if the run ends."""
        for block in blocks:
            if self._wait_for(partial(self._room, block)) is None:
                return
            yield block

    def _room(self, block: Block) -> Block | None:
        return block if self._scheduler.claim_slot(block.unit) else None

    def _teach(self) -> None:
        while (unit := self._wait_for(self._begun)) is not None:
            with self._changed:
                item, blocks = self._scheduler.item(unit), self._scheduler.blocks(unit)
            taught = self._worker.teach(item, self._inbox.clips(unit, blocks))
            with self._changed:
                self._scheduler.taught(unit)
                self._inbox.forget(unit)
                self._changed.notify_all()
            self._may_write.acquire()
            self._writers.submit(self._guarded, partial(self._write, unit, taught))

    def _write(self, unit: int, taught: TaughtUnit) -> None:
        try:
            report = self._worker.write(taught)
        finally:
            self._may_write.release()
        with self._changed:
            self._scheduler.finish(unit)
            self._in_work -= 1
            self._events.put(report.model_copy(update={"teacher": _TEACHER}))
            self._changed.notify_all()

    def _begun(self) -> int | None:
        unit = self._scheduler.next_unit() if self._begins_more else None
        self._in_work += unit is not None
        return unit

    def _wait_for(self, choose: Callable[[], Found | None]) -> Found | None:
        """Call ``choose`` until it returns something other than None; returns None when the run ends."""
        with self._changed:
            while not (self._is_closed or self._scheduler.is_finished):
                if (found := choose()) is not None:
                    self._changed.notify_all()  # a new unit may now have room for decoded clips
                    return found
                self._changed.wait()
        return None
