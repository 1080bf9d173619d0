"""A job in, a report out: plan, prepare the store, run the engine. The same call starts a job, resumes it, or finds it done."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator

from schemas.errors import CouldNotRun
from schemas.event import EngineEvent, Event, Note, RunFinished, RunStarted
from schemas.job import Job
from schemas.report import FailedClip, JobRequests, RunReport, StageSeconds, UnitReport
from schemas.storage import Requests
from teacher_cache.io.progress import Progress, no_progress
from teacher_cache.io.request_counts import VIDEO_REQUESTS
from teacher_cache.io.stop import Stop, stop_on_sigterm
from teacher_cache.jobs.commit import Committer
from teacher_cache.jobs.discovery import discover
from teacher_cache.jobs.engine import Engine, engine
from teacher_cache.jobs.estimate import hours
from teacher_cache.jobs.planner import Planner
from teacher_cache.jobs.portion import ALL, Portion
from teacher_cache.jobs.unit_worker import UnitWorker, WorkerSpec
from teacher_cache.jobs.work_list import WorkLeft
from teacher_cache.store.repair import retire_damaged
from teacher_cache.store.store import (
    Store,
    bytes_by_signal,
    find_store,
    require_recipe,
    status,
)

Listener = Callable[[Event], None]


def _nobody(_: Event) -> None:
    pass


def run_job(
    job: Job,
    *,
    retry_failed: bool = False,
    repair: bool = False,
    portion: Portion = ALL,
    progress: Progress = no_progress,
    listen: Listener = _nobody,
) -> RunReport:
    """Run a job to its end. Raises `schemas.errors.CacheError`; whatever is committed by then stays committed.

    ``retry_failed`` also teaches clips again that failed before. ``repair`` verifies the store first and teaches damaged clips
    again. ``portion``: which of the job's units this run does, and until when. ``listen`` is called with every event of the run
    as it happens; ``progress`` shows the steps before teaching.
    """
    start = time.perf_counter()
    VIDEO_REQUESTS.take()
    workers = engine(job.engine.kind)
    facts = discover(job)
    spec = WorkerSpec(
        store=job.store,
        storage_options=job.storage_options,
        teacher=job.teacher,
        engine=job.engine,
        shapes=facts.wanted_shapes,
    )
    repaired = Requests()
    if repair and (found := find_store(job.store, job.storage_options)) is not None:
        require_recipe(found, facts.recipe)
        if retire_damaged(job.store, progress, job.storage_options):
            UnitWorker(spec).close()  # the first thing a worker does is to store its teacher's heads
        repaired = found.objects.take_requests()
    done = _Done(repaired)
    with (
        stop_on_sigterm() as stop,
        Planner(job, facts, progress, stop, retry_failed=retry_failed, portion=portion) as planner,
    ):
        portion.bound(stop, job.engine.grace_seconds)
        store, all_left = planner.first()
        done_before = rows_left = rows_done = 0
        before = bytes_by_signal(store.state, facts.signals)
        done.of_videos = VIDEO_REQUESTS.take()
        left: WorkLeft | None = all_left
        while left is not None:
            all_left = left
            done_before = planner.clips - all_left.rows_of_job - rows_done
            left = all_left if portion.is_all else all_left.of(portion.after(done.committed + done.failed))
            listen(
                RunStarted(
                    store=job.store,
                    fingerprint=facts.recipe.fingerprint,
                    clips=left.rows,
                    units=len(left),
                    done_before=done_before,
                )
            )
            for note in () if done.units else (*facts.notes, *planner.notes):
                listen(Note(text=note))
            units_before = done.units
            for event in _worked(workers, spec.lacking(left.lacking), store, left, stop):
                listen(event)
                if isinstance(event, UnitReport):
                    done.add(event, listen)
            if (units := done.units - units_before) < len(left):
                raise stop.error(f"with {units} of {len(left)} units committed")
            rows_left, rows_done = all_left.rows_of_job - left.rows_of_job, rows_done + left.rows_of_job
            left = planner.next(store)
    state = status(store)
    wall_seconds = time.perf_counter() - start
    listen(RunFinished(clips=state.clips, wall_seconds=wall_seconds))
    stage_seconds = StageSeconds(**done.stages)
    asked = done.asked + planner.requests + store.objects.take_requests()
    return RunReport(
        **state.model_dump(),
        done_before=done_before,
        committed=done.committed,
        failed=done.failed,
        left=rows_left,
        ok=done.failed <= job.engine.ok_failed_share * (done.committed + done.failed),
        wall_seconds=wall_seconds,
        stage_seconds=stage_seconds,
        bytes_added={signal: state.bytes[signal] - size for signal, size in before.items()},
        requests=JobRequests(store=asked, videos=done.of_videos + VIDEO_REQUESTS.take()),
        hours=hours(stage_seconds, job.engine),
        notes=(*facts.notes, *planner.notes),
    )


class _Done:
    """Adds up the units of a run."""

    def __init__(self, asked: Requests) -> None:
        self.units = self.committed = self.failed = 0
        self._is_twice = False
        self.stages = dict.fromkeys(StageSeconds.model_fields, 0.0)
        self.asked, self.of_videos = asked, Requests()

    def add(self, unit: UnitReport, listen: Listener) -> None:
        """Add a unit; say so if another run has done it."""
        self.units += 1
        if not unit.already_done:
            self.committed, self.failed = self.committed + unit.committed, self.failed + len(unit.failures)
        elif not self._is_twice:
            self._is_twice = True
            listen(Note(text=_TWICE.format(unit=unit.unit)))
        for stage, seconds in unit.seconds.model_dump().items():
            self.stages[stage] += seconds
        self.asked, self.of_videos = self.asked + unit.requests, self.of_videos + unit.video_requests


_TWICE = (
    "another run of this job had committed unit {unit} before this one, so both teach the same clips: the store is right, and "
    "the work is done twice; end one of them, or let each do a part with --shard"
)

# This few failures say nothing about the other clips.
_FAILURES_ALLOWED = 20


class _Failures:
    """Counts a run's failed clips and stops the run if there are too many."""

    def __init__(self, most: float) -> None:
        self._most = most
        self._tried = 0
        self._reasons: Counter[str] = Counter()
        self._examples: dict[str, FailedClip] = {}

    def add(self, report: UnitReport) -> None:
        """Count a unit. Raises `CouldNotRun` if a larger share of clips has failed than ``engine.max_failed_share``."""
        self._tried += report.committed + len(report.failures)
        for clip in report.failures:
            self._reasons[clip.reason] += 1
            self._examples.setdefault(clip.reason, clip)
        failed = self._reasons.total()
        if failed > _FAILURES_ALLOWED and failed > self._most * self._tried:
            raise CouldNotRun(
                f"{failed} of the {self._tried} clips tried so far failed, more than engine.max_failed_share allows "
                f"({self._most:g}):\n{self._counted()}\n"
                "Fix what they have in common, or raise engine.max_failed_share; then run the job again: it goes on from what "
                "is committed, and with --retry-failed it tries these clips again."
            )

    def _counted(self) -> str:
        lines = []
        for reason, count in self._reasons.most_common():
            example = self._examples[reason]
            lines.append(f"  {count} {reason}, such as {example.clip_id!r}: {example.detail}")
        return "\n".join(lines)


def _worked(workers: Engine, spec: WorkerSpec, store: Store, left: WorkLeft, stop: Stop) -> Iterator[EngineEvent]:
    """The engine's events; those of units as soon as they are committed.

    Failures count at once, so that too many stop the teachers before the units are committed.
    """
    if not left or stop.is_set:  # out of time before a teacher is loaded
        store.log.make_checkpoint(at_end=True)
        return
    failures = _Failures(spec.engine.max_failed_share)
    with Committer(store, left.catalog.parts) as committer:
        for event in workers.run(spec, left, stop):
            if isinstance(event, UnitReport):
                committer.add(event)
                failures.add(event)
            elif event is not None:
                yield event
            yield from committer.done()
        committer.close()
        yield from committer.done()
