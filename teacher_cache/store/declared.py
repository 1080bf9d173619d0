"""A recipe, the catalog's length and the signals' shapes in; the metadata that the store must have out."""

from __future__ import annotations

from collections.abc import Mapping

from schemas.signal import Shape, SignalName
from teacher_cache.encodings.base import StoredArray
from teacher_cache.store.layout import (
    MARKERS,
    ROOT_METADATA,
    metadata_key,
    stored_arrays,
)
from teacher_cache.store.store import Store
from teacher_cache.store.template import array_metadata, group_metadata, root_metadata


def expected_metadata(store: Store, rows: int, shapes: Mapping[SignalName, Shape]) -> dict[str, bytes]:
    """Key → bytes of every ``zarr.json`` that the recipe, the catalog's length and the signals' shapes determine."""
    expected = {ROOT_METADATA: root_metadata(store.recipe)}
    expected |= {metadata_key(name): group_metadata({"description": text}) for name, text in MARKERS.items()}
    per_shard = store.recipe.layout.clips_per_shard
    arrays = declared_arrays(store, shapes)
    return expected | {metadata_key(array.name): array_metadata(array, rows, per_shard) for array in arrays}


def declared_arrays(store: Store, shapes: Mapping[SignalName, Shape]) -> list[StoredArray]:
    """The arrays of the store's parts, without signals that ``shapes`` lacks."""
    parts = [part for part in store.parts if part == "clock" or part in shapes]
    return [array for part in parts for array in stored_arrays(store.recipe, part, shapes)]
