"""From a job and a store's state to the work that is left. Nothing here writes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.clip import Clip
from schemas.errors import BadInput
from schemas.job import Job
from schemas.ledger import PARTS, PartName, RowOutcome, Unit, WorkItem
from schemas.recipe import ClipRecipe, Recipe
from schemas.report import DiffReport, JobRequests, PilotReport, PlanReport, Requests, TeacherMemory
from schemas.signal import Shape, SignalName
from schemas.store import LONGEST_SEGMENT
from teacher_cache.clips.content import content_digests, local_path
from teacher_cache.clips.sources import list_videos
from teacher_cache.clips.tables import among
from teacher_cache.clips.windows import whole_videos, windows_of
from teacher_cache.encodings.base import StoredArray
from teacher_cache.encodings.registry import resolve
from teacher_cache.estimate import SignalWork, StoreWork, cost, estimate, store_requests, teachers_of
from teacher_cache.memory import worker_bytes
from teacher_cache.store.catalog import Catalog, Rows, numbered_rows
from teacher_cache.store.layout import stored_arrays
from teacher_cache.store.ledger import FAILED, Ledger, clip_counts
from teacher_cache.store.store import Store, find_store, open_store, require_recipe
from teacher_cache.tally import OF_VIDEOS
from teacher_cache.teachers.protocol import TeacherDescription
from teacher_cache.teachers.registry import family

Progress = Callable[[str, int, str], AbstractContextManager[Callable[[int], None]]]
"""(description, total, unit) → a context that gives ``advance(count)``."""


def no_progress(_description: str, _total: int, _unit: str) -> AbstractContextManager[Callable[[int], None]]:
    return nullcontext(lambda _: None)


@dataclass(frozen=True)
class JobFacts:
    """What a job comes to once its teacher and videos are looked at."""

    recipe: Recipe
    shapes: Mapping[SignalName, Shape]
    parts: tuple[PartName, ...]
    videos: pa.Table
    """As `teacher_cache.clips.tables.VIDEOS`."""

    @property
    def signals(self) -> tuple[SignalName, ...]:
        return tuple(part for part in self.parts if part != "clock")


def look_at(job: Job) -> JobFacts:
    """Identify the teacher, resolve the recipe and list the videos. Raises `BadInput`."""
    description = family(job.teacher.family).identify(job.teacher)
    recipe = resolve_recipe(job, description)
    parts = tuple(part for part in PARTS if part == "clock" or part in job.signals)
    return JobFacts(recipe, description.shapes, parts, list_videos(job.videos))


def find_clips(
    job: Job, facts: JobFacts, catalog: Catalog, again: Rows | None = None, progress: Progress = no_progress
) -> pa.Table:
    """The job's clips: `teacher_cache.clips.tables.CLIPS` and ``clip_key``. Those in the rows ``again`` are to be taught again.

    Videos' contents are digested, all or, under ``videos.check: new``, those alone that the store does not have or has to
    teach again; a clip of any other has no digest here. Videos are probed if the sampling needs it and the catalog does
    not have their windows.
    """
    again = np.empty(0, np.int64) if again is None else again
    is_uniform = facts.recipe.clips.sampling == "uniform"
    wanted = np.ones(facts.videos.num_rows, bool)
    if job.videos.check == "new" and catalog.rows:
        keys = facts.videos["key"].to_numpy()
        # Under `uniform` a video's key is its clip's, which the planner looks up anyway.
        wanted = catalog.rows_of_keys(keys) < 0 if is_uniform else ~among(keys, catalog.video_keys())
        wanted |= among(keys, catalog.video_keys(again))
    videos = _with_digests(facts.videos, wanted, progress)
    if is_uniform:
        return whole_videos(videos)
    rows = catalog.rows_of_videos(videos["id"].to_pylist())
    with progress("counting frames", videos.num_rows, "videos") as advance:
        return windows_of(
            facts.recipe.clips,
            videos,
            catalog.table(rows),
            np.isin(rows, again),
            timeout_seconds=job.engine.decode_timeout_seconds,
            advance=advance,
        )


def _with_digests(videos: pa.Table, wanted: NDArray[np.bool_], progress: Progress) -> pa.Table:
    """The videos with their ``content_digest``; null for one that is not wanted, or cannot be read."""
    uris = videos["uri"].filter(pa.array(wanted)).to_pylist()
    with progress("reading videos", len(uris), "videos") as advance:
        found = content_digests(uris, advance)
    if wanted.all():
        return videos.append_column("content_digest", pa.array(found, pa.string()))
    digests = pa.nulls(videos.num_rows, pa.string())
    if found:
        digests = pa.array(found, pa.string()).take(pa.array(np.cumsum(wanted) - 1, mask=~wanted))
    return videos.append_column("content_digest", digests)


def resolve_recipe(job: Job, teacher: TeacherDescription) -> Recipe:
    """The job's recipe, with the teacher's own values where the job leaves them open."""
    if missing := [s for s in job.signals if s not in teacher.shapes]:
        raise BadInput(
            f"the teacher {teacher.identity.family} gives {', '.join(teacher.shapes)}; the job asks for {', '.join(missing)}"
        )
    if job.clips.frames != teacher.frames:
        raise BadInput(f"clips.frames is {job.clips.frames}; this teacher takes clips of {teacher.frames} frames")
    if job.clips.size not in (None, teacher.image_size):
        raise BadInput(
            f"clips.size is {job.clips.size}; this teacher takes frames of {teacher.image_size} pixels. Leave `size` out."
        )
    clips = ClipRecipe(
        frames=teacher.frames,
        sampling=job.clips.sampling,
        preprocessing=job.clips.preprocessing,
        size=teacher.image_size,
        student_size=job.clips.student_size if job.clips.preprocessing == "student" else None,
        fps=job.clips.fps,
    )
    return Recipe(teacher=teacher.identity, clips=clips, encodings=resolve(job), layout=job.layout)


def new_rows(clips: pa.Table, catalog: Catalog, recipe: Recipe, again: Rows | None = None) -> pa.Table:
    """Rows for the clips that have none, whose video's content changed, or whose row is among ``again``.

    A table of `teacher_cache.clips.tables.CLIPS` and ``row``.
    """
    rows = catalog.rows_of_keys(clips["clip_key"].to_numpy())
    catalog.require_distinct(clips["clip_id"], rows)
    # A video that was not read, or cannot be read now, says nothing about its content; what is committed stays good.
    is_readable = clips["content_digest"].is_valid().to_numpy()
    is_known = rows >= 0
    needs = ~is_known
    compared = np.flatnonzero(is_known & is_readable)
    compared = compared[np.argsort(rows[compared])]
    now, then = clips["content_digest"].take(pa.array(compared)), catalog.table(rows[compared], ["content_digest"])
    is_same = pc.fill_null(pc.equal(now, then["content_digest"]), fill_value=False).to_numpy()
    needs[compared] = ~is_same
    if again is not None:
        needs |= is_readable & np.isin(rows, again)
    return numbered_rows(clips.drop("clip_key").filter(pa.array(needs)), catalog.next_row(recipe.layout.clips_per_shard))


def rows_to_redo(catalog: Catalog, ledger: Ledger, parts: Sequence[PartName], *, retry_failed: bool) -> Rows:
    """Current rows whose clips are to be taught again in new ones: the retired, and the failed where they are asked for."""
    rows = catalog.current
    redo = np.isin(rows, list(ledger.retired))
    if retry_failed:
        redo |= ledger.status(rows, parts) == FAILED
    return rows[redo]


class WorkLeft(Sequence[WorkItem]):
    """A unit for every shard that holds one of some rows and lacks some parts. Items are made as they are asked for."""

    def __init__(self, recipe: Recipe, catalog: Catalog, ledger: Ledger, parts: Sequence[PartName], rows: Rows) -> None:
        self._per_shard = recipe.layout.clips_per_shard
        self.catalog, self.ledger, self._parts = catalog, ledger, tuple(parts)
        # A retired row that could not be taught anew (its video is gone) leaves nothing to do in its old shard.
        shards = np.unique(rows[~np.isin(rows, list(ledger.retired))] // self._per_shard)
        lacks = np.array([~ledger.is_done(part, shards).astype(bool) for part in parts]).reshape(len(parts), len(shards))
        self._shards: NDArray[np.int64] = shards[lacks.any(axis=0)]
        self._lacks: NDArray[np.bool_] = lacks[:, lacks.any(axis=0)]

    def __len__(self) -> int:
        return len(self._shards)

    @overload
    def __getitem__(self, index: int) -> WorkItem: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[WorkItem]: ...
    def __getitem__(self, index: int | slice) -> WorkItem | Sequence[WorkItem]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        missing = tuple(part for part, lacks in zip(self._parts, self._lacks[:, index], strict=True) if lacks)
        rows = self._rows(int(self._shards[index]))
        clips = self.catalog.clips(rows)
        latest = self.catalog.rows_of([clip.clip_id for clip in clips]).tolist()
        outcomes = (self._settled(clip, row) for clip, row in zip(clips, latest, strict=True))
        settled = {outcome.row: outcome for outcome in outcomes if outcome is not None}
        return WorkItem(
            unit=Unit(shard=int(self._shards[index]), parts=missing),
            clips=tuple(clip for clip in clips if clip.row not in settled),
            settled=tuple(settled.values()),
        )

    @property
    def rows(self) -> int:
        """Rows of all the units, taught or not."""
        return self.catalog.rows_within(self._shards * self._per_shard, (self._shards + 1) * self._per_shard)

    def units(self, part: PartName) -> int:
        """Units that write that part."""
        return int(self._lacks[self._parts.index(part)].sum())

    def clips(self, part: PartName) -> int:
        """Rows that are to be taught in that part."""
        return len(self._rows_to_teach(self._shards[self._lacks[self._parts.index(part)]]))

    @cached_property
    def to_teach(self) -> Rows:
        """Rows that are to be taught in any part, ascending."""
        return self._rows_to_teach(self._shards)

    def _rows_to_teach(self, shards: NDArray[np.int64]) -> Rows:
        rows = self.catalog.current
        rows = rows[np.isin(rows // self._per_shard, shards)]
        to_teach: Rows = rows[self.ledger.status(rows, ["clock"]) != FAILED]
        return to_teach

    def _rows(self, shard: int) -> Rows:
        return self.catalog.rows_between(shard * self._per_shard, (shard + 1) * self._per_shard)

    def _settled(self, clip: Clip, latest: int) -> RowOutcome | None:
        """The failure that a row already has, if any: its video did not decode for the first signals, or it was superseded.

        ``latest`` is the clip's current row, -1 where it has none.
        """
        if latest != clip.row:
            detail = "its video has no such window now" if latest < 0 else f"row {latest} holds this clip now"
            return RowOutcome(row=clip.row, clip_id=clip.clip_id, status="failed", reason="superseded", detail=detail)
        failure = self.ledger.failure(clip.row, ["clock"])
        if failure is None:
            return None
        reason, detail = failure
        return RowOutcome(row=clip.row, clip_id=clip.clip_id, status="failed", reason=reason, detail=detail)

    def __iter__(self) -> Iterator[WorkItem]:
        return (self[index] for index in range(len(self)))


def diff_report(url: str, job: Job) -> DiffReport:
    """What of the job's recipe differs from the store's; where nothing does, what the job would add. Raises `StoreNotFound`."""
    recipe = open_store(url).recipe
    facts = look_at(job)
    if differences := recipe.differences(facts.recipe):
        return DiffReport(store=url, differences=differences, new_clips=0, units=0)
    outlook = _outlook(url, job, facts, no_progress)
    return DiffReport(store=url, differences={}, new_clips=outlook.new_clips, units=len(outlook.left))


PilotRun = Callable[[Job, tuple[Clip, ...]], PilotReport]
"""Teaches some clips of a job for measure: `teacher_cache.engine.Engine.pilot`."""


def plan_report(
    job: Job, progress: Progress = no_progress, *, pilot_clips: int = 0, run_pilot: PilotRun | None = None
) -> PlanReport:
    """What `run` would do with this job now, and, with a pilot of ``pilot_clips``, what it would use.

    Raises `BadInput`, `RecipeMismatch`.
    """
    OF_VIDEOS.take()
    outlook = _outlook(job.store, job, look_at(job), progress)
    pilot = None
    if run_pilot is not None:
        clips = _chosen(outlook.left, pilot_clips)
        with progress("pilot", len(clips), "clips") as advance:
            # Where only some signals are to be added, the others are not taught again.
            signals = tuple(signal for signal in job.signals if outlook.left.units(signal)) or job.signals
            pilot = run_pilot(job.model_copy(update={"signals": signals}), clips)
            advance(len(clips))
    return _report(job, outlook, pilot)


@dataclass(frozen=True)
class _Outlook:
    """What a job would find and do."""

    facts: JobFacts
    store: Store | None
    known: Catalog
    """The store's catalog as it is."""
    catalog: Catalog
    """With the job's new rows."""
    new_clips: int
    left: WorkLeft
    opened: Requests
    """What it took to look at the store; a run does the same."""
    video_requests: Requests
    """What it took to look at the videos; a run does the same."""


