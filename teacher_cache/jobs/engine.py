"""The engine interface: units of work in, events out, on one machine or many. Engines are found by entry point."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from importlib.metadata import entry_points
from typing import Protocol, Self, cast, runtime_checkable

from schemas.clip import Segment, VideoInfo
from schemas.errors import BadInput, CouldNotRun, VideoError
from schemas.event import EngineEvent
from schemas.job import EngineJob
from schemas.log import WorkItem
from schemas.recipe import ClipRecipe
from teacher_cache.clips.decoder_pool import DecoderPool, Prober
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


@runtime_checkable
class Probes(Protocol):
    """An `Engine` that counts videos' frames where it decodes them."""

    def prober(self, recipe: ClipRecipe, settings: EngineJob, stop: Stop) -> AbstractContextManager[Prober | None]:
        """What opens videos there; None to have it done on this machine. Raises `CouldNotRun`, and `Stopped` once told to."""


class JobProber:
    """Opens a job's videos by its engine, or else by this machine's cores; begins when it is first asked. A context manager."""

    def __init__(self, recipe: ClipRecipe, settings: EngineJob, stop: Stop) -> None:
        self._recipe, self._settings, self._stop = recipe, settings, stop
        self._stack = ExitStack()
        self._begun: Prober | None = None

    def probe_segments(self, videos: Iterable[tuple[str, Sequence[Segment | None]]]) -> Iterator[list[VideoInfo | VideoError]]:
        """See `Prober`."""
        if self._begun is None:
            by = engine(self._settings.kind)
            recipe, settings = self._recipe, self._settings
            found = self._stack.enter_context(by.prober(recipe, settings, self._stop)) if isinstance(by, Probes) else None
            self._begun = found or self._stack.enter_context(
                DecoderPool(recipe, os.cpu_count() or 1, settings.decode_timeout_seconds)
            )
        return self._begun.probe_segments(videos)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


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
