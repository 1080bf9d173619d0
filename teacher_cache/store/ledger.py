"""The ledger: what is committed. A row or an object that no entry names does not exist for readers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from pydantic import ValidationError

from schemas.base import canonical_json
from schemas.errors import StoreDamaged
from schemas.ledger import LedgerEntry, PartName, RowOutcome, StoredObject, Unit
from schemas.report import ClipCounts
from teacher_cache.store.catalog import Catalog
from teacher_cache.store.layout import LEDGER, unit_key
from teacher_cache.store.objects import Objects


@dataclass(frozen=True)
class Ledger:
    """Every entry of a store."""

    entries: tuple[LedgerEntry, ...]

    @cached_property
    def _outcomes(self) -> dict[tuple[PartName, int], RowOutcome]:
        return {(part, row.row): row for entry in self.entries for part in entry.unit.parts for row in entry.rows}

    @cached_property
    def done(self) -> frozenset[tuple[PartName, int]]:
        """(part, shard) of everything committed."""
        return frozenset((part, entry.unit.shard) for entry in self.entries for part in entry.unit.parts)

    @cached_property
    def objects(self) -> dict[str, StoredObject]:
        """Key → what the ledger says of it, for every committed shard object."""
        return {key: stored for entry in self.entries for key, stored in entry.objects.items()}

    def outcome(self, row: int, parts: Iterable[PartName]) -> RowOutcome | None:
        """The row's outcome over all of ``parts``: the first failure if any failed, None while any is pending."""
        outcomes = [self._outcomes.get((part, row)) for part in parts]
        failed = next((o for o in outcomes if o is not None and o.status == "failed"), None)
        return failed or (None if None in outcomes or not outcomes else outcomes[0])


def clip_counts(catalog: Catalog, ledger: Ledger, parts: Sequence[PartName]) -> ClipCounts:
    """How many clips are committed in all of ``parts``, failed in any, or pending."""
    outcomes = [ledger.outcome(clip.row, parts) for clip in catalog.current().values()]
    done = [outcome.status for outcome in outcomes if outcome is not None]
    committed = done.count("committed")
    return ClipCounts(
        planned=len(outcomes), committed=committed, failed=len(done) - committed, pending=len(outcomes) - len(done)
    )


def read_ledger(objects: Objects) -> Ledger:
    """Read every entry. Raises `StoreDamaged` if one is unreadable or is not where its unit belongs."""
    found = objects.get_many(
        [key for key in objects.listing(LEDGER) if key.endswith(".json") and not key.endswith("zarr.json")]
    )
    return Ledger(tuple(read_entry(key, found[key], objects.url) for key in sorted(found)))


def read_entry(key: str, data: bytes, url: str) -> LedgerEntry:
    try:
        entry = LedgerEntry.model_validate_json(data)
    except ValidationError as error:
        reason = error.errors(include_url=False)[0]["msg"]
        raise StoreDamaged(
            f"the ledger entry {key} of {url} cannot be read ({reason}); `verify` names what it covers"
        ) from None
    if unit_key(entry.unit) != key:
        raise StoreDamaged(f"the ledger entry {key} of {url} is about {entry.unit.name}; it was copied or renamed")
    return entry


def commit(objects: Objects, entry: LedgerEntry) -> bool:
    """Make a unit visible. False if another worker committed it first; that entry stands."""
    return objects.create(unit_key(entry.unit), canonical_json(entry.model_dump(mode="json")))


def committed_entry(objects: Objects, unit: Unit) -> LedgerEntry | None:
    data = objects.get(unit_key(unit))
    return None if data is None else read_entry(unit_key(unit), data, objects.url)
