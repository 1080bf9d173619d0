"""Clip ids in, their cached targets as torch tensors out, with a mask that says which clips have them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch

from schemas.errors import BadInput

if TYPE_CHECKING:
    from teacher_cache import Targets

Values = np.ndarray[Any, Any]
WithoutTargets = Literal["stop", "mask"]
"""What to do about a clip that the store does not hold, or not as committed: raise what its reader raises, or take it for a
clip without targets."""


class TargetBatch(NamedTuple):
    """Targets of a batch of clips, as `P4D` takes them."""

    targets: dict[str, torch.Tensor]
    """Signal → float32 (clip, …) in physical units. Rows without a target hold NaN: forgetting the mask stops a run
    at once, instead of teaching it zeros."""
    valid: dict[str, torch.Tensor]
    """Signal → bool (clip,)."""


class TargetReader:
    """Reads targets by clip id. Picklable, as the open store is: a copy in another process opens it anew."""

    def __init__(self, cache: Targets, signals: Sequence[str], without_targets: WithoutTargets = "stop") -> None:
        self.cache = cache
        self.signals = tuple(signals)
        self.without_targets = without_targets

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_committed"}

    def __call__(self, clip_ids: Sequence[str | None]) -> TargetBatch:
        """Targets of the clips in the order given; a clip may come twice, and None stands for a clip without targets.

        Raises what the store's reader raises: `SignalMissing`, and, unless such clips are masked, `ClipFailed`,
        `ClipPending` and `UnknownClip`.
        """
        if self.without_targets == "mask":
            clip_ids = [clip_id if clip_id in self._committed else None for clip_id in clip_ids]
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
        if not arrays:
            return {}
        once = list(dict.fromkeys(clip_ids))
        found = self.cache.read(list(arrays), once)
        if len(once) == len(clip_ids):
            return found
        rows = [once.index(clip_id) for clip_id in clip_ids]
        return {name: array[rows] for name, array in found.items()}

    @cached_property
    def _committed(self) -> frozenset[str]:
        return frozenset(self.cache.committed_ids())


class TargetCollator:
    """Any collate function, and beside what it gives the ``targets`` and ``valid`` of the samples, as `P4D` takes them.

    A sample is a mapping; its ``clip_id`` names the clip, and where that is None or absent the sample has no targets. The
    inner function gets the samples without it. Picklable where the inner function is, for workers that are spawned.
    """

    def __init__(
        self,
        collate: Callable[[list[dict[str, Any]]], Mapping[str, Any]],
        cache: Targets,
        signals: Sequence[str],
        without_targets: WithoutTargets = "stop",
    ) -> None:
        self.collate = collate
        self.targets = TargetReader(cache, signals, without_targets)

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The inner batch with ``targets`` and ``valid``, one row for each sample. Raises as `TargetReader` does."""
        batch = dict(self.collate([{name: value for name, value in s.items() if name != "clip_id"} for s in samples]))
        if taken := sorted({"targets", "valid"} & set(batch)):
            raise BadInput(f"the batch has {' and '.join(taken)} already, where the store's targets would go; rename it there")
        targets, valid = self.targets([sample.get("clip_id") for sample in samples])
        return {**batch, "targets": targets, "valid": valid}
