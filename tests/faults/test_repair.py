"""`run --repair` teaches just the clips again that damage has hit, as new rows; what was committed is never written again."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import tree
from log_files import record_with

from schemas.errors import StoreDamaged
from schemas.job import Job
from teacher_cache import open_cache
from teacher_cache.jobs.run import run_job
from teacher_cache.store import records
from teacher_cache.store.layout import record_key
from teacher_cache.store.log import Log, checkpoint_file
from teacher_cache.store.objects import Objects
from teacher_cache.store.store import open_store
from teacher_cache.store.verify import verify

CLIPS = ["scene-0", "scene-1", "scene-2"]
NAMES = ("f4d", "objects", "regions", "timestamps")


@pytest.fixture(scope="module")
def job(two_jobs: tuple[Job, Job]) -> Job:
    """Of the four videos, with regions besides."""
    return two_jobs[0].model_copy(update={"signals": ("f4d", "objects", "regions")})


@pytest.fixture(scope="module")
def whole(folder: Path, job: Job) -> Path:
    run_job(job.model_copy(update={"store": str(folder / "store")}))
    return folder / "store"


@pytest.mark.parametrize(
    ("how", "hit"),
    [
        ("bit f4d", CLIPS[:1]),
        ("bit objects", CLIPS[:1]),
        ("cut regions", CLIPS[:2]),
        ("lost objects", CLIPS[:2]),
        ("swapped f4d", CLIPS),
        ("record", []),
        ("first record", []),
    ],
)
def test_what_was_hit_is_taught_again(whole: Path, job: Job, tmp_path: Path, how: str, hit: list[str]) -> None:
    store = tmp_path / "store"
    shutil.copytree(whole, store)
    _damage(store, how)
    damaged = tree(store)
    named = {clip_id for finding in verify(str(store)).findings for clip_id in finding.clip_ids}
    assert set(hit) <= named <= {*hit, "broken"}
    before = _rows(whole)

    job = job.model_copy(update={"store": str(store)})
    report = run_job(job, repair=True)
    assert report.clips.model_dump() == {"planned": 4, "committed": 3, "failed": 1, "pending": 0}
    now = tree(store)
    derived = {key for key in damaged if key.endswith("/zarr.json")}  # an array's length
    derived |= {key for key in damaged if "record" in how and key.startswith("log/")}
    assert {key for key in damaged if now.get(key) != damaged[key]} <= derived
    assert verify(str(store)).findings == ()
    after = _rows(store)
    # What a lost record committed stands, and is taken over in its place.
    moved = set() if "record" in how else set(hit)
    assert {clip_id for clip_id in after if after[clip_id] != before[clip_id]} - {"broken"} == moved
    found, right = (open_cache(str(place)) for place in (store, whole))
    for signal, values in found.read(NAMES, CLIPS).items():
        np.testing.assert_array_equal(values, right.read([signal], CLIPS)[signal])
    assert found.objects(CLIPS) == right.objects(CLIPS)

    run_job(job, repair=True)
    assert tree(store) == now


def _rows(store: Path) -> dict[str, int]:
    clips = open_cache(str(store)).clips
    return dict(zip(clips["clip_id"].to_pylist(), clips["row"].to_pylist(), strict=True))


def _damage(store: Path, how: str) -> None:
    match how.split():
        case ["record"]:
            record = record_with(store, "unit_committed", shard=0)
            record.write_bytes(record.read_bytes()[:50])
        case ["first", "record"]:  # of another store under the same recipe: nothing before it says that it does not belong
            path = store / record_key(0)
            value = json.loads(path.read_bytes())
            del value["digest"]
            path.write_bytes(records._sealed(value | {"mark": "another store's"}))
        case [kind, name]:
            _damage_shard(store, kind, name)


def _damage_shard(store: Path, how: str, name: str) -> None:
    first, second = (next(path for path in store.glob(f"{name}/c/{shard}/**/*") if path.is_file()) for shard in (0, 1))
    whole = first.read_bytes()
    match how:
        case "bit":
            first.write_bytes(bytes([whole[0] ^ 1 << random.Random(0).randrange(8)]) + whole[1:])
        case "cut":
            first.write_bytes(whole[:-7])
        case "lost":
            first.unlink()
        case "swapped":
            first.write_bytes(second.read_bytes())
            second.write_bytes(whole)


def test_rows_whose_record_is_lost_are_added_again_from_their_table(whole: Path, job: Job, tmp_path: Path) -> None:
    store = shutil.copytree(whole, tmp_path / "store")
    lost = record_with(store, "rows_added")
    lost.write_bytes(b"")
    with pytest.raises(StoreDamaged, match=f"log/{lost.name}"):
        open_cache(str(store))
    report = run_job(job.model_copy(update={"store": str(store)}), repair=True)
    assert report.clips.model_dump() == {"planned": 4, "committed": 3, "failed": 1, "pending": 0}
    assert _rows(store) == _rows(whole)
    assert verify(str(store)).findings == ()


def test_a_damaged_checkpoint_costs_time_and_nothing_else(whole: Path, job: Job, tmp_path: Path) -> None:
    store = shutil.copytree(whole, tmp_path / "store")
    log = Log(Objects(str(store)), clips_per_shard=2)
    key, data = checkpoint_file(log.read())
    (store / key).write_bytes(data[:-1])
    assert _rows(store) == _rows(whole)
    assert [(finding.kind, finding.key) for finding in verify(str(store)).findings] == [("checkpoint", key)]
    run_job(job.model_copy(update={"store": str(store)}), repair=True)
    assert verify(str(store)).findings == ()


def test_damage_that_changes_after_a_repair_is_found_once_more_and_then_known(whole: Path, job: Job, tmp_path: Path) -> None:
    store = shutil.copytree(whole, tmp_path / "store")
    job = job.model_copy(update={"store": str(store)})
    shard = next(path for path in store.glob("objects/c/0/**/*") if path.is_file())
    shard.write_bytes(shard.read_bytes()[:100])
    run_job(job, repair=True)
    assert verify(str(store)).findings == ()
    rows = _rows(store)
    shard.unlink()
    (found,) = verify(str(store)).findings
    assert (found.kind, found.clip_ids) == ("missing", ())
    run_job(job, repair=True)
    assert verify(str(store)).findings == ()
    version = open_store(str(store)).version
    run_job(job, repair=True)
    assert (_rows(store), open_store(str(store)).version) == (rows, version)


def test_a_second_repair_and_one_of_a_whole_store_change_nothing(whole: Path, job: Job, tmp_path: Path) -> None:
    store = shutil.copytree(whole, tmp_path / "store")
    before = tree(store)
    assert run_job(job.model_copy(update={"store": str(store)}), repair=True).clips.committed == 3
    assert tree(store) == before
