"""The catalog in columns says what a plain walk over its rows would say."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.clip import Clip, Segment
from schemas.errors import BadInput, StoreDamaged
from teacher_cache.clips.tables import CLIPS, keys_of
from teacher_cache.store import table as table_module
from teacher_cache.store.catalog import Catalog, numbered_rows, read_catalog, store_rows
from teacher_cache.store.objects import Objects
from teacher_cache.store.table import StoredTable, create_table

PER_SHARD = 4

# A segment: for some videos, a content and how many windows it has (0: the video could not be probed).
CONTENTS = st.tuples(st.sampled_from(["x", "y", None]), st.integers(0, 3))
SEGMENTS = st.lists(st.dictionaries(st.sampled_from("abcde"), CONTENTS, min_size=1), max_size=6)


def clips(segment: dict[str, tuple[str | None, int]]) -> pa.Table:
    rows = []
    for video, (content, count) in segment.items():
        same = {"video": f"s3://b/{video}.mp4", "video_id": video, "content_digest": content, "flipped": False}
        windows = [{"clip_id": f"{video}#{n}", "window_start": n, "window_stop": n + 4} for n in range(count)]
        rows += [same | window for window in windows or [{"clip_id": video}]]
    return pa.Table.from_pylist(rows, schema=CLIPS)


def walk(current: dict[str, Clip], added: list[Clip]) -> dict[str, Clip]:
    """The rule of the format, row by row: what is in force after some are added."""
    content = {clip.video_id: (clip.content_digest, clip.window is None) for clip in added if clip.content_digest is not None}
    left = {
        clip.clip_id: clip
        for clip in current.values()
        if (clip.content_digest, clip.window is None) == content.get(clip.video_id, (clip.content_digest, clip.window is None))
    }
    return left | {clip.clip_id: clip for clip in added}


@given(SEGMENTS)
def test_what_is_current(segments: list[dict[str, tuple[str | None, int]]]) -> None:
    catalog, rows, current = Catalog(), [], {}
    for segment in segments:
        added = numbered_rows(clips(segment), catalog.next_row(PER_SHARD))
        new = [Clip(**row) for row in added.drop("extra").to_pylist()]
        rows, current = [*rows, *new], walk(current, new)
        catalog = catalog.with_rows(added)
    expected = {clip_id: clip.row for clip_id, clip in current.items()}
    assert catalog.current.tolist() == sorted(expected.values())
    names = [*expected, "nobody"]
    for few in (2**16, 0):  # both ways of searching
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("teacher_cache.store.catalog._FEW", few)
            assert catalog.rows_of(names).tolist() == [*expected.values(), -1]
    assert catalog.clips(catalog.current) == sorted((c for c in rows if c.row in expected.values()), key=lambda c: c.row)
    assert all(catalog.rows_of([clip.clip_id])[0] == expected.get(clip.clip_id, -1) for clip in rows)
    for video in "abcde":
        mine = [row for row in expected.values() if next(c for c in rows if c.row == row).video_id == video]
        assert catalog.rows_of_videos([video]).tolist() == sorted(mine)
        assert catalog.rows_by_video()(keys_of([video, "nobody", video])).tolist() == sorted(mine)
        assert (keys_of([video])[0] in catalog.video_keys()) == any(c.video_id == video for c in rows)


@given(SEGMENTS)
def test_videos_of_one_content(segments: list[dict[str, tuple[str | None, int]]]) -> None:
    catalog, current = Catalog(), dict[str, Clip]()
    for segment in segments:
        added = numbered_rows(clips(segment), catalog.next_row(PER_SHARD))
        current = walk(current, [Clip(**row) for row in added.drop("extra").to_pylist()])
        catalog = catalog.with_rows(added)
    videos: dict[object, set[str]] = {}
    for clip in current.values():
        if clip.content_digest is not None:
            videos.setdefault((clip.content_digest, clip.window is None), set()).add(clip.video_id)
    rows, starts = catalog.rows_of_repeated_contents()
    by_row = {clip.row: clip.video_id for clip in current.values()}
    found = [sorted(by_row[row] for row in some.tolist()) for some in np.split(rows, starts)[1:]]
    assert sorted(found) == sorted(sorted(of) for of in videos.values() if len(of) > 1)


def test_rows_as_they_are_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many are cut into several tables, and what is read back is what was written, with what it supersedes."""
    monkeypatch.setattr("teacher_cache.store.catalog.LONGEST_SEGMENT", 10)
    objects = Objects(str(tmp_path))
    many = clips({f"v{n}": ("x", 0) for n in range(30)})
    of_list = {"segment_start": [0.5, *[None] * 29], "segment_end": [2.25, *[None] * 29], "extra": ['{"a":"ü"}', *[None] * 29]}
    many = pa.table({name: of_list.get(name, many[name]) for name in CLIPS.names}, schema=CLIPS)
    _, added = store_rows(objects, Catalog(), numbered_rows(many, 0), PER_SHARD)
    assert [(action.first_row, action.rows, action.superseded) for action in added] == [
        (0, 8, None), (8, 8, None), (16, 8, None), (24, 6, None),
    ]  # fmt: skip
    grown = read_catalog(objects, added)
    added += store_rows(objects, grown, numbered_rows(clips({"v3": ("y", 0)}), grown.next_row(PER_SHARD)), PER_SHARD)[1]
    assert added[-1].superseded is not None
    read = read_catalog(objects, added)
    assert read.rows == 33
    assert 3 not in read.current
    assert read.rows_of(["v3", "v4", "late"]).tolist() == [32, 4, -1]
    assert read.table(read.rows_between(0, 30), CLIPS.names) == many
    assert read.clips(np.array([0, 1]))[0].segment == Segment(start_seconds=0.5, end_seconds=2.25)
    assert {name: values.to_pylist()[:2] for name, values in read.listed_columns(np.arange(30), ()).items()} == {
        "a": ["ü", None]
    }
    assert read.rows_between(28, 40).tolist() == [28, 29, 32]


