"""What a unit finds at its shards' keys is the truth: rows come out as it holds them. And what a unit itself holds."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Jobs
from decoding import decode_clip

from schemas.base import sha256_digest
from schemas.errors import TeacherFailed
from schemas.job import Job
from schemas.log import Unit, WorkItem
from schemas.report import UnitReport
from schemas.signal import P4D_SIGNALS, SignalName
from teacher_cache import open_cache
from teacher_cache.clips.video import DecodedClip
from teacher_cache.jobs.discovery import discover, find_clips
from teacher_cache.jobs.memory import COMPRESSORS, ENCODED_CLIPS
from teacher_cache.jobs.run import run_job
from teacher_cache.jobs.unit_worker import UnitWorker, WorkerSpec
from teacher_cache.jobs.work_list import WorkLeft, new_rows, rows_of
from teacher_cache.store.chunk import clip_buffer, decode_chunk, encode_chunk
from teacher_cache.store.layout import stored_arrays
from teacher_cache.store.shard import pack_shard, unpack_shard
from teacher_cache.store.store import add_clips, add_parts, create_store
from teacher_cache.store.verify import verify
from teacher_cache.teachers.heads import RawSignals
from teacher_cache.teachers.lane import Bring
from teacher_cache.teachers.registry import family

PER_SHARD = 3
KEY = "timestamps/c/0/0"


@dataclass(frozen=True)
class Begun:
    """A store of one unit that nobody has done: two clips of a shard of three, one signal."""

    worker: UnitWorker
    job: Job
    item: WorkItem
    clips: list[DecodedClip]

    @property
    def path(self) -> Path:
        """Of the shard of ``timestamps``."""
        path = Path(self.worker.store.url) / KEY
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def work(self) -> UnitReport:
        return self.worker.write(self.worker.teach(self.item, iter(self.clips)))

    def times(self, clip: int) -> list[float]:
        """When the frames of a clip are shown."""
        return list(self.clips[clip].clock.timestamps_seconds)

    def shard(self, seconds: Mapping[int, list[float]]) -> bytes:
        """A shard of ``timestamps`` with a clip's in each slot."""
        return pack_shard({slot: encode_chunk(np.array(times, "<f8")) for slot, times in seconds.items()}, PER_SHARD)


@contextmanager
def begin(folder: Path, videos: list[Path], per_shard: int = PER_SHARD) -> Iterator[Begun]:
    url = str(folder / "store")
    lines = [{"uri": str(video), "id": f"{number}-{video.name}"} for number, video in enumerate(videos)]
    (folder / "videos.jsonl").write_text("\n".join(map(json.dumps, lines)))
    changes = {"videos": {"manifest": str(folder / "videos.jsonl")}, "layout": {"clips_per_shard": per_shard}}
    job = Job.model_validate(Jobs(folder, folder).value(url, signals=["camray"], **changes))
    facts = discover(job)
    store = create_store(url, facts.recipe, "test")
    (clips,) = find_clips(job, facts, store.catalog())
    catalog = add_clips(store, store.catalog(), lambda current: new_rows(clips, current, facts.recipe), "test")
    add_parts(store, facts.parts, facts.shapes, catalog.rows, "test")
    (item,) = WorkLeft(facts.recipe, catalog, store.state, facts.parts, rows_of(clips["clip_key"].to_numpy(), catalog))
    shapes = {signal: facts.shapes[signal] for signal in facts.signals}
    with UnitWorker(WorkerSpec(store=url, teacher=job.teacher, engine=job.engine, shapes=shapes)) as worker:
        yield Begun(worker, job, item, [decode_clip(str(video), facts.recipe.clips) for video in videos])


@pytest.fixture(scope="module")
def begun(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Begun]:
    """For tests in which it stays undone."""
    with begin(tmp_path_factory.mktemp("begun"), [videos / "scene-0.mp4", videos / "scene-1.mp4"]) as made:
        yield made


OTHER = [0.25 * i for i in range(16)]

