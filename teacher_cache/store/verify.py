"""A store in, findings out: compares every byte of every object with the ledger, and lists objects that do not belong."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from schemas.base import canonical_json, sha256_digest
from schemas.errors import StoreDamaged
from schemas.heads import HeadsCard
from schemas.ledger import LedgerEntry, StoredObject
from schemas.report import ClipCounts, Finding, FindingKind, VerifyReport
from schemas.storage import StorageOptions
from teacher_cache.io.progress import Progress, no_progress
from teacher_cache.store.catalog import Catalog, catalog_files, read_catalog
from teacher_cache.store.chunk import split_checksum
from teacher_cache.store.declared import expected_metadata
from teacher_cache.store.garbage import orphans, unrecorded
from teacher_cache.store.layout import (
    CATALOG,
    HEADS_CARD,
    HEADS_FILE,
    LEDGER,
    array_of,
    closed_key,
    metadata_key,
    shard_of,
)
from teacher_cache.store.ledger import Volumes, clip_counts, committed_texts, read_entry, read_volumes
from teacher_cache.store.records import unseal
from teacher_cache.store.shard import unpack_shard
from teacher_cache.store.store import Store, heads_are_whole, open_store
from teacher_cache.store.table import StoredTable

# Each reader holds one whole shard.
_READERS = 4


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
    listed = store.objects.listing()
    damages = examined.damages
    catalog = _catalog(store, damages)
    volumes = _volumes(store, damages)
    entries: list[LedgerEntry] = []
    claims: list[_Claim] = []
    if volumes is not None:
        entries = list(_entries(store, volumes, catalog, damages))
        claims = [_Claim(entry, key, stored) for entry in entries for key, stored in entry.objects.items()]
        known = volumes.known_damage
        with progress("verifying", len(claims), "objects") as advance, ThreadPoolExecutor(_READERS) as readers:
            for damage in readers.map(lambda claim: _check_object(store, claim, known, volumes.retired_rows), claims):
                damages += damage
                advance(1)
        damages += _check_copies(store, volumes, listed)
    damages += _check_metadata(store, catalog, {array_of(claim.key) for claim in claims})
    damages += _check_heads(store)
    if catalog is not None and volumes is not None:
        files = catalog_files(store.objects)
        unnamed = orphans(store, listed, volumes, files, {claim.key for claim in claims})
        unnamed = [key for key in unnamed if not _came_late(store, key, entries)]
        damages += [_damage("orphan", key, "no ledger entry names it; `gc` removes it") for key in unnamed]
        detail = "it has no record: a stopped run left it and the next run records it, or the record is lost"
        damages += [_damage("orphan", key, detail) for key in unrecorded(listed, files)]
        if not any(damage.finding.kind == "ledger" for damage in damages):
            examined.clips = clip_counts(catalog.current, store.ledger(), store.parts)
    examined.objects_checked = len(claims)
    examined.bytes_checked = sum(claim.stored.length for claim in claims)
    return examined


@dataclass(frozen=True)
class _Claim:
    """What the ledger records about one object."""

    entry: LedgerEntry
    key: str
    stored: StoredObject

    def committed(self, clips_per_shard: int, retired: frozenset[int]) -> dict[int, tuple[int, str]]:
        """Slot in the shard → (row, clip id), for every clip that must be in the object."""
        array = array_of(self.key)
        return {
            row.row % clips_per_shard: (row.row, row.clip_id)
            for row in self.entry.rows
            if row.holds(array) and row.row not in retired
        }


def _damage(kind: FindingKind, key: str, detail: str, hit: Sequence[tuple[int, str]] = (), data: bytes | None = None) -> Damage:
    finding = Finding(kind=kind, key=key, detail=detail, clip_ids=tuple(clip_id for _, clip_id in hit))
    return Damage(finding, tuple(row for row, _ in hit), None if data is None else sha256_digest(data))


def _catalog(store: Store, damages: list[Damage]) -> Catalog | None:
    try:
        catalog = read_catalog(store.objects)
        files = catalog_files(store.objects)
    except StoreDamaged as error:
        damages.append(_damage("catalog", CATALOG, str(error)))
        return None
    wrong = [
        _damage("catalog", file.key, detail) for file in files.values() if (detail := StoredTable(store.objects, file).check())
    ]
    damages += wrong
    return None if wrong else catalog


def _volumes(store: Store, damages: list[Damage]) -> Volumes | None:
    try:
        return read_volumes(store.objects)
    except StoreDamaged as error:
        damages.append(_damage("ledger", LEDGER, str(error)))
        return None


def _entries(store: Store, volumes: Volumes, catalog: Catalog | None, damages: list[Damage]) -> Iterator[LedgerEntry]:
    """The valid entries: readable, of this recipe, with the catalog's rows, and the first to commit their parts of a shard."""
    clip_at = _ids(catalog)
    seen: dict[tuple[str, int], str] = {}
    tables = [table for record in volumes.bound.values() for table in (record.state, record.texts)]
    wrong = ((table.key, detail) for table in tables if (detail := StoredTable(store.objects, table).check()))
    damages += [_damage("ledger", key, f"{detail}; `run --repair` binds its volume again") for key, detail in wrong]
    for texts in committed_texts(store.objects, volumes, tolerant=True):
        for key, data in texts.items():
            hit = _rows_of_shard(shard_of(key), store, clip_at)
            try:
                entry = read_entry(key, data, store.url)
            except StoreDamaged as error:
                damages.append(_damage("ledger", key, str(error), hit, data))
                continue
            if entry.fingerprint != store.recipe.fingerprint:
                damages.append(_damage("ledger", key, "it was written under another recipe", hit, data))
                continue
            if catalog is not None and any(clip_at.get(row.row) != row.clip_id for row in entry.rows):
                damages.append(_damage("ledger", key, "its rows are not the catalog's", hit, data))
                continue
            twice = [part for part in entry.unit.parts if (part, entry.unit.shard) in seen]
            if twice:
                detail = f"{', '.join(twice)} of this shard: committed by {seen[twice[0], entry.unit.shard]} too"
                damages.append(_damage("ledger", key, detail, hit, data))
                continue
            seen |= dict.fromkeys(((part, entry.unit.shard) for part in entry.unit.parts), key)
            yield entry


