"""A store and its catalog's length in; the metadata that the store must have out."""

from __future__ import annotations

from teacher_cache.store.layout import MARKERS, ROOT_METADATA, metadata_key, stored_arrays
from teacher_cache.store.store import Store
from teacher_cache.store.template import array_metadata, group_metadata, root_metadata


def expected_metadata(store: Store, rows: int) -> dict[str, bytes]:
    """Key → bytes of every ``zarr.json`` that the recipe, the catalog's length and the log determine."""
    expected = {ROOT_METADATA: root_metadata(store.recipe)}
    expected |= {metadata_key(name): group_metadata({"description": text}) for name, text in MARKERS.items()}
    arrays = [array for part in store.parts for array in stored_arrays(store.recipe, part, store.shapes)]
    per_shard = store.recipe.layout.clips_per_shard
    return expected | {metadata_key(array.name): array_metadata(array, rows, per_shard) for array in arrays}
