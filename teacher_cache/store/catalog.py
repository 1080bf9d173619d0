"""The catalog: clip ids in, rows out, and back. Stored as tables that the log names, held in memory as columns.

A later row of a clip supersedes earlier ones. Rows of a video's later content, where that is known, supersede all rows of its
earlier content.
Ids are looked up by 64-bit hash keys, so ten million clips need only a few arrays of numbers. What a key finds is then
compared by another 64 bits of the hash.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.clip import Clip
from schemas.errors import BadInput, StoreDamaged
from schemas.log import LONGEST_SEGMENT, RowsAdded, TableFile
from teacher_cache.clips.extra import unpacked
from teacher_cache.clips.tables import CLIPS, Keys, among, checks_of, column_checks, column_keys, indices_among, keys_of
from teacher_cache.store.layout import ROWS, SUPERSEDED
from teacher_cache.store.objects import Objects
from teacher_cache.store.parquet import ROWS_PER_GROUP
from teacher_cache.store.table import StoredTable, create_table

_KEYS = ("clip_key", "clip_check", "video_key", "content_key")
_SCHEMA = pa.schema([pa.field("row", pa.int64()), *CLIPS, *(pa.field(name, pa.uint64()) for name in _KEYS)])
_SUPERSEDED = pa.schema([pa.field("row", pa.int64())])
_TEXTS = ("row", *(name for name in CLIPS.names if name != "extra"))

Rows = NDArray[np.int64]
_NONE = -1


@dataclass(frozen=True)
class _Part:
    """Rows that were added at once, already stored or still in memory."""

    first_row: int
    rows: int
    source: StoredTable | pa.Table
    superseded: StoredTable | Rows | None
    """The earlier rows that these supersede: a table with the column ``row``, or the rows themselves."""

    def read(self, columns: Sequence[str], groups: Sequence[int] | None = None) -> pa.Table:
        if isinstance(self.source, StoredTable):
            return self.source.read(columns, groups)
        if groups is None:
            return self.source.select(list(columns))
        return pa.concat_tables(
            self.source.slice(group * ROWS_PER_GROUP, ROWS_PER_GROUP).select(list(columns)) for group in groups
        )

    def superseded_rows(self) -> Rows:
        if isinstance(self.superseded, StoredTable):
            rows: Rows = self.superseded.read(["row"])["row"].to_numpy()
            if len(rows) and not 0 <= rows.min() <= rows.max() < self.first_row:
                raise StoreDamaged(
                    f"rows {rows.min()} to {rows.max()} are said to be superseded by later ones from {self.first_row} on"
                )
            return rows
        return np.empty(0, np.int64) if self.superseded is None else self.superseded


class Catalog:
    """All rows of a store, in order. Text columns are read on demand; keys are read once and kept."""

    def __init__(self, parts: Sequence[_Part] = ()) -> None:
        self._parts = tuple(parts)
        self._groups: dict[tuple[int, int], pa.Table] = {}
        self._scanned = 0
        """Keys that were looked up without an index."""

    @property
    def parts(self) -> int:
        """How many times rows were added."""
        return len(self._parts)

    @property
    def revisions(self) -> int:
        """How many times these superseded earlier ones."""
        return sum(part.superseded is not None for part in self._parts)

    @property
    def rows(self) -> int:
        """Length of the clip axis: one past the last row."""
        return self._parts[-1].first_row + self._parts[-1].rows if self._parts else 0

    def next_row(self, clips_per_shard: int) -> int:
        """The first row that can be added. Rows are added from a shard boundary on, so a committed shard never gains any."""
        return -(-self.rows // clips_per_shard) * clips_per_shard

    def with_rows(self, rows: pa.Table) -> Catalog:
        """The catalog plus these rows, a table of `CLIPS` and ``row``. Writes nothing."""
        keyed = _with_keys(rows)
        superseded = self._superseded_by(keyed)
        return Catalog((*self._parts, _Part(_first_row(rows), rows.num_rows, keyed, superseded if len(superseded) else None)))

    def _superseded_by(self, added: pa.Table) -> Rows:
        """The rows in force that rows to be added supersede, ascending: of the same clips, or of a video's other content."""
        videos, of_added = np.unique(added["video_key"].to_numpy(), return_index=False, return_inverse=True)
        rows = self.current
        rows = rows[among(self.video_keys(rows), videos)]
        if not len(rows):
            return rows
        # Of a video that is added in two contents, the last counts. One that cannot be read now may be as it was.
        content, is_known = np.zeros(len(videos), np.uint64), np.zeros(len(videos), bool)
        content[of_added] = added["content_key"].to_numpy()
        is_known[of_added] = added["content_digest"].is_valid().to_numpy()
        index, of_video = np.searchsorted(self._rows, rows), np.searchsorted(videos, self.video_keys(rows))
        is_other = is_known[of_video] & (self._keys("content_key")[index] != content[of_video])
        is_again = among(self._keys("clip_key")[index], added["clip_key"].to_numpy())
        superseded: Rows = rows[is_other | is_again]
        return superseded

    @cached_property
    def _rows(self) -> Rows:
        """Every row that exists. Segments begin at shard boundaries, so there may be gaps between them."""
        if sum(part.rows for part in self._parts) == self.rows:
            return np.arange(self.rows)
        return np.concatenate([np.arange(part.first_row, part.first_row + part.rows) for part in self._parts])

    def _keys(self, name: str) -> Keys:
        found = [part.read([name])[name].to_numpy() for part in self._parts]
        return np.concatenate(found) if found else np.empty(0, np.uint64)

    @cached_property
    def _video_keys(self) -> Keys:
        return self._keys("video_key")

    @cached_property
    def _clip_keys(self) -> Keys:
        return self._keys("clip_key")

    def _places(self, rows: Rows) -> Rows:
        """Where each row is among all that exist."""
        return rows if len(self._rows) == self.rows else np.searchsorted(self._rows, rows)

    @cached_property
    def _clip_checks(self) -> Keys:
        return self._keys("clip_check")

    @cached_property
    def current(self) -> Rows:
        """The rows in force, ascending: those that no later ones supersede."""
        if not self.revisions:
            return self._rows
        in_force = np.zeros(self.rows, bool)
        for part in self._parts:
            in_force[part.first_row : part.first_row + part.rows] = True
        for part in self._parts:
            rows = part.superseded_rows()
            in_force[rows] = False
        return np.flatnonzero(in_force)

    @cached_property
    def _by_clip(self) -> tuple[Keys, Rows]:
        """(keys of the current clips in row order; the indices that sort them)."""
        return self._current_keys, np.argsort(self._current_keys)

    @cached_property
    def _current_keys(self) -> Keys:
        keys = self._clip_keys
        return keys[self._places(self.current)] if len(self.current) < len(keys) else keys

    def rows_of(self, clip_ids: Sequence[str]) -> Rows:
        """The current row of each clip, int64 (clip,); -1 for a clip that the catalog lacks.

        All 128 bits of an id's hash are compared, so no other clip is taken for it.
        """
        rows = self.rows_of_keys(keys_of(clip_ids))
        found = np.flatnonzero(rows != _NONE)
        if self._scanned < _SCANNED:
            different, which = np.unique(rows[found], return_inverse=True)
            checks = self.table(different, ["clip_check"])["clip_check"].to_numpy()[which]
        else:
            checks = self._clip_checks[self._places(rows[found])]
        rows[found[checks != checks_of(clip_ids)[found]]] = _NONE
        return rows

    def rows_of_keys(self, keys: Keys) -> Rows:
        """The current row of each clip, looked up by its key: int64 (clip,); -1 if there is none."""
        if not self.rows:
            return np.full(len(keys), _NONE)
        if self._scanned + len(keys) < _SCANNED:
            self._scanned += len(keys)
            return np.array([self._scan(key) for key in keys], np.int64)
        self._scanned = _SCANNED
        known, order = self._by_clip
        if len(keys) < _FEW:
            index = order[np.minimum(np.searchsorted(known, keys, sorter=order), len(known) - 1)]
            index[known[index] != keys] = _NONE
        else:
            index = indices_among(keys, known[order])
            index[index >= 0] = order[index[index >= 0]]
        found = np.full(len(keys), _NONE)
        found[index >= 0] = self.current[index[index >= 0]]
        return found

    def _scan(self, key: np.uint64) -> int:
        """`rows_of_keys` for one key, by comparing it with all."""
        rows = self._rows[np.flatnonzero(self._clip_keys == key)]
        current = [row for row in rows.tolist() if row in self.current[np.searchsorted(self.current, row) :][:1]]
        return current[-1] if current else _NONE

    def table(self, rows: Rows, columns: Sequence[str] = _TEXTS) -> pa.Table:
        """Columns of the given rows, which must be ascending."""
        schema = pa.schema([_SCHEMA.field(name) for name in columns])
        found = []
        for number, part in enumerate(self._parts):
            wanted = rows[(rows >= part.first_row) & (rows < part.first_row + part.rows)] - part.first_row
            if len(wanted) == part.rows:
                found.append(part.read(columns))
                continue
            for group in np.unique(wanted // ROWS_PER_GROUP):
                inside = wanted[wanted // ROWS_PER_GROUP == group] - group * ROWS_PER_GROUP
                found.append(self._group(number, int(group)).select(list(columns)).take(pa.array(inside)))
        table = pa.concat_tables([schema.empty_table(), *(table.cast(schema) for table in found)])
        if "row" in columns and not np.array_equal(table["row"].to_numpy(), rows):
            raise StoreDamaged(f"a table of rows numbers them otherwise than the log, which has {rows[0]} to {rows[-1]}")
        return table

    def listed_columns(self, rows: Rows, taken: Collection[str]) -> dict[str, pa.ChunkedArray]:
        """What the lists said beside places of the given rows, which must be ascending: see `extra.unpacked`."""
        try:
            return unpacked(self.table(rows, ["extra"])["extra"], taken)
        except ValueError as error:
            raise StoreDamaged(f"the catalog's column `extra` cannot be read: {error}") from None

    def _group(self, part: int, group: int) -> pa.Table:
        """One row group, kept in memory: lookups of one clip are usually followed by its neighbours."""
        if (part, group) not in self._groups:
            self._groups = {} if len(self._groups) >= _GROUPS_KEPT else self._groups
            self._groups[part, group] = self._parts[part].read([*_TEXTS, "extra", "clip_check"], [group])
        return self._groups[part, group]

    def clips(self, rows: Rows) -> list[Clip]:
        """The clips of the given rows, which must be ascending."""
        return [_clip(row) for row in self.table(rows).to_pylist()]

    def rows_between(self, start: int, stop: int) -> Rows:
        """The existing rows in [start, stop), current or not."""
        first, last = np.searchsorted(self._rows, [start, stop])
        return self._rows[first:last]

    def rows_of_videos(self, video_ids: Sequence[str]) -> Rows:
        """The current rows of the given videos, ascending."""
        return self.current[among(self.video_keys(self.current), keys_of(video_ids))]

    def rows_by_video(self) -> Callable[[Keys], Rows]:
        """What gives the current rows of videos, ascending, by the videos' keys: sorted once, for many questions."""
        keys = self.video_keys(self.current)
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]

        def rows_of(videos: Keys) -> Rows:
            wanted = np.unique(videos)
            starts, stops = (np.searchsorted(ordered, wanted, side) for side in ("left", "right"))
            found = [order[start:stop] for start, stop in zip(starts.tolist(), stops.tolist(), strict=True) if start < stop]
            return np.sort(self.current[np.concatenate(found)]) if found else np.empty(0, np.int64)

        return rows_of

    def video_keys(self, rows: Rows | None = None) -> Keys:
        """The key of each row's video; of every row if ``rows`` is None."""
        if rows is None:
            return self._video_keys
        return self._video_keys[np.searchsorted(self._rows, rows)] if len(rows) else np.empty(0, np.uint64)

    def rows_of_repeated_contents(self) -> tuple[Rows, NDArray[np.int64]]:
        """(rows, starts): a current row of each video whose content another video has, too, those of one content together;
        and where among them each content begins.

        By the 64-bit keys of contents. A video without a digest is like no other.
        """
        contents, videos = self._keys("content_key")[self._places(self.current)], self.video_keys(self.current)
        known = np.flatnonzero(~np.isin(contents, _content_keys([None, None], [True, False])))
        order = known[np.lexsort((videos[known], contents[known]))]
        order = order[_changes(contents[order]) | _changes(videos[order])]
        begins = np.append(np.flatnonzero(_changes(contents[order])), len(order))
        repeated = np.repeat(np.diff(begins) > 1, np.diff(begins))
        order = order[repeated]
        return self.current[order], np.flatnonzero(_changes(contents[order]))

    def require_distinct(self, clip_ids: pa.ChunkedArray, rows: Rows) -> None:
        """Raises `BadInput` if two different clip ids have the same key, so that one was found in the other's row.

        About one lookup in 10^12.
        """
        found = np.flatnonzero(rows != _NONE)
        found = found[np.argsort(rows[found])]
        for start in range(0, len(found), LONGEST_SEGMENT):  # to hold only some of the texts at once
            some = found[start : start + LONGEST_SEGMENT]
            is_run = some[-1] - some[0] == len(some) - 1 and bool((np.diff(some) == 1).all())
            ours = clip_ids.slice(int(some[0]), len(some)) if is_run else clip_ids.take(pa.array(some))
            theirs = self.table(rows[some], ["clip_id"])["clip_id"]
            if not pc.all(pc.equal(ours, theirs), min_count=0).as_py():
                first = pc.index(pc.equal(ours, theirs), pa.scalar(value=False)).as_py()
                raise BadInput(
                    f"the clip ids {ours[first]} and {theirs[first]} have the same key; give one of the videos another id"
                )


# So many keys are looked up by comparing them with all: who asks for a few clips need not wait for ten million to be sorted.
_SCANNED = 33
# Fewer clips than this are looked up through the sorting indices, without making a sorted copy of the keys.
_FEW = 2**16
_MOST_POSITIONS = 2**40
# Row groups of 65536 clips, some ten megabytes each.
_GROUPS_KEPT = 8


def _clip(row: dict[str, Any]) -> Clip:
    """The clip that a row of a table describes. All else in it was checked as a column."""
    window = row["window_start"], row["window_stop"]
    if window != (None, None) and (None in window or not 0 <= window[0] < window[1] <= _MOST_POSITIONS):
        raise StoreDamaged(f"row {row['row']} of the catalog has the window {window[0]} to {window[1]}, which is none")
    start, end = row["segment_start"], row["segment_end"]
    if (start, end) != (None, None) and (start is None or not 0 <= start < (math.inf if end is None else end)):
        raise StoreDamaged(f"row {row['row']} of the catalog has the segment {start} to {end}, which is none")
    return Clip.model_construct(**row)


def _first_row(rows: pa.Table) -> int:
    return int(rows["row"][0].as_py())


def _with_keys(rows: pa.Table) -> pa.Table:
    keys = {
        "clip_key": column_keys(rows["clip_id"]),
        "clip_check": column_checks(rows["clip_id"]),
        "video_key": column_keys(rows["video_id"]),
        "content_key": _content_keys(rows["content_digest"].to_pylist(), rows["window_start"].is_null().to_pylist()),
    }
    return pa.table([rows[name] if name in rows.column_names else keys[name] for name in _SCHEMA.names], schema=_SCHEMA)


def _content_keys(digests: Sequence[str | None], are_whole: Sequence[bool]) -> Keys:
    contents = zip(digests, are_whole, strict=True)
    return keys_of(f"{digest or ''} {'whole' if is_whole else 'window'}" for digest, is_whole in contents)


def _changes(keys: Keys) -> NDArray[np.bool_]:
    """Whether each key differs from the one before it; true for the first."""
    return np.append(np.ones(min(len(keys), 1), bool), keys[1:] != keys[:-1])


def numbered_rows(clips: pa.Table, first_row: int) -> pa.Table:
    """A table of `CLIPS` with a column ``row``, counting from ``first_row``."""
    return clips.add_column(0, "row", pa.array(np.arange(first_row, first_row + clips.num_rows)))


def read_catalog(objects: Objects, added: Sequence[RowsAdded]) -> Catalog:
    """The catalog of the rows that the log has added. Reads nothing yet."""
    return Catalog([_stored(objects, action) for action in added])


def _stored(objects: Objects, added: RowsAdded) -> _Part:
    superseded = None if added.superseded is None else superseded_table(objects, added)
    return _Part(added.first_row, added.rows, rows_table(objects, added), superseded)


def rows_table(objects: Objects, added: RowsAdded) -> StoredTable:
    """The table that describes added rows."""
    return StoredTable(objects, added.table, _SCHEMA, range(added.rows, added.rows + 1))


def superseded_table(objects: Objects, added: RowsAdded) -> StoredTable:
    """The table of the rows that added ones supersede, where there is one."""
    assert added.superseded is not None
    return StoredTable(objects, added.superseded, _SUPERSEDED, range(added.first_row + 1))


def store_rows(
    objects: Objects, catalog: Catalog, rows: pa.Table, clips_per_shard: int
) -> tuple[Catalog, tuple[RowsAdded, ...]]:
    """Store the tables of rows to be added to a catalog. Returns it with them, and the actions by which the log has them.

    ``rows`` is a table of `CLIPS` and ``row``.
    """
    longest = LONGEST_SEGMENT // clips_per_shard * clips_per_shard
    actions = []
    for start in range(0, rows.num_rows, longest):
        catalog = catalog.with_rows(rows.slice(start, longest))
        action = _created(objects, catalog._parts[-1])  # noqa: SLF001  # its own module
        catalog = Catalog((*catalog._parts[:-1], _stored(objects, action)))  # noqa: SLF001
        actions.append(action)
    return catalog, tuple(actions)


def _created(objects: Objects, part: _Part) -> RowsAdded:
    assert isinstance(part.source, pa.Table)
    superseded: TableFile | None = None
    if len(rows := part.superseded_rows()):
        superseded = create_table(objects, f"{SUPERSEDED}{part.first_row:010d}", pa.table({"row": rows}))
    table = create_table(objects, f"{ROWS}{part.first_row:010d}", part.source)
    return RowsAdded(first_row=part.first_row, rows=part.rows, table=table, superseded=superseded)
