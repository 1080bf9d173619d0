"""A job in, a report out: plan, prepare the store, run the engine. The same call starts a job, resumes it, or finds it done."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator

from schemas.errors import CouldNotRun, Stopped
from schemas.event import EngineEvent, Event, RunFinished, RunStarted
from schemas.job import Job
from schemas.report import FailedClip, JobRequests, Requests, RunReport, StageSeconds, UnitReport
from teacher_cache.io.progress import Progress, no_progress
from teacher_cache.io.request_counts import VIDEO_REQUESTS
from teacher_cache.io.stop import Stop, stop_on_sigterm
from teacher_cache.jobs.discovery import JobFacts, discover, find_clips
from teacher_cache.jobs.engine import Engine, engine
from teacher_cache.jobs.estimate import hours
from teacher_cache.jobs.unit_worker import UnitWorker, WorkerSpec
from teacher_cache.jobs.work_list import WorkLeft, new_rows, rows_of, rows_to_redo, state_of
from teacher_cache.store.repair import retire_damaged
from teacher_cache.store.store import (
    Store,
    add_clips,
    add_parts,
    bytes_by_signal,
    create_store,
    find_store,
    lengthen,
    require_recipe,
    settle_ledger,
    status,
    tend_ledger,
)

Listener = Callable[[Event], None]


def _nobody(_: Event) -> None:
    pass


def run_job(
    job: Job,
    *,
    retry_failed: bool = False,
    repair: bool = False,
    progress: Progress = no_progress,
    listen: Listener = _nobody,
) -> RunReport:
    """Run a job to its end. Raises `schemas.errors.CacheError`; whatever is committed by then stays committed.

    ``retry_failed`` also teaches clips again that failed before. ``repair`` verifies the store first and teaches damaged clips
    again. ``listen`` is called with every event of the run as it happens; ``progress`` shows the steps before teaching.
    """
    start = time.perf_counter()
    VIDEO_REQUESTS.take()
    workers = engine(job.engine.kind)
    spec = WorkerSpec(store=job.store, storage_options=job.storage_options, teacher=job.teacher, engine=job.engine)
    facts = discover(job)
    repaired = Requests()
    if repair and (found := find_store(job.store, job.storage_options)) is not None:
        require_recipe(found, facts.recipe)
        if retire_damaged(found, facts.shapes, progress):
            UnitWorker(spec).close()  # the first thing a worker does is to store its teacher's heads
        repaired = found.objects.take_requests()
    store, left, done_before, asked = _made_ready(job, facts, progress, retry_failed=retry_failed)
    asked, of_videos = asked + repaired, VIDEO_REQUESTS.take()
    listen(
        RunStarted(
            store=job.store,
            fingerprint=facts.recipe.fingerprint,
            clips=left.rows,
            units=len(left),
            done_before=done_before,
        )
    )
    stages = dict.fromkeys(StageSeconds.model_fields, 0.0)
    failures = _Failures(job.engine.max_failed_share)
    with stop_on_sigterm() as stop:
        units = 0
        for event in _worked(workers, spec, store, left, stop):
            listen(event)
            if isinstance(event, UnitReport):
                units += 1
                for stage, seconds in event.seconds.model_dump().items():
                    stages[stage] += seconds
                asked, of_videos = asked + event.requests, of_videos + event.video_requests
                failures.add(event)
        if units < len(left):
            raise Stopped(
                f"stopped by {stop.reason} with {units} of {len(left)} units committed; the same command goes on from there"
            )
    state = status(store)
    wall_seconds = time.perf_counter() - start
    listen(RunFinished(clips=state.clips, wall_seconds=wall_seconds))
    before = bytes_by_signal(left.ledger, facts.signals)
    stage_seconds = StageSeconds(**stages)
    return RunReport(
        **state.model_dump(),
        done_before=done_before,
        wall_seconds=wall_seconds,
        stage_seconds=stage_seconds,
        bytes_added={signal: state.bytes[signal] - size for signal, size in before.items()},
        requests=JobRequests(store=asked + store.objects.take_requests(), videos=of_videos + VIDEO_REQUESTS.take()),
        hours=hours(stage_seconds, job.engine),
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


def _made_ready(job: Job, facts: JobFacts, progress: Progress, *, retry_failed: bool) -> tuple[Store, WorkLeft, int, Requests]:
    """The store with a row per clip and the arrays of each part, the work left, the number of clips already done, and requests.

    The requests are those that other connections than the returned store's have sent.
    """
    found, catalog, ledger = state_of(job.store, facts.recipe, job.storage_options)
    again = rows_to_redo(catalog, ledger, () if found is None else found.parts, retry_failed=retry_failed)
    clips = find_clips(job, facts, catalog, again, progress)
    # Created only now, so that a job whose videos cannot be reached leaves nothing behind.
    store = create_store(job.store, facts.recipe, job.storage_options)
    catalog = add_clips(store, catalog, lambda current: new_rows(clips, current, facts.recipe, again))
    add_parts(store, facts.parts, facts.shapes, catalog.rows)
    lengthen(store, catalog.rows)
    left = WorkLeft(facts.recipe, catalog, ledger, facts.parts, rows_of(clips, catalog))
    # A Store caches its parts, and these were just created.
    asked = Requests(get=1) if found is None else found.objects.take_requests()
    return Store(store.objects, store.recipe), left, clips.num_rows - left.rows, asked


def _worked(workers: Engine, spec: WorkerSpec, store: Store, left: WorkLeft, stop: Stop) -> Iterator[EngineEvent]:
    """The engine's events. Closes and binds ledger volumes as they grow long."""
    volume, entries = left.ledger.open_volume, left.ledger.open_entries
    spec = spec.model_copy(update={"ledger_volume": volume})
    # A killed run may have left the volume too long, or closed but not bound.
    if settle_ledger(store, volume) or tend_ledger(store, volume, entries, done=False):
        volume, entries = volume + 1, 0
    for event in workers.run(spec, left, stop) if left else ():
        if (
            isinstance(event, UnitReport) and not event.already_done
        ):  # an entry that others committed may be in an earlier volume
            entries += 1
            if tend_ledger(store, volume, entries, done=False):
                volume, entries = volume + 1, 0
        yield event
    tend_ledger(store, volume, entries, done=True)
