"""The same steps by Ray Data, to be measured beside our engine of actors: decode in actors, teach and write in one's threads.

Ray Data is given the same concurrency: as many units at once in the teacher's process as the other engine has there.

With this folder on PYTHONPATH it is an installed engine: ``engine: {kind: ray_data}``.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from typing import Any

import ray
import ray.data

from cluster.ray_connection import connected
from schemas.event import EngineEvent, TeacherStarted
from schemas.log import WorkItem
from schemas.report import UnitReport
from teacher_cache.clips.decoder import Decoder
from teacher_cache.io.stop import Stop
from teacher_cache.jobs.memory import devices_of
from teacher_cache.jobs.scheduler import Scheduler, decode_span
from teacher_cache.jobs.unit_worker import UnitWorker, WorkerSpec
from teacher_cache.store.store import open_store


class _Decode:
    def __init__(self, recipe: Any, timeout_seconds: float) -> None:
        self._decoder = Decoder(recipe, timeout_seconds)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        item = pickle.loads(row["item"])
        scheduler = Scheduler([item], ahead=1)
        clips = []
        while (span := scheduler.next_span()) is not None:
            clips += [clip for block in decode_span(self._decoder, span) for clip in block]
        return {"unit": pickle.dumps((item, clips), protocol=5)}


class _TeachAndWrite:
    def __init__(self, spec: WorkerSpec) -> None:
        self._worker = UnitWorker(spec)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        item, clips = pickle.loads(row["unit"])
        report = self._worker.write(self._worker.teach(item, iter(clips)))
        return {"report": pickle.dumps(report)}


class RayDataEngine:
    def run(self, spec: WorkerSpec, items: Sequence[WorkItem], stop: Stop) -> Iterator[EngineEvent]:  # noqa: ARG002
        engine, recipe = spec.engine, open_store(spec.store).recipe
        with connected(engine):
            context = ray.data.DataContext.get_current()
            context.enable_progress_bars = False
            units = ray.data.from_items([{"item": pickle.dumps(item)} for item in items], override_num_blocks=len(items))
            decoded = units.map(
                _Decode,
                fn_constructor_args=(recipe.clips, engine.decode_timeout_seconds),
                num_cpus=1,
                concurrency=engine.decoders,
            )
            done = decoded.map(
                _TeachAndWrite,
                fn_constructor_args=(spec,),
                num_cpus=1,
                compute=ray.data.ActorPoolStrategy(
                    size=engine.teachers,
                    max_concurrent_calls_per_actor=devices_of(engine) + 1 + engine.writers,
                    enable_true_multi_threading=True,
                ),
            )
            yield TeacherStarted(teacher="ray data", node="", devices=("cpu",))
            for row in done.iter_rows():
                report: UnitReport = pickle.loads(row["report"])  # JSON leaves out what is to be committed
                yield report
