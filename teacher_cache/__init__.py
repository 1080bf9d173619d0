"""The teacher's side of P4D: run a frozen 4D expert once over all videos, store what it saw, read it back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from teacher_cache.store.reader import Cache, open_cache

__all__ = ["Cache", "open_cache"]


def __getattr__(name: str) -> Any:
    # Decoder processes import a submodule of this package; loading the reader (zarr, pyarrow) for them would
    # cost each one a second and 100 MB.
    if name in __all__:
        from teacher_cache.store import reader  # noqa: PLC0415

        return getattr(reader, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
