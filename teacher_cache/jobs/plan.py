"""A job and a store's state in; reports of the work left and its cost out. Writes nothing."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from schemas.clip import Clip
from schemas.errors import BadInput
from schemas.job import Job
from schemas.log import LONGEST_SEGMENT, PartName
from schemas.report import DiffReport, JobRequests, PilotReport, PlanReport, TeacherMemory
from schemas.storage import Requests, StorageOptions
from teacher_cache.clips.tables import Keys
from teacher_cache.encodings.base import StoredArray
from teacher_cache.io.places import local_path
from teacher_cache.io.progress import Progress, no_progress
from teacher_cache.io.request_counts import VIDEO_REQUESTS
from teacher_cache.io.stop import Stop
from teacher_cache.jobs.discovery import Contents, JobFacts, discover, find_clips
from teacher_cache.jobs.engine import JobProber
from teacher_cache.jobs.estimate import SignalWork, StoreWork, cost, estimate, store_requests, teachers_of
from teacher_cache.jobs.memory import worker_bytes
from teacher_cache.jobs.work_list import WorkLeft, new_rows, rows_of, rows_to_redo, state_of
from teacher_cache.store.catalog import Catalog, store_rows
from teacher_cache.store.layout import stored_arrays
from teacher_cache.store.objects import Objects
from teacher_cache.store.shard import shard_index_length
from teacher_cache.store.state import clip_counts
from teacher_cache.store.store import Store, open_store
from teacher_cache.teachers.registry import family


def diff_report(url: str, job: Job, storage_options: StorageOptions | None = None) -> DiffReport:
    """How the job's recipe differs from the store's, and, if it does not, what the job would add.

    Raises `StoreNotFound`, `BadInput`.
    """
    recipe = open_store(url, storage_options).recipe
    facts = discover(job)
    if differences := recipe.differences(facts.recipe):
        return DiffReport(store=url, differences=differences, new_clips=0, units=0)
    with _scratch() as scratch:
        outlook = _outlook(Objects(url, storage_options), job, facts, scratch, no_progress)
        return DiffReport(store=url, differences={}, new_clips=outlook.new_clips, units=len(outlook.left))


PilotRun = Callable[[Job, tuple[Clip, ...]], PilotReport]
"""Teaches some clips of a job and measures it: `teacher_cache.jobs.pilot.pilot`."""


def plan_report(
    job: Job, progress: Progress = no_progress, *, pilot_clips: int = 0, run_pilot: PilotRun | None = None
) -> PlanReport:
    """What `run` would do with this job now; with a pilot of ``pilot_clips`` clips, also the time, bytes and cost of it.

    Raises `BadInput`, `RecipeMismatch`.
    """
    VIDEO_REQUESTS.take()
    with _scratch() as scratch:
        outlook = _outlook(Objects(job.store, job.storage_options), job, discover(job), scratch, progress)
        pilot = None
        if run_pilot is not None:
            clips = _chosen(outlook.left, pilot_clips)
            with progress("pilot", len(clips), "clips") as advance:
                # A job that only adds some signals does not teach the others again.
                signals = tuple(signal for signal in job.signals if outlook.left.units(signal)) or job.signals
                pilot = run_pilot(job.model_copy(update={"signals": signals}), clips)
                advance(len(clips))
        return _report(job, outlook, pilot)


@contextmanager
def _scratch() -> Iterator[Objects]:
    """A folder on this machine for the tables of rows that a run would add: those of millions take gigabytes in memory."""
    with tempfile.TemporaryDirectory(prefix="teacher-cache-plan-") as folder:
        yield Objects(folder)


@dataclass(frozen=True)
class _Outlook:
    """The state that a job would find, and the work it would do."""

    facts: JobFacts
    is_fetched: bool
    """Whether the videos are elsewhere."""
    store: Store | None
    known: Catalog
    """The store's current catalog."""
    catalog: Catalog
    """The catalog with the job's new rows."""
    new_clips: int
    same_contents: tuple[str, ...]
    """A sentence of clips with the same content, or none."""
    left: WorkLeft
    opened: Requests
    """Requests to read the store's state; a run sends the same."""
    video_requests: Requests
    """Requests to list, digest and probe the videos; a run on another machine sends the same, and one on this probes none."""


