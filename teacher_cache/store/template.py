"""A recipe and arrays in; the store's ``zarr.json`` objects out, made by zarr itself; and back."""

from __future__ import annotations

import json
from typing import Any

import zarr
from pydantic import ValidationError
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import MemoryStore

from schemas.base import canonical_json, parsed_json
from schemas.errors import BadInput, StoreDamaged
from schemas.log import MOST_ROWS
from schemas.recipe import FORMAT_VERSION, Recipe
from teacher_cache.encodings.base import StoredArray
from teacher_cache.store.chunk import zarr_codecs


def group_metadata(attributes: dict[str, Any]) -> bytes:
    """``zarr.json`` of a group."""
    return canonical_json({"zarr_format": 3, "node_type": "group", "attributes": attributes})


def root_metadata(recipe: Recipe) -> bytes:
    """``zarr.json`` of the store's root, with format version, fingerprint and the whole recipe: a store describes itself."""
    return group_metadata(
        {"format_version": FORMAT_VERSION, "fingerprint": recipe.fingerprint, "recipe": recipe.model_dump(mode="json")}
    )


def read_root(data: bytes, url: str) -> Recipe:
    """The recipe in a root's ``zarr.json``. Raises `BadInput` if it is no store of this format version, and `StoreDamaged`."""
    version = _version(data, url)
    if version != FORMAT_VERSION:
        raise BadInput(
            f"{url} has format version {version}; this program reads version {FORMAT_VERSION}. "
            "Use the release that wrote it, or begin a new store."
        )
    return _recipe(data, url)


def _version(data: bytes, url: str) -> int:
    """The format version in a root's ``zarr.json``. Raises `BadInput` if it is not a store."""
    try:
        version = parsed_json(data)["attributes"]["format_version"]
    except (ValueError, KeyError, TypeError):
        version = None
    if not isinstance(version, int) or version < 1:
        raise BadInput(
            f"{url} holds a Zarr group that is not a store of teacher targets; give the URL of a store, or an unused one"
        )
    return version


def _recipe(data: bytes, url: str) -> Recipe:
    """The recipe in a root's ``zarr.json``. Raises `StoreDamaged` if it was changed."""
    attributes = parsed_json(data)["attributes"]
    try:
        recipe = Recipe.model_validate(attributes["recipe"])
    except (ValidationError, KeyError):
        raise StoreDamaged(
            f"the recipe in the zarr.json of {url} is not valid; it was changed. Restore it from a backup."
        ) from None
    if recipe.fingerprint != attributes.get("fingerprint"):
        raise StoreDamaged(
            f"the recipe of {url} does not match its fingerprint {attributes.get('fingerprint')}; its zarr.json was changed"
        )
    return recipe


def array_metadata(array: StoredArray, rows: int, clips_per_shard: int) -> bytes:
    """``zarr.json`` of an array: clip axis first, no chunk of more than one clip, ``clips_per_shard`` clips per shard."""
    memory = MemoryStore()
    filters, serializer, compressors = zarr_codecs(array)
    zarr.create_array(
        memory,
        name=array.name,
        shape=(rows, *array.shape),
        dtype=array.dtype,
        chunks=(1, *array.chunk_shape),
        shards=(clips_per_shard, *array.shape),
        filters=filters,
        serializer=serializer,
        compressors=compressors,
        fill_value=array.missing,
        dimension_names=("clip", *array.dims),
        attributes=dict(array.attributes),
    )
    stored = sync(memory.get(f"{array.name}/zarr.json", default_buffer_prototype()))
    assert stored is not None
    return canonical_json(json.loads(stored.to_bytes()))


def array_rows(metadata: bytes) -> int | None:
    """Length of the clip axis in an array's ``zarr.json``; None if it is not an array's."""
    try:
        rows = parsed_json(metadata)["shape"][0]
    except (ValueError, KeyError, TypeError, IndexError):
        return None
    return rows if type(rows) is int and 0 <= rows <= MOST_ROWS else None


def with_rows(metadata: bytes, rows: int) -> bytes:
    """The array's ``zarr.json`` with ``rows`` as length of the clip axis; nothing else changes."""
    value = parsed_json(metadata)
    value["shape"][0] = rows
    return canonical_json(value)
