"""The dataset's clips by place and by id, and forked workers, which open the store by themselves."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from schemas.errors import Forked, SignalMissing
from teacher_cache import DiskTier, ResumableBatchSampler, open_cache
from teacher_cache.reader.datasets import StoredTargets
from teacher_cache.store.objects import Objects


def test_a_clip_is_found_by_its_place_and_by_its_id(tiny_store: Path) -> None:
    dataset = open_cache(str(tiny_store)).dataset(["camray"], seed=1, clip_ids=["scene-3.mp4", "scene-0.mp4"])
    assert dataset.clip_ids == ("scene-3.mp4", "scene-0.mp4")
    for place, clip_id in enumerate(dataset.clip_ids):
        assert dataset[place]["clip_id"] == dataset[place - 2]["clip_id"] == clip_id
        assert torch.equal(dataset[place]["camray"], dataset[clip_id]["camray"])
    assert [item["clip_id"] for item in dataset] == list(dataset.clip_ids)  # ends by IndexError, as any sequence
    shuffled = DataLoader(dataset, shuffle=True, generator=torch.Generator().manual_seed(0))
    assert sorted(batch["clip_id"][0] for batch in shuffled) == sorted(dataset.clip_ids)
    with pytest.raises(SignalMissing):
        open_cache(str(tiny_store)).dataset(["sound"])


def test_batches_as_they_are_stored_come_through_a_loader_and_are_scaled_after(tiny_store: Path) -> None:
    cache = open_cache(str(tiny_store))
    dataset = cache.stored_dataset(["f4d", "flow", "timestamps"], seed=3)
    batches = dataset.batches(3, tail="short")
    loader = DataLoader(dataset, sampler=batches, batch_size=None, num_workers=1, multiprocessing_context="spawn")
    seen = []
    for stored in batches.track(loader):
        assert stored.parts["f4d"][0].arrays["f4d"].dtype == torch.int8
        assert stored.names == ("f4d", "flow", "timestamps")
        seen += stored.clip_ids
        read = cache.read(stored.names, stored.clip_ids)
        for name, values in stored.decode().items():
            torch.testing.assert_close(values, torch.from_numpy(read[name]), rtol=1e-6, atol=0)
    assert sorted(seen) == cache.committed_ids()
    assert seen == batches_of(dataset, seed=3)
    with pytest.raises(SignalMissing):
        cache.stored_dataset(["sound"])


def batches_of(dataset: StoredTargets, seed: int) -> list[str]:
    return [clip_id for batch in ResumableBatchSampler(dataset.clip_ids, 3, seed=seed, tail="short") for clip_id in batch]


@pytest.mark.parametrize("place", ["disk", "s3"])
def test_forked_workers_open_the_store_again_by_themselves(
    place: str, tiny_store: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = str(tiny_store)
    if place == "s3":
        url = f"{request.getfixturevalue('s3')}/store"
        request.getfixturevalue("_server").filesystem.put(str(tiny_store), url, recursive=True)
    cache = open_cache(url, DiskTier(tmp_path / "tier", 2**24))
    read = cache.read(["camray", "depth"], cache.committed_ids())  # with all that a parent may have under way
    dataset = cache.dataset(["camray", "depth"])
    batches = list(DataLoader(dataset, batch_size=2, num_workers=2, multiprocessing_context="fork", timeout=60))
    assert [clip_id for batch in batches for clip_id in batch["clip_id"]] == cache.committed_ids()
    for name, values in read.items():
        assert torch.equal(torch.cat([batch[name] for batch in batches]), torch.from_numpy(values))
    np.testing.assert_array_equal(cache.read(["flow"], ["scene-1.mp4"])["flow"].shape, (1, 16, 112, 112, 2))  # and so does it


def test_a_forked_process_does_not_write(s3: str) -> None:
    objects = Objects(f"{s3}/somewhere")
    assert objects.create("a", b"1")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as child:
        assert child.submit(_read_and_write, objects).result(60) == (b"1", b"", ["a"], None, "Forked")
    assert objects.get("b") is None


def _read_and_write(objects: Objects) -> tuple[bytes | None, bytes, list[str], bytes | None, str]:
    try:
        objects.create("b", b"2")
    except Forked as error:
        beyond = bytes(objects.get_range("a", 5, 9) or b"")
        return objects.get("a"), beyond, list(objects.listing("a")), objects.get("absent"), type(error).__name__
    raise AssertionError