def _ids(catalog: Catalog | None) -> dict[int, str]:
    if catalog is None:
        return {}
    table = catalog.table(catalog.rows_between(0, catalog.rows), ["row", "clip_id"])
    return dict(zip(table["row"].to_pylist(), table["clip_id"].to_pylist(), strict=True))


def _rows_of_shard(shard: int, store: Store, clip_at: Mapping[int, str]) -> list[tuple[int, str]]:
    per_shard = store.recipe.layout.clips_per_shard
    return [(row, clip_at[row]) for row in range(shard * per_shard, (shard + 1) * per_shard) if row in clip_at]


def _check_object(store: Store, claim: _Claim, known: Mapping[str, str | None], retired: frozenset[int]) -> list[Damage]:
    data = store.objects.get(claim.key)
    expected = claim.committed(store.recipe.layout.clips_per_shard, retired)
    everyone = list(expected.values())
    digest = None if data is None else sha256_digest(data)
    if claim.key in known and known[claim.key] == digest and not everyone:
        return []
    if data is None:
        return [_damage("missing", claim.key, "the ledger names it, and it is missing", everyone)]
    is_whole = digest == claim.stored.digest
    try:
        missing, damaged = _damaged_clips(data, expected, store)
    except StoreDamaged as error:
        missing, damaged, detail = everyone, [], str(error)
    else:
        detail = "committed clips have no chunk in it" if is_whole else "its bytes differ from those that were committed"
    hit = list(dict.fromkeys((*missing, *damaged)))
    if is_whole or known.get(claim.key) == digest:
        return [_damage("chunk_missing", claim.key, detail, hit, data)] if hit else []
    if len(data) != claim.stored.length:
        detail = f"it has {len(data)} bytes, and {claim.stored.length} were committed; {detail}"
    kind: FindingKind = "truncated" if len(data) < claim.stored.length else "digest"
    # If all chunks are intact but the digest is wrong, this is another shard: none of its clips can be trusted.
    return [_damage(kind, claim.key, detail, hit if damaged else everyone, data)]


