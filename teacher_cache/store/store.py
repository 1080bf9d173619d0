"""A URL and a recipe in; a store opened, created or grown out. Everything here is idempotent and safe to run concurrently."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from schemas.base import sha256_digest
from schemas.clip import LARGEST_SIZE
from schemas.errors import BadInput, RecipeMismatch, StoreDamaged, StoreNotFound
from schemas.heads import HeadsCard
from schemas.log import PARTS, Action, PartAdded, PartName, StoreCreated
from schemas.recipe import FORMAT_VERSION, ClipRecipe, Recipe
from schemas.regions import MOST_OBJECTS
from schemas.report import FailedClip, StatusReport
from schemas.signal import SIGNALS, Shape, SignalName
from schemas.storage import StorageOptions
from teacher_cache.store.catalog import Catalog, read_catalog, store_rows
from teacher_cache.store.layout import (
    HEADS_CARD,
    HEADS_FILE,
    LONGEST_METADATA,
    MARKERS,
    ROOT_METADATA,
    metadata_key,
    part_of,
    stored_arrays,
)
from teacher_cache.store.log import Log
from teacher_cache.store.objects import Objects, probe_create_if_absent
from teacher_cache.store.records import seal
from teacher_cache.store.state import FAILED, State, clip_counts
from teacher_cache.store.template import (
    array_metadata,
    array_rows,
    group_metadata,
    read_root,
    root_metadata,
    with_rows,
)


@dataclass(frozen=True)
class Store:
    """An existing store: its objects, its recipe, and its history up to a version."""

    objects: Objects
    recipe: Recipe
    wanted_version: int | None = None
    """The version to read; None for the newest."""

    @property
    def url(self) -> str:
        """The store's URL."""
        return self.objects.url

    @cached_property
    def log(self) -> Log:
        """The history, read when first asked for. Raises `StoreDamaged`, and `BadInput` if there is no such version."""
        log = Log(self.objects, self.recipe.layout.clips_per_shard)
        log.read(self.wanted_version)
        return log

    @property
    def state(self) -> State:
        """What is committed at the version that `log` is at."""
        return self.log.state

    @property
    def version(self) -> int:
        """The version that `log` is at."""
        return self.log.state.version

    @property
    def parts(self) -> tuple[PartName, ...]:
        """The parts (the clock and signals) whose arrays exist, in the order of `PARTS`."""
        return tuple(part for part in PARTS if part in self.state.parts)

    @property
    def signals(self) -> tuple[SignalName, ...]:
        """The signals whose arrays exist."""
        return tuple(part for part in self.parts if part != "clock")

    @property
    def shapes(self) -> dict[SignalName, Shape]:
        """Shape of one clip of each signal. Raises `StoreDamaged` for one that no clip of the recipe has."""
        return self.shapes_of(self.state)

    def shapes_of(self, state: State) -> dict[SignalName, Shape]:
        """The same of another state of its log."""
        shapes = {part: shape for part, shape in state.parts.items() if part != "clock"}
        for signal, shape in shapes.items():
            _require_shape(signal, shape, self.recipe.clips, self.url)
        return shapes

    def catalog(self) -> Catalog:
        """The clips of the version that `log` is at."""
        return read_catalog(self.objects, self.state.rows_added)


def _require_shape(signal: SignalName, shape: Shape, clips: ClipRecipe, url: str) -> None:
    """No signal has more frames than its clip, or more pixels than they have. `State` has bounded all values together."""
    longest = {"frame": clips.frames, "token_time": clips.frames, "uv": 2, "plucker": 6, "rgb": 3, "object": MOST_OBJECTS}
    longest |= dict.fromkeys(("y", "x", "token_y", "token_x", "ray_y", "ray_x"), clips.size)
    longest |= dict.fromkeys(("student_y", "student_x"), LARGEST_SIZE)
    dims = SIGNALS[signal].dims
    if any(length > longest.get(dim, length) for dim, length in zip(dims, shape, strict=True)):
        raise StoreDamaged(
            f"the log of {url} gives {signal} the shape {shape} ({', '.join(dims)}), and its clips have "
            f"{clips.frames} frames of {clips.size}×{clips.size} pixels"
        )


def find_store(url: str, storage_options: StorageOptions | None = None, *, version: int | None = None) -> Store | None:
    """The store at ``url``, or None if there is none. Raises `BadInput` if something else is there."""
    return _store_of(Objects(url, storage_options), version)


def _store_of(objects: Objects, version: int | None = None) -> Store | None:
    root = objects.get(ROOT_METADATA, LONGEST_METADATA)
    return None if root is None else Store(objects, read_root(root, objects.url), version)


def open_store(url: str, storage_options: StorageOptions | None = None, *, version: int | None = None) -> Store:
    """The store at ``url``. Raises `StoreNotFound`, or `Unreachable` if not even its bucket exists."""
    store = find_store(url, storage_options, version=version)
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


