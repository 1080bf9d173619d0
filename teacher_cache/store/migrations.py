"""An older store in, this version's store out, by named steps. Rewrites catalog, ledger and metadata; touches no shard."""

from __future__ import annotations

import json
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from schemas.errors import BadInput, StoreDamaged, StoreNotFound
from schemas.heads import HeadsCard
from schemas.ledger import LedgerEntry
from schemas.recipe import FORMAT_VERSION, Recipe
from schemas.report import MigrationReport
from teacher_cache.clips.tables import CLIPS
from teacher_cache.store.catalog import append_rows, read_catalog
from teacher_cache.store.layout import CATALOG, HEADS_CARD, LEDGER, MARKERS, ROOT_METADATA, metadata_key
from teacher_cache.store.ledger import Journal
from teacher_cache.store.objects import Objects
from teacher_cache.store.records import seal
from teacher_cache.store.template import group_metadata, read_recipe, read_version, root_metadata


def migrate(url: str) -> MigrationReport:
    """Bring the store at ``url`` to this version. Safe to interrupt and repeat, but no other run may be at work.

    Objects of the old version that are no longer needed stay until ``gc``. Raises `StoreNotFound`, `BadInput` for a store of a
    newer version, and `StoreDamaged`.
    """
    objects = Objects(url)
    root = objects.get(ROOT_METADATA)
    if root is None:
        raise StoreNotFound(f"there is no store at {url}")
    found = version = read_version(root, url)
    steps = []
    while version < FORMAT_VERSION:
        name, step = _STEPS[version]
        step(objects, read_recipe(root, url))
        steps.append(name)
        version += 1
    if version > FORMAT_VERSION:
        raise BadInput(
            f"{url} has format version {version}; this program writes version {FORMAT_VERSION}. Use a newer release."
        )
    return MigrationReport(store=url, from_version=found, to_version=version, steps=tuple(steps))


def _volumes_and_records(objects: Objects, recipe: Recipe) -> None:
    """1 → 2: catalog segments get records and keys, ledger entries get digests and volumes, the heads' card gets a digest."""
    for key in (key for key in objects.listing(f"{CATALOG}/") if key.endswith(".parquet") and key.count("-") == 1):
        rows = _segment(objects, key)
        catalog = read_catalog(objects)
        if (
            catalog.rows <= rows["row"][0].as_py()
            and append_rows(objects, catalog, rows, recipe.layout.clips_per_shard) is None
        ):
            raise BadInput(f"another program is writing to {objects.url}; stop it, then migrate again")
    journal = Journal(objects, since=0)
    entries = (_entry(objects, f"{LEDGER}/{name}") for name, is_folder in objects.level(LEDGER).items() if not is_folder)
    for entry in entries:
        if entry is not None:
            journal.commit(entry)
    card = objects.get(HEADS_CARD)
    if card is not None and b'"digest"' not in card:
        objects.replace(HEADS_CARD, seal(HeadsCard.model_validate_json(card)))
    for name, description in MARKERS.items():
        objects.replace(metadata_key(name), group_metadata({"description": description}))
    objects.replace(ROOT_METADATA, root_metadata(recipe))


def _segment(objects: Objects, key: str) -> pa.Table:
    try:
        table = pq.ParquetFile(pa.BufferReader(objects.get(key)), pre_buffer=False).read(use_threads=False)
        return table.select(["row", *CLIPS.names]).cast(pa.schema([pa.field("row", pa.int64()), *CLIPS]))
    except (pa.ArrowException, OSError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise StoreDamaged(
            f"the catalog segment {key} of {objects.url} cannot be read ({reason}); restore it from a backup"
        ) from None


def _entry(objects: Objects, key: str) -> LedgerEntry | None:
    """An entry of version 1, stored directly in the ledger's folder. None if the key is not an entry's."""
    if not key.removeprefix(f"{LEDGER}/")[:1].isdigit():
        return None
    try:
        return LedgerEntry.model_validate(json.loads(objects.get(key) or b""))
    except (ValidationError, ValueError):
        raise StoreDamaged(
            f"the ledger entry {key} of {objects.url} cannot be read. Delete it; `run` then does its unit again."
        ) from None


_STEPS: dict[int, tuple[str, Callable[[Objects, Recipe], None]]] = {
    1: ("records with digests, a ledger in volumes", _volumes_and_records)
}
