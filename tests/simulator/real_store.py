"""A world in; the real code of runs, gc, verify and readers over its store out, with a teacher as small as can be.

What is real: `run_job` with planning, `UnitWorker`, the commits and the log; `collect_garbage`, repair, `verify`, `open_cache`
and `StoreFollower`. What stands in: the store's backend, threads, the list of videos, their decoder, and the teacher, whose
values follow from a clip's name and content, and whose last bits may differ from run to run, as those of GPUs do.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
import torch
from simulator.memory_store import MemoryStore
from simulator.stand_ins import Datetime, InlineExecutor, Threading
from simulator.world import ScheduledBackend, World

from schemas.clip import Clip, FrameClock
from schemas.errors import Stopped, VideoError
from schemas.event import EngineEvent
from schemas.job import Job, TeacherJob
from schemas.log import PARTS, Record, TableFile, WorkItem
from schemas.recipe import ClipRecipe, Recipe, TeacherIdentity
from schemas.report import RunReport, UnitReport
from schemas.signal import Shape, SignalName
from teacher_cache.clips.tables import CLIPS, keys_of
from teacher_cache.clips.video import DecodedClip
from teacher_cache.encodings.base import StoredArray
from teacher_cache.encodings.registry import resolve
from teacher_cache.io.backend import Found
from teacher_cache.io.stop import Stop
from teacher_cache.jobs import commit, planner, run, unit_worker
from teacher_cache.jobs.discovery import JobFacts
from teacher_cache.jobs.unit_worker import UnitWorker, WorkerSpec
from teacher_cache.jobs.work_list import WorkLeft
from teacher_cache.reader import in_flight
from teacher_cache.reader.cache import Cache
from teacher_cache.store import declared, log, objects, repair, store, table, template, verify
from teacher_cache.store.catalog import Catalog
from teacher_cache.store.store import Store
from teacher_cache.store.table import StoredTable

URL = "memory://store"
FRAMES = 2
SHAPES: dict[SignalName, Shape] = {"camray": (FRAMES, 1, 1, 6), "depth": (FRAMES, 2, 2)}
IDENTITY = TeacherIdentity(family="toy", config={}, weights=f"sha256:{'0' * 64}", dtype="float32")

_CACHED = [
    found
    for owner in (Store, Catalog, Cache, WorkLeft)
    for found in vars(owner).values()
    if isinstance(found, functools.cached_property) and hasattr(found, "lock")  # which later Pythons do without
]

# Far beyond what rounding an answer to integers hides, and far below what is taken for another clip's values.
_NOISE = 2e-3


@dataclass(frozen=True)
class Work:
    """What a run is asked to do, and what befalls it."""

    clips: str = "ab"
    """Names of the clips, a letter each. In upper case: the clip of that name with other content."""
    signals: tuple[SignalName, ...] = ("camray",)
    undecodable: str = ""
    """Clips whose videos do not decode in this run."""
    noise: int = 0
    """Runs of different noise give other last bits."""
    units: int | None = None
    """After so many, the run is told to stop."""
    is_mute: bool = False
    """Whether its worker is believed dead: what it reports reaches nobody."""


def number_of(clip: Clip) -> int:
    """What the frames of a clip show, by its name and content."""
    return ord(str(clip.content_digest))


@functools.cache
def values_of(number: int, signal: SignalName, noise: int = 0) -> np.ndarray[Any, Any]:
    """What the teacher gives for a clip: float32, depth as its natural log."""
    ramp = np.arange(1, 1 + int(np.prod(SHAPES[signal])), dtype=np.float64).reshape(SHAPES[signal])
    if signal == "camray":
        return (np.sin(ramp * number) * (1 + noise * _NOISE)).astype(np.float32)
    # The depths of every third clip are at the end of what its usual array can hold: noise decides whether they are in it.
    largest = 63.9995 if number % 3 == 0 else 3.0
    return (largest - np.abs(np.sin(ramp * number)) * (ramp > 1) + noise * _NOISE).astype(np.float32)


class ToyTeacher:
    """See `teacher_cache.teachers.protocol.Teacher`."""

    identity, image_size, frames, shapes = IDENTITY, 2, FRAMES, SHAPES

    def __init__(self, noise: int) -> None:
        self._noise = noise

    def raw(self, frames: torch.Tensor, signals: Collection[SignalName]) -> dict[SignalName, torch.Tensor]:
        numbers = frames.numpy()[:, 0, 0, 0, 0].tolist()
        return {s: torch.from_numpy(np.stack([values_of(number, s, self._noise) for number in numbers])) for s in signals}

    def heads(self) -> None:
        return None


def decoded(clip: Clip, work: Work) -> DecodedClip | VideoError:
    if clip.clip_id in work.undecodable:
        return VideoError("decode_error", "its frames do not decode now")
    frames = np.full((FRAMES, 1, 1, 3), number_of(clip), np.uint8)
    return DecodedClip(frames, FrameClock(frame_index=(0, 1), timestamps_seconds=(0.0, number_of(clip) / 8)), "toy 1", 0.0)


@functools.cache
def job_of(name: str, signals: tuple[SignalName, ...], clips_per_shard: int) -> Job:
    return Job.model_validate(
        {
            "videos": {"manifest": name},
            "store": URL,
            "teacher": {"family": "toy", "preset": "toy", "weights": name},
            "signals": signals,
            "layout": {"clips_per_shard": clips_per_shard},
            "engine": {"batch": 2},
        }
    )


@functools.cache
def recipe_of(clips_per_shard: int) -> Recipe:
    job = job_of("", ("camray",), clips_per_shard)
    clips = ClipRecipe(frames=FRAMES, sampling="uniform", preprocessing="l4p", size=2, student_size=None)
    return Recipe(teacher=IDENTITY, clips=clips, encodings=resolve(job), layout=job.layout)


@functools.cache
def clips_of(names: str) -> pa.Table:
    """As `teacher_cache.jobs.discovery.find_clips` gives them."""
    ids = list(names.lower())
    nothing = [None] * len(ids)
    columns = {"clip_id": ids, "video": ids, "video_id": ids, "content_digest": list(names), "flipped": [False] * len(ids)}
    table = pa.table([pa.array(columns.get(field.name, nothing), field.type) for field in CLIPS], schema=CLIPS)
    return table.append_column("clip_key", pa.array(keys_of(ids)))


class _Engine:
    """One worker that does one unit after the other."""

    def __init__(self, works: dict[str, Work]) -> None:
        self._works = works

    def run(self, spec: WorkerSpec, items: Sequence[WorkItem], stop: Stop) -> Iterator[EngineEvent | None]:  # noqa: ARG002
        work = self._works[str(spec.teacher.weights)]
        with UnitWorker(spec) as worker:
            for item in items[: work.units]:
                report = worker.write(worker.teach(item, iter([decoded(clip, work) for clip in item.clips])))
                if not work.is_mute:
                    yield report


class _PromptCommitter:
    """In the place of `teacher_cache.jobs.commit.Committer`: commits each unit at once, in the thread that adds it."""

    def __init__(self, of: Store, catalog_parts: int) -> None:
        self._store, self._catalog_parts, self._done = of, catalog_parts, list[UnitReport]()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def add(self, report: UnitReport) -> None:
        self._done += commit.commit(self._store, [report], self._catalog_parts)
        self._store.log.make_checkpoint()

    def done(self) -> list[UnitReport]:
        done, self._done = self._done, []
        return done

    def close(self) -> None:
        self._store.log.make_checkpoint(at_end=True)


SETTLED = ("zarr.json", "heads/", "log/0")
"""The root's metadata, the heads that this teacher lacks, and the records of a log that nobody repairs."""


