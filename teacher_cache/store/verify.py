"""A store in, findings out: compares every byte of every object with the log, and lists objects that do not belong."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow.compute as pc

from schemas.base import sha256_digest
from schemas.errors import BadInput, StoreDamaged
from schemas.heads import HeadsCard
from schemas.log import PARTS, PartName, StoredObject, UnitCommitted
from schemas.report import ClipCounts, Finding, FindingKind, VerifyReport
from schemas.storage import StorageOptions
from teacher_cache.encodings.base import StoredArray
from teacher_cache.io.places import OPENED_URL
from teacher_cache.io.progress import Progress, no_progress
from teacher_cache.store.catalog import Catalog, read_catalog, rows_table, superseded_table
from teacher_cache.store.chunk import Buffer, clip_buffer, decode_chunks
from teacher_cache.store.declared import expected_metadata
from teacher_cache.store.garbage import unnamed
from teacher_cache.store.history import DamagedRecord, damaged_checkpoints, last_version, records
from teacher_cache.store.layout import (
    HEADS_CARD,
    HEADS_FILE,
    LOG,
    LONGEST_METADATA,
    array_of,
    part_of,
    record_key,
    shard_key,
    stored_arrays,
)
from teacher_cache.store.records import unseal
from teacher_cache.store.shard import unpack_clips
from teacher_cache.store.state import State, clip_counts
from teacher_cache.store.store import Store, heads_are_whole, open_store
from teacher_cache.teachers.heads.tensors import safetensors_shapes

# Each reader holds one whole shard.
_READERS = 4
_AT_ONCE = 10_000
"""Objects that are queued at once: a store of ten million clips has millions, and each that is queued takes a kilobyte."""


def verify(url: str, progress: Progress = no_progress, storage_options: StorageOptions | None = None) -> VerifyReport:
    """Read every object of a store and compare it with what was committed. Writes nothing.

    Raises `StoreDamaged` if the root's metadata is damaged: nothing else says what the store is.
    """
    store = open_store(url, storage_options)
    found = examine(store, progress)
    return VerifyReport(
        store=url,
        fingerprint=store.recipe.fingerprint,
        clips=found.clips,
        objects_checked=found.objects_checked,
        bytes_checked=found.bytes_checked,
        findings=tuple(damage.finding for damage in found.damages),
    )


@dataclass(frozen=True)
class Damage:
    """A finding, plus what a repair needs to know."""

    finding: Finding
    rows: tuple[int, ...] = ()
    """Rows whose committed values can no longer be trusted."""
    digest: str | None = None
    """Digest of the object at the finding's key now; None if there is none."""


@dataclass
class Examined:
    """Everything that is wrong with a store, and how much was checked."""

    damages: list[Damage] = field(default_factory=list)
    clips: ClipCounts = field(default_factory=lambda: ClipCounts(planned=0, committed=0, failed=0, pending=0))
    objects_checked: int = 0
    bytes_checked: int = 0


def examine(store: Store, progress: Progress = no_progress) -> Examined:
    """As `verify`, plus what `teacher_cache.store.repair` needs."""
    examined = Examined()
    damages = examined.damages
    listed = store.objects.listing()
    state = State(store.recipe.layout.clips_per_shard)
    units = list(_units(store, last_version(listed), state, damages))
    is_log_whole = not damages  # otherwise, whatever a damaged record names would look like garbage
    for key in damaged_checkpoints(store.objects, listed, store.recipe.layout.clips_per_shard):
        damages.append(_damage("checkpoint", key, "its bytes are not those that its name states; `run --repair` removes it"))
    catalog = _catalog(store, state, damages)
    claims = [_Claim(unit, key, stored) for unit in units for key, stored in unit.objects.items()]
    if catalog is not None and is_log_whole:
        damages += [*_check_units(store, units, catalog), *_check_videos(catalog)]
    clip_at = _ids(catalog)
    try:
        arrays = _arrays(store, state)
    except (StoreDamaged, BadInput) as error:
        damages.append(_damage("log", LOG, str(error)))
        arrays, is_log_whole = {}, False
    damages += _check_named(units, arrays, clip_at, state)
    with progress("verifying", len(claims), "objects") as advance, ThreadPoolExecutor(_READERS) as readers:
        for start in range(0, len(claims), _AT_ONCE):
            some = claims[start : start + _AT_ONCE]
            for damage in readers.map(lambda claim: _check_object(store, claim, clip_at, state, arrays), some):
                damages += damage
                advance(1)
    if catalog is not None and is_log_whole:
        damages += _check_metadata(store, catalog)
        if not any(damage.finding.kind == "log" for damage in damages):
            found = unnamed(store, listed)
            damages += [_damage("orphan", key, "nothing names it; `gc` removes it") for key in found.garbage]
            detail = "no unit that is committed names it: a running or stopped run left it, and the next one takes it over"
            damages += [_damage("orphan", key, detail) for key in found.unfinished]
            detail = f"no store has such a key, and `gc` leaves it; {len(found.foreign)} such objects lie here"
            damages += [_damage("orphan", key, detail) for key in found.foreign[:1]]
            examined.clips = clip_counts(catalog.current, state, list(state.parts))
    damages += _check_heads(store)
    examined.objects_checked = len(claims)
    examined.bytes_checked = sum(claim.stored.length for claim in claims)
    return examined


