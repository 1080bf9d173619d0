"""Checks a store against its own ledger: every digest, shard index and chunk, and what should not be there."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pydantic import ValidationError

from schemas.base import sha256_digest
from schemas.errors import BadInput, StoreDamaged
from schemas.heads import HeadsCard
from schemas.ledger import LedgerEntry, StoredObject
from schemas.report import ClipCounts, Finding, GarbageReport, VerifyReport
from teacher_cache.plan import Progress, no_progress
from teacher_cache.store.catalog import Catalog
from teacher_cache.store.chunk import split_checksum
from teacher_cache.store.layout import CATALOG, HEADS_CARD, HEADS_FILE, LEDGER, MARKERS, ROOT_METADATA, array_of, metadata_key
from teacher_cache.store.ledger import Ledger, clip_counts, read_entry
from teacher_cache.store.shard import unpack_shard
from teacher_cache.store.store import Store, open_store
from teacher_cache.store.template import array_rows

# Each reader holds one whole shard.
_READERS = 4


def verify(url: str, progress: Progress = no_progress) -> VerifyReport:
    """Read every committed object of a store and compare it with the ledger. Writes nothing."""
    store = open_store(url)
    listed = store.objects.listing()
    entries, findings = _entries(store, listed)
    claims = [_Claim(entry, key, stored) for entry in entries for key, stored in entry.objects.items()]
    with progress("verifying", len(claims), "objects") as advance, ThreadPoolExecutor(_READERS) as readers:
        for found in readers.map(lambda claim: list(_check_object(store, claim)), claims):
            findings += found
            advance(1)
    findings += _check_metadata(store, claims)
    findings += _check_heads(store)
    findings += [
        Finding(kind="orphan", key=key, detail="no ledger entry names it; `gc` removes it") for key in _orphans(listed, entries)
    ]
    try:
        catalog = store.catalog()
        findings += _check_rows(entries, catalog, store)
        counts = clip_counts(catalog, Ledger(tuple(entries)), store.parts)
    except StoreDamaged as error:
        findings.append(Finding(kind="catalog", key=CATALOG, detail=str(error)))
        counts = ClipCounts(planned=0, committed=0, failed=0, pending=0)
    return VerifyReport(
        store=url,
        fingerprint=store.recipe.fingerprint,
        clips=counts,
        objects_checked=len(claims),
        bytes_checked=sum(claim.stored.length for claim in claims),
        findings=tuple(findings),
    )


@dataclass(frozen=True)
class _Claim:
    """What the ledger says of one object."""

    entry: LedgerEntry
    key: str
    stored: StoredObject

    def committed(self, clips_per_shard: int) -> dict[int, str]:
        """Place in the shard → clip id of every clip that must be in the object."""
        array = array_of(self.key)
        return {row.row % clips_per_shard: row.clip_id for row in self.entry.rows if row.holds(array)}


def _entries(store: Store, listed: Mapping[str, int]) -> tuple[list[LedgerEntry], list[Finding]]:
    keys = [key for key in listed if _is_entry(key)]
    entries, findings = [], []
    for key, data in store.objects.get_many(keys).items():
        try:
            entries.append(read_entry(key, data, store.url))
        except StoreDamaged as error:
            findings.append(Finding(kind="ledger", key=key, detail=str(error)))
    return entries, findings


def _is_entry(key: str) -> bool:
    return key.startswith(f"{LEDGER}/") and key.endswith(".json") and key != metadata_key(LEDGER)


def _check_rows(entries: Sequence[LedgerEntry], catalog: Catalog, store: Store) -> Iterator[Finding]:
    """Entries must speak of this store, of the catalog's rows, and each part of a shard must be committed once."""
    clip_at = {clip.row: clip.clip_id for clip in catalog.clips}
    seen: dict[tuple[str, int], str] = {}
    for entry in entries:
        key, ids = f"{LEDGER}/{entry.unit.name}.json", tuple(row.clip_id for row in entry.rows)
        if entry.fingerprint != store.recipe.fingerprint:
            yield Finding(kind="ledger", key=key, detail="it was written under another recipe", clip_ids=ids)
        if wrong := tuple(row.clip_id for row in entry.rows if clip_at.get(row.row) != row.clip_id):
            yield Finding(kind="ledger", key=key, detail="its rows are not the catalog's", clip_ids=wrong)
        for part in entry.unit.parts:
            if (part, entry.unit.shard) in seen:
                other = seen[part, entry.unit.shard]
                yield Finding(kind="ledger", key=key, detail=f"{part} of this shard is committed by {other} too", clip_ids=ids)
            seen[part, entry.unit.shard] = key


