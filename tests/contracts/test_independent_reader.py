"""The format's page suffices: a reader written from it alone (`independent_reader`) finds what ours finds."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import independent_reader
import numpy as np
import pytest
from conftest import Jobs
from independent_reader import Damaged, Reader
from seeded_weights import far_weights

from schemas.job import Job
from schemas.log import RowsRetired
from schemas.signal import P4D_SIGNALS
from teacher_cache import open_cache
from teacher_cache.jobs.run import run_job
from teacher_cache.store.layout import record_key
from teacher_cache.store.log import checkpoint_file
from teacher_cache.store.objects import Objects
from teacher_cache.store.repair import mend_log
from teacher_cache.store.store import open_store

NAMES = ("timestamps", "frame_index", *P4D_SIGNALS, "regions", "objects")


def test_the_reader_imports_nothing_of_this_project() -> None:
    tree = ast.parse(Path(independent_reader.__file__).read_text())
    found = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    found |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    standard = {"__future__", "hashlib", "json", "struct", "collections.abc", "dataclasses", "itertools", "pathlib", "typing"}
    assert found - standard == {"numpy", "pyarrow", "pyarrow.parquet", "numcodecs", "google_crc32c"}


def agrees(store: Path, version: int | None) -> int:
    """Compares all that two readers find at a version. Returns the number of clips' arrays that they read."""
    ours, theirs = open_cache(str(store), version=version), Reader(store, version)
    assert theirs.state.version == ours.version
    clips = ours.clips.select(["clip_id", "status", "reason"]).to_pylist()
    assert list(theirs.clips()) == [tuple(clip.values()) for clip in clips]
    names = [name for name in NAMES if ("clock" if name in NAMES[:2] else name) in theirs.state.parts]
    committed = ours.committed_ids()
    read = ours.read(names, committed)
    for name in names:
        for index, clip_id in enumerate(committed):
            np.testing.assert_array_equal(theirs.read(name, clip_id), read[name][index], strict=True)
    for clip_id, objects in zip(committed, ours.objects(committed), strict=True) if "objects" in names else ():
        assert theirs.objects(clip_id) == [one.model_dump() for one in objects]
    return len(names) * len(committed)


def with_checkpoint(store: Path, version: int, folder: Path) -> Path:
    """A copy of the store with a checkpoint at a version, and without the records up to it."""
    copy = Path(shutil.copytree(store, folder / f"at-{version}"))
    key, data = checkpoint_file(open_store(str(store), version=version).state)
    (copy / key).write_bytes(data)
    for number in range(version + 1):
        (copy / record_key(number)).unlink()
    return copy


def test_it_reads_every_signal_of_every_clip(tiny_store: Path, regions_store: Path) -> None:
    assert agrees(tiny_store, None) + agrees(regions_store, None) == 4 * (len(NAMES) + 2)  # both have the clock


@pytest.fixture(scope="module")
def eventful(tmp_path_factory: pytest.TempPathFactory, videos: Path) -> Path:
    """A store with failed, superseded, retired and exact rows, one of whose videos changed."""
    folder = tmp_path_factory.mktemp("eventful")
    for name in ("scene-0.mp4", "scene-1.mp4", "scene-2.mp4"):
        (folder / name).write_bytes((videos / name).read_bytes())
    (folder / "broken.mp4").write_text("no video")
    teacher = {"family": "l4p", "preset": "tiny", "weights": str(far_weights(folder, "flow_2d_backward", 5000))}
    (folder / "jobs").mkdir()
    job = Jobs(folder / "jobs", folder).value(folder / "store", teacher=teacher, signals=["depth", "flow"])
    assert run_job(Job.model_validate(job)).clips.failed == 1
    (folder / "scene-1.mp4").write_bytes((videos / "scene-3.mp4").read_bytes())
    (folder / "broken.mp4").write_bytes((videos / "scene-1.mp4").read_bytes())
    assert run_job(Job.model_validate(job), retry_failed=True).clips.committed == 4
    store = open_store(str(folder / "store"))
    row = open_cache(str(folder / "store")).clip("scene-0.mp4").row
    store.log.append(lambda _: [RowsRetired(rows=(row,), found={})], "test")
    assert run_job(Job.model_validate(job)).clips.committed == 4
    return folder / "store"


def test_it_reads_every_version_with_and_without_a_checkpoint(eventful: Path, tmp_path: Path) -> None:
    newest = open_cache(str(eventful)).version
    read = [agrees(eventful, version) for version in range(newest + 1)]
    assert (read[0], read[-1]) == (0, 4 * 4)
    state = Reader(eventful).state
    assert {len(failed) for _, failed in state.committed.values()} == {0, 1}
    assert state.retired
    assert {array for array, _ in state.exact} == {"flow_exact"}
    assert sum(superseded is not None for _, superseded in state.tables) == 2
    for at in range(newest + 1):
        copy = with_checkpoint(eventful, at, tmp_path)
        assert [agrees(copy, version) for version in range(at, newest + 1)] == read[at:]


def test_a_damaged_checkpoint_is_passed_over_and_a_lost_record_is_not(eventful: Path, tmp_path: Path) -> None:
    store = Path(shutil.copytree(eventful, tmp_path / "store"))
    key, data = checkpoint_file(open_store(str(store)).state)
    (store / key).write_bytes(data[:-1] + b"?")
    assert agrees(store, None) == 4 * 4
    (store / record_key(2)).unlink()
    with pytest.raises(Damaged, match="record 2 is lost"):
        Reader(store)


@pytest.mark.parametrize("at", [60, -60])
def test_a_changed_digit_of_a_record_is_noticed(tiny_store: Path, tmp_path: Path, at: int) -> None:
    store = Path(shutil.copytree(tiny_store, tmp_path / "store"))
    path = store / record_key(3)
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises((Damaged, ValueError, KeyError)):
        Reader(store)


def test_it_reads_on_after_a_record_that_was_lost(eventful: Path, tmp_path: Path) -> None:
    newest = open_cache(str(eventful)).version
    for lost in range(1, newest + 1):
        store = Path(shutil.copytree(eventful, tmp_path / f"without-{lost}"))
        (store / record_key(lost)).write_bytes(b"{}")
        mend_log(Objects(str(store)), clips_per_shard=2)
        found = [agrees(store, version) for version in (*range(newest + 1), None)]
        assert found[:lost] == [agrees(eventful, version) for version in range(lost)]
