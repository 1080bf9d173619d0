"""Clips of a store of regions, and their videos, in; one frame of each with its label map and objects out, to be marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import pyarrow as pa

from schemas.errors import BadInput, SignalMissing
from schemas.regions import RegionObject
from schemas.report import MarkStyle
from teacher_cache.clips.decoder import DECODE_TIMEOUT_SECONDS, Decoder
from teacher_cache.clips.preprocess import FrameSize
from teacher_cache.io.places import Roots
from teacher_cache.regions.marks import Frame, Labels, draw_marks

_NEEDED = ("regions", "objects")


class RegionTargets(Protocol):
    """What is needed of a store of regions, or of joined ones: see `teacher_cache.reader.cache.Cache`."""

    @property
    def url(self) -> str:
        """Where it is, for messages."""

    @property
    def signals(self) -> Sequence[str]:
        """What it holds."""

    @property
    def clips(self) -> pa.Table:
        """One row per clip."""

    def read(self, signals: Sequence[str], clip_ids: Sequence[str]) -> dict[str, np.ndarray[Any, Any]]:
        """Targets by name."""

    def objects(self, clip_ids: Sequence[str]) -> list[tuple[RegionObject, ...]]:
        """The objects of each clip."""


def require_regions(cache: RegionTargets) -> None:
    """Raise `SignalMissing` unless the store holds regions and their objects."""
    if absent := [name for name in _NEEDED if name not in cache.signals]:
        raise SignalMissing(
            f"the store {cache.url} holds {', '.join(cache.signals) or 'no signal'}; {' and '.join(absent)} are needed for "
            "marks. Run a job with `signals: [regions, objects]` and a teacher that finds objects."
        )


def flipped_clips(clips: pa.Table) -> frozenset[str]:
    """Ids of the clips whose targets are of mirrored frames, of rows of `Cache.clips`."""
    return frozenset(clips.filter(clips["flipped"])["clip_id"].to_pylist())


@dataclass(frozen=True, eq=False)
class RegionFrame:
    """One frame of a clip, and what is known of its objects."""

    clip_id: str
    frame: Frame
    """uint8 (y, x, RGB)."""
    labels: Labels
    """uint8 (y', x'): k = object k, 0 = none. It covers the same view, at the teacher's size."""
    objects: tuple[RegionObject, ...]
    """All objects of the clip, also those that are not in this frame."""

    @property
    def shown(self) -> frozenset[int]:
        """Numbers of the objects that have a pixel in this frame."""
        return frozenset(np.unique(self.labels[self.labels > 0]).tolist())

    def marked(self, numbers: frozenset[int] | None = None, style: MarkStyle = "box") -> Frame:
        """The frame with the marks of these objects, or of all."""
        wanted = [one for one in self.objects if numbers is None or one.number in numbers]
        return draw_marks(self.frame, wanted, self.labels, style=style)


class RegionFrames:
    """Reads one frame of a clip from its video, and that frame's label map from the store. Close it, or use it in a ``with``.

    ``roots``: where videos may be read from. ``size``: of the frames.
    """

    def __init__(self, cache: RegionTargets, roots: Roots, size: FrameSize) -> None:
        self._cache, self._roots, self._size = cache, roots, size
        self._decoder = Decoder(None, DECODE_TIMEOUT_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._decoder.close()

    def __call__(self, clip_id: str, video: str, frame: int = 0) -> RegionFrame:
        """Frame ``frame`` of a committed clip, from 0, of the ``video`` that is its own.

        Raises `BadInput` for a frame that the clip does not have or a video that may not be read, `VideoError` for one that
        cannot be, and what `Cache.read` raises.
        """
        found = self._cache.read(["regions", "frame_index"], [clip_id])
        numbers = found["frame_index"][0]
        if not 0 <= frame < len(numbers):
            raise BadInput(f"clip {clip_id!r} has {len(numbers)} frames; needed one of 0 to {len(numbers) - 1}, found {frame}")
        seen = self._decoder.frames(self._roots.find(video), [int(numbers[frame])], self._size)
        shown = seen.frames[0][:, ::-1] if clip_id in self._flipped else seen.frames[0]
        labels = found["regions"][0][frame].astype(np.uint8)
        return RegionFrame(clip_id, shown, labels, self._cache.objects([clip_id])[0])

    @cached_property
    def _flipped(self) -> frozenset[str]:
        return flipped_clips(self._cache.clips)
