"""A job from beginning to end: plan, make ready, work, report. The same command begins, goes on, and finds all done."""

from __future__ import annotations

import time

from schemas.job import Job
from schemas.report import RunReport, StageSeconds
from teacher_cache.clips.windows import Candidate
from teacher_cache.engine import engine
from teacher_cache.plan import JobFacts, Progress, failed_ids, find_candidates, look_at, new_clips, no_progress, work_left
from teacher_cache.store.catalog import Catalog
from teacher_cache.store.store import Store, add_clips, add_parts, create_store, find_store, lengthen, require_recipe, status
from teacher_cache.work import WorkerSpec


def run_job(job: Job, *, retry_failed: bool = False, progress: Progress = no_progress) -> RunReport:
    """Run a job to its end. Raises `schemas.errors.CacheError`; what is committed by then stays committed."""
    start = time.perf_counter()
    workers = engine(job.engine.kind)
    facts = look_at(job, progress)
    store, catalog, clips = _made_ready(job, facts, progress, retry_failed=retry_failed)
    items = work_left(facts.recipe, catalog, store.ledger(), facts.parts, [c.clip_id for c in clips])
    left = sum(len(item.clips) + len(item.settled) for item in items)
    stages = dict.fromkeys(StageSeconds.model_fields, 0.0)
    if items:
        with progress("teaching", left, "clips") as advance:
            for report in workers.run(WorkerSpec(store=job.store, teacher=job.teacher, engine=job.engine), items):
                advance(report.committed + report.failed)
                for stage, seconds in report.seconds.model_dump().items():
                    stages[stage] += seconds
    state = status(store)
    return RunReport(
        **state.model_dump(),
        done_before=len(clips) - left,
        wall_seconds=time.perf_counter() - start,
        stage_seconds=StageSeconds(**stages),
    )


def _made_ready(
    job: Job, facts: JobFacts, progress: Progress, *, retry_failed: bool
) -> tuple[Store, Catalog, tuple[Candidate, ...]]:
    """The store with a row for every clip of the job and an array for every part."""
    found = find_store(job.store)
    if found is not None:
        require_recipe(found, facts.recipe)
    store = create_store(job.store, facts.recipe)
    retry = failed_ids(store.catalog(), store.ledger(), store.parts) if retry_failed else set()
    clips = find_candidates(job, facts, store.catalog(), retry, progress)
    catalog = add_clips(store, lambda current: new_clips(clips, current, facts.recipe, retry))
    add_parts(store, facts.parts, facts.shapes, catalog.rows)
    lengthen(store, catalog.rows)
    # Parts are looked up once for each Store, and these were just made.
    return Store(store.objects, store.recipe), catalog, clips
