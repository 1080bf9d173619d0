"""Clip ids go in; their cached targets come out as torch tensors, with a mask of the clips that have them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch

from schemas.errors import BadInput
from teacher_cache.reader.stream import ReadAhead, Wanted, reader_for

if TYPE_CHECKING:
    from teacher_cache import Targets

Values = np.ndarray[Any, Any]
Ahead = dict[str, Any]

_AHEAD = 2
"""Batches of targets that are read beyond the one in use and the one that waits on the device."""
WithoutTargets = Literal["stop", "mask"]
"""What to do with a clip that is not committed in the store: ``stop`` raises the store's error, ``mask`` treats it as a clip
without targets."""


class TargetBatch(NamedTuple):
    """Targets of a batch of clips, as `P4D` takes them."""

    targets: dict[str, torch.Tensor]
    """Signal → float32 (clip, …), axes and units as in `schemas.signal.SIGNALS`. Rows without a target hold NaN, so a
    forgotten mask stops a run at once instead of teaching it zeros."""
    valid: dict[str, torch.Tensor]
    """Signal → bool (clip,): which clips have the target."""


class TargetReader:
    """Reads the targets of ``signals`` by clip id. Picklable for spawned workers: a copy opens the store anew."""

    def __init__(self, cache: Targets, signals: Sequence[str], without_targets: WithoutTargets = "stop") -> None:
        self.cache = cache
        self.signals = tuple(signals)
        self.without_targets = without_targets

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_committed"}

    def __call__(self, clip_ids: Sequence[str | None]) -> TargetBatch:
        """Targets of the clips, in the given order. A clip may come twice; None stands for a clip without targets.

        Raises `SignalMissing`, and with ``without_targets="stop"`` also `ClipFailed`, `ClipPending` and `UnknownClip`.
        """
        if self.without_targets == "mask":
            clip_ids = [clip_id if clip_id in self._committed else None for clip_id in clip_ids]
        arrays = self.read(self.signals, _once(clip_ids))
        return placed({signal: torch.from_numpy(array) for signal, array in arrays.items()}, clip_ids)

    def ahead(
        self,
        batches: Iterable[Sequence[str | None]],
        device: torch.device,
        then: Callable[[TargetBatch, Sequence[str | None]], Ahead],
    ) -> ReadAhead:
        """``then`` of the targets of batch after batch on ``device``, read by threads while the ones before are in use.

        A batch without a clip gives an empty dictionary. Raises, at the batch that it is about, what a call does.
        """

        def made(clip_ids: Sequence[str | None], values: dict[str, torch.Tensor]) -> Ahead:
            return then(placed(values, clip_ids), clip_ids) if any(clip_ids) else {}

        wanted = (Wanted(_once(clip_ids), partial(made, clip_ids)) for clip_ids in batches)
        return ReadAhead(self.cache, self.signals, wanted, reader_for(device), _AHEAD)

    def read(self, arrays: Sequence[str], clip_ids: Sequence[str]) -> dict[str, Values]:
        """Array name → the store's values, (clip, …), in the given order; a clip named twice is fetched once."""
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


def _once(clip_ids: Sequence[str | None]) -> list[str]:
    return list(dict.fromkeys(clip_id for clip_id in clip_ids if clip_id is not None))


def placed(values: Mapping[str, torch.Tensor], clip_ids: Sequence[str | None]) -> TargetBatch:
    """Targets in the order of ``clip_ids``, from ``values`` of each of these once, in the order in which they first come."""
    once = _once(clip_ids)
    valid = torch.tensor([clip_id is not None for clip_id in clip_ids], dtype=torch.bool)
    rows = [once.index(clip_id) for clip_id in clip_ids if clip_id is not None]
    targets = {}
    for signal, of_each in values.items():
        found = of_each if rows == list(range(len(once))) else of_each[rows]
        if not valid.all():
            whole = torch.full((len(clip_ids), *found.shape[1:]), torch.nan, device=found.device)
            whole[valid] = found
            found = whole
        targets[signal] = found
    return TargetBatch(targets, dict.fromkeys(targets, valid))


class TargetCollator:
    """Wraps a collate function and adds ``targets`` and ``valid`` to its batch, as `P4D.forward` takes them.

    Samples are mappings. ``clip_id`` names the clip of a sample's video. It is None for a video without targets, and absent
    from a sample without a video: that has no row, as it has none in the hidden states at video tokens. ``collate`` gets the
    samples without it. Picklable, for spawned workers, if ``collate`` is.
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
        """The collated batch with ``targets`` and ``valid``, one row for each sample with a ``clip_id``, in order.

        Raises what `TargetReader` raises, and `BadInput` if the batch has either key already.
        """
        batch = dict(self.collate([{name: value for name, value in s.items() if name != "clip_id"} for s in samples]))
        if taken := sorted({"targets", "valid"} & set(batch)):
            raise BadInput(
                f"the batch already has {' and '.join(taken)}, which this collator adds; rename it in your collate function"
            )
        targets, valid = self.targets([sample["clip_id"] for sample in samples if "clip_id" in sample])
        return {**batch, "targets": targets, "valid": valid}
