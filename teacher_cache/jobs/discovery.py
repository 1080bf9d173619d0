"""A job in; its teacher's description, its recipe and its clips out. Writes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.errors import BadInput
from schemas.job import Job
from schemas.log import LARGEST_OBJECT, PARTS, PartName
from schemas.recipe import ClipRecipe, Recipe
from schemas.signal import Shape, SignalName
from teacher_cache.clips.content import content_digests
from teacher_cache.clips.sources import list_videos
from teacher_cache.clips.tables import among
from teacher_cache.clips.windows import whole_videos, windows_of
from teacher_cache.encodings.base import StoredArray
from teacher_cache.encodings.registry import resolve
from teacher_cache.io.progress import Progress, no_progress
from teacher_cache.jobs.advice import advice
from teacher_cache.store.catalog import Catalog, Rows
from teacher_cache.store.layout import stored_arrays
from teacher_cache.store.shard import most_clips
from teacher_cache.teachers.protocol import TeacherDescription
from teacher_cache.teachers.registry import family


@dataclass(frozen=True)
class JobFacts:
    """A job's recipe, shapes, parts and videos, once its teacher is identified and its videos are listed."""

    recipe: Recipe
    shapes: Mapping[SignalName, Shape]
    parts: tuple[PartName, ...]
    videos: pa.Table
    """As `teacher_cache.clips.tables.VIDEOS`."""
    notes: tuple[str, ...] = ()
    """What the user should know of the videos, and of the job's settings: `advice`."""

    @property
    def signals(self) -> tuple[SignalName, ...]:
        """The job's signals: its parts without the clock."""
        return tuple(part for part in self.parts if part != "clock")


def discover(job: Job) -> JobFacts:
    """Identify the teacher, resolve the recipe and list the videos. Raises `BadInput`, `Unreachable`."""
    description = family(job.teacher.family).identify(job.teacher)
    recipe = resolve_recipe(job, description)
    parts = tuple(part for part in PARTS if part == "clock" or part in job.signals)
    notes = list(advice(job))
    videos = list_videos(job.videos, notes.append)
    return JobFacts(recipe, description.shapes, parts, videos, tuple(notes))


_EXAMPLES = 3


def same_contents(clips: pa.Table) -> tuple[str, ...]:
    """A sentence, if clips show the same part of videos that have the same content; each of them is taught.

    ``clips`` is a table of `teacher_cache.clips.tables.CLIPS`.
    """
    digests = clips["content_digest"]
    if pc.count_distinct(digests).as_py() + digests.null_count == len(digests):
        return ()
    part = ["content_digest", "window_start", "window_stop", "segment_start", "segment_end"]
    known = clips.filter(digests.is_valid())
    groups = known.group_by(part).aggregate([("clip_id", "count"), ("clip_id", "min"), ("clip_id", "max")])
    groups = groups.filter(pc.greater(groups["clip_id_count"], 1)).sort_by("clip_id_min")
    if not groups.num_rows:
        return ()
    more = pc.sum(groups["clip_id_count"]).as_py() - groups.num_rows
    pairs = zip(groups["clip_id_min"][:_EXAMPLES].to_pylist(), groups["clip_id_max"][:_EXAMPLES].to_pylist(), strict=True)
    examples = ", ".join(f"{other!r} like {one!r}" for one, other in pairs)
    return (f"{more} clips have the content of others, and each is taught: {examples}; list only one of them to save the work",)


def find_clips(
    job: Job, facts: JobFacts, catalog: Catalog, again: Rows | None = None, progress: Progress = no_progress
) -> pa.Table:
    """The job's clips: `teacher_cache.clips.tables.CLIPS` and ``clip_key``. ``again`` are the rows to teach again.

    Computes the videos' content digests; under ``videos.check: new``, only of videos that the store lacks or must teach
    again, and the other clips have no digest here. Probes videos if the sampling needs it and the catalog lacks their windows.
    """
    again = np.empty(0, np.int64) if again is None else again
    is_uniform = facts.recipe.clips.sampling == "uniform"
    wanted = np.ones(facts.videos.num_rows, bool)
    if job.videos.check == "new" and catalog.rows:
        keys = facts.videos["key"].to_numpy()
        # Under `uniform`, a video's key equals its clip's, which the planner looks up anyway.
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
    """The videos with a column ``content_digest``: null for a video that is not wanted or cannot be read."""
    uris = pc.unique(videos["uri"].filter(pa.array(wanted)))  # a video is read once for all of its segments
    with progress("reading videos", len(uris), "videos") as advance:
        found = pa.array(content_digests(uris.to_pylist(), advance), pa.string())
    of = pc.if_else(pa.array(wanted), pc.index_in(videos["uri"], uris), pa.scalar(None, pa.int32()))
    return videos.append_column("content_digest", found.take(of) if len(found) else pa.nulls(videos.num_rows, pa.string()))


def resolve_recipe(job: Job, teacher: TeacherDescription) -> Recipe:
    """The job's recipe, with the teacher's values where the job sets none.

    Raises `BadInput` if they contradict each other, or if a shard might not fit one object.
    """
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
        hdr=job.clips.hdr,
        interlaced=job.clips.interlaced,
        max_undecodable_tail_share=job.clips.max_undecodable_tail_share,
    )
    recipe = Recipe(teacher=teacher.identity, clips=clips, encodings=resolve(job), layout=job.layout)
    arrays = [array for signal in job.signals for array in stored_arrays(recipe, signal, teacher.shapes)]
    _require_one_object(recipe, max(arrays, key=lambda array: array.nbytes))
    return recipe


def _require_one_object(recipe: Recipe, largest: StoredArray) -> None:
    """Raises `BadInput` if a shard of the array, were it not to compress, would be more than a store takes in one request."""
    clips, most = recipe.layout.clips_per_shard, most_clips(largest)
    if clips > most:
        raise BadInput(
            f"layout.clips_per_shard is {clips}; a clip of {largest.name} can take {largest.nbytes / 1e6:.1f} MB, "
            f"so a shard could have {clips * largest.nbytes / 2**30:.1f} GiB, and stores take {LARGEST_OBJECT >> 20} MiB "
            f"in one request. Set it to {most} or less."
        )
