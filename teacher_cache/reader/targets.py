"""What a student needs of a store: one store, or several joined, offer it alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from schemas.clip import Clip
from schemas.signal import Shape
from schemas.view import WHOLE, View

if TYPE_CHECKING:
    from teacher_cache.reader.datasets import CachedTargets
    from teacher_cache.teachers.heads.frozen import FrozenHeads


class Targets(Protocol):
    """Cached targets by clip id, as `teacher_cache.reader.cache.Cache` documents them. Picklable."""

    @property
    def url(self) -> str:
        """Where they are, for messages."""

    @property
    def size(self) -> int: ...

    @property
    def signals(self) -> tuple[str, ...]: ...

    @property
    def clips(self) -> pa.Table: ...

    def clip(self, clip_id: str) -> Clip: ...

    def committed_ids(self) -> list[str]: ...

    def shape(self, name: str) -> Shape: ...

    def read(
        self, signals: Sequence[str], clip_ids: Sequence[str], *, view: View = WHOLE
    ) -> dict[str, np.ndarray[Any, Any]]: ...

    def dataset(self, signals: Sequence[str], seed: int | None = 0, clip_ids: Sequence[str] | None = None) -> CachedTargets: ...

    def heads(self) -> FrozenHeads | None: ...
