"""From a job and a store's state to the work that is left. Nothing here writes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from schemas.clip import Clip, Video
from schemas.errors import BadInput
from schemas.job import Job
from schemas.ledger import PARTS, PartName, RowOutcome, Unit, WorkItem
from schemas.recipe import ClipRecipe, Recipe
from schemas.report import DiffReport, PlanReport
from schemas.signal import Shape, SignalName
from teacher_cache.clips.sources import content_digests, list_videos
from teacher_cache.clips.windows import Candidate, candidates
from teacher_cache.encodings.base import StoredArray
from teacher_cache.encodings.registry import resolve
from teacher_cache.store.catalog import Catalog
from teacher_cache.store.layout import stored_arrays
from teacher_cache.store.ledger import Ledger, clip_counts
from teacher_cache.store.store import find_store, open_store, require_recipe
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
    digests: Mapping[Video, str | None]
    """Each video's content; None where it cannot be read."""


def look_at(job: Job, progress: Progress = no_progress) -> JobFacts:
    """Identify the teacher, resolve the recipe, list the videos and read their digests. Raises `BadInput`."""
    description = family(job.teacher.family).identify(job.teacher)
    recipe = resolve_recipe(job, description)
    videos = list_videos(job.videos)
    with progress("reading videos", len(videos), "videos") as advance:
        digests = content_digests(videos, advance)
    parts = tuple(part for part in PARTS if part == "clock" or part in job.signals)
    return JobFacts(recipe, description.shapes, parts, {video: digests[video.id] for video in videos})


def find_candidates(
    job: Job, facts: JobFacts, catalog: Catalog, retry: Collection[str] = (), progress: Progress = no_progress
) -> tuple[Candidate, ...]:
    """The job's clips. Videos are probed if the sampling needs it and the catalog does not have their windows."""
    if facts.recipe.clips.sampling == "uniform":
        progress = no_progress
    with progress("counting frames", len(facts.digests), "videos") as advance:
        return candidates(
            facts.recipe.clips,
            facts.digests,
            catalog.current(),
            retry,
            timeout_seconds=job.engine.decode_timeout_seconds,
            advance=advance,
        )


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


def new_clips(candidates: Sequence[Candidate], catalog: Catalog, recipe: Recipe, retry: Collection[str] = ()) -> list[Clip]:
    """Rows for the candidates that have none, whose video's content changed, or that are to be tried again."""
    current = catalog.current()

    def needs_row(candidate: Candidate) -> bool:
        clip = current.get(candidate.clip_id)
        if clip is None:
            return True
        # A video that cannot be read now says nothing about its content; what is committed stays good.
        is_readable = candidate.content_digest is not None
        return is_readable and (candidate.clip_id in retry or candidate.content_digest != clip.content_digest)

    first = catalog.next_row(recipe.layout.clips_per_shard)
    wanted = filter(needs_row, candidates)
    return [
        Clip(
            clip_id=c.clip_id,
            row=first + place,
            video=c.video.uri,
            video_id=c.video.id,
            content_digest=c.content_digest,
            window_start=None if c.window is None else c.window.start,
            window_stop=None if c.window is None else c.window.stop,
        )
        for place, c in enumerate(wanted)
    ]


def failed_ids(catalog: Catalog, ledger: Ledger, parts: Sequence[PartName]) -> set[str]:
    """Clips whose latest row failed in any of the parts."""
    outcomes = {clip_id: ledger.outcome(clip.row, parts) for clip_id, clip in catalog.current().items()}
    return {clip_id for clip_id, outcome in outcomes.items() if outcome is not None and outcome.status == "failed"}


