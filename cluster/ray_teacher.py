"""A teacher as a Ray actor: units and decoded blocks go in; written units, as reports, come out."""

from __future__ import annotations

from platform import node

from cluster.ray_decode import DecodedBlock
from schemas.errors import CacheError
from schemas.event import TeacherStarted
from schemas.log import WorkItem
from schemas.report import UnitReport
from teacher_cache.io.request_counts import VIDEO_REQUESTS
from teacher_cache.jobs.scheduler import Inbox, InboxClosed
from teacher_cache.jobs.unit_worker import TaughtUnit, UnitWorker, WorkerSpec


class TeacherActor:
    """A `UnitWorker` on a Ray node. Its methods run concurrently, in threads.

    They return a `CacheError` instead of raising it, because Ray would wrap it in its own traceback.
    """

    def __init__(self, spec: WorkerSpec, name: str) -> None:
        self._spec, self._name = spec, name
        self._inbox = Inbox()
        self._taught: dict[int, TaughtUnit] = {}

    def start(self) -> TeacherStarted | CacheError:
        """Load the teacher. Must return before any other method is called."""
        try:
            self._worker = UnitWorker(self._spec)
        except CacheError as error:
            return error
        return TeacherStarted(teacher=self._name, node=node(), devices=self._worker.devices)

    def take(self, unit: int, number: int, block: DecodedBlock) -> CacheError | None:
        """Receive a decoded block of a unit; it may come before or after the `teach` call for that unit."""
        VIDEO_REQUESTS.merge(block.requests)
        if block.trouble is not None:
            self._inbox.close()
            return block.trouble
        self._inbox.put(unit, number, block.clips)
        return None

    def teach(self, unit: int, item: WorkItem, blocks: int) -> CacheError | None:
        """Teach a unit as its ``blocks`` decoded blocks arrive."""
        try:
            self._taught[unit] = self._worker.teach(item, self._inbox.clips(unit, blocks))
        except CacheError as error:
            return error
        except InboxClosed:  # `take` has returned the reason
            return None
        finally:
            self._inbox.forget(unit)
        return None

    def write(self, unit: int) -> UnitReport | CacheError:
        """Write a unit that was taught."""
        try:
            report = self._worker.write(self._taught.pop(unit))
        except CacheError as error:
            return error
        return report.model_copy(update={"teacher": self._name})
