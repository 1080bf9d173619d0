"""The Ray engine: a pool of teacher actors that take units until none is left."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

# Before Ray is imported, which reads them once: no usage statistics leave the user's machines, and a worker
# without a GPU share keeps the devices its container gives it.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray

from schemas.errors import CacheError, CouldNotRun
from schemas.job import EngineJob
from schemas.ledger import WorkItem
from schemas.report import UnitReport
from teacher_cache.work import Worker, WorkerSpec

# A machine that dies takes its units with it; each is tried this many times more, on whatever machine Ray finds.
_RETRIES = 3


class _TeacherActor:
    """`Worker` on a Ray node. Errors meant for the user travel as values: Ray would wrap them in its own tracebacks."""

    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec
        self._worker: Worker | None = None

    def run(self, item: WorkItem) -> UnitReport | CacheError:
        try:
            self._worker = self._worker or Worker(self._spec)
            return self._worker.run(item)
        except CacheError as error:
            return error


class RayEngine:
    """Uses the cluster that ``RAY_ADDRESS`` names, or starts Ray on this machine for the length of the job."""

    def run(self, spec: WorkerSpec, items: Sequence[WorkItem]) -> Iterator[UnitReport]:
        with _connected():
            _require_resources(spec.engine)
            actor_class = ray.remote(_TeacherActor).options(
                num_cpus=1, num_gpus=spec.engine.gpus_per_teacher, max_restarts=_RETRIES, max_task_retries=_RETRIES
            )
            actors = [actor_class.remote(spec) for _ in range(min(spec.engine.teachers, len(items)))]
            yield from _results(actors, items)


def _results(actors: Sequence[Any], items: Sequence[WorkItem]) -> Iterator[UnitReport]:
    """Reports in the order they come in. Each actor has one unit in work and one waiting, so that it never idles."""
    waiting = iter(items)
    actor_of: dict[Any, Any] = {}

    def give(actor: Any) -> None:
        item = next(waiting, None)
        if item is not None:
            actor_of[actor.run.remote(item)] = actor

    for actor in [*actors, *actors]:
        give(actor)
    while actor_of:
        ready, _ = ray.wait(list(actor_of), num_returns=1)
        actor = actor_of.pop(ready[0])
        try:
            result = ray.get(ready[0])
        except ray.exceptions.RayActorError as error:
            raise CouldNotRun(
                f"a teacher's process died {_RETRIES + 1} times ({str(error).splitlines()[0]}); memory is the usual cause. "
                "Lower engine.batch or engine.teachers, then run the job again: it goes on from what is committed."
            ) from None
        if isinstance(result, CacheError):
            raise result
        give(actor)
        yield result


@contextmanager
def _connected() -> Iterator[None]:
    if ray.is_initialized():
        yield
        return
    try:
        # The dashboard opens a port; whoever wants it starts Ray themselves.
        is_remote = "RAY_ADDRESS" in os.environ
        ray.init(log_to_driver=False, logging_level="ERROR", **({} if is_remote else {"include_dashboard": False}))
    except (ConnectionError, RuntimeError, ValueError) as error:
        place = os.environ.get("RAY_ADDRESS", "this machine")
        raise CouldNotRun(f"cannot use Ray at {place}: {str(error).splitlines()[0]}") from None
    try:
        yield
    finally:
        ray.shutdown()


def _require_resources(engine: EngineJob) -> None:
    """Refuse what could never start: Ray would wait for the missing GPU without a word."""
    found = ray.cluster_resources().get("GPU", 0.0)
    if "RAY_ADDRESS" not in os.environ and found < engine.gpus_per_teacher:
        raise CouldNotRun(
            f"engine.gpus_per_teacher is {engine.gpus_per_teacher:g}, and Ray finds {found:g} GPUs on this machine; "
            "set it to 0 to teach on the CPU, or RAY_ADDRESS to a cluster that has them"
        )
