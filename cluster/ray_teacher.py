"""A teacher as a Ray actor: takes units and decoded blocks, teaches, writes, and says how it went."""

from __future__ import annotations

from platform import node

from cluster.ray_decode import DecodedBlock
from schemas.errors import CacheError
from schemas.event import TeacherStarted
from schemas.ledger import WorkItem
from schemas.report import UnitReport
from teacher_cache.io.request_counts import VIDEO_REQUESTS
from teacher_cache.jobs.scheduler import Inbox, InboxClosed
from teacher_cache.jobs.unit_worker import TaughtUnit, UnitWorker, WorkerSpec


class TeacherActor:
    """`UnitWorker` on a Ray node; its methods run beside each other, in threads.

    Errors meant for the user travel as values: Ray would wrap them in its own tracebacks.
    """

    def __init__(self, spec: WorkerSpec, name: str) -> None:
        self._spec, self._name = spec, name
        self._inbox = Inbox()
        self._taught: dict[int, TaughtUnit] = {}

    def start(self) -> TeacherStarted | CacheError:
        """Load the teacher. Comes before all else."""
        try:
            self._worker = UnitWorker(self._spec)
        except CacheError as error:
            return error
        return TeacherStarted(teacher=self._name, node=node(), devices=self._worker.devices)

    def take(self, unit: int, number: int, block: DecodedBlock) -> CacheError | None:
        """A decoded block of a unit that this teacher has, or will have."""
        VIDEO_REQUESTS.merge(block.requests)
        if block.trouble is not None:
            self._inbox.close()
            return block.trouble
        self._inbox.put(unit, number, block.clips)
        return None

    def teach(self, unit: int, item: WorkItem, blocks: int) -> CacheError | None:
        """Teach a unit of so many blocks, as they come."""
        try:
            self._taught[unit] = self._worker.teach(item, self._inbox.clips(unit, blocks))
        except CacheError as error:
            return error
        except InboxClosed:  # `take` has said why
            return None
        finally:
            self._inbox.forget(unit)
        return None

    def write(self, unit: int) -> UnitReport | CacheError:
        """Write and commit a unit that was taught."""
        try:
            report = self._worker.write(self._taught.pop(unit))
        except CacheError as error:
            return error
        return report.model_copy(update={"teacher": self._name})
