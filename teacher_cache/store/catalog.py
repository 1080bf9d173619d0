"""The catalog: clip ids in, rows out, and back. Stored as append-only segments, held in memory as columns.

A later row of a clip supersedes earlier ones. Rows of a video's later content supersede all rows of its earlier content.
Ids are looked up by 64-bit hash keys, so ten million clips need only a few arrays of numbers. An id found by its key is
then compared as text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.clip import Clip
from schemas.errors import BadInput, StoreDamaged
from schemas.store import LONGEST_SEGMENT, Segment, TableFile
from teacher_cache.clips.tables import CLIPS, Keys, among, column_keys, indices_among, keys_of
from teacher_cache.store.layout import SEGMENT, numbered
from teacher_cache.store.objects import Objects
from teacher_cache.store.records import seal, unseal
from teacher_cache.store.table import ROWS_PER_GROUP, StoredTable, create_table, require_own_key

_KEYS = ("clip_key", "video_key", "content_key")
_SCHEMA = pa.schema([pa.field("row", pa.int64()), *CLIPS, *(pa.field(name, pa.uint64()) for name in _KEYS)])
_TEXTS = ("row", *CLIPS.names)

Rows = NDArray[np.int64]
_NONE = -1


@dataclass(frozen=True)
class _Part:
    """A segment's rows, already stored or still in memory."""

    first_row: int
    rows: int
    revises: bool
    source: StoredTable | pa.Table

    def read(self, columns: Sequence[str], groups: Sequence[int] | None = None) -> pa.Table:
        if isinstance(self.source, StoredTable):
            return self.source.read(columns, groups)
        if groups is None:
            return self.source.select(list(columns))
        return pa.concat_tables(
            self.source.slice(group * ROWS_PER_GROUP, ROWS_PER_GROUP).select(list(columns)) for group in groups
        )


