"""The catalog: which row is which clip. Append-only Parquet segments.

A later row of a clip supersedes its earlier ones, and a later content of a video all rows of its earlier one.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.clip import Clip
from schemas.errors import StoreDamaged
from teacher_cache.store.layout import CATALOG, segment_key
from teacher_cache.store.objects import Objects

_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("video", pa.string(), nullable=False),
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("content_digest", pa.string()),
        pa.field("window_start", pa.int64()),
        pa.field("window_stop", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Catalog:
    """All rows of a store, in order."""

    clips: tuple[Clip, ...]
    segments: int

    @property
    def rows(self) -> int:
        """Length of the clip axis: one past the last row."""
        return self.clips[-1].row + 1 if self.clips else 0

    def current(self) -> dict[str, Clip]:
        """Clip id → the clip's latest row, of videos' latest content alone.

        The last row of a video tells which content that is, and whether its windows are known. So windows that a new
        content does not have, or the failed row of a video that could not be probed at first, are no longer there.
        """
        content = {clip.video_id: _content(clip) for clip in self.clips}
        return {clip.clip_id: clip for clip in self.clips if _content(clip) == content[clip.video_id]}

    def next_row(self, clips_per_shard: int) -> int:
        """The first row of the next segment: segments begin on a shard, so that no committed shard is ever added to."""
        return -(-self.rows // clips_per_shard) * clips_per_shard

    def with_segment(self, clips: Iterable[Clip]) -> Catalog:
        return Catalog((*self.clips, *clips), self.segments + 1)


def _content(clip: Clip) -> tuple[str | None, bool]:
    return clip.content_digest, clip.window_start is None


def read_catalog(objects: Objects) -> Catalog:
    """Read every segment. Raises `StoreDamaged` if one is missing or unreadable."""
    keys = [key for key in objects.listing(CATALOG) if key.endswith(".parquet")]
    expected = [segment_key(number) for number in range(len(keys))]
    if keys != expected:
        raise StoreDamaged(f"the catalog of {objects.url} lacks {sorted(set(expected) - set(keys))}; restore it from a backup")
    found = objects.get_many(keys)
    clips = [clip for key in keys for clip in _read_segment(found[key], key, objects.url)]
    return Catalog(tuple(clips), len(keys))


def _read_segment(data: bytes, key: str, url: str) -> list[Clip]:
    try:
        # In this thread alone: with torch loaded, Arrow's own I/O threads now and then abort the process as it ends.
        table = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False).read(use_threads=False)
        return [Clip.model_construct(**row) for row in table.cast(_SCHEMA).to_pylist()]
    except (pa.ArrowException, OSError) as error:
        raise StoreDamaged(f"the catalog segment {key} of {url} cannot be read ({error}); restore it from a backup") from None


def append_segment(objects: Objects, catalog: Catalog, clips: Sequence[Clip]) -> bool:
    """Create the next segment with these rows. False if another run took its number first: read the catalog again."""
    table = pa.Table.from_pylist([clip.model_dump() for clip in clips], schema=_SCHEMA)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return objects.create(segment_key(catalog.segments), buffer.getvalue())