def _units(store: Store, last: int, state: State, damages: list[Damage]) -> Iterator[UnitCommitted]:
    """The committed units of all good records, without what nothing here needs. Folds those records into ``state``."""
    seen: dict[tuple[PartName, int], int] = {}
    for found in records(store.objects, last):
        if isinstance(found, DamagedRecord):
            detail = f"{found.detail}; `run --repair` sets it aside, and does again what it committed"
            damages.append(_damage("log", record_key(found.version), detail, (), found.data))
            state.lost.add(found.version)
            continue
        record, _ = found
        try:
            state.apply(record.version, record.actions)
        except StoreDamaged as error:
            damages.append(_damage("log", record_key(record.version), str(error)))
            continue
        for unit in (action for action in record.actions if isinstance(action, UnitCommitted)):
            for part in unit.parts:
                if (part, unit.shard) in seen:
                    detail = f"it commits {part} of shard {unit.shard}, which record {seen[part, unit.shard]} has committed"
                    damages.append(_damage("log", record_key(record.version), detail))
                seen[part, unit.shard] = record.version
            yield unit.model_copy(update={"figures": (), "decoders": {}})


def _check_videos(catalog: Catalog) -> Iterator[Damage]:
    """Videos that nothing opens. No run lists them, so the row was written by something else."""
    table = catalog.table(catalog.rows_between(0, catalog.rows), ["row", "clip_id", "video"])
    urls = table.filter(pc.match_substring(table["video"], "://"))
    for row in urls.filter(pc.invert(pc.match_substring_regex(urls["video"], OPENED_URL))).to_pylist():
        detail = "no run lists such a URL, and nothing opens it: whoever wrote this row is not this program"
        yield _damage("video", row["video"], detail, [(row["row"], row["clip_id"])])


@dataclass(frozen=True)
class _Claim:
    """What the log says of one object."""

    unit: UnitCommitted
    key: str
    stored: StoredObject

    def committed(
        self, clips_per_shard: int, clip_at: Mapping[int, str], retired: frozenset[int]
    ) -> dict[int, tuple[int, str]]:
        """Slot in the shard → (row, clip id), for every clip that must be in the object."""
        rows = self.unit.rows_in(array_of(self.key), clips_per_shard)
        return {row % clips_per_shard: (row, clip_at.get(row, "")) for row in rows if row not in retired}


def _damage(kind: FindingKind, key: str, detail: str, hit: Sequence[tuple[int, str]] = (), data: bytes | None = None) -> Damage:
    finding = Finding(kind=kind, key=key, detail=detail, clip_ids=tuple(clip_id for _, clip_id in hit))
    return Damage(finding, tuple(row for row, _ in hit), None if data is None else sha256_digest(data))


def _catalog(store: Store, state: State, damages: list[Damage]) -> Catalog | None:
    tables = [rows_table(store.objects, added) for added in state.rows_added]
    tables += [superseded_table(store.objects, added) for added in state.rows_added if added.superseded is not None]
    found = ((table.key, table.check()) for table in tables)
    wrong = [_damage("catalog", key, detail) for key, detail in found if detail]
    damages += wrong
    return None if wrong else read_catalog(store.objects, state.rows_added)


def _ids(catalog: Catalog | None) -> dict[int, str]:
    if catalog is None:
        return {}
    table = catalog.table(catalog.rows_between(0, catalog.rows), ["row", "clip_id"])
    return dict(zip(table["row"].to_pylist(), table["clip_id"].to_pylist(), strict=True))


def _arrays(store: Store, state: State) -> dict[str, StoredArray]:
    """The arrays of all parts, by name."""
    parts = [part for part in PARTS if part in state.parts]
    shapes = store.shapes_of(state)
    return {array.name: array for part in parts for array in stored_arrays(store.recipe, part, shapes)}


def _check_units(store: Store, units: Sequence[UnitCommitted], catalog: Catalog) -> Iterator[Damage]:
    per_shard = store.recipe.layout.clips_per_shard
    for unit in units:
        there = len(catalog.rows_between(unit.shard * per_shard, (unit.shard + 1) * per_shard))
        if unit.rows != there:
            yield _damage("log", f"unit {unit.unit.name}", f"it has {unit.rows} rows, and the catalog {there}")


