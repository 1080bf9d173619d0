"""A job in; its teacher's description, its recipe and its clips out. Writes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.errors import BadInput
from schemas.job import Job
from schemas.log import LARGEST_OBJECT, PARTS, PartName
from schemas.recipe import ClipRecipe, Recipe, ShotRecipe
from schemas.signal import Shape, SignalName
from teacher_cache.clips.decoder_pool import Prober
from teacher_cache.clips.identity import identities_of
from teacher_cache.clips.probe_cache import ProbeCache
from teacher_cache.clips.prompts import with_digests
from teacher_cache.clips.sources import Videos, list_videos
from teacher_cache.clips.tables import Keys, among, distinct
from teacher_cache.clips.windows import whole_videos, windows_of, with_views, without_views
from teacher_cache.encodings.base import StoredArray
from teacher_cache.encodings.registry import resolve
from teacher_cache.io.progress import Progress, no_progress
from teacher_cache.jobs.advice import advice
from teacher_cache.jobs.renaming import require_ids_of_store
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
    """Of every signal that a job with this teacher can have."""
    parts: tuple[PartName, ...]
    videos: Videos
    notes: tuple[str, ...] = ()
    """What the user should know of the videos, and of the job's settings: `advice`."""

    @property
    def signals(self) -> tuple[SignalName, ...]:
        """The job's signals: its parts without the clock."""
        return tuple(part for part in self.parts if part != "clock")

    @property
    def wanted_shapes(self) -> dict[SignalName, Shape]:
        """Shape of one clip of each of them."""
        return {signal: self.shapes[signal] for signal in self.signals}


def discover(job: Job) -> JobFacts:
    """Identify the teacher, resolve the recipe and list the videos. Raises `BadInput`, `Unreachable`."""
    description = family(job.teacher.family).identify(job.teacher)
    recipe, shapes = resolve_recipe(job, description), shapes_of(job, description)
    parts = tuple(part for part in PARTS if part == "clock" or part in job.signals)
    notes = list(advice(job))
    videos = list_videos(job.videos, notes.append, recipe.teacher.takes)
    return JobFacts(recipe, shapes, parts, videos, tuple(notes))


def shapes_of(job: Job, teacher: TeacherDescription) -> dict[SignalName, Shape]:
    """Shape of one clip of every signal that the job can have: those of the teacher, and of the decoder."""
    return {**teacher.shapes, "frames": (teacher.frames, job.clips.student_size, job.clips.student_size, 3)}


_EXAMPLES = 3


class Contents:
    """Counts the clips that show the same part of videos that have the same content; each of them is taught."""

    def __init__(self) -> None:
        self._parts: list[Keys] = []
        self._ids: list[pa.ChunkedArray] = []

    def add(self, clips: pa.Table) -> None:
        """Count a table of `teacher_cache.clips.tables.CLIPS`."""
        digests = clips["content_digest"]
        known = np.flatnonzero(digests.is_valid().to_numpy())
        part = np.array([hash(digest) for digest in digests.drop_null().to_pylist()], np.int64).view(np.uint64)
        for name in ("window_start", "window_stop", "segment_start", "segment_end", "flipped", "prompt"):
            if clips[name].null_count < clips.num_rows:
                values = clips[name].take(pa.array(known)).to_pylist()
                part = part * _MIXER + np.array([hash(value) for value in values], np.int64).view(np.uint64)
        self._parts.append(part)
        self._ids.append(clips["clip_id"] if len(known) == clips.num_rows else clips["clip_id"].take(pa.array(known)))

    def note(self) -> tuple[str, ...]:
        """A sentence, if there are such clips."""
        parts = np.concatenate([np.empty(0, np.uint64), *self._parts])
        ordered = np.sort(parts)
        repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
        if not len(repeated):
            return ()
        ids = pa.chunked_array([chunk for some in self._ids for chunk in some.chunks], pa.string())
        which = np.flatnonzero(among(parts, repeated))
        named = pa.table({"part": parts[which], "id": ids.take(pa.array(which))})
        groups = named.group_by("part").aggregate([("id", "min"), ("id", "max")]).sort_by("id_min")
        pairs = zip(groups["id_min"][:_EXAMPLES].to_pylist(), groups["id_max"][:_EXAMPLES].to_pylist(), strict=True)
        examples = ", ".join(f"{other!r} like {one!r}" for one, other in pairs)
        more = len(which) - len(repeated)
        return (
            f"{more} clips have the content of others, and each is taught: {examples}; list only one of them to save the work",
        )


