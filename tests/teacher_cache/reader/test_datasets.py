"""The dataset's clips by place and by id, and what a forked worker is told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from schemas.errors import SignalMissing
from teacher_cache import ResumableBatchSampler, open_cache
from teacher_cache.reader.datasets import StoredTargets

_FORKS = """
import sys
from torch.utils.data import DataLoader
from teacher_cache import open_cache
dataset = open_cache(sys.argv[1]).dataset(["camray"])
next(iter(DataLoader(dataset, num_workers=1, multiprocessing_context="fork")))
"""


def test_a_clip_is_found_by_its_place_and_by_its_id(tiny_store: Path) -> None:
    dataset = open_cache(str(tiny_store)).dataset(["camray"], seed=1, clip_ids=["scene-3.mp4", "scene-0.mp4"])
    assert dataset.clip_ids == ("scene-3.mp4", "scene-0.mp4")
    for item in (dataset[0], dataset[1]):
        by_id = dataset[str(item["clip_id"])]
        assert by_id["clip_id"] == item["clip_id"]
        assert torch.equal(by_id["camray"], item["camray"])
    with pytest.raises(SignalMissing):
        open_cache(str(tiny_store)).dataset(["sound"])


def test_batches_as_they_are_stored_come_through_a_loader_and_are_scaled_after(tiny_store: Path) -> None:
    cache = open_cache(str(tiny_store))
    dataset = cache.stored_dataset(["f4d", "flow", "timestamps"], seed=3)
    batches = dataset.batches(3, tail="short")
    loader = DataLoader(dataset, sampler=batches, batch_size=None, num_workers=1, multiprocessing_context="spawn")
    seen = []
    for clip_ids, stored in batches.track(loader):
        assert stored["f4d"][0].arrays["f4d"].dtype == torch.int8
        seen += clip_ids
        read = cache.read(["f4d", "flow", "timestamps"], clip_ids)
        for name, values in cache.decode(stored).items():
            torch.testing.assert_close(values, torch.from_numpy(read[name]), rtol=1e-6, atol=0)
    assert sorted(seen) == cache.committed_ids()
    assert seen == batches_of(dataset, seed=3)
    with pytest.raises(SignalMissing):
        cache.stored_dataset(["sound"])


def batches_of(dataset: StoredTargets, seed: int) -> list[str]:
    return [clip_id for batch in ResumableBatchSampler(dataset.clip_ids, 3, seed=seed, tail="short") for clip_id in batch]


def test_a_forked_worker_is_told_to_be_spawned(tiny_store: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FORKS, str(tiny_store)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1
    assert "schemas.errors.Forked" in done.stderr
    assert "multiprocessing_context='spawn'" in done.stderr
