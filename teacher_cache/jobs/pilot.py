"""Some of a job's clips in, measurements out: the job's engine teaches them into a store that is then deleted."""

from __future__ import annotations

import secrets
import shutil
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import cycle, islice

import pyarrow as pa

from schemas.clip import Clip
from schemas.errors import BadInput, CacheError, Stopped, first_line
from schemas.event import Event
from schemas.job import Job
from schemas.log import PARTS
from schemas.recipe import Layout, Recipe
from schemas.report import FailedClip, PilotReport, PlanReport, Spread, StageSeconds, UnitReport
from schemas.signal import Shape, SignalName
from schemas.storage import StorageOptions
from teacher_cache.clips.content import length_of
from teacher_cache.clips.tables import CLIPS
from teacher_cache.io.console import stderr
from teacher_cache.io.places import local_path
from teacher_cache.io.progress import Progress, no_progress
from teacher_cache.io.stop import stop_on_sigterm
from teacher_cache.jobs.commit import commit
from teacher_cache.jobs.discovery import resolve_recipe, shapes_of
from teacher_cache.jobs.engine import engine
from teacher_cache.jobs.memory import devices_of
from teacher_cache.jobs.plan import plan_report
from teacher_cache.jobs.unit_worker import WorkerSpec
from teacher_cache.jobs.work_list import WorkLeft
from teacher_cache.store.catalog import Catalog, numbered_rows
from teacher_cache.store.layout import stored_arrays
from teacher_cache.store.objects import Objects
from teacher_cache.store.shard import shard_index_length
from teacher_cache.store.store import Store, add_clips, add_parts, create_store, status
from teacher_cache.teachers.registry import family

_COMMAND = "plan --pilot"


def plan_with_pilot(
    job: Job, clips: int, progress: Progress = no_progress, listen: Callable[[Event], None] = lambda _: None
) -> PlanReport:
    """`plan_report` with a pilot of ``clips`` clips by the job's own engine. Raises `BadInput`, and what the engine raises.

    ``listen`` is called with the engine's events.
    """
    if clips < 1:
        raise BadInput(f"a pilot of {clips} clips measures nothing; use at least 1, or leave the pilot out")
    return plan_report(job, progress, pilot_clips=clips, run_pilot=partial(pilot, listen=listen))


def pilot(job: Job, clips: tuple[Clip, ...], listen: Callable[[Event], None] = lambda _: None) -> PilotReport:
    """Teach these clips as the job would, with one of its teachers, into a store that is thrown away.

    Raises `BadInput` if all of them fail. The first units warm up the teacher and are not measured; their clips are taught
    once more later.
    """
    description = family(job.teacher.family).identify(job.teacher)
    layout = Layout(clips_per_shard=_clips_per_unit(job, len(clips)))
    recipe = resolve_recipe(job, description).model_copy(update={"layout": layout})
    with stop_on_sigterm() as stop, _thrown_away(job) as url:
        possible = shapes_of(job, description)
        store, left = _made_ready(url, job, recipe, possible, clips)
        shapes = {signal: possible[signal] for signal in job.signals}
        alone = job.engine.model_copy(update={"teachers": 1, "min_teachers": 1})
        spec = WorkerSpec(store=url, storage_options=job.storage_options, teacher=job.teacher, engine=alone, shapes=shapes)
        units = []
        for event in engine(job.engine.kind).run(spec, left, stop):
            if isinstance(event, UnitReport):
                units.append(event)
            elif event is not None:
                listen(event)
        if stop.is_set:
            raise Stopped(f"stopped by {stop.reason}; a pilot begins anew")
        units = commit(store, units, catalog_parts=left.catalog.parts)
        warm_up = {item.unit.name for item in left[: _warm_up_units(job)]}
        return _measured(job, store, clips, [unit for unit in units if unit.unit not in warm_up])


@contextmanager
def _thrown_away(job: Job) -> Iterator[str]:
    """URL of a store for the pilot alone: on this machine, or beside the job's if its teachers are on others."""
    if job.engine.kind == "local":
        with tempfile.TemporaryDirectory(prefix="teacher-cache-pilot-") as folder:
            yield folder
        return
    url = f"{job.store.rstrip('/')}.pilot-{secrets.token_hex(4)}"
    try:
        yield url
    finally:
        _delete(url, job.storage_options)


def _delete(url: str, options: StorageOptions) -> None:
    """Delete a pilot's store. If that fails, say where it is, and leave what the pilot itself found or failed by as it is."""
    folder, objects = local_path(url), Objects(url, options)
    try:
        if folder is not None:
            shutil.rmtree(folder)
        while folder is None and (keys := list(objects.listing())):  # a teacher that was ended may still have been writing
            objects.delete_many(keys)
    except FileNotFoundError:
        return
    except (OSError, CacheError) as error:
        stderr.print(f"the pilot's store {url} could not be deleted, so delete it: {first_line(error)}", soft_wrap=True)