def _outlook(url: str, job: Job, facts: JobFacts, progress: Progress) -> _Outlook:
    store, known, ledger = state_of(url, facts.recipe)
    again = rows_to_redo(known, ledger, () if store is None else store.parts, retry_failed=False)
    clips = find_clips(job, facts, known, again, progress)
    added = new_rows(clips, known, facts.recipe, again)
    # Where there is no store, one request says so.
    opened = Requests(get=1) if store is None else store.objects.take_requests()
    catalog = known.with_rows(added) if added.num_rows else known
    left = WorkLeft(facts.recipe, catalog, ledger, facts.parts, rows_of(clips, catalog))
    return _Outlook(facts, store, known, catalog, added.num_rows, left, opened, OF_VIDEOS.take())


def _report(job: Job, outlook: _Outlook, pilot: PilotReport | None) -> PlanReport:
    facts, left, store = outlook.facts, outlook.left, outlook.store
    to_do = left.to_teach
    is_fetched = local_path(facts.videos["uri"][0].as_py()) is None
    # Each video is fetched once, with one GET, for all its clips.
    fetches = len(np.unique(outlook.catalog.video_keys(to_do))) if is_fetched else 0
    work = _store_work(job, outlook)
    shapes = {signal: facts.shapes[signal] for signal in facts.signals}
    memory = worker_bytes(facts.recipe, shapes, family(job.teacher.family), job.teacher, job.engine)
    requests = JobRequests(store=store_requests(work), videos=outlook.video_requests + Requests(get=fetches))
    billed = requests.videos if local_path(job.store) else requests.store + requests.videos
    used = None
    if pilot is not None:
        by_signal = {str(s): SignalWork(left.clips(s), left.units(s) * len(_arrays(facts, s))) for s in facts.signals}
        used = estimate(pilot, len(to_do), by_signal, facts.recipe.layout.clips_per_shard, job.engine)
    return PlanReport(
        store=job.store,
        store_exists=store is not None,
        fingerprint=facts.recipe.fingerprint,
        clips=clip_counts(outlook.catalog.current, left.ledger, facts.parts),
        videos=facts.videos.num_rows,
        new_clips=outlook.new_clips,
        clips_to_do=len(to_do),
        units=len(left),
        bytes_uncompressed={part: left.clips(part) * _clip_bytes(facts, part) for part in facts.parts},
        objects=len(left) + work.shards,
        requests=requests,
        memory=TeacherMemory(host=memory.host, device=memory.device),
        pilot=pilot,
        estimate=used,
        cost=cost(job.prices, billed, is_fetched, used),
        currency=job.prices.currency,
    )


