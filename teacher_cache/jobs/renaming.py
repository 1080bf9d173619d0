"""A job's videos and a store's catalog in; a refusal of videos that the store has under other ids, out.

Ids tell a store what it has: under another id a video would be taught again, and readers would get it twice.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import BadInput
from schemas.job import VideoSource
from teacher_cache.clips.sources import Videos
from teacher_cache.clips.tables import SEGMENT, among
from teacher_cache.store.catalog import Catalog, Rows

_AT_ONCE = 2**20
_NAMED = ("video", "video_id", *SEGMENT, "prompt")


def require_ids_of_store(videos: Videos, catalog: Catalog, source: VideoSource, *, are_shots: bool) -> None:
    """Raises `BadInput` if a video that is new by its id is in the store under an id that the job does not list.

    It is the same video if its URI is, its segment, and the phrases or masks that it gives the teacher. A job that lists both
    ids wants both. ``are_shots``: the store has segments of its own making, the first of which begins where the video does.
    """
    rows = catalog.current
    of_rows = catalog.video_keys(rows)
    is_new = ~among(videos.keys, of_rows)
    if not len(rows) or not is_new.any():
        return
    unlisted = rows[~among(of_rows, videos.keys)]
    if not len(unlisted):
        return
    new = Videos(videos.listed.filter(pa.array(is_new)), videos.before).table()
    new = new.rename_columns({"uri": "video", "id": "video_id"}).select(_NAMED)
    known = catalog.table(_rows_of_uris(catalog, unlisted, new["video"]), _NAMED)
    new = new.filter(pc.is_in(new["video"], value_set=known["video"]))  # few, from here on
    index = pc.index_in(_told_by(new, are_shots=are_shots), value_set=_told_by(known, are_shots=are_shots))
    if index.null_count == len(index):
        return
    first = pc.index(index.is_valid(), value=True).as_py()
    uri, ours = new["video"][first].as_py(), new["video_id"][first].as_py()
    theirs = known["video_id"][index[first].as_py()].as_py()
    raise BadInput(
        f"{len(index) - index.null_count} of the job's {videos.num_rows} videos are in the store under other ids, such as "
        f"{uri}: {ours!r} here, and {theirs!r} there. They would be taught again, and readers would get each twice. "
        f"{_remedy(source, uri, theirs)} To have them under both ids, list both in one list."
    )


def _rows_of_uris(catalog: Catalog, rows: Rows, uris: pa.ChunkedArray) -> Rows:
    """Those of the rows whose video is at one of these URIs, ascending.

    Each step hashes all of the URIs, and takes at least as many rows: so time grows with both, and not with their product.
    """
    found, step = [np.empty(0, np.int64)], max(_AT_ONCE, len(uris))
    for start in range(0, len(rows), step):
        some = rows[start : start + step]
        found.append(some[pc.is_in(catalog.table(some, ["video"])["video"], value_set=uris).to_numpy()])
    return np.concatenate(found)


def _told_by(videos: pa.Table, *, are_shots: bool) -> pa.ChunkedArray:
    """What tells each video, segment or prompt from the others, as one text."""
    start = pc.fill_null(videos["segment_start"], 0.0).cast(pa.string())
    end = videos["segment_end"].cast(pa.string())
    # What tells that masks changed is in the store alone, before they are looked at.
    prompt = pc.replace_substring_regex(videos["prompt"], r',"masks_digest":"[^"]*"', "")
    parts = [videos["video"], start, *(() if are_shots else (end,)), prompt]
    return pc.binary_join_element_wise(*parts, "\n", null_handling="replace")


def _remedy(source: VideoSource, uri: str, theirs: str) -> str:
    if source.glob is None:
        return "Give each row the id that it has in the store, in a column `id`."
    if uri.endswith(f"/{theirs}"):
        return (
            "A glob's ids start from `videos.root`, or else from the folder that all of its patterns share: with `videos.root: "
            f"{uri.removesuffix(theirs).rstrip('/')}` they are those of the store."
        )
    return "List them in a manifest, with the store's ids in a column `id`."
