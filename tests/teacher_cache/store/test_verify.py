"""What is whole and does not belong: `verify` names each."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from log_files import record_paths, rewrite

from teacher_cache.store.repair import retire_damaged
from teacher_cache.store.verify import verify


def of_more_clips(unit: dict[str, Any]) -> None:
    unit |= {"rows": unit["rows"] - 1, "figures": [], "decoders": {}}


def of_another_shard(unit: dict[str, Any]) -> None:
    unit |= {"shard": 0, "figures": [], "decoders": {}, "objects": {}}


def of_another_shard_s_objects(unit: dict[str, Any]) -> None:
    unit |= {"shard": 0, "figures": [], "decoders": {}}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (of_more_clips, "it has 1 rows, and the catalog 2"),
        (of_another_shard, "it commits clock of shard 0, which record"),
        (of_another_shard_s_objects, "as part of unit 00000000-clock"),
    ],
)
def test_a_unit_that_does_not_belong_is_found(
    tiny_store: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], told: str
) -> None:
    """Though its record is sealed and in its place, and its objects are as it says."""
    store = shutil.copytree(tiny_store, tmp_path / "store")
    rewrite(store, lambda _: None, shard=1)
    assert not verify(str(store)).findings
    rewrite(store, change, shard=1)
    found = [finding for finding in verify(str(store)).findings if finding.kind == "log"]
    assert any(told in finding.detail for finding in found), found


def test_a_record_of_another_store_is_found(tiny_store: Path, single_clips_store: Path, tmp_path: Path) -> None:
    store = shutil.copytree(tiny_store, tmp_path / "store")
    last = record_paths(store)[-1]
    shutil.copy(single_clips_store / "log" / last.name, last)
    (finding,) = (finding for finding in verify(str(store)).findings if finding.kind == "log")
    assert (finding.key, "comes from elsewhere" in finding.detail) == (f"log/{last.name}", True)


def test_a_record_that_is_gone_is_found(tiny_store: Path, tmp_path: Path) -> None:
    store = shutil.copytree(tiny_store, tmp_path / "store")
    lost = record_paths(store)[1]
    lost.unlink()
    (finding,) = (finding for finding in verify(str(store)).findings if finding.kind == "log")
    assert finding.key == f"log/{lost.name}"
    assert "missing" in finding.detail


def test_a_unit_without_its_objects_is_found_and_repaired(tiny_store: Path, tmp_path: Path) -> None:
    """It is sealed, and says that its rows are taught: readers would look for objects that nobody wrote."""
    store = shutil.copytree(tiny_store, tmp_path / "store")
    rewrite(store, lambda unit: unit.update(objects={}), shard=1)
    found = [finding for finding in verify(str(store)).findings if finding.kind == "missing"]
    assert {len(finding.clip_ids) for finding in found} == {2}
    assert any(finding.key.startswith("depth/c/1/") for finding in found)
    retire_damaged(str(store))
    assert not [finding for finding in verify(str(store)).findings if finding.kind == "missing"]
    assert verify(str(store)).clips.pending == 2