class _Backend(ScheduledBackend):
    """The world's, in which asking for what never changes is no step."""

    def __init__(self, world: World, store: MemoryStore, settled: tuple[str, ...]) -> None:
        super().__init__(world, store)
        self._settled = settled

    def get(self, key: str, most: int = 2**40) -> bytes:
        if key.startswith(self._settled) and (key in self._store or not key.startswith("log/")):
            self._world.know(key in self._store and self._store.get(key))
            return self._store.get(key, most)
        return super().get(key, most)

    def get_range(self, key: str, start: int, stop: int) -> memoryview:
        if key.startswith(self._settled) and not key.startswith("log/"):
            return self._world.know(self._store.get_range(key, start, stop))
        return super().get_range(key, start, stop)

    def list(self, prefix: str) -> Sequence[Found]:
        return self._world.know(self._store.list(prefix)) if prefix in self._settled else super().list(prefix)


_begun: dict[tuple[tuple[Work, ...], int, int], dict[str, bytes]] = {}


class RealStore:
    """The real code, with what stands in for the rest of the world patched for the length of a run of a case."""

    def __init__(
        self,
        world: World,
        *before: Work,
        clips_per_shard: int = 2,
        batched: bool = False,
        ahead: int = 2,
        records: int = 512,
        settled: tuple[str, ...] = SETTLED,
    ) -> None:
        """A store in which the runs ``before`` were done.

        Each unit has a record of its own, appended by the driver itself, unless they are ``batched`` by the real `Committer`.
        ``ahead``: records asked for at once. ``records``: after so many there is a checkpoint. ``settled``: prefixes of keys
        whose objects nobody changes or deletes in this case, nor creates but in the log: to read them is no step.
        """
        self.world, self.clips_per_shard = world, clips_per_shard
        self.works: dict[str, Work] = {}
        backend = _Backend(world, world.store, settled)
        patch = world.patch
        patch(objects, "backend_of", lambda url, options: backend)  # noqa: ARG005
        patch(run, "engine", lambda kind: _Engine(self.works))  # noqa: ARG005
        patch(run, "discover", self._discover)
        patch(planner, "find_clips", lambda job, *_, **__: [clips_of(self.works[str(job.videos.manifest)].clips)])
        patch(unit_worker, "loaded", self.load)
        patch(unit_worker, "self_test", lambda *_: None)
        patch(UnitWorker, "_require_memory", lambda *_: None)
        for module in (unit_worker, verify, in_flight):
            patch(module, "ThreadPoolExecutor", InlineExecutor)
        for module in (store, declared):
            patch(module, "array_metadata", _array_metadata)
        patch(StoredTable, "read", _read_table)
        patch(table, "table_file", _table_file)
        patch(log, "read_record", _read_record)
        for found in _CACHED:  # one lock for all instances of a class, in which an actor would keep the others waiting
            patch(found, "lock", nullcontext())
        for module in (log, repair):
            patch(module, "datetime", Datetime)
        patch(log, "FEWEST_AHEAD", ahead)
        patch(log, "MOST_AHEAD", ahead)
        patch(log, "MOST_RECORDS", records)
        patch(log, "WORTH_A_CHECKPOINT", min(records, 16))
        patch(run, "Committer", _PromptCommitter)
        self._begin(before, records)
        if batched:
            patch(run, "Committer", commit.Committer)
            patch(commit, "threading", Threading(world))

    def _begin(self, works: tuple[Work, ...], records: int) -> None:
        """Do these runs, or put down what they gave in an earlier run of a case."""
        key = works, self.clips_per_shard, records
        if key not in _begun:
            for number, work in enumerate(works):
                with suppress(Stopped):
                    self.run(f"before-{number}", work)
            _begun[key] = {found.key: self.world.store.get(found.key) for found in self.world.store.list("")}
            return
        for name, data in _begun[key].items():
            self.world.store.create(name, data)

    def calm(self) -> None:
        """From here on there are no actors, and no threads."""
        self.world.patch(run, "Committer", _PromptCommitter)

    def _discover(self, job: Job) -> JobFacts:
        parts = tuple(part for part in PARTS if part == "clock" or part in job.signals)
        return JobFacts(recipe_of(self.clips_per_shard), SHAPES, parts, clips_of(""))

    def load(self, job: TeacherJob, device: str) -> ToyTeacher:  # noqa: ARG002
        """As `teacher_cache.teachers.protocol.TeacherFamily`."""
        return ToyTeacher(self.works[str(job.weights)].noise)

    def run(self, name: str, work: Work, *, repair: bool = False, retry_failed: bool = False) -> RunReport:
        """`run_job`."""
        self.works[name] = work
        job = job_of(name, work.signals, self.clips_per_shard)
        return run.run_job(job, repair=repair, retry_failed=retry_failed)