STANDING: dict[str, tuple[Callable[[Begun], bytes], set[int]]] = {
    "lacks a clip": (lambda b: b.shard({0: b.times(0)}), {1}),
    "lacks the other clip": (lambda b: b.shard({1: b.times(1)}), {0}),
    "holds no clip": (lambda b: b.shard({}), {0, 1}),
    "holds a clip too many": (lambda b: b.shard({0: b.times(0), 1: b.times(1), 2: OTHER}), set()),
    "holds a clip in another slot": (lambda b: b.shard({0: b.times(0), 2: b.times(1)}), {1}),
    "holds clips in each other's slots": (lambda b: b.shard({0: b.times(1), 1: b.times(0)}), {0, 1}),
    "holds another clip": (lambda b: b.shard({0: OTHER, 1: b.times(1)}), {0}),
    "a bit of a chunk is wrong": (lambda b: b.shard({0: b.times(0), 1: b.times(1)}).replace(b"\0", b"\1", 1), {0}),
    "is cut short": (lambda b: b.shard({0: b.times(0), 1: b.times(1)})[:-1], {0, 1}),
    "is empty": (lambda _: b"", {0, 1}),
    "is longer": (lambda b: b.shard({0: b.times(0), 1: b.times(1)}) + b"\0", {0, 1}),
}
"""What stands at the key of the clock's shard → the rows that it does not hold."""


@pytest.mark.parametrize("kind", STANDING)
def test_what_stands_is_the_truth_and_no_state_is_a_dead_end(begun: Begun, kind: str) -> None:
    standing, missing = STANDING[kind]
    begun.path.write_bytes(standing(begun))
    report = begun.work()
    assert report.written is not None
    assert {row.row for row in report.written.failed} == missing
    assert {row.reason for row in report.written.failed} <= {"missing_in_shard"}
    assert report.committed == 2 - len(missing)
    assert begun.path.read_bytes() == standing(begun)
    assert report.written.objects[KEY].digest == sha256_digest(standing(begun))


def test_clips_that_an_earlier_attempt_left_out_are_taught_in_new_rows(videos: Path, tmp_path: Path) -> None:
    with begin(tmp_path, [videos / "scene-0.mp4", videos / "scene-1.mp4"]) as begun:
        begun.path.write_bytes(begun.shard({0: begun.times(0)}))
        job = begun.job
    report = run_job(job)
    assert (report.clips.committed, report.clips.failed) == (1, 1)
    report = run_job(job)
    assert (report.clips.committed, report.clips.failed) == (2, 0)
    assert open_cache(job.store).clips["row"].to_pylist() == [0, 3]
    assert not verify(job.store).findings


def test_what_another_device_gave_is_taken_over_with_its_own_figures(videos: Path, tmp_path: Path) -> None:
    """Its last bits need not equal ours; a value that is another altogether is not taken."""
    with begin(tmp_path, [videos / "scene-0.mp4", videos / "scene-1.mp4"]) as begun:
        first = begun.work()
        assert first.written is not None
        (key,) = (key for key in first.written.objects if key.startswith("camray/"))
        path = Path(begun.worker.store.url) / key
        chunks = unpack_shard(path.read_bytes(), PER_SHARD)
        (array,) = stored_arrays(begun.worker.store.recipe, "camray", begun.worker.shapes)
        values = {slot: clip_buffer(array, 1)[0] for slot in chunks}
        for slot, chunk in chunks.items():
            decode_chunk(chunk, array, values[slot])
        near, far = values[0] * np.float32(1.001), values[1] * np.float32(1.1)
        path.write_bytes(pack_shard({n: encode_chunk(v, array.compression) for n, v in enumerate((near, far))}, PER_SHARD))
        again = begun.work().written
    assert again is not None
    assert [(row.row, row.reason) for row in again.failed] == [(1, "missing_in_shard")]
    (figures,) = again.figures
    assert figures.rows == (0,)
    assert figures.measured[0] == pytest.approx(0.001, rel=0.01)
    assert again.objects[key].digest == sha256_digest(path.read_bytes())


