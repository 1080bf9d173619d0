"""What a unit finds at its shards' keys: its own work of before is taken as it is, and nothing else is. And what it holds."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from conftest import Jobs

from schemas.base import sha256_digest
from schemas.errors import CouldNotRun
from schemas.job import Job
from schemas.log import Unit, WorkItem
from schemas.report import UnitReport
from teacher_cache import open_cache
from teacher_cache.clips.decode import DecodedClip, decode_clip
from teacher_cache.jobs.discovery import discover, find_clips
from teacher_cache.jobs.memory import COMPRESSORS, ENCODED_CLIPS
from teacher_cache.jobs.unit_worker import UnitWorker, WorkerSpec
from teacher_cache.jobs.work_list import WorkLeft, new_rows, rows_of
from teacher_cache.store.chunk import encode_chunk
from teacher_cache.store.ledger import committed_texts, read_volumes
from teacher_cache.store.shard import pack_shard
from teacher_cache.store.store import add_clips, add_parts, create_store
from teacher_cache.store.verify import verify

PER_SHARD = 3
KEY = "timestamps/c/0/0"


@dataclass(frozen=True)
class Begun:
    """A store of one unit that nobody has done: two clips of a shard of three, one signal."""

    worker: UnitWorker
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
    store = create_store(url, facts.recipe)
    clips = find_clips(job, facts, store.catalog())
    catalog = add_clips(store, store.catalog(), lambda current: new_rows(clips, current, facts.recipe))
    add_parts(store, facts.parts, facts.shapes, catalog.rows)
    (item,) = WorkLeft(facts.recipe, catalog, store.ledger(), facts.parts, rows_of(clips, catalog))
    with UnitWorker(WorkerSpec(store=url, teacher=job.teacher, engine=job.engine)) as worker:
        yield Begun(worker, item, [decode_clip(str(video), facts.recipe.clips) for video in videos])


@pytest.fixture(scope="module")
def begun(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Begun]:
    """For tests in which it stays undone."""
    with begin(tmp_path_factory.mktemp("begun"), [videos / "scene-0.mp4", videos / "scene-1.mp4"]) as made:
        yield made


FIRST, SECOND, THIRD = ([start + 0.25 * i for i in range(16)] for start in (0.0, 1.0, 2.0))

NOT_OURS: dict[str, Callable[[Begun], bytes]] = {
    "lacks a clip": lambda begun: begun.shard({0: FIRST}),
    "lacks the other clip": lambda begun: begun.shard({1: SECOND}),
    "holds no clip": lambda begun: begun.shard({}),
    "holds a clip too many": lambda begun: begun.shard({0: FIRST, 1: SECOND, 2: THIRD}),
    "holds a clip of another slot": lambda begun: begun.shard({0: FIRST, 2: SECOND}),
    "a bit of a chunk is wrong": lambda begun: begun.shard({0: FIRST, 1: SECOND}).replace(b"\0", b"\1", 1),
    "is cut short": lambda begun: begun.shard({0: FIRST, 1: SECOND})[:-1],
    "is empty": lambda _: b"",
    "is longer": lambda begun: begun.shard({0: FIRST, 1: SECOND}) + b"\0",
}


@pytest.mark.parametrize("kind", NOT_OURS)
def test_a_shard_that_is_not_the_unit_s_own_work_is_not_taken(begun: Begun, kind: str) -> None:
    begun.path.write_bytes(NOT_OURS[kind](begun))
    with pytest.raises(CouldNotRun, match=rf"{KEY} of .* does not hold this unit's clips"):
        begun.work()
    assert not open_cache(begun.worker.store.url).committed_ids()


def test_a_whole_shard_of_the_unit_s_clips_is_taken_as_it_is(videos: Path, tmp_path: Path) -> None:
    """Another worker's last bits need not equal ours, and what is recorded is what lies there."""
    with begin(tmp_path, [videos / "scene-0.mp4", videos / "scene-1.mp4"]) as begun:
        standing = begun.shard({0: FIRST, 1: SECOND})
        begun.path.write_bytes(standing)
        assert begun.work().committed == 2
    url = begun.worker.store.url
    assert begun.path.read_bytes() == standing
    ((text,),) = (
        texts.values() for texts in committed_texts(begun.worker.store.objects, read_volumes(begun.worker.store.objects))
    )
    assert json.loads(text)["objects"][KEY] == {"digest": sha256_digest(standing), "length": len(standing)}
    read = open_cache(url).read(["timestamps"], ["1-scene-1.mp4", "0-scene-0.mp4"])["timestamps"]
    np.testing.assert_array_equal(read, [SECOND, FIRST])
    assert not verify(url).findings


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
