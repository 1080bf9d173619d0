"""The interface that a student reads targets through: one store (`Cache`) or several joined (`JoinedCache`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.clip import Clip
from schemas.signal import Shape
from schemas.view import WHOLE, View

if TYPE_CHECKING:
    from teacher_cache.reader.datasets import CachedTargets
    from teacher_cache.reader.fetch import Reading
    from teacher_cache.reader.stored import StoredBatch
    from teacher_cache.store.chunk import Empty
    from teacher_cache.teachers.heads.frozen import FrozenHeads


class Targets(Protocol):
    """Cached targets by clip id. `teacher_cache.reader.cache.Cache` documents shapes, units and errors. Picklable."""

    @property
    def url(self) -> str:
        """Where the targets are stored, for messages."""

    @property
    def size(self) -> int:
        """Height and width of the teacher's input frame, in pixels."""

    @property
    def signals(self) -> tuple[str, ...]:
        """Every signal name that `read` accepts."""

    @property
    def clips(self) -> pa.Table:
        """One row per clip: clip_id, video, status, reason, detail and more; see `Cache.clips`."""

    def clip(self, clip_id: str) -> Clip:
        """The clip's entry in the catalog. Raises `UnknownClip`."""

    def committed_ids(self, where: pc.Expression | None = None) -> list[str]:
        """Ids of the clips that are committed in every signal; with ``where``, those for which it holds."""

    def shape(self, name: str) -> Shape:
        """Shape of one clip in what `read` returns under ``name``. Raises `SignalMissing`."""

    def read(
        self,
        signals: Sequence[str],
        clip_ids: Sequence[str],
        *,
        layers: Sequence[int] | None = None,
        frames: Sequence[int] | None = None,
        view: View = WHOLE,
    ) -> dict[str, np.ndarray[Any, Any]]:
        """Targets by name, each (clip, …) in the order of ``clip_ids``; see `Cache.read`."""

    def begin_read(
        self,
        signals: Sequence[str],
        clip_ids: Sequence[str],
        *,
        layers: Sequence[int] | None = None,
        frames: Sequence[int] | None = None,
    ) -> Reading[dict[str, np.ndarray[Any, Any]]]:
        """`read`, begun and not waited for."""

    def begin_stored(
        self,
        signals: Sequence[str],
        clip_ids: Sequence[str],
        empty: Empty | None = None,
        *,
        layers: Sequence[int] | None = None,
        frames: Sequence[int] | None = None,
    ) -> Reading[StoredBatch]:
        """The same targets as they are stored, begun and not waited for; see `Cache.read_stored`."""

    def dataset(
        self,
        signals: Sequence[str],
        seed: int | None = 0,
        clip_ids: Sequence[str] | None = None,
        *,
        layers: Sequence[int] | None = None,
        frames: Sequence[int] | None = None,
    ) -> CachedTargets:
        """A map-style torch dataset over the committed clips (or ``clip_ids``), in order; ``seed`` is of its `batches`."""

    def heads(self) -> FrozenHeads | None:
        """The teacher's frozen heads, or None if there are none."""
