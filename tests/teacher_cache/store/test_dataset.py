"""The dataset's clips by place and by id, and what a forked worker is told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from schemas.errors import SignalMissing
from teacher_cache import open_cache

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


def test_a_forked_worker_is_told_to_be_spawned(tiny_store: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FORKS, str(tiny_store)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1
    assert "schemas.errors.Forked" in done.stderr
    assert "multiprocessing_context='spawn'" in done.stderr
