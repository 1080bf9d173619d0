"""Clip ids in, their cached targets as torch tensors out, with a mask that says which clips have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

if TYPE_CHECKING:
    from teacher_cache import Targets

Values = np.ndarray[Any, Any]


class TargetBatch(NamedTuple):
    """Targets of a batch of clips, as `P4D` takes them."""

    targets: dict[str, torch.Tensor]
    """Signal → float32 (clip, …) in physical units. Rows without a target hold NaN: forgetting the mask stops a run
    at once, instead of teaching it zeros."""
    valid: dict[str, torch.Tensor]
    """Signal → bool (clip,)."""


class TargetReader:
    """Reads targets by clip id. Picklable, as the open store is: a copy in another process opens it anew."""

    def __init__(self, cache: Targets, signals: Sequence[str]) -> None:
        self.cache = cache
        self.signals = tuple(signals)

    def __call__(self, clip_ids: Sequence[str | None]) -> TargetBatch:
        """Targets of the clips in the order given; a clip may come twice, and None stands for a clip without targets.

        Raises what the store's reader raises: `ClipFailed`, `ClipPending`, `UnknownClip`, `SignalMissing`.
        """
        arrays = self.read(self.signals, [clip_id for clip_id in clip_ids if clip_id is not None])
        valid = torch.tensor([clip_id is not None for clip_id in clip_ids], dtype=torch.bool)
        targets = {}
        for signal, array in arrays.items():
            values = torch.from_numpy(array)
            if not valid.all():
                rows = torch.full((len(clip_ids), *values.shape[1:]), torch.nan)
                rows[valid] = values
                values = rows
            targets[signal] = values
        return TargetBatch(targets, dict.fromkeys(targets, valid))

    def read(self, arrays: Sequence[str], clip_ids: Sequence[str]) -> dict[str, Values]:
        """The store's arrays for these clips, each clip fetched once however often it is named."""
        once = list(dict.fromkeys(clip_ids))
        found = self.cache.read(list(arrays), once)
        if len(once) == len(clip_ids):
            return found
        rows = [once.index(clip_id) for clip_id in clip_ids]
        return {name: array[rows] for name, array in found.items()}
