"""What nothing in a store names: found, and removed once it is old enough."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from schemas.errors import BadInput
from schemas.report import GarbageReport
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
    store: Store, listed: Mapping[str, int], volumes: Volumes, files: Mapping[str, TableFile], committed: set[str]
) -> list[str]:
    """Objects that nothing names, in the order of their keys."""
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
    """Tables of the catalog beyond its last record: of a run that was stopped before the record, or of one that is lost.

    They are not garbage: the next run may need one, and a lost record can be made again from nothing else.
    """
    first = numbered(SEGMENT, len(recorded)).removesuffix(".json")
    return [key for key in listed if key.startswith(SEGMENT) and key.endswith(".parquet") and key >= first]


def _bound_keys(objects: Objects, texts: TableFile) -> set[str]:
    return set(StoredTable(objects, texts).read(["key"])["key"].to_pylist())


def collect_garbage(url: str, *, older_than_hours: float, dry_run: bool) -> GarbageReport:
    """Remove what nothing in the store names.

    Raises `StoreDamaged` where the catalog or the ledger is unreadable: what they name would look like garbage. A run at
    work has objects that no entry names yet, for as long as its unit takes; so only those older than ``older_than_hours`` go.
    """
    if older_than_hours < 0:
        raise BadInput(f"--older-than is {older_than_hours:g} hours; needed 0 or more")
    store = open_store(url)
    listed = store.objects.listing()
    volumes = read_volumes(store.objects)
    texts = committed_texts(store.objects, volumes)
    committed = {key for found in texts for name, data in found.items() for key in read_entry(name, data, url).objects}
    found = orphans(store, listed, volumes, catalog_files(store.objects), committed)
    limit = time.time() - older_than_hours * 3600
    old = [key for key in found if store.objects.modified_seconds(key) <= limit]
    for key in [] if dry_run else old:
        store.objects.delete(key)
    return GarbageReport(
        store=url,
        dry_run=dry_run,
        removed=tuple(old),
        bytes=sum(listed[key] for key in old),
        kept_younger=tuple(key for key in found if key not in set(old)),
    )