class Catalog:
    """All rows of a store, in order. Text columns are read on demand; keys are read once and kept."""

    def __init__(self, parts: Sequence[_Part] = ()) -> None:
        self._parts = tuple(parts)
        self._groups: dict[tuple[int, int], pa.Table] = {}

    @property
    def segments(self) -> int:
        """Number of segments."""
        return len(self._parts)

    @property
    def rows(self) -> int:
        """Length of the clip axis: one past the last row."""
        return self._parts[-1].first_row + self._parts[-1].rows if self._parts else 0

    def next_row(self, clips_per_shard: int) -> int:
        """First row of the next segment. Segments begin at a shard boundary, so a committed shard never gains rows."""
        return -(-self.rows // clips_per_shard) * clips_per_shard

    def with_rows(self, rows: pa.Table) -> Catalog:
        """The catalog plus one segment, given as a table of `CLIPS` and ``row``. Writes nothing."""
        return Catalog((*self._parts, _Part(_first_row(rows), rows.num_rows, True, _with_keys(rows))))

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
    def current(self) -> Rows:
        """The rows in force, ascending: each clip's latest row, of each video's latest content only.

        A video's last row says what its latest content is, and whether its windows are known. So this leaves out windows
        that the new content lacks, and the failed row of a video that at first could not be probed.
        """
        if not any(part.revises for part in self._parts):
            return self._rows
        content = self._keys("content_key")
        _, video = np.unique(self._video_keys, return_inverse=True)
        last_of_video = np.zeros(video.max() + 1, np.int64)
        np.maximum.at(last_of_video, video, np.arange(len(video)))
        of_latest_content = np.flatnonzero(content == content[last_of_video[video]])
        clips = self._keys("clip_key")[of_latest_content]
        # Reversed, so that `unique`, which finds first occurrences, finds each key's last one.
        _, from_end = np.unique(clips[::-1], return_index=True)
        return self._rows[np.sort(of_latest_content[len(clips) - 1 - from_end])]

    @cached_property
    def _by_clip(self) -> tuple[Keys, Rows]:
        """(keys of the current clips in row order; the indices that sort them)."""
        keys = self._keys("clip_key")
        if len(self.current) < len(keys):
            keys = keys[np.searchsorted(self._rows, self.current)]
        return keys, np.argsort(keys)

    def rows_of(self, clip_ids: Sequence[str]) -> Rows:
        """The current row of each clip, int64 (clip,); -1 for a clip that the catalog lacks."""
        return self.rows_of_keys(keys_of(clip_ids))

    def rows_of_keys(self, keys: Keys) -> Rows:
        """The current row of each clip, looked up by its key: int64 (clip,); -1 if there is none."""
        known, order = self._by_clip
        if not len(known):
            return np.full(len(keys), _NONE)
        if len(keys) < _FEW:
            index = order[np.minimum(np.searchsorted(known, keys, sorter=order), len(known) - 1)]
            index[known[index] != keys] = _NONE
        else:
            index = indices_among(keys, known[order])
            index[index >= 0] = order[index[index >= 0]]
        found = np.full(len(keys), _NONE)
        found[index >= 0] = self.current[index[index >= 0]]
        return found

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
        return pa.concat_tables([schema.empty_table(), *(table.cast(schema) for table in found)])

    def _group(self, part: int, group: int) -> pa.Table:
        """One row group, kept in memory: lookups of one clip are usually followed by its neighbours."""
        if (part, group) not in self._groups:
            self._groups = {} if len(self._groups) >= _GROUPS_KEPT else self._groups
            self._groups[part, group] = self._parts[part].read(_TEXTS, [group])
        return self._groups[part, group]

    def row_groups(self, rows: Rows) -> int:
        """Number of row groups, over all segments, that the given rows are in."""
        inside = (rows[(rows >= p.first_row) & (rows < p.first_row + p.rows)] - p.first_row for p in self._parts)
        return sum(len(np.unique(rows // ROWS_PER_GROUP)) for rows in inside)

    def clips(self, rows: Rows) -> list[Clip]:
        """The clips of the given rows, which must be ascending."""
        return [Clip.model_construct(**row) for row in self.table(rows).to_pylist()]

    def rows_between(self, start: int, stop: int) -> Rows:
        """The existing rows in [start, stop), current or not."""
        first, last = np.searchsorted(self._rows, [start, stop])
        return self._rows[first:last]

    def rows_within(self, starts: Rows, stops: Rows) -> int:
        """Number of existing rows in all the ranges [start, stop), which must not overlap."""
        return int((np.searchsorted(self._rows, stops) - np.searchsorted(self._rows, starts)).sum())

    def rows_of_videos(self, video_ids: Sequence[str]) -> Rows:
        """The current rows of the given videos, ascending."""
        return self.current[among(self.video_keys(self.current), keys_of(video_ids))]

    def segment_digest(self, row: int) -> str:
        """Digest of the table of the row's segment, which identifies the row's clip and content; "" if it is not stored yet."""
        part = next(part for part in self._parts if part.first_row <= row < part.first_row + part.rows)
        return part.source.digest if isinstance(part.source, StoredTable) else ""

    def video_keys(self, rows: Rows | None = None) -> Keys:
        """The key of each row's video; of every row if ``rows`` is None."""
        if rows is None:
            return self._video_keys
        return self._video_keys[np.searchsorted(self._rows, rows)] if len(rows) else np.empty(0, np.uint64)

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


# Fewer clips than this are looked up through the sorting indices, without making a sorted copy of the keys.
_FEW = 2**16
# Row groups of 65536 clips, some ten megabytes each.
_GROUPS_KEPT = 8


def _first_row(rows: pa.Table) -> int:
    return int(rows["row"][0].as_py())


def _with_keys(rows: pa.Table) -> pa.Table:
    contents = zip(rows["content_digest"].to_pylist(), rows["window_start"].is_null().to_pylist(), strict=True)
    keys = {
        "clip_key": column_keys(rows["clip_id"]),
        "video_key": column_keys(rows["video_id"]),
        "content_key": keys_of(f"{digest or ''} {'whole' if is_whole else 'window'}" for digest, is_whole in contents),
    }
    return pa.table([rows[name] if name in rows.column_names else keys[name] for name in _SCHEMA.names], schema=_SCHEMA)


def numbered_rows(clips: pa.Table, first_row: int) -> pa.Table:
    """A table of `CLIPS` with a column ``row``, counting from ``first_row``."""
    return clips.add_column(0, "row", pa.array(np.arange(first_row, first_row + clips.num_rows)))


def read_catalog(objects: Objects) -> Catalog:
    """Read every segment's record. Raises `StoreDamaged` if one is missing or damaged."""
    keys = [key for key in objects.listing(SEGMENT) if key.endswith(".json")]
    expected = [numbered(SEGMENT, number) for number in range(len(keys))]
    if keys != expected:
        raise StoreDamaged(f"the catalog of {objects.url} lacks {sorted(set(expected) - set(keys))}; restore it from a backup")
    found = objects.get_many(keys)
    segments = [_read_segment(found[key], key, objects.url) for key in keys]
    return Catalog([_Part(s.first_row, s.rows, s.revises, StoredTable(objects, s.table)) for s in segments])


def _read_segment(data: bytes, key: str, url: str) -> Segment:
    segment = unseal(Segment, data, key, url)
    require_own_key(segment.table.key, key, url)
    return segment


def append_rows(objects: Objects, catalog: Catalog, rows: pa.Table, clips_per_shard: int) -> Catalog | None:
    """Append rows as one or more segments. Returns the new catalog; None if another run appended first, so read it again."""
    longest = LONGEST_SEGMENT // clips_per_shard * clips_per_shard
    for start in range(0, rows.num_rows, longest):
        part = _with_keys(rows.slice(start, longest))
        revises = bool(among(part["video_key"].to_numpy(), catalog._video_keys).any())  # noqa: SLF001  # its own module
        stem = numbered(SEGMENT, catalog.segments).removesuffix(".json")
        file = create_table(objects, stem, part)
        segment = Segment(first_row=_first_row(part), rows=part.num_rows, revises=revises, table=file)
        if not objects.create(f"{stem}.json", seal(segment)):
            return None
        added = _Part(segment.first_row, segment.rows, revises, StoredTable(objects, file))
        catalog = Catalog((*catalog._parts, added))  # noqa: SLF001
    return catalog


def catalog_files(objects: Objects) -> dict[str, TableFile]:
    """Record's key → the table file that it names, for every segment."""
    keys = [key for key in objects.listing(SEGMENT) if key.endswith(".json")]
    found = objects.get_many(keys)
    return {key: _read_segment(found[key], key, objects.url).table for key in keys}
