"""`run --repair` teaches just the clips again that damage has hit, as new rows; what was committed is never written again."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import tree

from schemas.job import Job
from teacher_cache import open_cache
from teacher_cache.jobs.run import run_job
from teacher_cache.store.garbage import collect_garbage
from teacher_cache.store.verify import verify

CLIPS = ["scene-0", "scene-1", "scene-2"]
NAMES = ("camray", "timestamps")


@pytest.fixture(scope="module")
def whole(folder: Path, two_jobs: tuple[Job, Job]) -> Path:
    run_job(two_jobs[0].model_copy(update={"store": str(folder / "store")}))
    return folder / "store"


@pytest.mark.parametrize(
    ("how", "hit"), [("bit", CLIPS[:1]), ("cut", CLIPS[:2]), ("lost", CLIPS[:2]), ("swapped", CLIPS), ("entry", CLIPS[:2])]
)
def test_what_was_hit_is_taught_again(whole: Path, two_jobs: tuple[Job, Job], tmp_path: Path, how: str, hit: list[str]) -> None:
    store = tmp_path / "store"
    shutil.copytree(whole, store)
    _damage(store, how)
    damaged = tree(store)
    named = {clip_id for finding in verify(str(store)).findings for clip_id in finding.clip_ids}
    assert set(hit) <= named <= {*hit, "broken"}
    before = _rows(whole)

    job = two_jobs[0].model_copy(update={"store": str(store)})
    report = run_job(job, repair=True)
    assert report.clips.model_dump() == {"planned": 4, "committed": 3, "failed": 1, "pending": 0}
    now = tree(store)
    derived = {key for key in damaged if key.endswith("/zarr.json")}  # an array's length
    assert {key for key in damaged if now.get(key) != damaged[key]} <= derived
    # Objects that only a damaged entry named are nobody's now.
    assert {finding.kind for finding in verify(str(store)).findings} <= ({"orphan"} if how == "entry" else set())
    after = _rows(store)
    assert {clip_id for clip_id in after if after[clip_id] != before[clip_id]} - {"broken"} == set(hit)
    found, right = (open_cache(str(place)).read(NAMES, CLIPS) for place in (store, whole))
    for name in NAMES:
        np.testing.assert_array_equal(found[name], right[name])

    run_job(job, repair=True)
    assert tree(store) == now


def _rows(store: Path) -> dict[str, int]:
    clips = open_cache(str(store)).clips
    return dict(zip(clips["clip_id"].to_pylist(), clips["row"].to_pylist(), strict=True))


def _damage(store: Path, how: str) -> None:
    first, second = (next(path for path in store.glob(f"camray/c/{shard}/**/*") if path.is_file()) for shard in (0, 1))
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
        case "entry":
            entry = min((store / "ledger").rglob("*0000.0.json"))
            entry.write_bytes(entry.read_bytes()[:50])


def test_a_catalog_table_whose_record_is_lost_is_named_and_not_garbage(tiny_store: Path, tmp_path: Path) -> None:
    store = shutil.copytree(tiny_store, tmp_path / "store")
    (store / "catalog/segment-000000.json").unlink()
    (table,) = (str(path.relative_to(store)) for path in store.glob("catalog/*.parquet"))
    (finding,) = (finding for finding in verify(str(store)).findings if finding.key == table)
    assert "the record is lost" in finding.detail
    assert table not in collect_garbage(str(store), older_than_hours=0, dry_run=True).removed
