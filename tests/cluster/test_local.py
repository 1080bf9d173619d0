"""The local engine's threads: how much of a run lies in memory at once, whatever is slow."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Jobs

from cluster import local
from cluster.local import LocalEngine
from schemas.errors import VideoError
from schemas.event import EngineEvent
from schemas.job import Job
from schemas.log import WorkItem
from schemas.report import UnitReport
from teacher_cache.clips.video import DecodedClip
from teacher_cache.io.stop import Stop
from teacher_cache.jobs.discovery import discover, find_clips
from teacher_cache.jobs.unit_worker import TaughtUnit, UnitWorker, WorkerSpec
from teacher_cache.jobs.work_list import WorkLeft, new_rows, rows_of
from teacher_cache.store.store import add_clips, add_parts, create_store

UNITS = 12


class Gated(UnitWorker):
    """A worker whose store is slow: it writes nothing until the gate opens."""

    gate = threading.Event()
    waiting = 0
    """Units that are taught and not written."""
    taught = 0
    most = 0
    _count = threading.Lock()

    def teach(self, item: WorkItem, decoded: Iterator[DecodedClip | VideoError]) -> TaughtUnit:
        unit = super().teach(item, decoded)
        self._counted(1)
        return unit

    def write(self, unit: TaughtUnit) -> UnitReport:
        assert self.gate.wait(60)
        try:
            return super().write(unit)
        finally:
            self._counted(-1)

    def _counted(self, change: int) -> None:
        with self._count:
            Gated.waiting += change
            Gated.taught += change > 0
            Gated.most = max(Gated.most, Gated.waiting)


@pytest.mark.parametrize("writers", [1, 3])
def test_a_slow_store_holds_up_teaching(
    jobs: Jobs, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writers: int
) -> None:
    """Taught units wait for no more than the writers, and one for each thread that teaches: what the memory is planned for."""
    lines = [{"uri": str(videos / f"scene-{number % 4}.mp4"), "id": str(number)} for number in range(UNITS)]
    (tmp_path / "videos.jsonl").write_text("\n".join(map(json.dumps, lines)))
    engine = {"kind": "local", "batch": 1, "writers": writers, "decoders": 1, "threads_per_teacher": 1}
    source = {"manifest": str(tmp_path / "videos.jsonl")}
    value = jobs.value(tmp_path / "store", videos=source, signals=["camray"], layout={"clips_per_shard": 1}, engine=engine)
    job = Job.model_validate(value)
    facts = discover(job)
    store = create_store(job.store, facts.recipe, "test")
    (clips,) = find_clips(job, facts, store.catalog())
    catalog = add_clips(store, store.catalog(), lambda current: new_rows(clips, current, facts.recipe), "test")
    add_parts(store, facts.parts, facts.shapes, catalog.rows, "test")
    items = [*WorkLeft(facts.recipe, catalog, store.state, facts.parts, rows_of(clips["clip_key"].to_numpy(), catalog))]
    assert len(items) == UNITS

    for name, fresh in {"gate": threading.Event(), "waiting": 0, "taught": 0, "most": 0}.items():
        monkeypatch.setattr(Gated, name, fresh)
    monkeypatch.setattr(local, "UnitWorker", Gated)
    events: list[EngineEvent | None] = []
    shapes = {signal: facts.shapes[signal] for signal in facts.signals}
    spec = WorkerSpec(store=job.store, teacher=job.teacher, engine=job.engine, shapes=shapes)
    run = threading.Thread(target=lambda: events.extend(LocalEngine().run(spec, items, Stop())))
    run.start()
    room = writers + 2  # a device has two threads that teach
    try:
        deadline = time.monotonic() + 60
        while Gated.taught < room and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)  # in which the rest would be taught, were there room
        assert Gated.taught == room
    finally:
        Gated.gate.set()
        run.join(60)
    assert (Gated.taught, Gated.waiting, Gated.most) == (UNITS, 0, room)
    assert len([event for event in events if isinstance(event, UnitReport)]) == UNITS
