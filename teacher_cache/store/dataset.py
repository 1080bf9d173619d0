"""A map-style torch dataset over a store's committed clips."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from teacher_cache.store.reader import Cache

Item = dict[str, "str | torch.Tensor"]


class CachedTargets(Dataset[Item]):
    """Clips as ``{"clip_id": str, signal: tensor}``, a loader's whole batch fetched at once. Picklable."""

    def __init__(self, cache: Cache, signals: tuple[str, ...], clip_ids: tuple[str, ...], seed: int | None) -> None:
        self._cache, self._signals, self._clip_ids, self._seed = cache, signals, clip_ids, seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Shuffle for this epoch: the same order for the same seed and epoch, on any machine."""
        order = np.arange(len(self._clip_ids))
        if self._seed is not None:
            order = np.random.default_rng((self._seed, epoch)).permutation(order)
        self._order = order

    def __len__(self) -> int:
        return len(self._clip_ids)

    def __getitem__(self, index: int) -> Item:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        clip_ids = [self._clip_ids[self._order[i]] for i in indices]
        batch = {name: torch.from_numpy(values) for name, values in self._cache.read(self._signals, clip_ids).items()}
        return [
            {"clip_id": clip_id} | {name: values[i] for name, values in batch.items()} for i, clip_id in enumerate(clip_ids)
        ]
