"""What the cluster offers in; how many teachers to ask for, how many units may be decoded, and how long to wait, out."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping

import ray

from schemas.errors import CouldNotRun
from schemas.event import EngineEvent, Waiting
from schemas.job import EngineJob
from schemas.recipe import Recipe
from teacher_cache.jobs.memory import WorkerBytes, units_at_once

_RESOURCES_SECONDS = 2
"""How often to ask Ray for the cluster's resources."""
_SAY_SECONDS = 30
"""How often to report what the run waits for."""
_STORE_SHARE = 0.4
"""Share of Ray's object store that decoded frames may take."""


class Room:
    """What the cluster has room for. It may grow and shrink, so `look` asks again every few seconds."""

    def __init__(self, engine: EngineJob, recipe: Recipe) -> None:
        clips = recipe.clips
        self._engine = engine
        self._unit_bytes = recipe.layout.clips_per_shard * clips.frames * clips.size**2 * 3
        self._looked = -math.inf
        self._resources: dict[str, float] = {}
        self.nodes: frozenset[str] = frozenset()
        """Ray's ids of the nodes that are alive."""

    def look(self) -> bool:
        """Ask Ray, if that was not done just now. Returns whether it was asked."""
        if time.monotonic() - self._looked <= _RESOURCES_SECONDS:
            return False
        self._resources, self._looked = ray.cluster_resources(), time.monotonic()
        self.nodes = frozenset(node["NodeID"] for node in ray.nodes() if node["Alive"])
        return True

    @property
    def teachers(self) -> int:
        """How many teachers to ask for: as many as leave one core to decode, unless decoders have their own nodes."""
        engine = self._engine
        if engine.decoder_resources:
            return engine.teachers
        fit = math.floor((self._resources.get("CPU", 0.0) - 1) / engine.cpus_per_teacher)
        return max(engine.min_teachers, min(engine.teachers, fit))

    def units(self, teachers: int) -> int:
        """How many units may have decoded clips in the object store: those that each teacher works on, and the next ones."""
        engine = self._engine
        wanted = teachers * (units_at_once(engine) + engine.decoders)
        fit = math.floor(_STORE_SHARE * self._resources.get("object_store_memory", math.inf) / self._unit_bytes)
        return max(1, min(wanted, fit))


class Patience:
    """How long a run waits for enough teachers, or for anything to happen."""

    def __init__(self, engine: EngineJob, needed: WorkerBytes) -> None:
        self._engine, self._needed = engine, needed
        self._short_since: float | None = None
        self._last = self._said = time.monotonic()

    def something_happened(self) -> None:
        self._last = time.monotonic()

    def events(self, teachers: int) -> Iterator[EngineEvent]:
        """Yields `Waiting` every `_SAY_SECONDS` of a wait. Raises `CouldNotRun` once a wait has lasted too long."""
        now, engine = time.monotonic(), self._engine
        if teachers >= engine.min_teachers:
            self._short_since = None
        elif self._short_since is None:
            self._short_since = now
        short = 0.0 if self._short_since is None else now - self._short_since
        idle = now - self._last
        each = f"each needs {needs(engine, self._needed)}"
        if short > engine.start_timeout_seconds:
            raise CouldNotRun(
                f"Ray had room for {teachers} of at least {engine.min_teachers} teachers in {short:.0f} s; {each}. Add nodes "
                "that offer this, ask for less, or raise engine.start_timeout_seconds."
            )
        if idle > engine.start_timeout_seconds + engine.decode_timeout_seconds:
            raise CouldNotRun(
                f"no progress for {idle:.0f} s with {teachers} teachers running. A decoder needs one free core"
                f"{_custom(engine.decoder_resources)}: see `ray status`, and add nodes or lower engine.cpus_per_teacher."
            )
        if max(short, idle) > _SAY_SECONDS and now - self._said > _SAY_SECONDS:
            self._said = now
            yield Waiting(teachers=teachers, detail=f"Ray has placed {teachers} of {engine.teachers} teachers; {each}")


def needs(engine: EngineJob, needed: WorkerBytes) -> str:
    gpus = f"{engine.gpus_per_teacher:g} GPUs, " if engine.gpus_per_teacher else ""
    memory = f"{needed.host / 1e9:.1f} GB of memory"
    return f"{gpus}{engine.cpus_per_teacher:g} cores, {memory}{_custom(engine.teacher_resources)}"


def _custom(resources: Mapping[str, float]) -> str:
    return "".join(f" and {amount:g} of {name!r}" for name, amount in resources.items())