def _outlook(place: Objects, job: Job, facts: JobFacts, scratch: Objects, progress: Progress) -> _Outlook:
    """``place``: where the store is, or will be."""
    is_fetched = local_path(facts.videos.table(1)["uri"][0].as_py()) is None
    store, known, state = state_of(place.url, facts.recipe, facts.wanted_shapes, place.options)
    if store is None:
        place.require_bucket()
    again = rows_to_redo(known, state, facts.parts, retry_failed=False)
    catalog, contents, keys, new_clips = known, Contents(), list[Keys](), 0
    with JobProber(facts.recipe.clips, job.engine, Stop()) as prober:
        for clips in find_clips(job, facts, known, again, progress, prober):
            added = new_rows(clips, catalog, facts.recipe, again)
            catalog, _ = store_rows(scratch, catalog, added, facts.recipe.layout.clips_per_shard)
            contents.add(clips)
            keys.append(clips["clip_key"].to_numpy())
            new_clips += added.num_rows
    # One request finds out that there is no store.
    opened = Requests(get=1) if store is None else store.objects.take_requests()
    left = WorkLeft(facts.recipe, catalog, state, facts.parts, rows_of(np.concatenate(keys), catalog))
    return _Outlook(facts, is_fetched, store, known, catalog, new_clips, contents.note(), left, opened, VIDEO_REQUESTS.take())


def _report(job: Job, outlook: _Outlook, pilot: PilotReport | None) -> PlanReport:
    facts, left, store = outlook.facts, outlook.left, outlook.store
    to_do = left.to_teach
    is_fetched = outlook.is_fetched
    # Each video is fetched once, with one GET, for all its clips.
    fetches = len(np.unique(outlook.catalog.video_keys(to_do))) if is_fetched else 0
    work = _store_work(job, outlook)
    memory = worker_bytes(facts.recipe, facts.wanted_shapes, family(job.teacher.family), job.teacher, job.engine)
    requests = JobRequests(store=store_requests(work), videos=outlook.video_requests + Requests(get=fetches))
    billed = requests.videos if local_path(job.store) else requests.store + requests.videos
    used = None
    if pilot is not None:
        index = {
            s: sum(shard_index_length(a, facts.recipe.layout.clips_per_shard) for a in _arrays(facts, s)) for s in facts.signals
        }
        by_signal = {str(s): SignalWork(left.clips(s), left.units(s) * index[s]) for s in facts.signals}
        used = estimate(pilot, len(to_do), by_signal, job.engine)
    return PlanReport(
        store=job.store,
        store_exists=store is not None,
        fingerprint=facts.recipe.fingerprint,
        clips=clip_counts(outlook.catalog.current, left.state, facts.parts),
        videos=facts.videos.num_rows,
        new_clips=outlook.new_clips,
        clips_to_do=len(to_do),
        units=len(left),
        bytes_uncompressed={part: left.clips(part) * _clip_bytes(facts, part) for part in facts.parts},
        objects=work.shards,
        requests=requests,
        memory=TeacherMemory(host=memory.host, device=memory.device),
        pilot=pilot,
        estimate=used,
        cost=cost(job.prices, billed, is_fetched, used),
        currency=job.prices.currency,
        notes=(*facts.notes, *outlook.same_contents),
    )


def _store_work(job: Job, outlook: _Outlook) -> StoreWork:
    facts, store, left = outlook.facts, outlook.store, outlook.left
    found = () if store is None else store.parts
    arrays = {part: len(stored_arrays(facts.recipe, part, facts.shapes)) for part in {*found, *facts.parts}}
    return StoreWork(
        opened=outlook.opened,
        exists=store is not None,
        grows=math.ceil(outlook.new_clips / LONGEST_SEGMENT),
        revises=outlook.catalog.revisions - outlook.known.revisions,
        known_tables=outlook.known.parts,
        arrays=sum(arrays[part] for part in facts.parts),
        arrays_there=sum(arrays[part] for part in facts.parts if part in found),
        others_there=sum(arrays[part] for part in found if part not in facts.parts),
        new_parts=len(set(facts.parts) - set(found)),
        units=len(left),
        shards=sum(left.units(part) * len(_arrays(facts, part)) for part in facts.parts),
        teachers=teachers_of(job.engine, len(left)),
        has_heads="f4d" in facts.shapes,
    )


def _chosen(left: WorkLeft, count: int) -> tuple[Clip, ...]:
    """``count`` of the clips left, one at random from each of ``count`` equal ranges of rows. Raises `BadInput`."""
    rows = left.to_teach
    if not len(rows):
        raise BadInput("the job has no clip left to teach, so there is nothing to measure; plan it without a pilot")
    if not 1 <= count <= len(rows):
        raise BadInput(f"a pilot of {count} clips was asked for; use a number from 1 to {len(rows)}, the clips left to teach")
    edges = np.arange(count + 1) * len(rows) // count
    return tuple(left.catalog.clips(rows[np.random.default_rng(0).integers(edges[:-1], edges[1:])]))


def _clip_bytes(facts: JobFacts, part: PartName) -> int:
    return sum(a.nbytes for a in _arrays(facts, part))


def _arrays(facts: JobFacts, part: PartName) -> Sequence[StoredArray]:
    """The arrays that store a part of nearly every clip: all but the optional ones."""
    return [array for array in stored_arrays(facts.recipe, part, facts.shapes) if not array.optional]
