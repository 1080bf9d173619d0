"""The reference engine: one worker, in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from schemas.clip import Clip
from schemas.job import Job
from schemas.ledger import WorkItem
from schemas.report import PilotReport, UnitReport
from teacher_cache.pilot import pilot
from teacher_cache.work import Worker, WorkerSpec


class LocalEngine:
    """Does the units one after another. Every other engine must end with the same store."""

    def run(self, spec: WorkerSpec, items: Sequence[WorkItem]) -> Iterator[UnitReport]:
        with Worker(spec) as worker:
            for item in items:
                yield worker.run(item)

    def pilot(self, job: Job, clips: tuple[Clip, ...]) -> PilotReport:
        return pilot(job, clips)
