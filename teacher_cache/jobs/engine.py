"""What an engine is: units of work in, events out, on however many machines. Found by name among installed packages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.metadata import entry_points
from typing import Protocol, cast

from schemas.clip import Clip
from schemas.errors import BadInput, CouldNotRun
from schemas.event import EngineEvent
from schemas.job import Job
from schemas.ledger import WorkItem
from schemas.report import PilotReport
from teacher_cache.io.stop import Stop
from teacher_cache.jobs.unit_worker import WorkerSpec

GROUP = "teacher_cache.engines"


class Engine(Protocol):
    """Repeats `teacher_cache.jobs.unit_worker.UnitWorker`'s steps over units. Units are independent and safe to repeat."""

    def run(self, spec: WorkerSpec, items: Sequence[WorkItem], stop: Stop) -> Iterator[EngineEvent]:
        """Do every item, in any order; a `UnitReport` for each as it is done. Raises what a worker raises.

        Told to ``stop``, it begins nothing more, finishes what is in work within ``engine.grace_seconds``, and ends.
        """

    def pilot(self, job: Job, clips: tuple[Clip, ...]) -> PilotReport:
        """`teacher_cache.jobs.pilot.pilot`, where a teacher of this job would be. Writes nothing to the job's store."""


def engine(kind: str) -> Engine:
    """The engine of that name. Raises `BadInput` for an unknown one, `CouldNotRun` for one that cannot be loaded."""
    known = {entry.name: entry for entry in entry_points(group=GROUP)}
    if kind not in known:
        raise BadInput(f"no engine is called {kind!r}; installed here: {', '.join(sorted(known)) or 'none'}")
    try:
        return cast("Engine", known[kind].load()())
    except (ImportError, AttributeError) as error:
        if isinstance(error, ModuleNotFoundError):  # told with the extra that brings it
            raise
        raise CouldNotRun(
            f"the engine {kind!r} cannot be loaded: {error}. Install the package that offers it again."
        ) from error
