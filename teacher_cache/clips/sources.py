"""Manifests or globs in, a table of videos with ids out."""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from fsspec.utils import glob_translate

from schemas.errors import BadInput
from schemas.job import VideoSource
from teacher_cache.clips.extra import Dropped
from teacher_cache.clips.lists import LISTED, ListFile, read_list, require_keepable
from teacher_cache.clips.tables import VIDEOS, column_keys, distinct
from teacher_cache.io.local_copy import local_copy
from teacher_cache.io.places import local_path
from teacher_cache.io.remote import filesystem, reach, require_bucket
from teacher_cache.io.request_counts import VIDEO_REQUESTS, counting

Note = Callable[[str], None]


def _say_nothing(_: str) -> None:
    pass


def list_videos(source: VideoSource, note: Note = _say_nothing) -> pa.Table:
    """The job's videos, or segments of them, each once: a table of `VIDEOS`, in listed order, a video's segments together.

    ``note`` is called with each sentence that the user should read. Raises `BadInput` if there is none, `Unreachable`.
    """
    videos = _from_manifest(source, note) if source.manifest is not None else _from_globs(source.globs, note)
    if not videos.num_rows:
        require_bucket(source.manifest or source.globs[0])
        origin = f"the manifest {source.manifest} lists" if source.manifest else f"the glob {', '.join(source.globs)} matches"
        raise BadInput(f"{origin} no video; needed at least one")
    if not source.https:
        _require_no_https(videos["uri"], source.manifest or ", ".join(source.globs))
    return distinct(videos, "id", ["uri", "segment_start", "segment_end"], "two videos have the id")


def _require_no_https(uris: pa.ChunkedArray, origin: str) -> None:
    asks = uris.filter(pc.starts_with(uris, "https://"))
    if len(asks):
        raise BadInput(
            f"{origin} lists {len(asks)} https:// URLs, such as {asks[0]}, which anyone may serve. "
            "If you trust them, set `videos.https: true`."
        )


# --- manifests ---


def _from_manifest(source: VideoSource, note: Note) -> pa.Table:
    manifest, dropped = str(source.manifest), Dropped()
    listed: list[pa.Table] = []
    for path in _files_of(manifest):
        with _local_copy(path) as copy:
            tables = read_list(ListFile(copy, path, source.format, source.columns, dropped))
            folder, before = path.rpartition("/")[0], "" if path == manifest else _below(path, manifest)
            listed.extend(_placed(table, folder, before) for table in tables)
    for sentence in dropped.notes():
        note(f"{manifest}: {sentence}")
    videos = pa.concat_tables([LISTED.empty_table(), *listed])
    if videos["segment_start"].null_count < videos.num_rows:
        # So that one decoder opens a video once for all of its segments.
        of = pc.index_in(videos["uri"], pc.unique(videos["uri"])).to_numpy()
        videos = videos.take(pa.array(np.argsort(of, kind="stable")))
    return videos.append_column("key", pa.array(column_keys(videos["id"]))).select(VIDEOS.names)


METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
"""The lists of a Hugging Face dataset of files, in its folder or in those of its splits."""


def _files_of(manifest: str) -> list[str]:
    """The manifest, or, if it is the folder of a dataset, the lists in it. Raises `BadInput` if there is none."""
    local = local_path(manifest)
    if not (manifest.endswith("/") if local is None else local.is_dir()):
        return [manifest]
    fs, folder = filesystem(manifest)
    folder = folder.rstrip("/")
    for pattern in (*METADATA, *(f"*/{name}" for name in METADATA), "*.parquet", "*/*.parquet"):
        with counting(VIDEO_REQUESTS, fs):
            found = reach(manifest, partial(fs.glob, f"{folder}/{pattern}"))
        if found:
            return [str(fs.unstrip_protocol(name)).removeprefix("file://") for name in sorted(found)]
    raise BadInput(f"the folder {manifest} has none of {', '.join(METADATA)} and no .parquet, in it or in its folders")


def _below(path: str, folder: str) -> str:
    """What to put before the ids of a list that lies in one of the folder's folders: ``train/``."""
    local = local_path(folder)
    base = folder.rstrip("/") if local is None else str(local.absolute())
    inner = path.rpartition("/")[0].removeprefix(base).strip("/")
    return f"{inner}/" if inner else ""


@contextlib.contextmanager
def _local_copy(path: str) -> Iterator[Path]:
    """The manifest as a local file. Raises `BadInput` if there is none."""
    local = local_path(path)
    with contextlib.ExitStack() as stack:
        if local is None:
            with counting(VIDEO_REQUESTS, filesystem(path)[0], "get"):
                file = local_copy(path)
            is_there = file is not None
            if file is not None:
                stack.callback(os.close, file)
            local = Path(f"/proc/self/fd/{file}")
        else:
            is_there = local.exists()
        if not is_there:
            require_bucket(path)
            raise BadInput(f"there is no manifest {path}")
        try:
            yield local
        except OSError as error:
            raise BadInput(f"cannot read the manifest {path}: {error.strerror or error}") from None


