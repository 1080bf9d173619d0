"""A job's clips and a store's state in; the rows to add and the units of work left to do out. Writes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.clip import Clip
from schemas.log import FailedRow, PartName, Unit, WorkItem
from schemas.recipe import Recipe
from schemas.signal import Shape, SignalName
from schemas.storage import StorageOptions
from teacher_cache.clips.identity import are_same
from teacher_cache.clips.tables import SEGMENT, Keys, other_segment
from teacher_cache.jobs.portion import ALL, Portion
from teacher_cache.store.catalog import Catalog, Rows, numbered_rows
from teacher_cache.store.state import FAILED, State
from teacher_cache.store.store import Store, find_store, require_recipe, require_shapes


def new_rows(clips: pa.Table, catalog: Catalog, recipe: Recipe, again: Rows | None = None) -> pa.Table:
    """New rows for the clips that have none, whose video's content, segment or prompt changed, or whose row is in ``again``.

    Returns a table of `teacher_cache.clips.tables.CLIPS` and ``row``. Raises `BadInput` if two clip ids have the same key.
    """
    rows = catalog.rows_of_keys(clips["clip_key"].to_numpy())
    catalog.require_distinct(clips["clip_id"], rows)
    # A video that was not read, or cannot be read now, may be unchanged, so its committed rows stay valid.
    is_readable = clips["content_digest"].is_valid().to_numpy()
    is_known = rows >= 0
    needs = ~is_known
    compared = np.flatnonzero(is_known & is_readable)
    compared = compared[np.argsort(rows[compared])]
    now, then = clips.take(pa.array(compared)), catalog.table(rows[compared], ["content_digest", "prompt", *SEGMENT])
    needs[compared] = ~are_same(now["content_digest"], then["content_digest"], now["video"]) | other_segment(now, then)
    if recipe.teacher.takes:  # what is null now cannot be read, and may be as it was
        differs = pc.not_equal(now["prompt"], pc.fill_null(then["prompt"], ""))
        needs[compared] |= pc.fill_null(differs, fill_value=False).to_numpy()
    if again is not None:
        needs |= np.isin(rows, again)  # where a video cannot be read, the new row fails, and so says why
    chosen = clips.drop("clip_key")
    return numbered_rows(
        chosen if needs.all() else chosen.filter(pa.array(needs)), catalog.next_row(recipe.layout.clips_per_shard)
    )


def rows_to_redo(catalog: Catalog, state: State, parts: Sequence[PartName], *, retry_failed: bool) -> Rows:
    """Current rows whose clips are to be taught again in new rows, by a job of these ``parts``.

    Those are rows that are retired, barred (in a shard in which one of these parts can no longer be committed), or failed
    without their video's fault; with ``retry_failed``, all that failed.
    """
    rows, parts = catalog.current, tuple({*parts, *state.parts})
    barred = [shard for part, shard in state.barred if part in parts]
    redo = np.isin(rows, [*state.retired, *state.rows_failed_for("missing_in_shard")])
    redo |= np.isin(rows // state.clips_per_shard, barred)
    if retry_failed:
        redo |= state.status(rows, parts) == FAILED
    return rows[redo]


class WorkLeft(Sequence[WorkItem]):
    """The units left: one for every shard that contains any of ``rows`` and lacks any of ``parts``. Items are made lazily.

    Of them, those of ``portion``.
    """

    def __init__(
        self, recipe: Recipe, catalog: Catalog, state: State, parts: Sequence[PartName], rows: Rows, *, portion: Portion = ALL
    ) -> None:
        self._recipe, self._per_shard, self._rows_left = recipe, recipe.layout.clips_per_shard, rows
        self.catalog, self.state, self._parts = catalog, state, tuple(parts)
        shards = np.unique(rows // self._per_shard)
        lacks = np.array([~state.is_done(part, shards).astype(bool) for part in parts]).reshape(len(parts), len(shards))
        taken = np.flatnonzero(lacks.any(axis=0))
        taken = taken[self._are_in(portion, shards[taken])]
        self._shards: NDArray[np.int64] = shards[taken]
        self._lacks: NDArray[np.bool_] = lacks[:, taken]

    def of(self, portion: Portion) -> WorkLeft:
        """The units that are a portion's."""
        return WorkLeft(self._recipe, self.catalog, self.state, self._parts, self._rows_left, portion=portion)

    def _are_in(self, portion: Portion, shards: NDArray[np.int64]) -> NDArray[np.bool_]:
        number, runs = portion.shard
        are_in = np.zeros(len(shards), bool)
        are_in[shards % runs == number] = True
        if portion.limit is not None:
            are_in[np.flatnonzero(are_in)[-(-portion.limit // self._per_shard) :]] = False
        return are_in

    def __len__(self) -> int:
        return len(self._shards)

    @overload
    def __getitem__(self, index: int) -> WorkItem: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[WorkItem]: ...
    def __getitem__(self, index: int | slice) -> WorkItem | Sequence[WorkItem]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        missing = tuple(part for part, lacks in zip(self._parts, self._lacks[:, index], strict=True) if lacks)
        rows = self._rows(int(self._shards[index]))
        clips = self.catalog.clips(rows)
        latest = self.catalog.rows_of([clip.clip_id for clip in clips]).tolist()
        outcomes = (self._settled(clip, row) for clip, row in zip(clips, latest, strict=True))
        settled = {outcome.row: outcome for outcome in outcomes if outcome is not None}
        return WorkItem(
            unit=Unit(shard=int(self._shards[index]), parts=missing),
            clips=tuple(clip for clip in clips if clip.row not in settled),
            settled=tuple(settled.values()),
        )

    @property
    def lacking(self) -> tuple[PartName, ...]:
        """The parts that any unit writes."""
        return tuple(part for part in self._parts if self.units(part))

    @property
    def rows(self) -> int:
        """Number of rows in force of all units, to be taught or not."""
        return self._within(self.catalog.current)

    @property
    def rows_of_job(self) -> int:
        """Of these, the job's: a shard may have clips that another list named."""
        return self._within(self._rows_left)

    def _within(self, rows: Rows) -> int:
        return int(np.isin(rows // self._per_shard, self._shards).sum())

    def units(self, part: PartName) -> int:
        """Number of units that write the part."""
        return int(self._lacks[self._parts.index(part)].sum())

    def clips(self, part: PartName) -> int:
        """Number of rows to be taught in the part."""
        return len(self._rows_to_teach(self._shards[self._lacks[self._parts.index(part)]]))

    @cached_property
    def to_teach(self) -> Rows:
        """Rows to be taught in any part, ascending."""
        return self._rows_to_teach(self._shards)

    def _rows_to_teach(self, shards: NDArray[np.int64]) -> Rows:
        rows = self.catalog.current
        rows = rows[np.isin(rows // self._per_shard, shards)]
        to_teach: Rows = rows[self.state.status(rows, ["clock"]) != FAILED]
        return to_teach

    def _rows(self, shard: int) -> Rows:
        return self.catalog.rows_between(shard * self._per_shard, (shard + 1) * self._per_shard)

    def _settled(self, clip: Clip, latest: int) -> FailedRow | None:
        """The outcome of a row that need not be taught: its video failed for earlier signals, or a later row supersedes it.

        None for a row to teach. ``latest`` is the clip's current row, -1 if it has none.
        """
        if latest != clip.row:
            detail = "its video has no such window now" if latest < 0 else f"row {latest} holds this clip now"
            return FailedRow(row=clip.row, reason="superseded", detail=detail)
        failure = self.state.failure(clip.row, ["clock"])
        if failure is None:
            return None
        reason, detail = failure
        return FailedRow(row=clip.row, reason=reason, detail=detail)

    def __iter__(self) -> Iterator[WorkItem]:
        return (self[index] for index in range(len(self)))


def state_of(
    url: str, recipe: Recipe, shapes: Mapping[SignalName, Shape], storage_options: StorageOptions | None = None
) -> tuple[Store | None, Catalog, State]:
    """The store at ``url`` if there is one, its catalog and its state. Raises `RecipeMismatch`; `BadInput` for other shapes."""
    store = find_store(url, storage_options)
    if store is None:
        return None, Catalog(), State(recipe.layout.clips_per_shard)
    require_recipe(store, recipe)
    require_shapes(store, shapes)
    return store, store.catalog(), store.state


def rows_of(clip_keys: Keys, catalog: Catalog) -> Rows:
    """The current rows of those clips, by their keys, that have one."""
    rows = catalog.rows_of_keys(clip_keys)
    return rows[rows >= 0]
