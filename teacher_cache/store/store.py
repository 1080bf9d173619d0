"""Opening, creating and growing a store. Everything here is safe to repeat and to run twice at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from schemas.clip import Clip
from schemas.errors import BadInput, RecipeMismatch, StoreNotFound
from schemas.ledger import PARTS, PartName
from schemas.recipe import FORMAT_VERSION, Recipe
from schemas.report import FailedClip, StatusReport
from schemas.signal import Shape, SignalName
from teacher_cache.store.catalog import Catalog, append_segment, read_catalog
from teacher_cache.store.layout import (
    HEADS_CARD,
    HEADS_FILE,
    MARKERS,
    ROOT_METADATA,
    array_of,
    metadata_key,
    stored_arrays,
)
from teacher_cache.store.ledger import Ledger, clip_counts, read_ledger
from teacher_cache.store.objects import Objects
from teacher_cache.store.template import array_metadata, array_rows, group_metadata, read_root, root_metadata, with_rows


@dataclass(frozen=True)
class Store:
    """A store that exists: where it is, and under which recipe."""

    objects: Objects
    recipe: Recipe

    @property
    def url(self) -> str:
        return self.objects.url

    @cached_property
    def parts(self) -> tuple[PartName, ...]:
        """The parts whose arrays exist, in the order of `PARTS`."""
        probes = {metadata_key("timestamps" if part == "clock" else part): part for part in PARTS}
        found = self.objects.get_many(list(probes))
        return tuple(part for key, part in probes.items() if key in found)

    @property
    def signals(self) -> tuple[SignalName, ...]:
        return tuple(part for part in self.parts if part != "clock")

    def catalog(self) -> Catalog:
        return read_catalog(self.objects)

    def ledger(self) -> Ledger:
        return read_ledger(self.objects)


def find_store(url: str) -> Store | None:
    """The store at ``url``, or None where there is none. Raises `BadInput` if something else is there."""
    objects = Objects(url)
    root = objects.get(ROOT_METADATA)
    return None if root is None else Store(objects, read_root(root, url))


def open_store(url: str) -> Store:
    """The store at ``url``. Raises `StoreNotFound`."""
    store = find_store(url)
    if store is None:
        raise StoreNotFound(
            f"there is no store at {url}; `teacher-cache run JOB.yaml` makes one, and the job's `store` says where"
        )
    return store


def require_recipe(store: Store, recipe: Recipe) -> None:
    """Raises `RecipeMismatch` with the fields that differ."""
    differences = store.recipe.differences(recipe)
    if differences:
        raise RecipeMismatch(store.url, differences)


def create_store(url: str, recipe: Recipe) -> Store:
    """Make an empty store, or find that it is there. Raises `RecipeMismatch` if it is there under another recipe."""
    objects = Objects(url)
    if not objects.create(ROOT_METADATA, root_metadata(recipe)):
        store = open_store(url)
        require_recipe(store, recipe)
    # Folders that are Zarr groups let any Zarr reader walk the store without a complaint about foreign objects.
    for name, description in MARKERS.items():
        objects.create(metadata_key(name), group_metadata({"description": description}))
    return Store(objects, recipe)


def add_parts(store: Store, parts: Sequence[PartName], shapes: Mapping[SignalName, Shape], rows: int) -> None:
    """Declare the arrays of ``parts`` with at least ``rows`` rows. Raises `BadInput` if one is there in another form."""
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
    """Give every array the catalog's length.

    The length is only for plain Zarr readers; ours goes by the catalog. So a race that leaves it short does no
    harm, and the next run mends it.
    """
    arrays = [name for name in store.objects.folders() if name not in MARKERS]
    for key, data in store.objects.get_many([metadata_key(name) for name in arrays]).items():
        if array_rows(data) < rows:
            store.objects.replace(key, with_rows(data, rows))


def add_clips(store: Store, choose: Callable[[Catalog], Sequence[Clip]]) -> Catalog:
    """Append the rows that ``choose`` wants beyond a catalog; it is asked again if another run appended first."""
    while True:
        catalog = store.catalog()
        clips = choose(catalog)
        if not clips:
            return catalog
        if append_segment(store.objects, catalog, clips):
            return catalog.with_segment(clips)


def put_heads(store: Store, heads: tuple[bytes, bytes] | None) -> None:
    """Keep the teacher's heads: first the tensors, then the card that says they are whole."""
    if heads is not None:
        store.objects.create(HEADS_FILE, heads[0])
        store.objects.create(HEADS_CARD, heads[1])


def status(store: Store) -> StatusReport:
    """The store's state, from the store alone."""
    catalog, ledger = store.catalog(), store.ledger()
    failures = []
    for clip in catalog.current().values():
        outcome = ledger.outcome(clip.row, store.parts)
        if outcome is not None and outcome.status == "failed":
            reason, detail = str(outcome.reason), str(outcome.detail)
            failures.append(FailedClip(clip_id=clip.clip_id, video=clip.video, reason=reason, detail=detail))
    return StatusReport(
        store=store.url,
        fingerprint=store.recipe.fingerprint,
        format_version=FORMAT_VERSION,
        signals=store.signals,
        clips=clip_counts(catalog, ledger, store.parts),
        bytes=_bytes_by_signal(ledger, store.signals),
        failures=tuple(failures),
    )


def _bytes_by_signal(ledger: Ledger, signals: Sequence[SignalName]) -> dict[str, int]:
    total = dict.fromkeys(map(str, signals), 0)
    for key, stored in ledger.objects.items():
        signal = array_of(key).partition("_")[0]  # an array beside a signal's own is called SIGNAL_…
        if signal in total:
            total[signal] += stored.length
    return total