def _check_named(
    units: Sequence[UnitCommitted], arrays: Mapping[str, StoredArray], clip_at: Mapping[int, str], state: State
) -> Iterator[Damage]:
    """Rows that have their targets, by a unit that names no object which holds them."""
    for unit in units:
        for array in arrays.values():
            key = shard_key(array, unit.shard)
            if part_of(array.name) not in unit.parts or key in unit.objects:
                continue
            if rows := [row for row in unit.rows_in(array.name, state.clips_per_shard) if row not in state.retired]:
                hit = [(row, clip_at.get(row, "")) for row in rows]
                yield _damage("missing", key, "the unit that holds these clips names no such object", hit)


def _check_object(
    store: Store, claim: _Claim, clip_at: Mapping[int, str], state: State, arrays: Mapping[str, StoredArray]
) -> list[Damage]:
    known = state.known_damage
    data = store.objects.get(claim.key, claim.stored.length)
    expected = claim.committed(store.recipe.layout.clips_per_shard, clip_at, state.retired)
    everyone = list(expected.values())
    digest = None if data is None else sha256_digest(data)
    if claim.key in known and known[claim.key] == digest and not everyone:
        return []
    if data is None:
        return [_damage("missing", claim.key, "the log names it, and it is missing", everyone)]
    is_whole = digest == claim.stored.digest
    array = arrays.get(array_of(claim.key))
    if array is None:  # the record that added the part was lost: nothing says how its clips lie in the object
        detail = "its bytes differ from those that were committed"
        return [] if is_whole else [_damage("digest", claim.key, detail, everyone, data)]
    try:
        missing, damaged = _damaged_clips(data, expected, store.recipe.layout.clips_per_shard, array)
    except StoreDamaged as error:
        missing, damaged, detail = everyone, {}, str(error)
    else:
        detail = "committed clips have no chunk in it" if is_whole else "its bytes differ from those that were committed"
        detail = "; ".join([*[detail] * bool(missing or not is_whole), *sorted(set(damaged.values()))])
    hit = list(dict.fromkeys((*missing, *damaged)))
    if is_whole or known.get(claim.key) == digest:
        return [_damage("chunk_missing", claim.key, detail, hit, data)] if hit else []
    if len(data) != claim.stored.length:
        there = len(data) if len(data) < claim.stored.length else "more"
        detail = f"it has {there} bytes, and {claim.stored.length} were committed; {detail}"
    kind: FindingKind = "truncated" if len(data) < claim.stored.length else "digest"
    # If all chunks are intact but the digest is wrong, this is another shard: none of its clips can be trusted.
    return [_damage(kind, claim.key, detail, hit if damaged else everyone, data)]


Hit = list[tuple[int, str]]


def _damaged_clips(
    data: bytes, expected: Mapping[int, tuple[int, str]], clips_per_shard: int, array: StoredArray
) -> tuple[Hit, dict[tuple[int, str], str]]:
    """(clips that lack a chunk, clips of which one cannot be decoded → why not)."""
    clips = unpack_clips(data, array, clips_per_shard)
    missing = [clip for slot, clip in expected.items() if slot not in clips]
    (out,) = clip_buffer(array, 1)
    told = {clip: _undecodable(clips[slot], array, out) for slot, clip in expected.items() if slot in clips}
    return missing, {clip: why for clip, why in told.items() if why is not None}


def _undecodable(chunks: Sequence[Buffer], array: StoredArray, out: np.ndarray[Any, Any]) -> str | None:
    """What a reader would say of a clip's chunks; None if it would read them."""
    try:
        decode_chunks(chunks, array, out)
    except ValueError as error:
        return str(error)
    return None


def _check_metadata(store: Store, catalog: Catalog) -> Iterator[Damage]:
    expected = expected_metadata(store, catalog.rows)
    found = store.objects.get_many(list(expected), LONGEST_METADATA)
    for key, data in expected.items():
        if found.get(key) != data:
            detail = "it is missing" if key not in found else "it is not what recipe and catalog give"
            yield _damage("metadata", key, f"{detail}; `run --repair` writes it again", (), found.get(key))


def _check_heads(store: Store) -> Iterator[Damage]:
    sealed, file = store.objects.get(HEADS_CARD, LONGEST_METADATA), store.objects.get(HEADS_FILE)
    if sealed is None:
        if file is not None:
            yield _damage("heads", HEADS_CARD, "it is missing; `run --repair` writes it again")
        return
    try:
        card = unseal(HeadsCard, sealed, HEADS_CARD, store.url)
    except StoreDamaged as error:
        yield _damage("heads", HEADS_CARD, str(error), (), sealed)
        return
    if not heads_are_whole(file, card):
        yield _damage("heads", HEADS_FILE, "it is missing, or not what its card says", (), file)
    elif file is not None:
        try:
            safetensors_shapes(io.BytesIO(file), len(file))
        except ValueError as error:
            yield _damage("heads", HEADS_FILE, str(error), (), file)
