"""A store's listing and its log in; the objects that nothing names out, deleted if no writer can come to name them.

Only what has a key of the format is a store's. Beside it may lie other stores, videos, whatever people keep; that is left.

What can be named is decided by the log alone, never by age. Work that is done stays done, and a row that is superseded stays
so: an object that the log rules out now is ruled out for every writer, however late, since each appends after what it has
read. Each deletion is announced in the log before and recorded after, so that another ``gc`` can finish it, and an announced
key is never committed again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from schemas.log import PARTS, Deleted, Deleting
from schemas.report import GarbageReport
from schemas.signal import SIGNALS, Shape, SignalName
from schemas.storage import StorageOptions
from teacher_cache.io.progress import Progress, no_progress
from teacher_cache.store.layout import (
    HEADS_CARD,
    HEADS_FILE,
    MARKERS,
    ROOT_METADATA,
    array_of,
    checkpoint_version,
    first_row_of,
    is_own,
    metadata_key,
    part_of,
    shard_of,
    stored_arrays,
    version_of,
)
from teacher_cache.store.state import State
from teacher_cache.store.store import Store, open_store

_AT_ONCE = 10_000
"""Keys announced in one record."""


@dataclass(frozen=True)
class Unnamed:
    """The objects of a store that its log does not name, by key, sorted."""

    garbage: list[str] = field(default_factory=list)
    """No writer can come to name them."""
    unfinished: list[str] = field(default_factory=list)
    """What a running or stopped run made and has not committed; a later run takes it over."""
    foreign: list[str] = field(default_factory=list)
    """No store has such keys: somebody else put them here."""


def unnamed(store: Store, listed: Iterable[str]) -> Unnamed:
    """The objects that the store's log does not name. They must have been ``listed`` before the log was read."""
    found = Unnamed()
    known = _Known(store)
    for key in listed:
        if known.is_named(key):
            continue
        if not is_own(key):
            found.foreign.append(key)
        elif known.is_open(key):
            found.unfinished.append(key)
        else:
            found.garbage.append(key)
    return found


class _Known:
    """What the log, the recipe and the catalog say about keys."""

    def __init__(self, store: Store) -> None:
        self._state, per_shard = store.state, store.recipe.layout.clips_per_shard
        shapes: dict[SignalName, Shape] = {name: (16,) * len(signal.dims) for name, signal in SIGNALS.items()}
        # Also those that are not declared yet, since a run may be about to; of their shapes, only the rank matters here.
        self._arrays = {array.name for part in PARTS for array in stored_arrays(store.recipe, part, shapes)}
        self._fixed = {ROOT_METADATA, HEADS_FILE, HEADS_CARD, *map(metadata_key, (*MARKERS, *self._arrays))}
        for added in store.state.rows_added:
            self._fixed |= {table.key for table in (added.table, added.superseded) if table is not None}
        self._wanted = set(np.unique(store.catalog().current // per_shard).tolist())
        """Shards with rows in force."""

    def is_named(self, key: str) -> bool:
        is_of_log = version_of(key) is not None or checkpoint_version(key) is not None
        return key in self._fixed or is_of_log or _is_committed(self._state, key)

    def is_open(self, key: str) -> bool:
        """Whether a writer may still come to name the key."""
        if (first_row := first_row_of(key)) is not None:
            return first_row >= self._state.rows
        array, shard = array_of(key), shard_of(key)
        if array not in self._arrays or shard not in self._wanted or key in self._state.announced:
            return False
        return not self._state.is_done(part_of(array), np.array([shard]))[0]


def collect_garbage(
    url: str,
    *,
    unfinished: bool = False,
    dry_run: bool = False,
    progress: Progress = no_progress,
    storage_options: StorageOptions | None = None,
) -> GarbageReport:
    """Delete the store's objects that nothing in it names or can come to name. Safe beside runs, repairs, readers and itself.

    With ``unfinished``, also what stopped runs left of units that are not committed: the clips of these units get new rows in
    the next run, and so do those of units that a run has in work now. Raises `StoreDamaged` if the log is unreadable, since
    whatever it names would look like garbage.
    """
    store = open_store(url, storage_options)
    listed = store.objects.listing()
    found = unnamed(store, listed)
    # Tables of rows that a run is about to add stay: they are garbage once others are added.
    keys = found.garbage + [key for key in found.unfinished if unfinished and shard_of(key) is not None]
    chosen = set(keys)
    if not dry_run:
        with progress("deleting", len(keys), "objects") as advance:
            for start in range(0, len(keys), _AT_ONCE):
                _delete(store, keys[start : start + _AT_ONCE], set(found.unfinished))
                advance(len(keys[start : start + _AT_ONCE]))
        gone = store.state.undeleted - set(listed)  # a gc that was killed deleted these, and did not record it
        _record_deleted(store, sorted(gone))
    return GarbageReport(
        store=url,
        dry_run=dry_run,
        removed=tuple(keys),
        bytes=sum(listed[key].length for key in keys),
        unfinished=tuple(key for key in found.unfinished if key not in chosen),
        foreign=len(found.foreign),
        foreign_example=next(iter(found.foreign), ""),
    )


def _delete(store: Store, keys: Sequence[str], unfinished: set[str]) -> None:
    def announced(state: State) -> list[Deleting]:
        # What a run has committed since it was looked at stays.
        left = [key for key in keys if not (key in unfinished and _is_committed(state, key))]
        return [Deleting(keys=tuple(left))] if set(left) - state.announced else []

    store.log.append(announced, "gc")
    left = [key for key in keys if key in store.state.announced]
    store.objects.delete_many(left)
    _record_deleted(store, left)


def _record_deleted(store: Store, keys: Sequence[str]) -> None:
    def deleted(state: State) -> list[Deleted]:
        left = tuple(key for key in keys if key in state.undeleted)
        return [Deleted(keys=left)] if left else []

    store.log.append(deleted, "gc")


def _is_committed(state: State, key: str) -> bool:
    shard = shard_of(key)
    return shard is not None and state.shard_length(array_of(key), shard) > 0