def _store_work(job: Job, outlook: _Outlook) -> StoreWork:
    facts, store, left = outlook.facts, outlook.store, outlook.left
    found = () if store is None else store.parts
    arrays = {part: len(stored_arrays(facts.recipe, part, facts.shapes)) for part in {*found, *facts.parts}}
    return StoreWork(
        opened=outlook.opened,
        exists=store is not None,
        segments_before=outlook.known.segments,
        new_segments=math.ceil(outlook.new_clips / LONGEST_SEGMENT),
        arrays=sum(arrays[part] for part in facts.parts),
        signals=len(arrays.keys() - {"clock"}),
        arrays_there=sum(arrays[part] for part in facts.parts if part in found),
        others_there=sum(arrays[part] for part in found if part not in facts.parts),
        units=len(left),
        shards=sum(left.units(part) * len(_arrays(facts, part)) for part in facts.parts),
        teachers=teachers_of(job.engine, len(left)),
        has_heads="f4d" in facts.shapes,
        row_groups=outlook.catalog.row_groups(left.to_teach),
        bound_volumes=left.ledger.bound_volumes,
        open_entries=left.ledger.open_entries,
    )


def _chosen(left: WorkLeft, count: int) -> tuple[Clip, ...]:
    """That many of the clips to do, spread over them: one at random from each of as many equal stretches. Raises `BadInput`."""
    rows = left.to_teach
    if not len(rows):
        raise BadInput("the job has no clip left to teach, so there is nothing to measure; plan it without a pilot")
    if not 1 <= count <= len(rows):
        raise BadInput(f"a pilot of {count} clips was asked for; give a number from 1 to {len(rows)}, the clips to teach")
    edges = np.arange(count + 1) * len(rows) // count
    return tuple(left.catalog.clips(rows[np.random.default_rng(0).integers(edges[:-1], edges[1:])]))


def state_of(url: str, recipe: Recipe) -> tuple[Store | None, Catalog, Ledger]:
    """The store at ``url``, if there is one, with what it has. Raises `RecipeMismatch`."""
    store = find_store(url)
    if store is None:
        return None, Catalog(), Ledger()
    require_recipe(store, recipe)
    return store, store.catalog(), store.ledger()


def rows_of(clips: pa.Table, catalog: Catalog) -> Rows:
    """The current rows of the clips that have one."""
    rows = catalog.rows_of_keys(clips["clip_key"].to_numpy())
    return rows[rows >= 0]


def _clip_bytes(facts: JobFacts, part: PartName) -> int:
    return sum(a.dtype.itemsize * math.prod(a.shape) for a in _arrays(facts, part))


def _arrays(facts: JobFacts, part: PartName) -> Sequence[StoredArray]:
    """The arrays that hold a part of a clip whose values the encoding can hold, as nearly all are."""
    return [array for array in stored_arrays(facts.recipe, part, facts.shapes) if not array.optional]
