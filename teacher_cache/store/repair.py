"""A damaged store in; derivable objects rewritten and damaged rows retired out. The next run teaches their clips again."""

from __future__ import annotations

from collections.abc import Mapping

from schemas.errors import StoreDamaged
from schemas.ledger import Retirement
from schemas.signal import Shape, SignalName
from teacher_cache.io.progress import Progress, no_progress
from teacher_cache.store.declared import expected_metadata
from teacher_cache.store.layout import CATALOG
from teacher_cache.store.ledger import mend, record_retirement
from teacher_cache.store.store import Store
from teacher_cache.store.verify import Damage, examine

_RETIRES = {"missing", "truncated", "digest", "chunk_missing", "ledger"}


def retire_damaged(store: Store, shapes: Mapping[SignalName, Shape], progress: Progress = no_progress) -> bool:
    """Verify a store, rewrite objects that can be derived from others, and retire the rows that damage has hit.

    The planner gives their clips new rows. Returns True if the heads are damaged, which only the teacher can rewrite. Raises
    `StoreDamaged` if the catalog is damaged: nothing else says which row is which clip.
    """
    mend(store.objects)
    examined = examine(store, progress)
    damages = examined.damages
    if lost := [damage for damage in damages if damage.finding.kind == "catalog"]:
        raise StoreDamaged(
            f"{lost[0].finding.key} of {store.url} cannot be repaired from the rest: {lost[0].finding.detail}. "
            f"Restore {CATALOG}/ from a backup, or begin a new store."
        )
    if any(damage.finding.kind == "metadata" for damage in damages):
        for key, data in expected_metadata(store, store.catalog().rows, shapes).items():
            if store.objects.get(key) != data:
                store.objects.replace(key, data)
    hit = [damage for damage in damages if damage.finding.kind in _RETIRES and damage.rows]
    if hit:
        record_retirement(store.objects, _retirement(hit))
    return any(damage.finding.kind == "heads" for damage in damages)


def _retirement(damages: list[Damage]) -> Retirement:
    rows = {row: clip_id for damage in damages for row, clip_id in zip(damage.rows, damage.finding.clip_ids, strict=True)}
    order = sorted(rows)
    return Retirement(
        rows=tuple(order),
        clip_ids=tuple(rows[row] for row in order),
        found={damage.finding.key: damage.digest for damage in damages},
    )
