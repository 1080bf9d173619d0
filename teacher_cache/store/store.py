"""A URL and a recipe in; a store opened, created or grown out. Everything here is idempotent and safe to run concurrently."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from schemas.base import sha256_digest
from schemas.errors import BadInput, RecipeMismatch, StoreNotFound
from schemas.heads import HeadsCard
from schemas.ledger import PARTS, PartName
from schemas.recipe import FORMAT_VERSION, Recipe
from schemas.report import FailedClip, StatusReport
from schemas.signal import SIGNALS, Shape, SignalName
from schemas.storage import StorageOptions
from teacher_cache.encodings.registry import encoding
from teacher_cache.store.catalog import Catalog, append_rows, read_catalog
from teacher_cache.store.layout import (
    HEADS_CARD,
    HEADS_FILE,
    MARKERS,
    ROOT_METADATA,
    closed_key,
    metadata_key,
    stored_arrays,
)
from teacher_cache.store.ledger import FAILED, Ledger, clip_counts, close_volume, part_of, read_ledger
from teacher_cache.store.objects import Objects, probe_create_if_absent
from teacher_cache.store.records import seal
from teacher_cache.store.template import (
    array_metadata,
    array_rows,
    array_shape,
    group_metadata,
    read_root,
    root_metadata,
    with_rows,
)


@dataclass(frozen=True)
class Store:
    """An existing store: its objects and its recipe."""

    objects: Objects
    recipe: Recipe

    @property
    def url(self) -> str:
        """The store's URL."""
        return self.objects.url

    @cached_property
    def parts(self) -> tuple[PartName, ...]:
        """The parts (the clock and signals) whose arrays exist, in the order of `PARTS`."""
        probes = {metadata_key("timestamps" if part == "clock" else part): part for part in PARTS}
        found = self.objects.get_many(list(probes))
        return tuple(part for key, part in probes.items() if key in found)

    @property
    def signals(self) -> tuple[SignalName, ...]:
        """The signals whose arrays exist."""
        return tuple(part for part in self.parts if part != "clock")

    def shapes(self) -> dict[SignalName, Shape]:
        """Shape of one clip of each signal, from its array's metadata. Signals with unreadable metadata are left out."""
        found = self.objects.get_many([metadata_key(signal) for signal in self.signals])
        shapes: dict[SignalName, Shape] = {}
        for signal in self.signals:
            stored = array_shape(found.get(metadata_key(signal), b""))
            if stored is not None and len(stored) == len(SIGNALS[signal].dims):  # no encoding adds or drops an axis
                shapes[signal] = encoding(signal, self.recipe.encodings[signal]).signal_shape(stored)
        return shapes

    def catalog(self) -> Catalog:
        """Read the catalog. Raises `StoreDamaged`."""
        return read_catalog(self.objects)

    def ledger(self) -> Ledger:
        """Read the ledger. Raises `StoreDamaged`."""
        return read_ledger(self.objects)


def find_store(url: str, storage_options: StorageOptions | None = None) -> Store | None:
    """The store at ``url``, or None if there is none. Raises `BadInput` if something else is there."""
    return _store_of(Objects(url, storage_options))


def _store_of(objects: Objects) -> Store | None:
    root = objects.get(ROOT_METADATA)
    return None if root is None else Store(objects, read_root(root, objects.url))


def open_store(url: str, storage_options: StorageOptions | None = None) -> Store:
    """The store at ``url``. Raises `StoreNotFound`, or `Unreachable` if not even its bucket exists."""
    store = find_store(url, storage_options)
    if store is None:
        Objects(url, storage_options).require_bucket()
        raise StoreNotFound(
            f"there is no store at {url}; `teacher-cache run JOB.yaml` makes one, and the job's `store` says where"
        )
    return store


def require_recipe(store: Store, recipe: Recipe) -> None:
    """Raises `RecipeMismatch`, with the fields that differ, if the store has another recipe."""
    differences = store.recipe.differences(recipe)
    if differences:
        raise RecipeMismatch(store.url, differences)


def create_store(url: str, recipe: Recipe, storage_options: StorageOptions | None = None) -> Store:
    """Create an empty store, or open the one that exists. Raises `RecipeMismatch` if it exists with another recipe.

    Raises `CouldNotRun` where a store cannot be kept, since the place does not keep create-if-absent.
    """
    objects = Objects(url, storage_options)
    found = _store_of(objects)
    if found is None:
        # As Zarr groups, these folders do not make other Zarr readers warn about foreign objects.
        groups = {metadata_key(name): group_metadata({"description": text}) for name, text in MARKERS.items()}
        probe_create_if_absent(objects, *groups.popitem())
        for key, data in groups.items():
            objects.create(key, data)
        if objects.create(ROOT_METADATA, root_metadata(recipe)):  # last: what has it is whole
            return Store(objects, recipe)
        found = _store_of(objects) or open_store(url, storage_options)
    require_recipe(found, recipe)
    return Store(objects, recipe)