# What follows from its arguments alone is worked out once, and not again in each of thousands of runs.


def once(function: Callable[..., Any], arguments: Any, *given: Any) -> Any:
    """``function(*given)``, or what it gave before for these hashable ``arguments``, which are all that it depends on."""
    key = function, arguments
    if key not in _known:
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        _known[key] = function(*given)
    return _known[key]


_MOST_KNOWN = 100_000
_known: dict[tuple[Callable[..., Any], Any], Any] = {}

_array_metadata_anew, _table_file_anew, _read_record_anew = template.array_metadata, table.table_file, log.read_record
_read_table_anew = StoredTable.read


def _array_metadata(array: StoredArray, rows: int, clips_per_shard: int) -> bytes:
    return once(_array_metadata_anew, (array.name, rows, clips_per_shard), array, rows, clips_per_shard)


def _table_file(stem: str, rows: pa.Table) -> tuple[TableFile, bytes]:
    content = tuple(map(tuple, rows.to_pydict().values()))
    return once(_table_file_anew, (stem, content), stem, rows)


def _read_record(number: int, data: bytes, url: str) -> Record:
    return once(_read_record_anew, (number, data), number, data, url)


def _read_table(stored: StoredTable, columns: Sequence[str], groups: Sequence[int] | None = None) -> pa.Table:
    stored._source()  # fetches it, and checks its digest
    key = stored.digest, tuple(columns), groups and tuple(groups)
    return once(_read_table_anew, key, stored, columns, groups)
