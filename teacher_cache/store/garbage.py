"""A store's listing in; the objects that nothing names out, to be deleted once they are old enough."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping

from schemas.errors import BadInput
from schemas.report import GarbageReport
from schemas.storage import StorageOptions
from schemas.store import TableFile
from teacher_cache.store.catalog import catalog_files
from teacher_cache.store.declared import declared_arrays
from teacher_cache.store.layout import (
    HEADS_CARD,
    HEADS_FILE,
    MARKERS,
    ROOT_METADATA,
    SEGMENT,
    VOLUME,
    closed_key,
    metadata_key,
    numbered,
)
from teacher_cache.store.ledger import Volumes, committed_texts, entry_keys, read_entry, read_volumes
from teacher_cache.store.objects import Objects
from teacher_cache.store.store import Store, open_store
from teacher_cache.store.table import StoredTable


def orphans(
    store: Store, listed: Collection[str], volumes: Volumes, files: Mapping[str, TableFile], committed: set[str]
) -> list[str]:
    """Keys of the ``listed`` objects that nothing names, sorted."""
    known = {*committed, ROOT_METADATA, HEADS_FILE, HEADS_CARD, *map(metadata_key, MARKERS), *volumes.retirements}
    known |= {metadata_key(name) for name in (*store.signals, *(a.name for a in declared_arrays(store, store.shapes())))}
    known |= {key for record, file in files.items() for key in (record, file.key)}
    known |= {closed_key(volume) for volume in (*volumes.bound, *volumes.unbound)}
    known |= set(volumes.known_damage)
    for volume, record in volumes.bound.items():
        known |= {numbered(VOLUME, volume), record.state.key, record.texts.key}
        known |= _bound_keys(store.objects, record.texts)
    for volume in volumes.unbound:
        known |= set(entry_keys(store.objects, volume))
    known |= set(unrecorded(listed, files))
    return [key for key in listed if key not in known]


def unrecorded(listed: Iterable[str], recorded: Mapping[str, TableFile]) -> list[str]:
    """Catalog tables after the last record: a run was stopped before it wrote their record, or the record was lost.

    They are not garbage: the next run may need one, and a lost record can only be rebuilt from its table.
    """
    first = numbered(SEGMENT, len(recorded)).removesuffix(".json")
    return [key for key in listed if key.startswith(SEGMENT) and key.endswith(".parquet") and key >= first]


def _bound_keys(objects: Objects, texts: TableFile) -> set[str]:
    return set(StoredTable(objects, texts).read(["key"])["key"].to_pylist())


def collect_garbage(
    url: str, *, older_than_hours: float, dry_run: bool, storage_options: StorageOptions | None = None
) -> GarbageReport:
    """Delete objects that nothing in the store names.

    While a run is at work, it has objects that no entry names yet, so only those older than ``older_than_hours`` are
    deleted. Raises `StoreDamaged` if the catalog or the ledger is unreadable: whatever they name would look like garbage.
    """
    if older_than_hours < 0:
        raise BadInput(f"--older-than is {older_than_hours:g} hours; it must be 0 or more")
    store = open_store(url, storage_options)
    listed = store.objects.listing()
    volumes = read_volumes(store.objects)
    texts = committed_texts(store.objects, volumes)
    committed = {key for found in texts for name, data in found.items() for key in read_entry(name, data, url).objects}
    found = orphans(store, listed, volumes, catalog_files(store.objects), committed)
    limit = time.time() - older_than_hours * 3600
    old = [key for key in found if listed[key].modified.timestamp() <= limit]
    if not dry_run:
        store.objects.delete_many(old)
    return GarbageReport(
        store=url,
        dry_run=dry_run,
        removed=tuple(old),
        bytes=sum(listed[key].length for key in old),
        kept_younger=tuple(key for key in found if key not in set(old)),
    )
