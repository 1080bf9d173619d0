"""A table of listed videos in; the same with tars as their members, and folders as their pictures, out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.credentials import holds_credentials
from schemas.errors import BadInput, VideoError
from schemas.job import VideoSource
from teacher_cache.clips.extra import Dropped, packed
from teacher_cache.clips.identity import asked_for, member_identity
from teacher_cache.clips.tables import VIDEOS, column_keys
from teacher_cache.clips.tars import TarIndex, index_of, key_of
from teacher_cache.io.places import Member, Pictures, local_path, member_named, protocol

_THREADS = 32
_FASTEST = 1e6


class _Row(NamedTuple):
    """What becomes of a listed row, or one of what becomes of it."""

    uri: str
    id: str
    extra: str | None
    content_digest: str | None


@dataclass(frozen=True)
class _Tar:
    index: TarIndex
    identity: str | None
    """What the server says of it, if that is to tell whether its members changed."""


def is_compound(uris: pa.ChunkedArray) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Whether each URI names a tar, a member of one, or a folder: bool (uri,)."""
    found = pc.or_(pc.or_(pc.ends_with(uris, ".tar"), pc.ends_with(uris, "/")), pc.match_substring(uris, ".tar#"))
    flags: np.ndarray[Any, np.dtype[np.bool_]] = found.to_numpy()
    return flags


def expanded(videos: pa.Table, source: VideoSource, dropped: Dropped) -> tuple[pa.Table, list[str]]:
    """A table of `VIDEOS`, whose tars and folders are replaced by the videos in them, and what is to be said of the tars.

    A tar that cannot be read stays, and fails as a video. Raises `BadInput` for a row whose ``fps`` cannot be, `Unreachable`.
    """
    chosen = np.flatnonzero(is_compound(videos["uri"]))
    rows = videos.take(pa.array(chosen)).to_pylist()
    wanted = [None if row["uri"].endswith("/") else _tar_of(row["uri"]) for row in rows]
    tars, notes = _tars([tar for tar in wanted if tar], rows, source, dropped)
    found = [
        _of_tar(row, tars[tar], dropped)
        if tar
        else [_of_folder(row, source)]
        if row["uri"].endswith("/")
        else [_as_listed(row)]
        for row, tar in zip(rows, wanted, strict=True)
    ]
    counts = np.ones(videos.num_rows, np.int64)
    counts[chosen] = [len(some) for some in found]
    is_new = np.zeros(videos.num_rows, bool)
    is_new[chosen] = True
    taken = np.repeat(np.arange(videos.num_rows), counts)
    table, mask = videos.take(pa.array(taken)), pa.array(is_new[taken])
    new = [row for some in found for row in some]
    for name in _Row._fields:
        values = pa.array([getattr(row, name) for row in new], pa.string())
        column = pc.replace_with_mask(table[name].combine_chunks(), mask, values)
        table = table.set_column(table.column_names.index(name), name, pa.chunked_array([column]))
    keys = pa.array(column_keys(table["id"]))
    return table.set_column(table.column_names.index("key"), "key", keys).cast(VIDEOS), notes


def _tar_of(uri: str) -> str | None:
    """The tar that a row is of; None for a file whose name only looks like a member's, and for a place without ranges."""
    named = member_named(uri)
    if protocol(uri) == "https" or (named and (local := local_path(uri)) is not None and local.exists()):
        return None
    return named[0] if named else uri


def _tars(
    wanted: Sequence[str], rows: Sequence[Mapping[str, Any]], source: VideoSource, dropped: Dropped
) -> tuple[dict[str, _Tar | None], list[str]]:
    """Each tar's index, None for one that is not there, and what is wrong with it. Each is read once."""
    listed = {row["uri"]: row["content_digest"] for row in rows}
    notes: list[str] = []

    def read(tar: str) -> _Tar | None:
        identity = None
        if source.identity == "listed" and local_path(tar) is None:
            identity = listed.get(tar) or asked_for(tar)  # before its headers are read, so that what changes then is noticed
        try:
            return _Tar(index_of(tar, dropped), identity)
        except VideoError:
            return None

    each = list(dict.fromkeys(wanted))
    with ThreadPoolExecutor(_THREADS) as threads:
        tars = dict(zip(each, threads.map(read, each), strict=True))
    for name, tar in tars.items():
        if tar and tar.index.trouble:
            kept = f"its first {len(tar.index.videos)} videos are taken" if tar.index.videos else "none of its videos is"
            notes.append(f"{name} was not read to its end, and {kept}: {tar.index.trouble}")
        elif tar and not tar.index.videos:
            notes.append(
                f"{name} has no member whose name is that of a video, such as .mp4; a list may name others: x.tar#NAME"
            )
    return tars, notes


def _of_tar(row: Mapping[str, Any], tar: _Tar | None, dropped: Dropped) -> list[_Row]:
    if tar is None:
        return [_as_listed(row)]
    named = member_named(row["uri"])
    if named is None and not tar.index.videos and tar.index.trouble:
        return [_as_listed(row)]
    members = tar.index.videos if named is None else [one for one in [tar.index.members.get(named[1])] if one]
    if named is not None and not members:
        return [_as_listed(row)]
    return [_of_member(row, one, tar, dropped, is_named=named is not None) for one in members if _is_keepable(one, dropped)]


def _of_member(row: Mapping[str, Any], member: Member, tar: _Tar, dropped: Dropped, *, is_named: bool) -> _Row:
    own = json.loads(row["extra"]) if row["extra"] else {}
    extra = packed(tar.index.beside.get(key_of(member.name)[0], {}) | own, dropped)
    identity = member_identity(member, tar.identity) if tar.identity else None
    return _Row(member.uri, row["id"] if is_named else f"{row['id']}#{member.name}", extra, identity)


def _is_keepable(member: Member, dropped: Dropped) -> bool:
    is_kept = member.name.isprintable() and not holds_credentials(member.uri)
    if not is_kept:
        dropped.add(member.place, f"a member's name is printable and has no =, unlike {ascii(member.name)[:80]}")
    return is_kept


def _of_folder(row: Mapping[str, Any], source: VideoSource) -> _Row:
    fps = json.loads(row["extra"]).get("fps") if row["extra"] else None
    fps = source.folder_fps if fps is None else fps
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not 1e-3 <= fps <= _FASTEST:
        raise BadInput(
            f"{row['uri']}: its `fps` is {str(fps)[:80]!r}; needed a number between 0.001 and 1000000, of pictures a second"
        )
    return _Row(Pictures(row["uri"], float(fps)).uri, row["id"].rstrip("/") or row["id"], row["extra"], None)


def _as_listed(row: Mapping[str, Any]) -> _Row:
    return _Row(row["uri"], row["id"], row["extra"], row["content_digest"])