def test_an_id_is_not_found_by_another_s_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """All keys are equal here: what differs is the other half of the hash."""
    monkeypatch.setattr("teacher_cache.store.catalog.keys_of", lambda texts: np.array([7 for _ in texts], np.uint64))
    monkeypatch.setattr("teacher_cache.store.catalog.column_keys", lambda column: np.full(len(column), 7, np.uint64))
    catalog = Catalog().with_rows(numbered_rows(clips({"a": ("x", 0)}), 0))
    assert catalog.rows_of(["a", "b"]).tolist() == [0, -1]


def test_two_ids_of_one_key_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("teacher_cache.store.catalog.keys_of", lambda texts: np.array([len(t) for t in texts], np.uint64))
    catalog = Catalog().with_rows(numbered_rows(clips({"a": ("x", 0), "bc": ("x", 0)}), 0))
    catalog.require_distinct(pa.chunked_array([["bc", "a", "new"]]), np.array([1, 0, -1]))
    with pytest.raises(BadInput, match="clip ids d and a have the same key"):
        catalog.require_distinct(pa.chunked_array([["bc", "d"]]), np.array([1, 0]))


def test_a_long_table_is_read_in_part_and_checked_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_module, "_WHOLE", 0)
    monkeypatch.setattr("teacher_cache.store.parquet.ROWS_PER_GROUP", 100)
    objects = Objects(str(tmp_path))
    written = pa.table({"a": list(range(250)), "b": [f"text {n * 7919}" for n in range(250)]})
    file = create_table(objects, "t", written)
    stored = StoredTable(objects, file, written.schema, range(250, 251))
    assert stored.read(["b", "a"]) == written.select(["b", "a"])
    assert stored.read(["a"], [1])["a"].to_pylist() == list(range(100, 200))
    whole, rng = (tmp_path / file.key).read_bytes(), random.Random(1)
    seen = 0
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        (tmp_path / file.key).write_bytes(damaged)
        assert stored.check() is not None
        try:
            assert stored.read(["a", "b"]) == written  # a bit that no reader looks at
        except StoreDamaged:
            seen += 1
    assert seen > 250