def work_left(
    recipe: Recipe, catalog: Catalog, ledger: Ledger, parts: Sequence[PartName], clip_ids: Collection[str]
) -> list[WorkItem]:
    """A unit for every shard that holds one of ``clip_ids`` and lacks some of ``parts``."""
    current = catalog.current()
    shards: dict[int, list[Clip]] = defaultdict(list)
    for clip in catalog.clips:
        shards[clip.row // recipe.layout.clips_per_shard].append(clip)
    wanted = {current[i].row // recipe.layout.clips_per_shard for i in clip_ids if i in current}
    items = []
    for shard in sorted(wanted):
        missing = tuple(part for part in parts if (part, shard) not in ledger.done)
        if missing:
            items.append(_work_item(Unit(shard=shard, parts=missing), shards[shard], current, ledger))
    return items


def _work_item(unit: Unit, clips: Sequence[Clip], current: Mapping[str, Clip], ledger: Ledger) -> WorkItem:
    settled = [outcome for clip in clips if (outcome := _settled(clip, current, ledger)) is not None]
    rows = {outcome.row for outcome in settled}
    return WorkItem(unit=unit, clips=tuple(c for c in clips if c.row not in rows), settled=tuple(settled))


def _settled(clip: Clip, current: Mapping[str, Clip], ledger: Ledger) -> RowOutcome | None:
    """The failure that a row already has, if any: its video did not decode for the first signals, or it was superseded."""
    latest = current.get(clip.clip_id)
    if latest is None or latest.row != clip.row:
        detail = "its video has no such window now" if latest is None else f"row {latest.row} holds this clip now"
        return RowOutcome(row=clip.row, clip_id=clip.clip_id, status="failed", reason="superseded", detail=detail)
    outcome = ledger.outcome(clip.row, ["clock"])
    return outcome if outcome is not None and outcome.status == "failed" else None


def diff_report(url: str, job: Job) -> DiffReport:
    """What of the job's recipe differs from the store's; where nothing does, what the job would add. Raises `StoreNotFound`."""
    recipe = open_store(url).recipe
    facts = look_at(job)
    if differences := recipe.differences(facts.recipe):
        return DiffReport(store=url, differences=differences, new_clips=0, units=0)
    plan = _plan(url, job, facts)
    return DiffReport(store=url, differences={}, new_clips=plan.new_clips, units=plan.units)


def plan_report(job: Job) -> PlanReport:
    """What `run` would do with this job now. Raises `BadInput`, `RecipeMismatch`."""
    return _plan(job.store, job, look_at(job))


def _plan(url: str, job: Job, facts: JobFacts) -> PlanReport:
    store = find_store(url)
    catalog, ledger = Catalog((), 0), Ledger(())
    if store is not None:
        require_recipe(store, facts.recipe)
        catalog, ledger = store.catalog(), store.ledger()
    wanted = find_candidates(job, facts, catalog)
    added = new_clips(wanted, catalog, facts.recipe)
    if added:
        catalog = catalog.with_segment(added)
    items = work_left(facts.recipe, catalog, ledger, facts.parts, [c.clip_id for c in wanted])
    return PlanReport(
        store=url,
        store_exists=store is not None,
        fingerprint=facts.recipe.fingerprint,
        clips=clip_counts(catalog, ledger, facts.parts),
        new_clips=len(added),
        units=len(items),
        bytes_uncompressed=_bytes(facts, items),
        put_requests=sum(1 + sum(len(_usual_arrays(facts, part)) for part in item.unit.parts) for item in items),
    )


def _bytes(facts: JobFacts, items: Sequence[WorkItem]) -> dict[str, int]:
    total: dict[str, int] = {}
    for part in facts.parts:
        clips = sum(len(item.clips) for item in items if part in item.unit.parts)
        total[part] = clips * sum(a.dtype.itemsize * math.prod(a.shape) for a in _usual_arrays(facts, part))
    return total


def _usual_arrays(facts: JobFacts, part: PartName) -> list[StoredArray]:
    """The arrays that hold a part of a clip whose values the encoding can hold, as nearly all are."""
    return [array for array in stored_arrays(facts.recipe, part, facts.shapes) if not array.optional]
