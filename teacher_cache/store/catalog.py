"""The catalog: which row is which clip. Append-only segments, held as columns.

A later row of a clip supersedes its earlier ones, and a later content of a video all rows of its earlier one.
Ids are looked up by 64-bit keys of them, so that ten million clips take no more than a few arrays of numbers; an id that is
found by its key is then compared itself.
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
from teacher_cache.store.layout import CATALOG, SEGMENT, numbered
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
    """A segment with its rows, stored or about to be."""

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
    """All rows of a store, in order. Text is read when it is asked for, keys once."""

    def __init__(self, parts: Sequence[_Part] = ()) -> None:
        self._parts = tuple(parts)
        self._groups: dict[tuple[int, int], pa.Table] = {}

    @property
    def segments(self) -> int:
        return len(self._parts)

    @property
    def rows(self) -> int:
        """Length of the clip axis: one past the last row."""
        return self._parts[-1].first_row + self._parts[-1].rows if self._parts else 0

    def next_row(self, clips_per_shard: int) -> int:
        """The first row of the next segment: segments begin on a shard, so that no committed shard is ever added to."""
        return -(-self.rows // clips_per_shard) * clips_per_shard

    def with_rows(self, rows: pa.Table) -> Catalog:
        """The catalog as it would be with one more segment: a table of `CLIPS` and ``row``. Writes nothing."""
        return Catalog((*self._parts, _Part(_first_row(rows), rows.num_rows, True, _with_keys(rows))))

    @cached_property
    def _rows(self) -> Rows:
        """Every row that is there: segments begin on shards, so rows between two of them may not be."""
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
        """The rows that count, ascending: each clip's latest, of videos' latest content alone.

        The last row of a video tells which content that is, and whether its windows are known. So windows that a new
        content does not have, or the failed row of a video that could not be probed at first, are no longer there.
        """
        if not any(part.revises for part in self._parts):
            return self._rows
        content = self._keys("content_key")
        _, video = np.unique(self._video_keys, return_inverse=True)
        last_of_video = np.zeros(video.max() + 1, np.int64)
        np.maximum.at(last_of_video, video, np.arange(len(video)))
        of_latest_content = np.flatnonzero(content == content[last_of_video[video]])
        clips = self._keys("clip_key")[of_latest_content]
        # The first of each key in reverse order is its last.
        _, from_end = np.unique(clips[::-1], return_index=True)
        return self._rows[np.sort(of_latest_content[len(clips) - 1 - from_end])]

    @cached_property
    def _by_clip(self) -> tuple[Keys, Rows]:
        """(keys of the current clips in the order of their rows; their indices in the order of their keys)."""
        keys = self._keys("clip_key")
        if len(self.current) < len(keys):
            keys = keys[np.searchsorted(self._rows, self.current)]
        return keys, np.argsort(keys)

    def rows_of(self, clip_ids: Sequence[str]) -> Rows:
        """The current row of each clip, -1 for one that the catalog does not hold."""
        return self.rows_of_keys(keys_of(clip_ids))

    def rows_of_keys(self, keys: Keys) -> Rows:
        """The current row of each clip by its key, -1 where there is none."""
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
        """Columns of some rows, in the order of ``rows``, which must be ascending."""
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
        """One row group, kept: whoever asks for one clip asks for its neighbours next."""
        if (part, group) not in self._groups:
            self._groups = {} if len(self._groups) >= _GROUPS_KEPT else self._groups
            self._groups[part, group] = self._parts[part].read(_TEXTS, [group])
        return self._groups[part, group]

    def row_groups(self, rows: Rows) -> int:
        """In how many row groups of the segments some rows lie."""
        inside = (rows[(rows >= p.first_row) & (rows < p.first_row + p.rows)] - p.first_row for p in self._parts)
        return sum(len(np.unique(rows // ROWS_PER_GROUP)) for rows in inside)

    def clips(self, rows: Rows) -> list[Clip]:
        """The clips of some rows, ascending."""
        return [Clip.model_construct(**row) for row in self.table(rows).to_pylist()]

    def rows_between(self, start: int, stop: int) -> Rows:
        """The rows that are there in [start, stop), current or not."""
        first, last = np.searchsorted(self._rows, [start, stop])
        return self._rows[first:last]

    def rows_within(self, starts: Rows, stops: Rows) -> int:
        """How many rows are there in all the ranges [start, stop), which do not overlap."""
        return int((np.searchsorted(self._rows, stops) - np.searchsorted(self._rows, starts)).sum())

    def rows_of_videos(self, video_ids: Sequence[str]) -> Rows:
        """The current rows of some videos, ascending."""
        return self.current[among(self.video_keys(self.current), keys_of(video_ids))]

    def segment_digest(self, row: int) -> str:
        """Digest of the table of the segment that a row is in: it tells the row's clip and content from any other."""
        part = next(part for part in self._parts if part.first_row <= row < part.first_row + part.rows)
        return part.source.digest if isinstance(part.source, StoredTable) else ""

    def video_keys(self, rows: Rows | None = None) -> Keys:
        """The key of each row's video; of every row where none are named."""
        if rows is None:
            return self._video_keys
        return self._video_keys[np.searchsorted(self._rows, rows)] if len(rows) else np.empty(0, np.uint64)

    def require_distinct(self, clip_ids: pa.ChunkedArray, rows: Rows) -> None:
        """Raises `BadInput` where a clip was found by its key in a row of another clip: one search in 10^12."""
        found = np.flatnonzero(rows != _NONE)
        found = found[np.argsort(rows[found])]
        for start in range(0, len(found), LONGEST_SEGMENT):  # not all the texts at once
            some = found[start : start + LONGEST_SEGMENT]
            is_run = some[-1] - some[0] == len(some) - 1 and bool((np.diff(some) == 1).all())
            ours = clip_ids.slice(int(some[0]), len(some)) if is_run else clip_ids.take(pa.array(some))
            theirs = self.table(rows[some], ["clip_id"])["clip_id"]
            if not pc.all(pc.equal(ours, theirs), min_count=0).as_py():
                first = pc.index(pc.equal(ours, theirs), pa.scalar(value=False)).as_py()
                raise BadInput(
                    f"the clip ids {ours[first]} and {theirs[first]} have one key; give one of the videos another id"
                )


# Fewer clips than this are sought through the order of the keys, without copying the keys into that order.
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
    """Rows from ``first_row`` on for a table of `CLIPS`."""
    return clips.add_column(0, "row", pa.array(np.arange(first_row, first_row + clips.num_rows)))


def read_catalog(objects: Objects) -> Catalog:
    """Read every segment's record. Raises `StoreDamaged` if one is missing or was changed."""
    keys = [key for key in objects.listing(CATALOG) if key.startswith(SEGMENT) and key.endswith(".json")]
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
    """Append rows as one or more segments; the catalog with them. None if another run appended first: read it again."""
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
    """Record's key → the table that it names, of every segment."""
    keys = [key for key in objects.listing(CATALOG) if key.startswith(SEGMENT) and key.endswith(".json")]
    found = objects.get_many(keys)
    return {key: _read_segment(found[key], key, objects.url).table for key in keys}
