"""A teacher as a Ray actor: units and decoded blocks go in; written units, as reports, come out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from platform import node
from typing import TypeVar

import ray

from cluster.full_disks import NodeFull, as_told
from cluster.ray_decode import DecodedBlock
from cluster.ray_environment import adopt
from schemas.errors import BadInput, CacheError, CouldNotRun, StoreDamaged, TeacherFailed
from schemas.event import TeacherStarted
from schemas.log import WorkItem
from schemas.report import UnitReport
from teacher_cache.io.request_counts import VIDEO_REQUESTS
from teacher_cache.jobs.scheduler import Inbox, InboxClosed
from teacher_cache.jobs.unit_worker import TaughtUnit, UnitWorker, WorkerSpec

Result = TypeVar("Result")


class TeacherActor:
    """A `UnitWorker` on a Ray node. Its methods run concurrently, in threads.

    They return a `CacheError` instead of raising it, because Ray would wrap it in its own traceback. A `TeacherFailed` costs
    this teacher; any other, the run.
    """

    def __init__(self, spec: WorkerSpec, name: str, environment: Mapping[str, str]) -> None:
        """``environment`` is the driver's `shared`."""
        adopt(environment)
        self._spec, self._name = spec, name
        self._inbox = Inbox()
        self._taught: dict[int, TaughtUnit] = {}

    def place(self) -> tuple[str, str]:
        """(Ray's id of this actor's node, its host name)."""
        return ray.get_runtime_context().get_node_id(), node()

    def start(self) -> TeacherStarted | CacheError:
        """Load the teacher. Must return before a unit is given to it."""
        try:
            self._worker = UnitWorker(self._spec)
        except (BadInput, StoreDamaged) as error:  # the same on every node
            return error
        except Exception as error:  # noqa: BLE001  # a driver, a disk or a library of this node, whatever it raises
            return _failed(error)
        return TeacherStarted(teacher=self._name, node=node(), devices=self._worker.devices)

    def take(self, unit: int, number: int, block: DecodedBlock) -> NodeFull | CacheError | None:
        """Receive a decoded block of a unit; it may come before or after the `teach` call for that unit.

        Returns `NodeFull` if it is to be decoded on another node.
        """
        VIDEO_REQUESTS.merge(block.requests)
        if isinstance(block.trouble, NodeFull):
            return block.trouble
        if block.trouble is not None:
            self._inbox.close()
            return block.trouble
        self._inbox.put(unit, number, block.clips)
        return None

    def teach(self, unit: int, item: WorkItem, blocks: int) -> bool | CacheError:
        """Teach a unit as its ``blocks`` decoded blocks arrive. False if it was given back, or if `take` returned an error."""

        def taught() -> bool:
            self._taught[unit] = self._worker.teach(item, self._inbox.clips(unit, blocks))
            return True

        try:
            return _told(taught)
        except InboxClosed:
            return False
        finally:
            self._inbox.forget(unit)

    def give_back(self, units: tuple[int, ...]) -> None:
        """Do not teach those of the units that have not begun; their `teach` returns False."""
        self._inbox.withdraw(units)

    def try_out(self, item: WorkItem) -> NodeFull | CacheError | None:
        """Decode and teach one clip here, and keep nothing of it: to see whether this process outlives it.

        Returns `NodeFull` if its video had no room here.
        """

        def tried() -> None:
            (clip,) = item.clips
            with self._worker.decoder() as decoder:
                self._worker.teach(item, decoder.clips(clip.video, [clip.part]))

        error = _told(tried)
        return error and as_told(error)

    def write(self, unit: int) -> UnitReport | CacheError:
        """Write a unit that was taught."""
        report = _told(lambda: self._worker.write(self._taught.pop(unit)))
        return report if isinstance(report, CacheError) else report.model_copy(update={"teacher": self._name})


def _told(work: Callable[[], Result]) -> Result | CacheError:
    try:
        return work()
    except InboxClosed:
        raise
    except CacheError as error:
        return error
    except Exception as error:  # noqa: BLE001  # as above
        return _failed(error)


def _failed(error: Exception) -> TeacherFailed:
    """Whatever stopped this teacher alone; others may do better."""
    if isinstance(error, TeacherFailed):
        return error
    kind = "" if isinstance(error, CouldNotRun) else f"{type(error).__name__}: "
    return TeacherFailed(f"{kind}{error}")
