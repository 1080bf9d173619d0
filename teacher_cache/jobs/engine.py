"""The engine interface: units of work in, events out, on one machine or many. Engines are found by entry point."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.metadata import entry_points
from typing import Protocol, cast

from schemas.errors import BadInput, CouldNotRun
from schemas.event import EngineEvent
from schemas.log import WorkItem
from teacher_cache.io.stop import Stop
from teacher_cache.jobs.unit_worker import WorkerSpec

GROUP = "teacher_cache.engines"


class Engine(Protocol):
    """Runs `teacher_cache.jobs.unit_worker.UnitWorker` over units of work. Units are independent and idempotent."""

    def run(self, spec: WorkerSpec, items: Sequence[WorkItem], stop: Stop) -> Iterator[EngineEvent | None]:
        """Do every item, in any order, and yield the `UnitReport` of each as it is written. Raises what a worker raises.

        The caller commits written units, and says so between events: while there is none, yield None every second or so.
        Once ``stop`` is set, it starts no unit, finishes those in progress within ``engine.grace_seconds``, and returns.
        """


def engine(kind: str) -> Engine:
    """The engine of that name. Raises `BadInput` if it is unknown, `CouldNotRun` if it cannot be loaded."""
    known = {entry.name: entry for entry in entry_points(group=GROUP)}
    if kind not in known:
        raise BadInput(f"no engine is called {kind!r}; installed here: {', '.join(sorted(known)) or 'none'}")
    try:
        return cast("Engine", known[kind].load()())
    except (ImportError, AttributeError) as error:
        if isinstance(error, ModuleNotFoundError):  # reported with the extra to install
            raise
        raise CouldNotRun(
            f"the engine {kind!r} cannot be loaded: {error}. Install the package that offers it again."
        ) from error