Hit = list[tuple[int, str]]


def _damaged_clips(data: bytes, expected: Mapping[int, tuple[int, str]], store: Store) -> tuple[Hit, Hit]:
    """(clips without a chunk, clips whose chunk fails its checksum)."""
    chunks = unpack_shard(data, store.recipe.layout.clips_per_shard)
    missing = [clip for slot, clip in expected.items() if slot not in chunks]
    damaged = [clip for slot, clip in expected.items() if slot in chunks and not split_checksum(chunks[slot])[1]]
    return missing, damaged


def _check_copies(store: Store, volumes: Volumes, listed: Collection[str]) -> Iterator[Damage]:
    """Check the single entries of bound volumes. Readers no longer need them, but a damaged volume can be rebuilt from them."""
    closed = canonical_json({})
    for key in (closed_key(volume) for volume in (*volumes.bound, *volumes.unbound)):
        if key in listed and (data := store.objects.get(key)) != closed:
            yield _damage("ledger", key, "it is not as it was written; `run --repair` writes it again", (), data)
    only_bound = Volumes(volumes.bound, (), {})
    for texts in committed_texts(store.objects, only_bound, tolerant=True):
        found = store.objects.get_many(list(texts))
        for key, text in texts.items():
            if found.get(key) != text:
                detail = "it is not as its volume has it; `run --repair` writes it again"
                yield _damage("ledger", key, detail, (), found.get(key))


def _check_metadata(store: Store, catalog: Catalog | None, committed: Iterable[str]) -> Iterator[Damage]:
    expected: dict[str, bytes | None] = {}
    if catalog is not None:
        expected |= expected_metadata(store, catalog.rows, store.shapes())
    # For an array with an unreadable shape, or with objects but no declaration, there is no expected metadata to compare with.
    declared = (*committed, *store.signals)
    expected |= {key: None for name in declared if (key := metadata_key(name)) not in expected}
    found = store.objects.get_many(list(expected))
    for key, data in expected.items():
        if found.get(key) != data or (data is None and catalog is not None):
            detail = "it is missing" if key not in found else "it is not what recipe and catalog give"
            yield _damage("metadata", key, f"{detail}; `run --repair` writes it again", (), found.get(key))


def _check_heads(store: Store) -> Iterator[Damage]:
    found = store.objects.get_many([HEADS_CARD, HEADS_FILE])
    if HEADS_CARD not in found:
        if HEADS_FILE in found:
            yield _damage("heads", HEADS_CARD, "it is missing; `run --repair` writes it again")
        return
    try:
        card = unseal(HeadsCard, found[HEADS_CARD], HEADS_CARD, store.url)
    except StoreDamaged as error:
        yield _damage("heads", HEADS_CARD, str(error), (), found[HEADS_CARD])
        return
    if not heads_are_whole(found.get(HEADS_FILE), card):
        yield _damage("heads", HEADS_FILE, "it is missing, or not what its card says", (), found.get(HEADS_FILE))


def _came_late(store: Store, key: str, entries: Sequence[LedgerEntry]) -> bool:
    """Whether an unnamed object is an entry that was too late for its volume and was then committed in the next one.

    This happens in any run of more than one volume. `gc` removes it; nothing is wrong with the store.
    """
    if not key.startswith(f"{LEDGER}/") or not key.rpartition("/")[2][:1].isdigit():
        return False
    try:
        entry = read_entry(key, store.objects.get(key) or b"", store.url)
    except (StoreDamaged, ValueError):
        return False
    return any(entry == other for other in entries if other.unit.shard == entry.unit.shard)