def test_no_more_encoded_clips_wait_than_the_compressors_can_take(videos: Path, tmp_path: Path) -> None:
    """However fast the teacher is: here, the compressors have other work."""
    count = ENCODED_CLIPS + 6
    with begin(tmp_path, [videos / "scene-3.mp4"] * count, per_shard=count) as begun:
        gate, taken = threading.Event(), 0

        def decoded() -> Iterator[DecodedClip]:
            nonlocal taken
            for clip in begun.clips:
                taken += 1
                yield clip

        busy = [begun.worker.compressors.submit(gate.wait, 60) for _ in range(COMPRESSORS)]
        clock = begun.item.model_copy(update={"unit": Unit(shard=0, parts=("clock",))})
        with ThreadPoolExecutor(1) as beside:
            teaching = beside.submit(begun.worker.teach, clock, decoded())
            try:
                deadline = time.monotonic() + 60
                while taken < ENCODED_CLIPS and time.monotonic() < deadline:
                    time.sleep(0.02)
                time.sleep(0.3)  # in which the rest would be encoded, were there room
                assert ENCODED_CLIPS <= taken <= ENCODED_CLIPS + begun.worker.batch  # one batch is on its way
            finally:
                gate.set()
            assert begun.worker.write(teaching.result(60)).committed == count
        assert all(one.result(60) for one in busy)


@pytest.mark.parametrize(("most_clips", "batch"), [(4, 4), (2, 2), (1, 2)])
def test_a_batch_that_the_device_does_not_hold_is_halved_once(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most_clips: int, batch: int
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "packages"))
    monkeypatch.setenv("P4D_FAULTY", str(tmp_path / "faults.json"))
    (tmp_path / "faults.json").write_text(json.dumps({"most_clips": most_clips}))
    described = {"family": "faulty", "preset": "tiny"}
    job = Job.model_validate(Jobs(tmp_path, videos).value(tmp_path / "store", teacher=described, signals=["camray"]))
    create_store(job.store, discover(job).recipe, "test")
    spec = WorkerSpec(
        store=job.store, teacher=job.teacher, engine=job.engine.model_copy(update={"batch": 4}), shapes=discover(job).shapes
    )
    frames = torch.randint(0, 256, (4, 16, 112, 112, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with UnitWorker(spec) as worker:
        if most_clips == 1:
            with pytest.raises(TeacherFailed, match="out of memory with 2 clips at once: CUDA out of memory"):
                worker.through(frames, ["camray"], lambda raw, _: list(raw["camray"]))
        else:
            whole = family("l4p").load(job.teacher, "cpu").raw(frames, ["camray"])["camray"]
            halves, _ = worker.through(frames, ["camray"], lambda raw, _: list(raw["camray"]))
            torch.testing.assert_close(torch.stack(halves), whole)
        assert worker.batch == batch


def test_a_clips_values_do_not_depend_on_how_full_its_batch_is(videos: Path, tmp_path: Path) -> None:
    """Where batches are filled up, the teacher sees one shape alone."""
    with begin(tmp_path, [videos / f"scene-{number}.mp4" for number in range(3)]) as begun:
        worker, shapes = begun.worker, []
        worker.batch, worker._pads = 3, True
        teacher = worker._places[0].teacher
        raw_of = teacher.raw

        def raw(frames: torch.Tensor, signals: Collection[SignalName]) -> RawSignals:
            shapes.append(len(frames))
            return raw_of(frames, signals)

        teacher.raw = raw
        frames = torch.from_numpy(np.stack([clip.frames for clip in begun.clips]))

        def kept(raw: RawSignals, _: Bring) -> list[RawSignals]:
            return [{signal: values[clip].clone() for signal, values in raw.items()} for clip in range(len(raw["f4d"]))]

        whole, _ = worker.through(frames, P4D_SIGNALS, kept)
        for few in (frames[:1], frames[:2], frames[1:], frames[2:]):
            first = 3 - len(few) if torch.equal(few[-1], frames[2]) else 0
            part, seconds = worker.through(few, P4D_SIGNALS, kept)
            assert seconds > 0
            assert len(part) == len(few)
            for clip, values in enumerate(part):
                for signal in P4D_SIGNALS:
                    assert torch.equal(values[signal], whole[first + clip][signal])
        assert shapes == [3] * 5