def add_parts(store: Store, parts: Sequence[PartName], shapes: Mapping[SignalName, Shape], rows: int) -> None:
    """Create the arrays of ``parts``, with at least ``rows`` rows. Raises `BadInput` if one exists with other metadata."""
    for part in parts:
        for array in stored_arrays(store.recipe, part, shapes):
            wanted = array_metadata(array, rows, store.recipe.layout.clips_per_shard)
            if store.objects.create(metadata_key(array.name), wanted):
                continue
            present = store.objects.get(metadata_key(array.name)) or wanted
            longest = max(rows, array_rows(present))
            if with_rows(present, longest) != with_rows(wanted, longest):
                raise BadInput(
                    f"the array {array.name} of {store.url} has other metadata than this recipe gives; use another store"
                )


def lengthen(store: Store, rows: int) -> None:
    """Resize every array to the catalog's length.

    Only plain Zarr readers use the length; this package reads the catalog. So a race that leaves an array short is harmless,
    and the next run repairs it.
    """
    arrays = [name for name in store.objects.folders() if name not in MARKERS]
    for key, data in store.objects.get_many([metadata_key(name) for name in arrays]).items():
        if array_shape(data) is not None and array_rows(data) < rows:
            store.objects.replace(key, with_rows(data, rows))


def add_clips(store: Store, catalog: Catalog, choose: Callable[[Catalog], pa.Table]) -> Catalog:
    """Append the rows that ``choose`` selects for a catalog. If another run appends first, ``choose`` is called again."""
    while (rows := choose(catalog)).num_rows:
        grown = append_rows(store.objects, catalog, rows, store.recipe.layout.clips_per_shard)
        if grown is not None:
            return grown
        catalog = store.catalog()
    return catalog


# A bound volume of the ledger is read with a few requests; an open one with one request per entry.
_ENTRIES_PER_VOLUME = 4096
# A store whose work is done is likely to be opened often and rarely extended.
_ENTRIES_WORTH_BINDING = 128


def tend_ledger(store: Store, volume: int, entries: int, *, done: bool) -> bool:
    """Close the ledger's open volume if it is long, or worth closing because the work is ``done``. Returns whether it was."""
    if entries < (_ENTRIES_WORTH_BINDING if done else _ENTRIES_PER_VOLUME):
        return False
    close_volume(store.objects, volume)
    return True


def volumes_to_bind(entries: int, units: int) -> tuple[list[int], int]:
    """Predict `tend_ledger` while ``units`` units are committed, starting with an open volume of ``entries`` entries.

    Returns (number of entries of each volume that gets bound, number of entries of the volume left open).
    """
    bound = []
    if entries >= _ENTRIES_PER_VOLUME:
        bound, entries = [entries], 0
    full, entries = divmod(entries + units, _ENTRIES_PER_VOLUME)
    bound += [_ENTRIES_PER_VOLUME] * full
    return ([*bound, entries], 0) if entries >= _ENTRIES_WORTH_BINDING else (bound, entries)


def settle_ledger(store: Store, volume: int) -> bool:
    """Bind the volume if a killed run closed it but did not bind it. Returns whether it was closed."""
    if store.objects.get(closed_key(volume)) is None:
        return False
    close_volume(store.objects, volume)
    return True


def put_heads(store: Store, heads: tuple[bytes, bytes] | None) -> None:
    """Store the teacher's heads (tensors, card), if any: the tensors first, then the card, which marks them complete.

    The teacher alone determines both, so damaged ones are simply written again.
    """
    if heads is None:
        return
    file, card = heads
    sealed = seal(HeadsCard.model_validate_json(card))
    for key, data in ((HEADS_FILE, file), (HEADS_CARD, sealed)):
        if not store.objects.create(key, data) and store.objects.get(key) != data:
            store.objects.replace(key, data)


def heads_are_whole(tensors: bytes | None, card: HeadsCard) -> bool:
    """Whether the tensors exist and match the card's digest."""
    return tensors is not None and sha256_digest(tensors) == card.weights


def status(store: Store) -> StatusReport:
    """The store's state: clip counts, bytes and failures, read from the store alone."""
    catalog, ledger = store.catalog(), store.ledger()
    rows = catalog.current
    failed = rows[ledger.status(rows, store.parts) == FAILED]
    failures = []
    for clip in catalog.clips(failed):
        reason, detail = ledger.failure(clip.row, store.parts) or ("", "")
        failures.append(FailedClip(clip_id=clip.clip_id, video=clip.video, reason=reason, detail=detail))
    return StatusReport(
        store=store.url,
        fingerprint=store.recipe.fingerprint,
        format_version=FORMAT_VERSION,
        signals=store.signals,
        clips=clip_counts(rows, ledger, store.parts),
        bytes=bytes_by_signal(ledger, store.signals),
        failures=tuple(failures),
    )


def bytes_by_signal(ledger: Ledger, signals: Sequence[SignalName]) -> dict[str, int]:
    """Committed bytes of each signal."""
    total = dict.fromkeys(map(str, signals), 0)
    for array in ledger.arrays():
        signal = part_of(array)
        if signal in total:
            total[signal] += ledger.bytes_of(array)
    return total
