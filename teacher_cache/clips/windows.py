"""Videos with digests in, a job's clips out. If the sampling needs windows or shots, unknown videos are probed, in parallel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.clip import FLIPPED, ClipView, Segment, VideoInfo
from schemas.errors import BadInput, VideoError
from schemas.recipe import ClipRecipe
from teacher_cache.clips.decoder_pool import Prober
from teacher_cache.clips.identity import are_same
from teacher_cache.clips.probe_cache import ProbeCache
from teacher_cache.clips.sampling import windows
from teacher_cache.clips.tables import CLIPS, SEGMENT, column_keys, distinct, other_segment, times_text

_PLAIN = pa.scalar(value=False)
_OF_LIST = (*SEGMENT, "prompt", "extra")
"""Columns that a clip has from its video's row of the list."""
_NEWEST = ("video", "content_digest", "prompt", "extra")
"""Columns whose newest values count, and where clips are of no segment of their own, also its columns."""


def whole_videos(videos: pa.Table) -> pa.Table:
    """One clip per video or segment, over all of it: a table of `CLIPS` and ``clip_key``.

    ``videos`` is a table of `teacher_cache.clips.tables.VIDEOS`.
    """
    nothing = pa.nulls(videos.num_rows, pa.int64())
    columns = {name: videos[name] for name in ("content_digest", *_OF_LIST)}
    columns |= {"clip_id": videos["id"], "video": videos["uri"], "video_id": videos["id"]}
    columns |= {"window_start": nothing, "window_stop": nothing, "flipped": pa.repeat(_PLAIN, videos.num_rows)}
    return pa.table([columns[name] for name in CLIPS.names], schema=CLIPS).append_column("clip_key", videos["key"])


def with_views(clips: pa.Table, views: Sequence[ClipView]) -> pa.Table:
    """Each of the clips in each of the views, one after another, so that its video is decoded once for all of them.

    Raises `BadInput` for an id that a flipped clip could have.
    """
    if tuple(views) == ("plain",):
        return clips
    if taken := clips.filter(pc.ends_with(clips["video_id"], FLIPPED))["video_id"][:1].to_pylist():
        raise BadInput(f"the id {taken[0]!r} ends as those of flipped clips do; give the video another one")
    tables = [clips if view == "plain" else _flipped(clips) for view in views]
    in_turn = np.arange(len(tables) * clips.num_rows).reshape(len(tables), -1).T.ravel()
    return pa.concat_tables(tables).take(pa.array(in_turn))


def _flipped(clips: pa.Table) -> pa.Table:
    ids = pc.binary_join_element_wise(clips["clip_id"], FLIPPED, "")
    columns = {
        "clip_id": ids,
        "flipped": pa.repeat(pa.scalar(value=True), clips.num_rows),
        "clip_key": pa.array(column_keys(ids)),
    }
    return pa.table({name: columns.get(name, clips[name]) for name in clips.column_names})


def without_views(known: pa.Table, retry: NDArray[np.bool_]) -> tuple[pa.Table, NDArray[np.bool_]]:
    """One plain row of each of the store's clips, whatever views it has of it; and whether any of them is to be retried."""
    is_flipped = known["flipped"].to_numpy()
    if not is_flipped.any():
        return known, retry
    ids = pc.if_else(known["flipped"], pc.utf8_slice_codeunits(known["clip_id"], 0, -len(FLIPPED)), known["clip_id"])
    _, first, of_each = np.unique(column_keys(ids), return_index=True, return_inverse=True)
    again = np.zeros(len(first), bool)
    np.logical_or.at(again, of_each, retry)
    order = np.argsort(first)
    plain = {"clip_id": ids, "flipped": pa.repeat(_PLAIN, known.num_rows)}
    columns = {name: plain.get(name, known[name]) for name in known.column_names}
    return pa.table(columns).take(pa.array(first[order])), again[order]


