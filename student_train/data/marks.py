"""Clips as the student sees them, and their objects, in; the same with marks where the conversation asks about them out."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from schemas.regions import RegionObject
from schemas.train import RegionsConfig
from student_train.distill.pixel_weights import OtherStore
from student_train.distill.regions import SETTING
from teacher_cache import Cache
from teacher_cache.reader.marked import require_regions
from teacher_cache.regions.marks import draw_marks

Frames = NDArray[np.uint8]
Drawn = Callable[[Frames, NDArray[np.uint8] | None, Sequence[RegionObject]], Frames]
"""From frames (frame, y, x, RGB), label maps (frame, y', x') or None, and objects, to frames with marks."""

_MARK = re.compile(r"<obj_\d+>")


def in_first(frames: Frames, _labels: NDArray[np.uint8] | None, objects: Sequence[RegionObject]) -> Frames:
    """Boxes and numbers in the first frame, as the paper's Set-of-Mark (appendix A2)."""
    return np.concatenate([draw_marks(frames[0], objects)[None], frames[1:]])


def in_all(frames: Frames, labels: NDArray[np.uint8] | None, objects: Sequence[RegionObject]) -> Frames:
    """Boxes and numbers in every frame, each where its object is in that frame."""
    assert labels is not None
    return np.stack([draw_marks(frame, objects, of_frame) for frame, of_frame in zip(frames, labels, strict=True)])


class Marks:
    """Draws the marks of a clip's objects into what the student sees, from a store of regions. Picklable, for workers."""

    def __init__(self, cache: Cache, config: RegionsConfig) -> None:
        """Raises `SignalMissing` if the other store has no regions, `JoinRefused` if it does not hold the same frames."""
        self._store = OtherStore(cache, config.store, config.version, SETTING)
        require_regions(self._store.cache)
        self._needs_labels = config.marks == "all"
        self._draw: Drawn = in_all if self._needs_labels else in_first

    def require(self, clip_ids: Sequence[str]) -> None:
        """Raise `BadInput` if the store lacks a clip."""
        self._store.require(clip_ids)

    def __call__(self, frames: Sequence[Frames], clip_ids: Sequence[str | None], texts: Sequence[str]) -> list[Frames]:
        """The clips' frames, with marks where the conversation's text has ``<obj_k>``: others stay as the video shows them."""
        asked = [n for n, (one, text) in enumerate(zip(clip_ids, texts, strict=True)) if one is not None and _MARK.search(text)]
        ids = [str(clip_ids[n]) for n in asked]
        objects = self._store.cache.objects(ids) if ids else []
        labels = self._store.read(["regions"], ids)["regions"] if ids and self._needs_labels else [None] * len(ids)
        marked = list(frames)
        for n, its_labels, its_objects in zip(asked, labels, objects, strict=True):
            marked[n] = self._draw(frames[n], its_labels, [one for one in its_objects if one.frames])
        return marked
