"""The teacher's side of P4D: run a frozen 4D expert once over all videos, store what it saw, read it back."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from teacher_cache.store.disk import DiskTier
    from teacher_cache.store.joined import JoinedCache, join_caches
    from teacher_cache.store.reader import Cache, open_cache
    from teacher_cache.store.sampler import ResumableBatchSampler
    from teacher_cache.store.targets import Targets

_HOMES = {
    "Cache": "teacher_cache.store.reader",
    "DiskTier": "teacher_cache.store.disk",
    "JoinedCache": "teacher_cache.store.joined",
    "ResumableBatchSampler": "teacher_cache.store.sampler",
    "Targets": "teacher_cache.store.targets",
    "join_caches": "teacher_cache.store.joined",
    "open_cache": "teacher_cache.store.reader",
}

__all__ = ["Cache", "DiskTier", "JoinedCache", "ResumableBatchSampler", "Targets", "join_caches", "open_cache"]


def __getattr__(name: str) -> Any:
    # Decoder processes import a submodule of this package; loading the reader (zarr, pyarrow) for them would
    # cost each one a second and 100 MB.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
