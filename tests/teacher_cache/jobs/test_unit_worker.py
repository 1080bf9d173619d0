"""What a unit finds at its shards' keys: its own work of before is taken as it is, and nothing else is."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from conftest import Jobs

from schemas.base import sha256_digest
from schemas.errors import CouldNotRun
from schemas.job import Job
from schemas.ledger import WorkItem
from schemas.report import UnitReport
from teacher_cache import open_cache
from teacher_cache.clips.decode import DecodedClip, decode_clip
from teacher_cache.jobs.discovery import discover, find_clips
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
def begin(folder: Path, videos: Path) -> Iterator[Begun]:
    url = str(folder / "store")
    names = ["scene-0.mp4", "scene-1.mp4"]
    (folder / "two.jsonl").write_text("".join(json.dumps({"uri": str(videos / name), "id": name}) + "\n" for name in names))
    changes = {"videos": {"manifest": str(folder / "two.jsonl")}, "layout": {"clips_per_shard": PER_SHARD}}
    job = Job.model_validate(Jobs(folder, videos).value(url, signals=["camray"], **changes))
    facts = discover(job)
    store = create_store(url, facts.recipe)
    clips = find_clips(job, facts, store.catalog())
    catalog = add_clips(store, store.catalog(), lambda current: new_rows(clips, current, facts.recipe))
    add_parts(store, facts.parts, facts.shapes, catalog.rows)
    (item,) = WorkLeft(facts.recipe, catalog, store.ledger(), facts.parts, rows_of(clips, catalog))
    with UnitWorker(WorkerSpec(store=url, teacher=job.teacher, engine=job.engine)) as worker:
        yield Begun(worker, item, [decode_clip(str(videos / name), facts.recipe.clips) for name in names])


@pytest.fixture(scope="module")
def begun(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Begun]:
    """For tests in which it stays undone."""
    with begin(tmp_path_factory.mktemp("begun"), videos) as made:
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
    with begin(tmp_path, videos) as begun:
        standing = begun.shard({0: FIRST, 1: SECOND})
        begun.path.write_bytes(standing)
        assert begun.work().committed == 2
    url = begun.worker.store.url
    assert begun.path.read_bytes() == standing
    ((text,),) = (
        texts.values() for texts in committed_texts(begun.worker.store.objects, read_volumes(begun.worker.store.objects))
    )
    assert json.loads(text)["objects"][KEY] == {"digest": sha256_digest(standing), "length": len(standing)}
    read = open_cache(url).read(["timestamps"], ["scene-1.mp4", "scene-0.mp4"])["timestamps"]
    np.testing.assert_array_equal(read, [SECOND, FIRST])
    assert not verify(url).findings
