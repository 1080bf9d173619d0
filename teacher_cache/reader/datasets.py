"""Clip ids or places in, tensors or stored batches out: map-style torch datasets over a store's committed clips."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch.utils.data import Dataset

from teacher_cache.reader.sampler import ResumableBatchSampler, Tail
from teacher_cache.reader.selection import EVERYTHING, Selection

if TYPE_CHECKING:
    import numpy as np

    from teacher_cache.reader.stored import StoredBatch

Item = dict[str, "str | torch.Tensor"]


class _Reads(Protocol):
    """A `Cache`, or several joined."""

    def read(
        self,
        signals: Sequence[str],
        clip_ids: Sequence[str],
        *,
        layers: Sequence[int] | None = None,
        frames: Sequence[int] | None = None,
    ) -> dict[str, np.ndarray[Any, Any]]: ...


class _ReadsStored(Protocol):
    """The same."""

    def read_stored(
        self,
        signals: Sequence[str],
        clip_ids: Sequence[str],
        *,
        layers: Sequence[int] | None = None,
        frames: Sequence[int] | None = None,
    ) -> StoredBatch: ...


class _OfClips:
    """Clips in order. The order of training is the sampler's."""

    clip_ids: tuple[str, ...]
    _seed: int | None

    def batches(
        self, batch_size: int, *, rank: int = 0, world_size: int = 1, tail: Tail = "drop"
    ) -> ResumableBatchSampler[str]:
        """One rank's batches of clip ids, shuffled by the seed: the ``batch_sampler`` of a DataLoader over this dataset.

        Raises `BadInput`; see `ResumableBatchSampler`.
        """
        return ResumableBatchSampler(self.clip_ids, batch_size, seed=self._seed, rank=rank, world_size=world_size, tail=tail)

    def __len__(self) -> int:
        return len(self.clip_ids)

    def _ids(self, keys: Sequence[int | str]) -> list[str]:
        return [key if isinstance(key, str) else self.clip_ids[key] for key in keys]


class StoredTargets(_OfClips, Dataset["StoredBatch"]):
    """Whole batches of clips in stored form: mostly integers, to move to the device and dequantise there. Picklable.

    A key is a batch of clip ids or places, so the sampler's batches are passed to the loader as ``sampler``::

        dataset = cache.stored_dataset(["f4d", "depth"])
        batches = dataset.batches(8)
        loader = DataLoader(dataset, sampler=batches, batch_size=None, num_workers=2, multiprocessing_context="spawn")
        for stored in batches.track(loader):
            targets = stored.decode(device="cuda")  # of stored.clip_ids, in that order
    """

    def __init__(
        self,
        cache: _ReadsStored,
        signals: tuple[str, ...],
        clip_ids: tuple[str, ...],
        seed: int | None,
        selection: Selection = EVERYTHING,
    ) -> None:
        self._cache, self._signals, self._seed, self._selection = cache, signals, seed, selection
        self.clip_ids = clip_ids

    def __getitem__(self, keys: Sequence[int | str]) -> StoredBatch:
        stored = self._cache.read_stored(self._signals, self._ids(keys), **self._selection)
        return stored.to("cpu")  # as tensors, which a worker hands over in shared memory


class CachedTargets(_OfClips, Dataset[Item]):
    """Clips as ``{"clip_id": str, signal: tensor}``; a DataLoader's whole batch is fetched at once. Picklable.

    A key is a place among ``clip_ids``, or a clip id: ``dataset[i]`` is the i-th clip, always. Samplers shuffle: `batches` as
    the loader's ``batch_sampler`` can resume, and ``DataLoader(dataset, shuffle=True)`` works as for any dataset.
    """

    def __init__(
        self,
        targets: _Reads,
        signals: tuple[str, ...],
        clip_ids: tuple[str, ...],
        seed: int | None,
        selection: Selection = EVERYTHING,
    ) -> None:
        self._targets, self._signals, self._seed, self._selection = targets, signals, seed, selection
        self.clip_ids = clip_ids

    def __getitem__(self, key: int | str) -> Item:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[int | str]) -> list[Item]:
        clip_ids = self._ids(keys)
        read = self._targets.read(self._signals, clip_ids, **self._selection)
        batch = {name: torch.from_numpy(values) for name, values in read.items()}
        return [
            {"clip_id": clip_id} | {name: values[i] for name, values in batch.items()} for i, clip_id in enumerate(clip_ids)
        ]
