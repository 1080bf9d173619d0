"""Measures of how much each pixel of ED counts go in; their product comes out, as `student_train.distill.p4d.P4D` takes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from schemas.errors import BadInput
from student_train.distill.targets import TargetReader
from teacher_cache import Cache, open_cache
from teacher_cache.reader.joined import join_caches

Weights = dict[str, torch.Tensor]
"""Map → float32 (clip, frame, y, x), at least 0; a map that is not named has 1 everywhere."""


class PixelWeights(Protocol):
    """A measure. Picklable, for workers."""

    def require(self, clip_ids: Sequence[str]) -> None:
        """Raise `BadInput` if it says nothing of a clip."""

    def __call__(self, targets: Mapping[str, torch.Tensor], clip_ids: Sequence[str | None]) -> Weights:
        """The weights of the clips of ``targets``, in that order; 1 for a clip without targets, whose id is None."""


class Product:
    """Several measures at once: a pixel counts as much as all of them together say."""

    def __init__(self, measures: Sequence[PixelWeights]) -> None:
        self.measures = tuple(measures)

    def require(self, clip_ids: Sequence[str]) -> None:
        """See `PixelWeights.require`."""
        for measure in self.measures:
            measure.require(clip_ids)

    def __call__(self, targets: Mapping[str, torch.Tensor], clip_ids: Sequence[str | None]) -> Weights:
        """See `PixelWeights`."""
        product: Weights = {}
        for measure in self.measures:
            for name, weights in measure(targets, clip_ids).items():
                product[name] = product[name] * weights if name in product else weights
        return product


class OtherStore:
    """Another store of the same clips, to read beside the one that is learnt from. Picklable, for workers."""

    def __init__(self, cache: Cache, url: str, version: int | None, setting: str) -> None:
        """``setting`` names it in messages. Raises `JoinRefused` if it does not hold the same frames."""
        self.cache, self._setting = open_cache(url, version=version), setting
        self._both = frozenset(join_caches({"store": cache, setting: self.cache}).committed_ids())

    def require(self, clip_ids: Sequence[str]) -> None:
        """Raise `BadInput` if it lacks a clip."""
        if absent := sorted(set(clip_ids) - self._both):
            raise BadInput(
                f"`{self._setting}` {self.cache.url} lacks {len(absent)} of the {len(set(clip_ids))} clips to train on, "
                f"such as {absent[0]!r}; run its job over their videos, too"
            )

    def read(self, signals: Sequence[str], clip_ids: Sequence[str | None]) -> dict[str, np.ndarray[Any, Any]]:
        """The signals of the clips that have an id, in order."""
        return TargetReader(self.cache, tuple(signals)).read(signals, [one for one in clip_ids if one is not None])
