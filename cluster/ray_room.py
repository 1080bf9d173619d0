"""What the cluster offers in; how many teachers to ask for, how many units may be decoded, and how long to wait, out."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from ray.autoscaler.sdk import request_resources

from cluster.ray_head import Told
from schemas.errors import CouldNotRun
from schemas.event import EngineEvent, Waiting
from schemas.job import EngineJob
from teacher_cache.jobs.advice import DECODER_GPUS
from teacher_cache.jobs.memory import WorkerBytes, gigabytes, units_at_once

_SAY_SECONDS = 30
"""How often to report what the run waits for."""
_STORE_SHARE = 0.4
"""Share of Ray's object store that decoded frames may take."""


class Room:
    """What the cluster has room for, as its head last told. It may grow and shrink."""

    def __init__(self, engine: EngineJob, unit_bytes: int, needed: WorkerBytes) -> None:
        """``unit_bytes``: of the decoded clips of one unit."""
        self._engine = engine
        self._each = {
            "CPU": engine.cpus_per_teacher,
            "GPU": engine.gpus_per_teacher,
            "memory": needed.host,
            **engine.teacher_resources,
        }
        """What one teacher asks of Ray."""
        self._requested = 0
        self._unit_bytes = unit_bytes
        self._told = Told()

    def look(self, told: Told) -> None:
        self._told = told

    @property
    def nodes(self) -> frozenset[str]:
        """Ray's ids of the nodes that were alive when Ray was last asked."""
        return frozenset(self._told.offers)

    @property
    def _decoders_have_room(self) -> bool:
        """Whether there is a core for them that teachers cannot take, however many there are."""
        return bool(self._engine.decoder_resources) or any(
            self._cores_beside_teachers(node) >= 1 for node in self._told.offers.values()
        )

    def _cores_beside_teachers(self, node: Mapping[str, float]) -> float:
        engine, cores = self._engine, node.get("CPU", 0.0)
        teachers = min(node.get(name, 0.0) // amount for name, amount in self._each.items() if amount)
        return cores - teachers * engine.cpus_per_teacher

    @property
    def teachers(self) -> int:
        """How many teachers to create: all, so that an autoscaler sees what is wanted, if decoding keeps a core.

        Where teachers could take every core, so many as leave one; of the others `request` tells the autoscaler.
        """
        engine = self._engine
        if self._decoders_have_room:
            return engine.teachers
        fit = math.floor((self._told.cores - 1) / engine.cpus_per_teacher)
        return max(engine.min_teachers, min(engine.teachers, fit))

    def request(self, teachers: int) -> None:
        """Ask an autoscaler for room for that many teachers and a decoder, whatever waits in Ray's queue; 0 takes it back.

        A cluster has one such request: with several jobs on it, the one that asked last has its way, and the queue tells of
        the others. Without an autoscaler, nobody reads it.
        """
        if teachers == self._requested:
            return
        self._requested = teachers
        decoder = {"CPU": 1, "GPU": DECODER_GPUS * (self._engine.decode_device == "cuda"), **self._engine.decoder_resources}
        wanted = [self._each] * teachers + [decoder] if teachers else []
        request_resources(bundles=[{name: amount for name, amount in one.items() if amount} for one in wanted])

    def crew(self, teachers: int, placed: int) -> int:
        """For how many teachers to decode: those that have a place and, at least, one to come.

        Where decoders have nodes of their own, for all: those nodes are to be asked for while teachers wait for theirs.
        """
        return teachers if self._engine.decoder_resources else min(teachers, max(placed, 1))

    def units(self, teachers: int, places: Iterable[str]) -> int:
        """How many units may have decoded clips in the object store: those that each teacher works on, and the next ones.

        They lie where they were decoded. Each node decodes as much as it has cores that no teacher holds, so the one with the
        least memory for each of these is full first. ``places``: the nodes of the teachers that have one. Ray fills nodes to
        half before it spreads tasks, so a node may have twice its part, for which the share leaves room.
        """
        engine, cores = self._engine, decoder_cores(self._told.offers, self._engine, places)
        wanted = teachers * (units_at_once(engine) + engine.decoders)
        stores = {name: self._told.offers[name].get("object_store_memory", math.inf) for name in cores}
        least = min((stores[name] / free for name, free in cores.items()), default=math.inf)
        fit = math.inf if math.isinf(least) else _STORE_SHARE * sum(cores.values()) * least // self._unit_bytes
        return max(1, int(min(wanted, fit)))

    def decoding(self, places: Iterable[str]) -> frozenset[str]:
        """Ray's ids of the nodes where decoders have room. ``places`` as above."""
        return frozenset(decoder_cores(self._told.offers, self._engine, places))


def decoder_cores(
    offers: Mapping[str, Mapping[str, float]], engine: EngineJob, teachers: Iterable[str] = ()
) -> dict[str, float]:
    """Node → cores for decoders that no teacher holds, for each that has one. ``teachers``: the node of each that has one."""
    held = Counter(teachers)
    free = {name: node.get("CPU", 0.0) - held[name] * engine.cpus_per_teacher for name, node in offers.items()}
    wanted = engine.decoder_resources.items()
    return {name: cores for name, cores in free.items()
            if cores >= 1 and all(offers[name].get(kind, 0.0) >= amount for kind, amount in wanted)}  # fmt: skip


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
        each = f"each needs {_needs(engine, self._needed)}"
        if short > engine.start_timeout_seconds:
            raise CouldNotRun(
                f"Ray had room for {teachers} of at least {engine.min_teachers} teachers in {short:.0f} s; {each}. Add nodes "
                "that offer this, ask for less, or raise engine.start_timeout_seconds."
            )
        if idle > engine.start_timeout_seconds + engine.decode_timeout_seconds:
            raise CouldNotRun(
                f"no progress for {idle:.0f} s with {teachers} teachers running. A decoder needs one free core"
                f"{custom(engine.decoder_resources)}: see `ray status`, and add nodes or lower engine.cpus_per_teacher."
            )
        if max(short, idle) > _SAY_SECONDS and now - self._said > _SAY_SECONDS:
            self._said = now
            yield Waiting(teachers=teachers, detail=f"Ray has placed {teachers} of {engine.teachers} teachers; {each}")


def _needs(engine: EngineJob, needed: WorkerBytes) -> str:
    gpus = f"{engine.gpus_per_teacher:g} GPUs, " if engine.gpus_per_teacher else ""
    memory = f"{gigabytes(needed.host)} of memory"
    return f"{gpus}{engine.cpus_per_teacher:g} cores, {memory}{custom(engine.teacher_resources)}"


def custom(resources: Mapping[str, float]) -> str:
    """What is asked of a node beside cores, GPUs and memory, for the end of a phrase."""
    return "".join(f" and {amount:g} of {name!r}" for name, amount in resources.items())