_MIXER = np.uint64(0x9E3779B97F4A7C15)


def find_clips(  # noqa: PLR0917
    job: Job,
    facts: JobFacts,
    catalog: Catalog,
    again: Rows | None = None,
    progress: Progress = no_progress,
    prober: Prober | None = None,
    *,
    newest: Callable[[], Catalog] | None = None,
    begin_at: float = 0.0,
) -> Iterator[pa.Table]:
    """The job's clips, some videos' at a time: `teacher_cache.clips.tables.CLIPS` and ``clip_key``.

    ``again`` are the rows to teach again. Drains the facts' videos. Finds out what identifies them, where their list does not
    say it; under ``videos.check: new``, only of those that the store lacks or must teach again; others have no digest.
    If the sampling is by windows, ``prober`` opens the videos whose windows are neither in the catalog nor known to this
    machine from an earlier plan or run. ``newest`` gives the catalog as it has become meanwhile, with what other runs added.
    Runs of one job that begin at different shares of each list of videos thus probe each video once.
    Raises `BadInput` before anything is looked at if the store has videos under other ids.
    """
    again = np.empty(0, np.int64) if again is None else again
    require_ids_of_store(facts.videos, catalog, job.videos, are_shots=facts.recipe.clips.shots is not None)
    wanted = _wanted(job, facts, catalog, again)
    start = 0
    is_uniform = facts.recipe.clips.sampling == "uniform"
    doing = "finding shots" if facts.recipe.clips.shots else "counting frames"
    with ExitStack() as stack:
        if not is_uniform:
            assert prober is not None
            probed = stack.enter_context(ProbeCache(facts.recipe.clips))
            advance = stack.enter_context(progress(doing, facts.videos.num_rows, "videos"))
            cut = partial(windows_of, facts.recipe.clips, prober=prober, probed=probed, advance=advance)
        for listed in facts.videos.drained(_VIDEOS_AT_ONCE):
            videos = _identified(job, listed, wanted[start : start + listed.num_rows], progress)
            if "masks" in facts.recipe.teacher.takes:
                videos = _with_masks(job, videos, progress)
            start += listed.num_rows
            if is_uniform:
                yield with_views(whole_videos(videos), job.clips.views)
            else:
                yield from _windows(job, videos, newest or (lambda: catalog), again, cut, begin_at)


_VIDEOS_AT_ONCE = 2**19
_PROBED_AT_ONCE, _PROBED_SECONDS = 2**10, (20.0, 60.0)
"""Videos that are probed before the clock is looked at; after how many seconds their clips are handed on, at first and then."""


def _windows(  # noqa: PLR0917
    job: Job,
    videos: pa.Table,
    newest: Callable[[], Catalog],
    again: Rows,
    cut: Callable[..., pa.Table],
    begin_at: float,
) -> Iterator[pa.Table]:
    """The windows of the videos, those of a minute's probing at a time: what a run adds to the store is not probed again."""
    found: list[pa.Table] = []
    catalog: Catalog | None = None
    began, (limit, then) = time.monotonic(), _PROBED_SECONDS
    starts = list(range(0, videos.num_rows, _PROBED_AT_ONCE))
    first = int(len(starts) * begin_at)
    for start in (*starts[first:], *starts[:first]):
        some = videos.slice(start, _PROBED_AT_ONCE)
        if catalog is not (now := newest()):
            catalog, rows_of = now, now.rows_by_video()
        rows = rows_of(some["key"].to_numpy())
        known, retry = without_views(catalog.table(rows), np.isin(rows, again))
        found.append(with_views(cut(some, known, retry), job.clips.views))
        if time.monotonic() - began > limit:
            yield pa.concat_tables(found)
            found, began, limit = [], time.monotonic(), then
    if found:
        yield distinct(pa.concat_tables(found), "clip_id", ["video"], "two clips of different videos are called")


