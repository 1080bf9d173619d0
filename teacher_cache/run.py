"""A job from beginning to end: plan, make ready, work, report. The same command begins, goes on, and finds all done."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from schemas.event import EngineEvent, Event, RunFinished, RunStarted
from schemas.job import Job
from schemas.report import RunReport, StageSeconds, UnitReport
from teacher_cache.engine import Engine, engine
from teacher_cache.plan import (
    JobFacts,
    Progress,
    WorkLeft,
    find_clips,
    look_at,
    new_rows,
    no_progress,
    rows_of,
    rows_to_redo,
    state_of,
)
from teacher_cache.repair import retire_damaged
from teacher_cache.store.store import (
    Store,
    add_clips,
    add_parts,
    create_store,
    find_store,
    lengthen,
    require_recipe,
    settle_ledger,
    status,
    tend_ledger,
)
from teacher_cache.work import Worker, WorkerSpec

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
    """Run a job to its end. Raises `schemas.errors.CacheError`; what is committed by then stays committed.

    ``repair`` verifies the store first, and teaches every clip again that damage has hit. ``listen`` is told of every event
    of the teaching, as it happens.
    """
    start = time.perf_counter()
    workers = engine(job.engine.kind)
    spec = WorkerSpec(store=job.store, teacher=job.teacher, engine=job.engine)
    facts = look_at(job)
    if repair and (found := find_store(job.store)) is not None:
        require_recipe(found, facts.recipe)
        if retire_damaged(found, facts.shapes, progress):
            Worker(spec).close()  # a worker keeps its teacher's heads in the store, before all else
    store, left, done_before = _made_ready(job, facts, progress, retry_failed=retry_failed)
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
    with (progress if left else no_progress)("teaching", left.rows, "clips") as advance:
        for event in _worked(workers, spec, store, left):
            listen(event)
            if isinstance(event, UnitReport):
                advance(event.committed + event.failed)
                for stage, seconds in event.seconds.model_dump().items():
                    stages[stage] += seconds
    state = status(store)
    wall_seconds = time.perf_counter() - start
    listen(RunFinished(clips=state.clips, wall_seconds=wall_seconds))
    return RunReport(
        **state.model_dump(), done_before=done_before, wall_seconds=wall_seconds, stage_seconds=StageSeconds(**stages)
    )


def _made_ready(job: Job, facts: JobFacts, progress: Progress, *, retry_failed: bool) -> tuple[Store, WorkLeft, int]:
    """The store with a row for each clip of the job and an array for each part; the work left; how many clips have none."""
    found, catalog, ledger = state_of(job.store, facts.recipe)
    again = rows_to_redo(catalog, ledger, () if found is None else found.parts, retry_failed=retry_failed)
    clips = find_clips(job, facts, catalog, again, progress)
    # Only now: a job whose videos cannot be reached leaves nothing behind.
    store = create_store(job.store, facts.recipe)
    catalog = add_clips(store, catalog, lambda current: new_rows(clips, current, facts.recipe, again))
    add_parts(store, facts.parts, facts.shapes, catalog.rows)
    lengthen(store, catalog.rows)
    left = WorkLeft(facts.recipe, catalog, ledger, facts.parts, rows_of(clips, catalog))
    # Parts are looked up once for each Store, and these were just made.
    return Store(store.objects, store.recipe), left, clips.num_rows - left.rows


def _worked(workers: Engine, spec: WorkerSpec, store: Store, left: WorkLeft) -> Iterator[EngineEvent]:
    """The engine's events; the ledger is kept short on the way."""
    volume, entries = left.ledger.open_volume, left.ledger.open_entries
    spec = spec.model_copy(update={"ledger_volume": volume})
    # A run that was killed may have left the volume longer than it should be, or closed and not bound.
    if settle_ledger(store, volume) or tend_ledger(store, volume, entries, done=False):
        volume, entries = volume + 1, 0
    for event in workers.run(spec, left) if left else ():
        if isinstance(event, UnitReport):
            entries += 1
            if tend_ledger(store, volume, entries, done=False):
                volume, entries = volume + 1, 0
        yield event
    tend_ledger(store, volume, entries, done=True)