def _placed(listed: pa.Table, folder: str, before: str) -> pa.Table:
    """The rows with an id each, and uris that start from the list's folder."""
    uri = listed["uri"]
    # Avoids copying millions of texts if all ids are given, or none.
    ids = {0: listed["id"], listed.num_rows: _named(listed)}.get(listed["id"].null_count)
    ids = pc.coalesce(listed["id"], _named(listed)) if ids is None else ids
    if before:
        ids = pc.binary_join_element_wise(before, ids, "")
    is_absolute = pc.or_(pc.match_substring(uri, "://"), pc.starts_with(uri, "/"))
    if folder and not pc.all(is_absolute).as_py():
        uri = pc.if_else(is_absolute, uri, pc.binary_join_element_wise(folder, uri, "/"))
    columns = {"uri": uri, "id": ids}
    return pa.table({name: columns.get(name, listed[name]) for name in LISTED.names}, schema=LISTED)


def _named(listed: pa.Table) -> pa.ChunkedArray:
    """Each row's uri, and for a segment its times: ``a.mp4@3-7.5``."""
    start, end = listed["segment_start"], listed["segment_end"]
    if start.null_count == listed.num_rows:
        return listed["uri"]
    times = pc.binary_join_element_wise(_texts(start), pc.fill_null(_texts(end), ""), "-")
    return pc.if_else(pc.is_valid(start), pc.binary_join_element_wise(listed["uri"], times, "@"), listed["uri"])


def _texts(seconds: pa.ChunkedArray) -> pa.Array:
    return pa.array([None if value is None else repr(value).removesuffix(".0") for value in seconds.to_pylist()], pa.string())


# --- globs ---


def _from_globs(patterns: Sequence[str], note: Note) -> pa.Table:
    found = [_from_glob(pattern, note) for pattern in patterns]
    base = os.path.commonpath([folder for folder, _, _ in found]) if len(found) > 1 else found[0][0]
    base = f"{base}/" if base and not base.endswith("/") else base
    names = pa.chunked_array([pa.array([name.removeprefix(base) for name in some], pa.string()) for _, some, _ in found])
    uris = pa.chunked_array([pa.array(some, pa.string()) for _, _, some in found])
    nothing = [pa.nulls(len(names), VIDEOS.field(name).type) for name in ("segment_start", "segment_end", "extra")]
    return pa.table([names, uris, *nothing, column_keys(names)], schema=VIDEOS)


def _from_glob(pattern: str, note: Note) -> tuple[str, list[str], list[str]]:
    """The pattern's fixed folder, and the names and uris of what it matches."""
    fs, path = filesystem(pattern, is_pattern=True)
    with counting(VIDEO_REQUESTS, fs):
        names = _on_disk(path, note) if local_path(pattern) else reach(pattern, partial(_matched, fs, path))
    require_keepable(names, f"the glob {pattern}")
    return _fixed_folder(path), names, [str(fs.unstrip_protocol(name)).removeprefix("file://") for name in names]


def _matched(fs: Any, path: str) -> list[str]:
    return sorted(name for name, info in fs.glob(path, detail=True).items() if info["type"] == "file")


def _on_disk(path: str, note: Note) -> list[str]:
    """The files that the pattern matches, with links as what they lead to; one that leads nowhere is a file that is missing.

    Hidden folders are left out, as by shells, unless the pattern names one, and so are links to a folder that they are in.
    """
    matches = re.compile(glob_translate(path)).match
    root = _fixed_folder(path) or "/"
    levels = math.inf if "**" in path else path.removeprefix(root).count("/")
    found: list[str] = []

    def refused(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            note(f"{error.filename} is left out: {error.strerror}")

    for folder, folders, files in os.walk(root, followlinks=True, onerror=refused):
        base = f"{folder.rstrip('/')}/"
        found.extend(name for name in (base + file for file in files) if matches(name))
        is_deep = base.removeprefix(root).count("/") >= levels
        folders[:] = [] if is_deep else [name for name in folders if _is_entered(base, name, is_hidden_wanted="/." in path)]
    return sorted(found)


def _is_entered(base: str, name: str, *, is_hidden_wanted: bool) -> bool:
    if name.startswith(".") and not is_hidden_wanted:
        return False
    folder = Path(base + name)
    return not folder.is_symlink() or folder.resolve() not in {parent.resolve() for parent in folder.parents}


def _fixed_folder(pattern: str) -> str:
    """The folders before the first wildcard, to be left out of ids, which must not depend on where the videos are stored."""
    parts = PurePosixPath(pattern).parts
    fixed: list[str] = []
    for part in parts[:-1]:
        if any(c in part for c in "*?["):
            break
        fixed.append(part)
    return f"{PurePosixPath(*fixed)}/" if fixed else ""