def _wanted(job: Job, facts: JobFacts, catalog: Catalog, again: Rows) -> NDArray[np.bool_]:
    """Which videos to look at."""
    keys = facts.videos.keys
    if job.videos.check != "new" or not catalog.rows:
        return np.ones(len(keys), bool)
    again_wanted = among(keys, catalog.video_keys(again))
    if facts.recipe.clips.sampling == "uniform" and job.clips.views == ("plain",):
        # A video's key equals its clip's, which the planner looks up anyway.
        return (catalog.rows_of_keys(keys) < 0) | again_wanted
    rows = catalog.current
    is_flipped, videos = catalog.table(rows, ["flipped"])["flipped"].to_numpy(), catalog.video_keys(rows)
    lacks = [~among(keys, videos[is_flipped == (view == "flipped")]) for view in job.clips.views]
    wanted: NDArray[np.bool_] = np.any(lacks, axis=0) | again_wanted
    return wanted


def _identified(job: Job, videos: pa.Table, wanted: NDArray[np.bool_], progress: Progress) -> pa.Table:
    """The videos with their identity: null for one that is not wanted or cannot be read."""
    known = videos["content_digest"]
    is_wanted = pa.array(wanted)
    if not wanted.all():
        known = pc.if_else(is_wanted, known, pa.scalar(None, pa.string()))
    lacking = np.flatnonzero(wanted & known.is_null().to_numpy())
    if len(lacking):
        with progress("looking at videos", len(lacking), "videos") as advance:
            found = identities_of(videos["uri"].take(pa.array(lacking)), job.videos.identity, advance)
        if len(lacking) == videos.num_rows:
            known = found
        else:
            is_lacking = np.zeros(videos.num_rows, bool)
            is_lacking[lacking] = True
            known = pa.chunked_array([pc.replace_with_mask(known.combine_chunks(), is_lacking, found.combine_chunks())])
    return videos.set_column(videos.column_names.index("content_digest"), "content_digest", known)


def _with_masks(job: Job, videos: pa.Table, progress: Progress) -> pa.Table:
    """The videos with what identifies their masks in their prompts, so that a row with masks that changed is another row."""
    with progress("looking at masks", videos.num_rows, "videos") as advance:
        prompts = with_digests(videos["prompt"], job.videos.identity, advance)
    return videos.set_column(videos.column_names.index("prompt"), "prompt", prompts)


def resolve_recipe(job: Job, teacher: TeacherDescription) -> Recipe:
    """The job's recipe, with the teacher's values where the job sets none.

    Raises `BadInput` if they contradict each other, or if a shard might not fit one object.
    """
    shapes = shapes_of(job, teacher)
    if missing := [s for s in job.signals if s not in shapes]:
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
        shots=_shot_recipe(job) if job.clips.sampling == "shots" else None,
        hdr=job.clips.hdr,
        interlaced=job.clips.interlaced,
        max_undecodable_tail_share=job.clips.max_undecodable_tail_share,
    )
    recipe = Recipe(teacher=teacher.identity, clips=clips, encodings=resolve(job), layout=job.layout)
    arrays = [array for signal in job.signals for array in stored_arrays(recipe, signal, shapes)]
    _require_one_object(recipe, max(arrays, key=lambda array: array.nbytes))
    return recipe


def _shot_recipe(job: Job) -> ShotRecipe:
    """Raises `BadInput` if the detector is not installed here."""
    for package in ("scenedetect-headless", "scenedetect"):  # the same modules, with one or the other OpenCV
        with suppress(PackageNotFoundError):
            return ShotRecipe(
                detector=f"PySceneDetect {version(package)} ContentDetector",
                threshold=job.clips.shot_threshold,
                shortest_seconds=job.clips.shortest_shot_seconds,
            )
    raise BadInput("clips.sampling is shots, which PySceneDetect finds, and it is not installed here; install '.[shots]'")


def _require_one_object(recipe: Recipe, largest: StoredArray) -> None:
    """Raises `BadInput` if a shard of the array, were it not to compress, would be more than a store takes in one request."""
    clips, most = recipe.layout.clips_per_shard, most_clips(largest)
    if clips > most:
        raise BadInput(
            f"layout.clips_per_shard is {clips}; a clip of {largest.name} can take {largest.nbytes / 1e6:.1f} MB, "
            f"so a shard could have {clips * largest.nbytes / 2**30:.1f} GiB, and stores take {LARGEST_OBJECT >> 20} MiB "
            f"in one request. Set it to {most} or less."
        )
