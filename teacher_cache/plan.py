"""From a job and a store's state to the work that is left. Nothing here writes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
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
from schemas.report import DiffReport, PlanReport
from schemas.signal import Shape, SignalName
from teacher_cache.clips.content import content_digests
from teacher_cache.clips.sources import list_videos
from teacher_cache.clips.tables import among
from teacher_cache.clips.windows import whole_videos, windows_of
from teacher_cache.encodings.base import StoredArray
from teacher_cache.encodings.registry import resolve
from teacher_cache.store.catalog import Catalog, Rows, numbered_rows
from teacher_cache.store.layout import stored_arrays
from teacher_cache.store.ledger import FAILED, Ledger, clip_counts
from teacher_cache.store.store import Store, find_store, open_store, require_recipe
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
        self._catalog, self.ledger, self._parts = catalog, ledger, tuple(parts)
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
        clips = self._catalog.clips(rows)
        latest = self._catalog.rows_of([clip.clip_id for clip in clips]).tolist()
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
        return self._catalog.rows_within(self._shards * self._per_shard, (self._shards + 1) * self._per_shard)

    def units(self, part: PartName) -> int:
        """Units that write that part."""
        return int(self._lacks[self._parts.index(part)].sum())

    def clips(self, part: PartName) -> int:
        """Rows that are to be taught in that part."""
        shards = self._shards[self._lacks[self._parts.index(part)]]
        rows = self._catalog.current
        rows = rows[np.isin(rows // self._per_shard, shards)]
        return int((self.ledger.status(rows, ["clock"]) != FAILED).sum())

    def _rows(self, shard: int) -> Rows:
        return self._catalog.rows_between(shard * self._per_shard, (shard + 1) * self._per_shard)

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
    plan = _plan(url, job, facts, no_progress)
    return DiffReport(store=url, differences={}, new_clips=plan.new_clips, units=plan.units)


def plan_report(job: Job, progress: Progress = no_progress) -> PlanReport:
    """What `run` would do with this job now. Raises `BadInput`, `RecipeMismatch`."""
    return _plan(job.store, job, look_at(job), progress)


def _plan(url: str, job: Job, facts: JobFacts, progress: Progress) -> PlanReport:
    store, catalog, ledger = state_of(url, facts.recipe)
    again = rows_to_redo(catalog, ledger, facts.parts, retry_failed=False)
    clips = find_clips(job, facts, catalog, again, progress)
    added = new_rows(clips, catalog, facts.recipe, again)
    if added.num_rows:
        catalog = catalog.with_rows(added)
    left = WorkLeft(facts.recipe, catalog, ledger, facts.parts, rows_of(clips, catalog))
    return PlanReport(
        store=url,
        store_exists=store is not None,
        fingerprint=facts.recipe.fingerprint,
        clips=clip_counts(catalog.current, ledger, facts.parts),
        new_clips=added.num_rows,
        units=len(left),
        bytes_uncompressed={part: left.clips(part) * _clip_bytes(facts, part) for part in facts.parts},
        put_requests=len(left) + sum(left.units(part) * len(_arrays(facts, part)) for part in facts.parts),
    )


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
