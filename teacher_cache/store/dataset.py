"""A map-style torch dataset over a store's committed clips."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch.utils.data import Dataset

from teacher_cache.store.sampler import ResumableBatchSampler, Tail, epoch_order

if TYPE_CHECKING:
    from teacher_cache.store.targets import Targets

Item = dict[str, "str | torch.Tensor"]


class CachedTargets(Dataset[Item]):
    """Clips as ``{"clip_id": str, signal: tensor}``, a loader's whole batch fetched at once. Picklable.

    Asked for a clip id, it gives that clip; asked for a number, the clip at that place in the order of `set_epoch`. With
    `batches` the order is the sampler's, which can resume, and `set_epoch` is not needed.
    """

    def __init__(self, targets: Targets, signals: tuple[str, ...], clip_ids: tuple[str, ...], seed: int | None) -> None:
        self._targets, self._signals, self._seed = targets, signals, seed
        self.clip_ids = clip_ids
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Shuffle for this epoch: the same order for the same seed and epoch, on any machine.

        Persistent workers keep the order that they were started with; `batches` has no such trap.
        """
        self._order = epoch_order(len(self.clip_ids), self._seed, epoch)

    def batches(
        self, batch_size: int, *, rank: int = 0, world_size: int = 1, tail: Tail = "drop"
    ) -> ResumableBatchSampler[str]:
        """The ``batch_sampler`` for a DataLoader over this dataset, shuffled by its seed: one rank's batches of clip ids."""
        return ResumableBatchSampler(self.clip_ids, batch_size, seed=self._seed, rank=rank, world_size=world_size, tail=tail)

    def __len__(self) -> int:
        return len(self.clip_ids)

    def __getitem__(self, key: int | str) -> Item:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[int | str]) -> list[Item]:
        clip_ids = [key if isinstance(key, str) else self.clip_ids[self._order[key]] for key in keys]
        batch = {name: torch.from_numpy(values) for name, values in self._targets.read(self._signals, clip_ids).items()}
        return [
            {"clip_id": clip_id} | {name: values[i] for name, values in batch.items()} for i, clip_id in enumerate(clip_ids)
        ]
