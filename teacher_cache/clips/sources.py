"""Manifests or globs in, a table of videos with ids out."""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from fsspec.utils import glob_translate

from schemas.errors import BadInput
from schemas.job import ListFormat, VideoIdentity, VideoSource
from schemas.prompt import Prompt, PromptName
from teacher_cache.clips.expansion import expanded, is_compound
from teacher_cache.clips.extra import Dropped
from teacher_cache.clips.list_formats import ListFile, format_of, json_objects
from teacher_cache.clips.listing import listed, split
from teacher_cache.clips.lists import LISTED, read_list, require_all_keepable, require_keepable
from teacher_cache.clips.mixture import files_of, mixture_of
from teacher_cache.clips.pictures import is_picture
from teacher_cache.clips.prompts import phrases_by_id, with_phrases
from teacher_cache.clips.tables import VIDEOS, Keys, column_keys, distinct, times_text
from teacher_cache.io.bucket import BUCKETS
from teacher_cache.io.local_copy import local_copy
from teacher_cache.io.places import local_path, protocol, require_openable
from teacher_cache.io.remote import filesystem, reach, require_bucket
from teacher_cache.io.request_counts import VIDEO_REQUESTS, counting

Note = Callable[[str], None]


def _say_nothing(_: str) -> None:
    pass


