"""Entries of the ledger that are whole and do not belong: `verify` names each, with the clips that it speaks of."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from schemas.log import LedgerEntry
from teacher_cache.store.ledger import read_entry
from teacher_cache.store.records import seal
from teacher_cache.store.verify import verify


def of_another_recipe(entry: LedgerEntry) -> LedgerEntry:
    other = entry.fingerprint[:-1] + ("1" if entry.fingerprint.endswith("0") else "0")
    return entry.model_copy(update={"fingerprint": other})


def of_another_clip(entry: LedgerEntry) -> LedgerEntry:
    renamed = entry.rows[1].model_copy(update={"clip_id": "elsewhere.mp4"})
    return entry.model_copy(update={"rows": (entry.rows[0], renamed)})


def of_swapped_clips(entry: LedgerEntry) -> LedgerEntry:
    first, second = entry.rows
    swapped = (first.model_copy(update={"row": second.row}), second.model_copy(update={"row": first.row}))
    return entry.model_copy(update={"rows": swapped})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (of_another_recipe, "it was written under another recipe"),
        (of_another_clip, "its rows are not the catalog's"),
        (of_swapped_clips, "its rows are not the catalog's"),
    ],
)
def test_an_entry_that_does_not_belong_is_found(
    tiny_store: Path, tmp_path: Path, change: Callable[[LedgerEntry], LedgerEntry], told: str
) -> None:
    """Though it is sealed, at its key, and its objects are as it says."""
    store = shutil.copytree(tiny_store, tmp_path / "store")
    path = next(path for path in sorted((store / "ledger").rglob("*.json")) if b'"shard":1' in path.read_bytes())
    key = path.relative_to(store).as_posix()
    entry = read_entry(key, path.read_bytes(), str(store))
    path.write_bytes(seal(entry))
    assert not verify(str(store)).findings
    path.write_bytes(seal(change(entry)))
    found = {finding.key: finding for finding in verify(str(store)).findings}
    assert (found[key].kind, found[key].detail) == ("ledger", told)
    assert set(found[key].clip_ids) == {"scene-2.mp4", "scene-3.mp4"}


def test_a_shard_that_two_entries_commit_is_found(tiny_store: Path, tmp_path: Path) -> None:
    store = shutil.copytree(tiny_store, tmp_path / "store")
    path = next(path for path in sorted((store / "ledger").rglob("*.json")) if b'"shard":1' in path.read_bytes())
    again = path.with_name(path.name.replace(".0.", ".1."))
    assert again != path
    shutil.copy(path, again)
    assert "committed by" in " ".join(finding.detail for finding in verify(str(store)).findings)