def create_store(url: str, recipe: Recipe, command: str, storage_options: StorageOptions | None = None) -> Store:
    """Create an empty store, or open the one that exists. Raises `RecipeMismatch` if it exists with another recipe.

    Raises `CouldNotRun` where a store cannot be kept, since the place does not keep create-if-absent. ``command`` is what the
    log says of the writer, here and in the functions below.
    """
    objects = Objects(url, storage_options)
    found = _store_of(objects)
    if found is None:
        # As Zarr groups, these folders do not make other Zarr readers warn about foreign objects.
        groups = {metadata_key(name): group_metadata({"description": text}) for name, text in MARKERS.items()}
        probe_create_if_absent(objects, *groups.popitem())
        for key, data in groups.items():
            objects.create(key, data)
        objects.create(ROOT_METADATA, root_metadata(recipe))
        found = _store_of(objects)
    require_recipe(found or open_store(url, storage_options), recipe)
    store = Store(objects, recipe)
    created = StoreCreated(fingerprint=recipe.fingerprint)
    store.log.append(lambda state: [created] if state.version < 0 else [], command)
    return store


def add_parts(store: Store, parts: Sequence[PartName], shapes: Mapping[SignalName, Shape], rows: int, command: str) -> None:
    """Create the arrays of ``parts``, with at least ``rows`` rows. Raises `BadInput` if one exists with other metadata."""
    for signal, shape in shapes.items():
        _require_shape(signal, shape, store.recipe.clips, store.url)  # before a log says it that no reader then takes
    for part in (part for part in parts if part not in store.state.parts):
        for array in stored_arrays(store.recipe, part, shapes):
            wanted = array_metadata(array, rows, store.recipe.layout.clips_per_shard)
            if store.objects.create(metadata_key(array.name), wanted):
                continue
            present = store.objects.get(metadata_key(array.name), LONGEST_METADATA) or wanted
            found = array_rows(present)
            longest = max(rows, found or 0)
            if found is None or with_rows(present, longest) != with_rows(wanted, longest):
                raise BadInput(
                    f"the array {array.name} of {store.url} has other metadata than this recipe gives; use another store"
                )
    shape_of = {part: (store.recipe.clips.frames,) if part == "clock" else shapes[part] for part in parts}
    added = [PartAdded(part=part, shape=shape) for part, shape in shape_of.items()]
    store.log.append(lambda state: [action for action in added if action.part not in state.parts], command)


def lengthen(store: Store, rows: int) -> None:
    """Resize every array to the catalog's length.

    Only plain Zarr readers use the length; this package reads the catalog. So a race that leaves an array short is harmless,
    and the next run repairs it.
    """
    arrays = [array.name for part in store.parts for array in stored_arrays(store.recipe, part, store.shapes)]
    for key, data in store.objects.get_many([metadata_key(name) for name in arrays], LONGEST_METADATA).items():
        if (found := array_rows(data)) is not None and found < rows:
            store.objects.replace(key, with_rows(data, rows))


def add_clips(store: Store, catalog: Catalog, choose: Callable[[Catalog], pa.Table], command: str) -> Catalog:
    """Add the rows that ``choose`` selects for a catalog, first ``catalog``. Returns the catalog with them.

    If another run adds rows first, ``choose`` is called again, with its rows.
    """

    def actions(state: State) -> list[Action]:
        nonlocal catalog
        if catalog.parts != len(state.rows_added):
            catalog = store.catalog()
        rows = choose(catalog)
        if not rows.num_rows:
            return []
        return list(store_rows(store.objects, catalog, rows, store.recipe.layout.clips_per_shard)[1])

    return store.catalog() if store.log.append(actions, command) else catalog


def put_heads(store: Store, heads: tuple[bytes, bytes] | None) -> None:
    """Store the teacher's heads (tensors, card), if any: the tensors first, then the card, which marks them complete.

    The teacher alone determines both, so damaged ones are simply written again.
    """
    if heads is None:
        return
    file, card = heads
    sealed = seal(HeadsCard.model_validate_json(card))
    for key, data in ((HEADS_FILE, file), (HEADS_CARD, sealed)):
        if not store.objects.create(key, data) and store.objects.get(key, len(data)) != data:
            store.objects.replace(key, data)


def heads_are_whole(tensors: bytes | None, card: HeadsCard) -> bool:
    """Whether the tensors exist and match the card's digest."""
    return tensors is not None and sha256_digest(tensors) == card.weights


def status(store: Store) -> StatusReport:
    """The store's state: clip counts, bytes and failures, read from the store alone."""
    catalog, state = store.catalog(), store.state
    rows = catalog.current
    failed = rows[state.status(rows, store.parts) == FAILED]
    failures = []
    for clip in catalog.clips(failed):
        reason, detail = state.failure(clip.row, store.parts) or ("", "")
        failures.append(FailedClip(clip_id=clip.clip_id, video=clip.video, reason=reason, detail=detail))
    return StatusReport(
        store=store.url,
        fingerprint=store.recipe.fingerprint,
        format_version=FORMAT_VERSION,
        version=store.version,
        signals=store.signals,
        clips=clip_counts(rows, state, store.parts),
        bytes=bytes_by_signal(state, store.signals),
        failures=tuple(failures),
        undeleted=len(state.undeleted),
    )


def bytes_by_signal(state: State, signals: Sequence[SignalName]) -> dict[str, int]:
    """Committed bytes of each signal."""
    total = dict.fromkeys(map(str, signals), 0)
    for array in state.arrays():
        signal = part_of(array)
        if signal in total:
            total[signal] += state.bytes_of(array)
    return total