def windows_of(
    recipe: ClipRecipe,
    videos: pa.Table,
    known: pa.Table,
    retry: NDArray[np.bool_],
    *,
    prober: Prober,
    probed: ProbeCache,
    advance: Callable[[int], None] = lambda _: None,
) -> pa.Table:
    """The windows or shots of the videos: a table of `CLIPS` and ``clip_key``.

    ``known`` are the store's clips of these videos. A video whose content the store has is not opened, since its windows are
    known, unless one of its rows is that of a failed probe and is to be retried (``retry``, bool, one per row of ``known``). A
    video that cannot be opened now yields one clip without a window; the worker then fails on it and records the reason.
    ``prober`` opens those of the others that ``probed`` does not know, and tells it what it found.
    """
    of_video = pc.index_in(known["video_id"], videos["id"].combine_chunks()).to_numpy(zero_copy_only=False)
    digests = videos["content_digest"].take(pa.array(of_video))
    is_unread = digests.is_null().to_numpy(zero_copy_only=False)
    is_same = are_same(digests, known["content_digest"], videos["uri"].take(pa.array(of_video)))
    is_whole = known["window_start"].is_null().to_numpy(zero_copy_only=False)
    # A video that cannot be read now may be unchanged, so its rows stay valid.
    is_other = np.zeros(len(is_same), bool) if recipe.shots else other_segment(videos.take(pa.array(of_video)), known)
    _require_own_id(known.filter(pa.array(is_other & is_same & ~is_whole)))
    stands = is_unread | (is_same & ~(is_whole & (retry | is_other)))
    is_known = np.zeros(videos.num_rows, bool)
    is_known[of_video] = True
    is_known[of_video[~stands]] = False
    advance(int(is_known.sum()))
    kept = np.flatnonzero(is_known[of_video])
    listed = videos.rename_columns({"uri": "video"}).take(pa.array(of_video[kept]))
    found = known.take(pa.array(kept))
    newest = _NEWEST if recipe.shots else (*_NEWEST, *_OF_LIST)
    old = pa.table({name: (listed if name in newest else found)[name] for name in CLIPS.names})
    new = _cut(recipe, videos.filter(pa.array(~is_known)), prober, probed, advance)
    clips = distinct(pa.concat_tables([old.cast(CLIPS), new]), "clip_id", ["video"], "two clips of different videos are called")
    return clips.append_column("clip_key", pa.array(column_keys(clips["clip_id"])))


def _require_own_id(others: pa.Table) -> None:
    """Raise `BadInput` if there are windows of a segment that the list no longer names so: they would stay beside the new."""
    for row in others.slice(0, 1).to_pylist():
        times = times_text(row["segment_start"], row["segment_end"])
        raise BadInput(
            f"the store has windows of {row['video_id']!r}, of its seconds {times}, and the list now gives it other ones; "
            "give the new segment an id of its own"
        )


def _cut(recipe: ClipRecipe, videos: pa.Table, prober: Prober, probed: ProbeCache, advance: Callable[[int], None]) -> pa.Table:
    rows = videos.to_pylist()
    footage = iter(_footage([row for row in rows if row["content_digest"] is not None], prober, probed, advance))
    clips: list[dict[str, Any]] = []
    for row in rows:
        found = next(footage) if row["content_digest"] is not None else None
        video = {"video": row["uri"], "video_id": row["id"], "content_digest": row["content_digest"], "flipped": False}
        video |= {name: row[name] for name in _OF_LIST}
        if not isinstance(found, VideoInfo):
            clips.append(video | {"clip_id": row["id"]})
            continue
        clips += [video | cut for cut in _cuts(recipe, row["id"], found)]
    return pa.Table.from_pylist(clips, schema=CLIPS)


def _cuts(recipe: ClipRecipe, video_id: str, found: VideoInfo) -> Iterator[dict[str, Any]]:
    """What tells each clip of a video from the others: its window, and of a shot its segment, of which its window is all."""
    if recipe.shots:
        for shot in found.shots:
            start, end = (None if at is None else round(at, 3) for at in (shot.start_seconds, shot.end_seconds))
            cut = {"window_start": 0, "window_stop": shot.frames, "clip_id": f"{video_id}@{times_text(start, end)}"}
            yield cut | {"segment_start": shot.start_seconds, "segment_end": shot.end_seconds}
        return
    assert found.taken is not None
    for number, window in enumerate(windows(recipe, found.taken)):
        yield {"clip_id": f"{video_id}#{number:04d}", "window_start": window.start, "window_stop": window.stop}


def _footage(
    rows: Sequence[Mapping[str, Any]], prober: Prober, probed: ProbeCache, advance: Callable[[int], None]
) -> list[VideoInfo | VideoError]:
    """What each row's sampling has to go by. Rows of one video that follow each other open it once."""
    known = probed.get(rows)
    lacking = [row for row, one in zip(rows, known, strict=True) if one is None]
    advance(len(rows) - len(lacking))
    found: list[VideoInfo | VideoError] = []
    if lacking:  # a prober may take its time to begin
        videos = ((uri, [_segment(row) for row in some]) for uri, some in groupby(lacking, itemgetter("uri")))
        for some in prober.probe_segments(videos):
            found += some
            advance(len(some))
        probed.put(lacking, found)
    new = iter(found)
    return [next(new) if one is None else one for one in known]


def _segment(row: Mapping[str, Any]) -> Segment | None:
    start = row["segment_start"]
    return None if start is None else Segment(start_seconds=start, end_seconds=row["segment_end"])
