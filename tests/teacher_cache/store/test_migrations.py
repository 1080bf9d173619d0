"""A store of version 1 becomes one of this version, and gives what it gave."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import Jobs, tree

from schemas.base import canonical_json
from schemas.errors import BadInput, StoreDamaged, StoreNotFound
from schemas.job import Job
from teacher_cache import open_cache
from teacher_cache.jobs.run import run_job
from teacher_cache.store.garbage import collect_garbage
from teacher_cache.store.migrations import migrate
from teacher_cache.store.verify import verify


@pytest.fixture
def first_version(tiny_store: Path, tmp_path: Path) -> Path:
    """The tiny store as version 1 had it: plain segments, one folder of plain entries, a plain card."""
    store = tmp_path / "store"
    shutil.copytree(tiny_store, store)
    segment = next(store.glob("catalog/*.parquet"))
    columns = ["row", "clip_id", "video", "video_id", "content_digest", "window_start", "window_stop"]
    pq.write_table(pq.ParquetFile(segment).read(columns, use_threads=False), store / "catalog/segment-000000.parquet")
    segment.unlink()
    (store / "catalog/segment-000000.json").unlink()
    for path in store.glob("ledger/000000/*.json"):
        entry = json.loads(path.read_bytes())
        del entry["digest"]
        for row in entry["rows"]:
            row.pop("optional_arrays")
        unit = entry["unit"]
        name = f"{unit['shard']:08d}-{'-'.join(unit['parts'])}.json"
        (store / "ledger" / name).write_bytes(canonical_json(entry))
    shutil.rmtree(store / "ledger/000000")
    card = json.loads((store / "heads/card.json").read_bytes())
    del card["digest"]
    (store / "heads/card.json").write_bytes(canonical_json(card))
    root = json.loads((store / "zarr.json").read_bytes())
    root["attributes"]["format_version"] = 1
    (store / "zarr.json").write_bytes(canonical_json(root))
    return store


def test_a_store_of_version_1(first_version: Path, tiny_store: Path, jobs: Jobs) -> None:
    with pytest.raises(BadInput, match=r"format version 1; this program reads version 2.*teacher-cache migrate"):
        open_cache(str(first_version))
    report = migrate(str(first_version))
    assert (report.from_version, report.to_version, len(report.steps)) == (1, 2, 1)
    assert migrate(str(first_version)).steps == ()
    old, new = open_cache(str(tiny_store)), open_cache(str(first_version))
    assert new.clips == old.clips
    assert new.heads() is not None
    for name, values in old.read(old.signals, old.committed_ids()).items():
        np.testing.assert_array_equal(new.read([name], old.committed_ids())[name], values)
    assert {finding.kind for finding in verify(str(first_version)).findings} == {"orphan"}
    collect_garbage(str(first_version), older_than_hours=0, dry_run=False)
    assert verify(str(first_version)).findings == ()
    assert tree(first_version) == tree(tiny_store)
    assert run_job(Job.model_validate(jobs.value(first_version))).done_before == 4


def test_stopped_half_way_and_begun_again(first_version: Path, tiny_store: Path) -> None:
    """The root is last: until it says version 2, the step may be repeated."""
    root = (first_version / "zarr.json").read_bytes()
    migrate(str(first_version))
    (first_version / "zarr.json").write_bytes(root)
    (first_version / "ledger/000000/00000001.0.json").unlink()
    migrate(str(first_version))
    collect_garbage(str(first_version), older_than_hours=0, dry_run=False)
    assert tree(first_version) == tree(tiny_store)


def test_what_cannot_be_migrated(first_version: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreNotFound):
        migrate(str(tmp_path / "none"))
    entry = next(first_version.glob("ledger/0*.json"))
    whole = entry.read_bytes()
    entry.write_bytes(whole[:40])
    with pytest.raises(StoreDamaged, match="cannot be read"):
        migrate(str(first_version))
    entry.write_bytes(whole)
    (first_version / "catalog/segment-000000.parquet").write_bytes(b"PAR1")
    with pytest.raises(StoreDamaged, match="restore it from a backup"):
        migrate(str(first_version))
    root = json.loads((first_version / "zarr.json").read_bytes())
    root["attributes"]["format_version"] = 7
    (first_version / "zarr.json").write_bytes(canonical_json(root))
    for command in (migrate, open_cache):
        with pytest.raises(BadInput, match=r"version 7; this program .* version 2. Use a newer release"):
            command(str(first_version))
