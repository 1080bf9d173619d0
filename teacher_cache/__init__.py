"""The teacher's side of P4D: run a frozen 4D expert once over every video, store its signals, and read them back as targets."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from schemas.view import Crop, View
    from teacher_cache.geometry.augmentation import view_frames
    from teacher_cache.reader.cache import Cache, open_cache
    from teacher_cache.reader.disk_tier import DiskTier
    from teacher_cache.reader.joined import JoinedCache, join_caches
    from teacher_cache.reader.sampler import ResumableBatchSampler
    from teacher_cache.reader.targets import Targets

_HOMES = {
    "Cache": "teacher_cache.reader.cache",
    "Crop": "schemas.view",
    "DiskTier": "teacher_cache.reader.disk_tier",
    "JoinedCache": "teacher_cache.reader.joined",
    "ResumableBatchSampler": "teacher_cache.reader.sampler",
    "Targets": "teacher_cache.reader.targets",
    "View": "schemas.view",
    "join_caches": "teacher_cache.reader.joined",
    "open_cache": "teacher_cache.reader.cache",
    "view_frames": "teacher_cache.geometry.augmentation",
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
