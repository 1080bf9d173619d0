"""The teacher's side of P4D: run a frozen 4D expert once over all videos, store what it saw, read it back."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from schemas.view import Crop, View
    from teacher_cache.store.disk import DiskTier
    from teacher_cache.store.joined import JoinedCache, join_caches
    from teacher_cache.store.reader import Cache, open_cache
    from teacher_cache.store.sampler import ResumableBatchSampler
    from teacher_cache.store.targets import Targets
    from teacher_cache.views import view_frames

_HOMES = {
    "Cache": "teacher_cache.store.reader",
    "Crop": "schemas.view",
    "DiskTier": "teacher_cache.store.disk",
    "JoinedCache": "teacher_cache.store.joined",
    "ResumableBatchSampler": "teacher_cache.store.sampler",
    "Targets": "teacher_cache.store.targets",
    "View": "schemas.view",
    "join_caches": "teacher_cache.store.joined",
    "open_cache": "teacher_cache.store.reader",
    "view_frames": "teacher_cache.views",
}

__all__ = [
    "Cache",
    "Crop",
    "DiskTier",
    "JoinedCache",
    "ResumableBatchSampler",
    "Targets",
    "View",
    "join_caches",
    "open_cache",
    "view_frames",
]


def __getattr__(name: str) -> Any:
    # Decoder processes import a submodule of this package; loading the reader (zarr, pyarrow) for them would
    # cost each one a second and 100 MB.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