def _check_object(store: Store, claim: _Claim) -> Iterator[Finding]:
    data = store.objects.get(claim.key)
    expected = claim.committed(store.recipe.layout.clips_per_shard)
    everyone = tuple(expected.values())
    if data is None:
        yield Finding(kind="missing", key=claim.key, detail="the ledger names it, and it is gone", clip_ids=everyone)
        return
    if sha256_digest(data) == claim.stored.digest:
        missing, _ = _damaged_clips(data, expected, store)
        if missing:
            yield Finding(kind="chunk_missing", key=claim.key, detail="committed clips have no chunk in it", clip_ids=missing)
        return
    try:
        missing, damaged = _damaged_clips(data, expected, store)
    except StoreDamaged as error:
        missing, damaged = everyone, ()
        detail = str(error)
    else:
        detail = "its bytes are not those that were committed"
    if len(data) != claim.stored.length:
        detail = f"it has {len(data)} bytes, and {claim.stored.length} were committed; {detail}"
    # Whole chunks under a wrong digest are another shard's: no clip in it can be trusted.
    hit = tuple(dict.fromkeys((*missing, *damaged))) or everyone
    yield Finding(kind="truncated" if len(data) < claim.stored.length else "digest", key=claim.key, detail=detail, clip_ids=hit)


def _damaged_clips(data: bytes, expected: Mapping[int, str], store: Store) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(clips without a chunk, clips whose chunk fails its checksum)."""
    chunks = unpack_shard(data, store.recipe.layout.clips_per_shard)
    missing = tuple(clip_id for place, clip_id in expected.items() if place not in chunks)
    damaged = tuple(clip_id for place, clip_id in expected.items() if place in chunks and not split_checksum(chunks[place])[1])
    return missing, damaged


def _check_metadata(store: Store, claims: Sequence[_Claim]) -> Iterator[Finding]:
    keys = sorted({metadata_key(array_of(claim.key)) for claim in claims})
    found = store.objects.get_many(keys)
    for key in keys:
        try:
            array_rows(found[key])
        except (KeyError, ValueError, TypeError, IndexError):
            yield Finding(kind="metadata", key=key, detail="the array's metadata is gone or unreadable; `run` writes it again")


def _check_heads(store: Store) -> Iterator[Finding]:
    found = store.objects.get_many([HEADS_CARD, HEADS_FILE])
    if HEADS_CARD not in found:
        return
    try:
        card = HeadsCard.model_validate_json(found[HEADS_CARD])
    except ValidationError:
        yield Finding(kind="heads", key=HEADS_CARD, detail="the card of the heads cannot be read")
        return
    if HEADS_FILE not in found or sha256_digest(found[HEADS_FILE]) != card.weights:
        yield Finding(kind="heads", key=HEADS_FILE, detail="it is gone, or not what its card says")


def _orphans(listed: Mapping[str, int], entries: Sequence[LedgerEntry]) -> list[str]:
    known = {key for entry in entries for key in entry.objects}
    known |= {ROOT_METADATA, HEADS_FILE, HEADS_CARD, *map(metadata_key, MARKERS)}
    known |= {metadata_key(array_of(key)) for key in listed if key.endswith(f"/{ROOT_METADATA}") and key.count("/") == 1}
    return [key for key in listed if key not in known and not _is_entry(key) and not _is_segment(key)]


def _is_segment(key: str) -> bool:
    return key.startswith(f"{CATALOG}/segment-") and key.endswith(".parquet")


def collect_garbage(url: str, *, older_than_hours: float, dry_run: bool) -> GarbageReport:
    """Remove what no ledger entry names.

    Raises `StoreDamaged` where an entry is unreadable: what it names would look like garbage. A run at work has
    objects that no entry names yet, for as long as its unit takes; so only those older than ``older_than_hours`` go.
    """
    if older_than_hours < 0:
        raise BadInput(f"--older-than is {older_than_hours:g} hours; needed 0 or more")
    store = open_store(url)
    listed = store.objects.listing()
    orphans = _orphans(listed, store.ledger().entries)
    limit = time.time() - older_than_hours * 3600
    old = [key for key in orphans if store.objects.modified_seconds(key) <= limit]
    for key in [] if dry_run else old:
        store.objects.delete(key)
    return GarbageReport(
        store=url,
        dry_run=dry_run,
        removed=tuple(old),
        bytes=sum(listed[key] for key in old),
        kept_younger=tuple(key for key in orphans if key not in set(old)),
    )