def _warm_up_units(job: Job) -> int:
    """Two per copy of the network: each device works on one unit while another is prepared, and either may be its first."""
    return 2 * devices_of(job.engine)


def _clips_per_unit(job: Job, clips: int) -> int:
    """The job's own value if the pilot fills several such units; otherwise one batch, so that there are several to measure."""
    per_shard = job.layout.clips_per_shard
    return per_shard if clips >= 3 * per_shard else min(per_shard, job.engine.batch)


def _made_ready(
    url: str, job: Job, recipe: Recipe, shapes: Mapping[SignalName, Shape], clips: tuple[Clip, ...]
) -> tuple[Store, WorkLeft]:
    """A store whose first units are for warming up, followed by the units to measure."""
    parts = tuple(part for part in PARTS if part == "clock" or part in job.signals)
    per_shard = recipe.layout.clips_per_shard
    warm_up = [
        clip.model_copy(update={"clip_id": f"warm-up {number} {clip.clip_id}", "video_id": f"warm-up {clip.video_id}"})
        for number, clip in enumerate(islice(cycle(clips), per_shard * _warm_up_units(job)))
    ]
    store, catalog = create_store(url, recipe, _COMMAND, job.storage_options), Catalog()
    for some in (warm_up, clips):
        table = pa.Table.from_pylist([clip.model_dump(exclude={"row"}) for clip in some], schema=CLIPS)
        catalog = add_clips(store, catalog, partial(_rows_of, table, per_shard), _COMMAND)
    add_parts(store, parts, shapes, catalog.rows, _COMMAND)
    return store, WorkLeft(recipe, catalog, store.state, parts, catalog.current)


def _rows_of(clips: pa.Table, per_shard: int, catalog: Catalog) -> pa.Table:
    return numbered_rows(clips, catalog.next_row(per_shard))


def _measured(job: Job, store: Store, clips: tuple[Clip, ...], units: Sequence[UnitReport]) -> PilotReport:
    names = {clip.clip_id for clip in clips}
    failures = [failure for failure in status(store).failures if failure.clip_id in names]
    if len(failures) == len(clips):
        raise BadInput(_all_failed(failures))
    # A shorter last unit would distort the time per clip.
    full = [unit for unit in units if _size(unit) == max(map(_size, units))]
    spread = {stage: _spread([_per_clip(unit, stage) for unit in full]) for stage in StageSeconds.model_fields}
    seconds = {stage: sum(getattr(unit.seconds, stage) for unit in units) / len(clips) for stage in StageSeconds.model_fields}
    return PilotReport(
        clips=len(clips),
        failed=dict(Counter(failure.reason for failure in failures)),
        units=len(units),
        bytes={signal: size / len(clips) for signal, size in _bytes(job, store).items()},
        seconds=StageSeconds(**seconds | {"teach": statistics.fmean(_per_clip(unit, "teach") for unit in full)}),
        spread={stage: found for stage, found in spread.items() if found.most},
        video_bytes=sum(length_of(clip.video) for clip in clips) / len(clips),
        memory_bytes=max(unit.memory_bytes for unit in units),
    )


def _size(unit: UnitReport) -> int:
    return unit.committed + unit.failed


def _per_clip(unit: UnitReport, stage: str) -> float:
    return float(getattr(unit.seconds, stage)) / _size(unit)


def _spread(values: Sequence[float]) -> Spread:
    return Spread(median=statistics.median(values), least=min(values), most=max(values))


def _bytes(job: Job, store: Store) -> dict[str, int]:
    """Bytes of the measured chunks of each signal, without warm-up units and shard indexes."""
    state = store.state
    total = {}
    for signal in job.signals:
        total[str(signal)] = 0
        for array in stored_arrays(store.recipe, signal, store.shapes):
            lengths = state.shard_lengths(array.name)[_warm_up_units(job) :]
            index = shard_index_length(array, store.recipe.layout.clips_per_shard)
            total[signal] += int(lengths.sum()) - index * int((lengths > 0).sum())
    return total


def _all_failed(failures: Sequence[FailedClip]) -> str:
    reasons = Counter(failure.reason for failure in failures)
    counted = ", ".join(f"{count} × {reason}" for reason, count in reasons.most_common())
    first = failures[0]
    return (
        f"none of the pilot's {len(failures)} clips could be taught: {counted}. The first is {first.clip_id}: {first.detail}. "
        "Fix the videos or the job's list of them, or take a larger pilot if only these are bad."
    )