class Videos:
    """The videos of a list, or segments of them, in listed order: columns, from which `table` makes the others.

    Ten million videos of a bucket take 1 GB: 40 bytes of a name, 50 of an ETag, 8 of a key each.
    """

    def __init__(self, listed: pa.Table, before: str = "") -> None:
        """``listed`` is a table of `VIDEOS` without the columns that no row has, or that others give.

        The uri of a video is ``before`` and its id, unless ``listed`` has uris.
        """
        self.listed, self.before = listed, before
        self.num_rows: int = listed.num_rows
        """Number of videos and segments."""
        self.keys: Keys = listed["key"].to_numpy()
        """The key of each id, uint64."""

    def table(self, rows: int | None = None) -> pa.Table:
        """The first ``rows`` of them, or all, as a table of `VIDEOS`."""
        listed = self.listed.slice(0, rows)
        columns = [listed[name] if name in listed.column_names else self._made(name, listed["id"]) for name in VIDEOS.names]
        return pa.table(columns, schema=VIDEOS)

    def _made(self, name: str, ids: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
        if name == "uri":
            return pc.binary_join_element_wise(self.before, ids, "") if self.before else ids
        return pa.nulls(len(ids), VIDEOS.field(name).type)

    def drained(self, rows: int) -> Iterator[pa.Table]:
        """All of them, ``rows`` at a time, which are let go: afterwards none is left. A video's segments may be parted."""
        while self.listed.num_rows:
            some = self.table(rows)
            self.listed = self.listed.slice(rows)
            yield some

    def __getitem__(self, name: str) -> pa.ChunkedArray:
        """One column of them all."""
        return self.table()[name]


def list_videos(source: VideoSource, note: Note = _say_nothing, takes: tuple[PromptName, ...] = ()) -> Videos:
    """The job's videos, or segments of them, each once, in listed order, a video's segments together.

    ``note`` is called with each sentence that the user should read; ``takes`` is what the teacher takes beside frames, of which
    each row gets its `Prompt`. Raises `BadInput` if there is no video, or none has what the teacher takes, `Unreachable`.
    """
    notes: list[str] = []
    videos = _from_globs(source, note) if source.glob is not None else _from_lists(source, notes.append, takes)
    if not videos.num_rows:
        if source.mixture is None:
            require_bucket(source.manifest or source.globs[0])
        verb = "matches" if source.glob is not None else "lists"
        raise BadInput("; ".join([f"{source.origin} {verb} no video; needed at least one", *notes]))
    for sentence in notes:
        note(sentence)
    if not source.https and "uri" in videos.listed.column_names:
        _require_no_https(videos.listed["uri"], source.origin)
    videos = _expanded(videos, source, note)
    found = _each_once(videos, source)
    return _prompted(found, source, takes, note) if takes else found


def _each_once(videos: Videos, source: VideoSource) -> Videos:
    """The first row of each id. Raises `BadInput` if a later is of another video or segment, or has another prompt."""
    listed = videos.listed
    told_apart_by = [name for name in ("uri", "segment_start", "segment_end") if name in listed.column_names]
    # A mixture's ids are its paths as they are written.
    remedy = "give each its own id" if source.mixture is None else "give the sets one `video_root`, with a folder for each"
    once = distinct(listed, "id", told_apart_by, "two videos have the id", remedy)
    if once is not listed and "prompt" in listed.column_names:
        filled = listed.set_column(listed.column_names.index("prompt"), "prompt", pc.fill_null(listed["prompt"], Prompt().text))
        complaint = "two rows have different phrases or masks for the id"
        distinct(filled, "id", ["prompt"], complaint, "give all of them in one row, or each row its own id")
    return Videos(once, videos.before)


def _prompted(videos: Videos, source: VideoSource, takes: tuple[PromptName, ...], note: Note) -> Videos:
    """The videos with a prompt each. Raises `BadInput` if none has what the teacher takes first: the rest it can do without."""
    listed = videos.listed
    prompts = listed["prompt"] if "prompt" in listed.column_names else pa.chunked_array([pa.nulls(len(listed), pa.string())])
    prompts = pc.fill_null(prompts, Prompt().text)
    if source.phrases is not None and "phrases" in takes:
        with _local_copy(source.phrases) as copy:
            known, found = phrases_by_id(source.phrases, json_objects(copy, source.phrases))
        prompts = with_phrases(prompts, videos.keys, known, found)
    has = pc.match_substring(prompts, '"masks"') if takes[0] == "masks" else pc.not_equal(prompts, Prompt().text)
    if not pc.any(has).as_py():
        raise BadInput(
            f"the teacher takes {takes[0]} with frames, and {source.origin} has none. Give its rows a column `{takes[0]}`, or "
            "name theirs in `videos.columns`"
            + ("; or give a file of phrases as `videos.phrases`." if takes[0] == "phrases" else ".")
        )
    if lacking := videos.num_rows - pc.sum(has).as_py():
        note(f"{lacking} of {videos.num_rows} videos have no {takes[0]}")
    listed = listed.drop_columns("prompt") if "prompt" in listed.column_names else listed
    return Videos(listed.append_column("prompt", prompts), videos.before)


def _require_no_https(uris: pa.ChunkedArray, origin: str) -> None:
    asks = uris.filter(pc.starts_with(uris, "https://"))
    if len(asks):
        raise BadInput(
            f"{origin} lists {len(asks)} https:// URLs, such as {asks[0]}, which anyone may serve. "
            "If you trust them, set `videos.https: true`."
        )


def _expanded(videos: Videos, source: VideoSource, note: Note) -> Videos:
    """The videos in tars, and folders of pictures, in the place of these. Raises `BadInput` if none is left."""
    names = "uri" if "uri" in videos.listed.column_names else "id"  # an id ends as its uri does
    if not is_compound(videos.listed[names]).any():
        return videos
    dropped = Dropped()
    table, notes = expanded(videos.table(), source, dropped)
    notes += dropped.notes()
    if not table.num_rows:
        raise BadInput("; ".join(notes))
    for sentence in notes:
        note(sentence)
    return Videos(
        table.select([name for name in table.column_names if name == "id" or table[name].null_count < table.num_rows])
    )


# --- manifests and mixtures ---


@dataclass(frozen=True)
class _List:
    """One file that lists videos."""

    path: str
    format: ListFormat | None
    root: str
    """What relative uris start from."""
    before: str = ""
    """What precedes its ids."""


def _lists_of(source: VideoSource) -> Iterator[_List]:
    """The files of a manifest, or of the sets of a mixture. Raises `BadInput`."""
    if source.mixture is not None:
        for one in mixture_of(source.mixture).sets.values():
            for path in files_of(one.conversations):
                yield _List(path, "conversations", one.video_root[0] if one.video_root else path.rpartition("/")[0])
        return
    manifest = str(source.manifest)
    for path in _files_of(manifest):
        folder, before = path.rpartition("/")[0], "" if path == manifest else _below(path, manifest)
        yield _List(path, source.format, folder if source.root is None else source.root, before)


def _from_lists(source: VideoSource, note: Note, takes: tuple[PromptName, ...]) -> Videos:
    dropped, are_conversations = Dropped(), True
    tables: list[pa.Table] = []
    for one in _lists_of(source):
        with _local_copy(one.path) as copy:
            file = ListFile(copy, one.path, one.format, source.columns, takes, _whole(one.root), dropped)
            found = [_placed(table, _whole(one.root), one.before) for table in read_list(file)]
            of_conversations = format_of(file) == "conversations"
        are_conversations &= of_conversations
        if of_conversations and not any(table.num_rows for table in found):
            note(f"{one.path} is about images or text alone, or empty: a teacher has nothing to see in it")
        tables += found
    for sentence in dropped.notes():
        note(f"{source.manifest}: {sentence}")
    videos = pa.concat_tables([LISTED.empty_table(), *tables])
    if videos["segment_start"].null_count == videos.num_rows:
        _note_likely_times(source, dropped.kept, note)
    else:
        # So that one decoder opens a video once for all of its segments.
        of = pc.index_in(videos["uri"], pc.unique(videos["uri"])).to_numpy()
        videos = videos.take(pa.array(np.argsort(of, kind="stable")))
    videos = videos.select([name for name in videos.column_names if name == "id" or videos[name].null_count < videos.num_rows])
    listed = Videos(videos.append_column("key", pa.array(column_keys(videos["id"]))))
    once = _each_once(listed, source)
    if once.num_rows < listed.num_rows and not are_conversations:  # of which a video may have any number
        _, first = np.unique(listed.keys, return_index=True)
        again = listed["id"][int(np.setdiff1d(np.arange(listed.num_rows), first)[0])]
        note(
            f"{source.manifest}: {listed.num_rows - once.num_rows} rows list a video or segment that a row before them lists, "
            f"such as {again.as_py()!r}; they are left out, with what else they say"
        )
    return once


_LIKELY_TIME = re.compile(
    r"(?:(?:segment|clip|shot|time)[\W_]*)?(?:start|begin|end|stop)[\W_]*(?:times?|s|secs?|seconds?|ts|timestamp)?[\W_]*|t[\W_]?[01]",
    re.IGNORECASE,
)


def _note_likely_times(source: VideoSource, kept: Iterable[str], note: Note) -> None:
    """Notes what may have been meant as the segments' times, of a list in which none has one. ``kept``: its other columns."""
    for ours in ("start", "end"):
        if ours in source.columns:
            note(f"{source.manifest}: no row has a time in {source.columns[ours]!r}, which `videos.columns` says is the {ours}")
    if likely := [repr(name) for name in sorted(kept) if _LIKELY_TIME.fullmatch(name)]:
        note(
            f"{source.manifest}: whole videos are taught, and its columns {', '.join(likely)} are only kept for reading. If "
            "they are times of segments, in seconds, say so: `videos.columns: {start: …, end: …}`"
        )


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


def _whole(root: str) -> str:
    """The folder as it is named from anywhere: a store's readers, and workers on other machines, start elsewhere."""
    local = local_path(root)
    return root.rstrip("/") if local is None else str(local.absolute()).rstrip("/")


def _placed(listed: pa.Table, folder: str, before: str) -> pa.Table:
    """The rows with an id each, and uris that start from the list's folder."""
    uri = listed["uri"]
    # Avoids copying millions of texts if all ids are given, or none.
    ids = {0: listed["id"], listed.num_rows: _named(listed)}.get(listed["id"].null_count)
    ids = pc.coalesce(listed["id"], _named(listed)) if ids is None else ids
    if before:
        ids = pc.binary_join_element_wise(before, ids, "")
    is_absolute = pc.or_(pc.match_substring(uri, "://"), pc.starts_with(uri, "/"))
    if not pc.all(is_absolute).as_py():
        uri = pc.if_else(is_absolute, uri, pc.binary_join_element_wise(folder, uri, "/"))
    columns = {"uri": uri, "id": ids}
    return pa.table({name: columns.get(name, listed[name]) for name in LISTED.names}, schema=LISTED)


def _named(listed: pa.Table) -> pa.ChunkedArray:
    """Each row's uri, and for a segment its times: ``a.mp4@3-7.5``."""
    start, end = listed["segment_start"], listed["segment_end"]
    if start.null_count == listed.num_rows:
        return listed["uri"]
    times = pa.array(map(times_text, start.to_pylist(), end.to_pylist()), pa.string())
    return pc.if_else(pc.is_valid(start), pc.binary_join_element_wise(listed["uri"], times, "@"), listed["uri"])


# --- globs ---


def _from_globs(source: VideoSource, note: Note) -> Videos:
    found = [_from_glob(pattern, source.identity, note) for pattern in source.globs]
    base = _common([one.folder for one in found]) if source.root is None else f"{_whole(source.root)}/"
    columns = {"content_digest": [chunk for one in found for chunk in one.identities]}
    if not all(one.folder.startswith(base) for one in found):
        columns["uri"] = [pc.binary_join_element_wise(one.start, chunk, "") for one in found for chunk in one.names]
        if any(map(len, columns["uri"])) and not any(pc.any(pc.starts_with(chunk, base)).as_py() for chunk in columns["uri"]):
            raise BadInput(
                f"`videos.root` is {source.root}, and no video of {source.origin} is in it; needed a folder of theirs"
            )
    columns["id"] = [chunk for one in found for chunk in one.ids(base)]
    listed = pa.table({name: pa.chunked_array(chunks, pa.string()) for name, chunks in columns.items()})
    if listed["content_digest"].null_count == listed.num_rows:
        listed = listed.drop("content_digest")
    return Videos(listed.append_column("key", pa.array(column_keys(listed["id"]))), base)


def _common(folders: Sequence[str]) -> str:
    """What the folders have in common, to be left out of ids, which must not depend on where the videos are stored.

    Nothing, if they are in places of different kinds: then ids are whole paths and URLs.
    """
    common = os.path.commonprefix(folders)  # noqa: RUF071  # cut at a folder's end below; of places of two kinds, commonpath raises
    return common[: common.rfind("/") + 1]


@dataclass
class _Found:
    """What a pattern matches."""

    start: str
    """What precedes each name in its URL: ``s3://bucket/``; empty for a disk."""
    folder: str
    """The pattern's fixed folder: path or URL, with a ``/`` at its end."""
    names: list[pa.Array]
    identities: list[pa.Array]

    def ids(self, base: str) -> Iterator[pa.Array]:
        """The paths from ``base``, and whole what is elsewhere. Each array of names is let go: there may be gigabytes."""
        self.names.reverse()
        while self.names:
            names = self.names.pop()
            if self.folder.startswith(base) and len(base) >= len(self.start):
                yield pc.utf8_slice_codeunits(names, len(base) - len(self.start))
                continue
            uris = pc.binary_join_element_wise(self.start, names, "")
            yield pc.if_else(pc.starts_with(uris, base), pc.utf8_slice_codeunits(uris, len(base)), uris)


def _from_glob(pattern: str, kind: VideoIdentity, note: Note) -> _Found:
    return _folders(_matches(f"{pattern}*", "sampled", note)) if pattern.endswith("/") else _matches(pattern, kind, note)


def _folders(found: _Found) -> _Found:
    """The folders of the pictures among what was found."""
    inner = (name.rpartition("/") for chunk in found.names for name in chunk.to_pylist())
    names = list(dict.fromkeys(folder + slash for folder, slash, name in inner if is_picture(name)))
    return replace(found, names=[pa.array(names, pa.string())], identities=[pa.nulls(len(names), pa.string())])


def _matches(pattern: str, kind: VideoIdentity, note: Note) -> _Found:
    where = f"the glob {pattern}"
    if local_path(pattern):
        _, path = filesystem(pattern, is_pattern=True)
        names = _on_disk(path, note)
        try:
            column = pa.chunked_array([pa.array(names, pa.string())])
        except UnicodeEncodeError:  # a name that is not UTF-8
            require_keepable(names, where)
            raise
        require_all_keepable(column, where)
        return _Found("", _fixed_folder(path), column.chunks, [pa.nulls(len(names), pa.string())])
    require_openable(pattern, is_pattern=True)
    place, key = split(pattern)
    if _MAGIC.search(place) or protocol(pattern) not in BUCKETS:
        raise BadInput(f"{where} names no bucket to look in; needed one such as s3://bucket/raw/**/*.mp4")
    matching = glob_translate(key).removesuffix(r"\Z")
    found = listed(f"{place}/{_MAGIC.split(key)[0]}", f"^{matching}$")
    require_all_keepable(found["key"], where)
    nothing = [pa.nulls(found.num_rows, pa.string())]
    identities = found["identity"].chunks if kind == "listed" else nothing
    return _Found(f"{place}/", f"{place}/{_fixed_folder(key)}", found["key"].chunks, identities)


_MAGIC = re.compile(r"[*?\[]")


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
    """The folders before the first wildcard, with a ``/`` at their end."""
    fixed = _MAGIC.split(pattern)[0]
    return fixed[: fixed.rfind("/") + 1]
