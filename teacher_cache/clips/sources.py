"""A manifest or a glob in, a table of videos with ids out."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from schemas.credentials import holds_credentials
from schemas.errors import BadInput
from schemas.job import VideoSource
from teacher_cache.clips.tables import VIDEOS, column_keys, distinct, keys_of
from teacher_cache.io.places import OPENED_URL, require_openable
from teacher_cache.io.remote import filesystem, reach, reach_if_there, require_bucket
from teacher_cache.io.request_counts import VIDEO_REQUESTS, counting


def list_videos(source: VideoSource) -> pa.Table:
    """The job's videos, each once, in listed order: a table of `VIDEOS`. Raises `BadInput` if there is none, `Unreachable`."""
    videos = _from_manifest(source.manifest) if source.manifest is not None else _from_glob(str(source.glob))
    if not videos.num_rows:
        require_bucket(str(source.manifest or source.glob))
        origin = f"the manifest {source.manifest} lists" if source.manifest else f"the glob {source.glob} matches"
        raise BadInput(f"{origin} no video; needed at least one")
    if not source.https:
        _require_no_https(videos["uri"], str(source.manifest or source.glob))
    return distinct(videos, "id", "uri", "two videos have the id")


def _require_no_https(uris: pa.ChunkedArray, origin: str) -> None:
    asks = uris.filter(pc.starts_with(uris, "https://"))
    if len(asks):
        raise BadInput(
            f"{origin} lists {len(asks)} https:// URLs, such as {asks[0]}, which anyone may serve. "
            "If you trust them, set `videos.https: true`."
        )


def _from_manifest(path: str) -> pa.Table:
    fs, location = filesystem(path)

    def read() -> tuple[pa.Table | None]:
        with fs.open(location, "rb") as file:
            return (_parsed(file),)

    with counting(VIDEO_REQUESTS, fs):
        found = reach_if_there(path, read)
    if found is None:
        require_bucket(path)
        raise BadInput(f"there is no manifest {path}")
    listed = found[0]
    if listed is None or not _is_well_formed(listed):
        with counting(VIDEO_REQUESTS, fs):
            data = reach(path, lambda: bytes(fs.cat_file(location)))
        listed = _line_by_line(data, path)
    folder = path.rpartition("/")[0]
    uri = listed["uri"]
    # Avoids copying millions of texts if all ids are given, or none.
    ids = {0: listed["id"], listed.num_rows: uri}.get(listed["id"].null_count)
    ids = pc.coalesce(listed["id"], uri) if ids is None else ids
    is_absolute = pc.or_(pc.match_substring(uri, "://"), pc.starts_with(uri, "/"))
    if folder and not pc.all(is_absolute).as_py():
        uri = pc.if_else(is_absolute, uri, pc.binary_join_element_wise(folder, uri, "/"))
    return pa.table([ids, uri, column_keys(ids)], schema=VIDEOS)


_MANIFEST = pa.schema({"uri": pa.string(), "id": pa.string()})


def _parsed(file: BinaryIO) -> pa.Table | None:
    """The lines as a table, millions in seconds. None for a malformed manifest; `_line_by_line` then finds the bad line."""
    # No threads: with torch loaded, Arrow's I/O threads sometimes abort the process when it exits.
    reading = pj.ReadOptions(use_threads=False, block_size=1 << 24)
    parsing = pj.ParseOptions(explicit_schema=_MANIFEST, unexpected_field_behavior="error")
    try:
        table = pj.read_json(file, read_options=reading, parse_options=parsing)
        table.validate(full=True)
    except pa.ArrowInvalid:
        return None
    return table


# Matches an empty text, and any that `require_keepable` might refuse.
_SUSPICIOUS = r"^$|://.*(?:[@?#;]|%40)|[\x00-\x1f\x7f]|\xc2[\x80-\x9f]"


def _is_well_formed(listed: pa.Table) -> bool:
    suspects = (pc.match_substring_regex(column.cast(pa.binary()), _SUSPICIOUS) for column in listed.columns)
    if listed["uri"].null_count or any(pc.any(suspect).as_py() for suspect in suspects):
        return False
    urls = listed["uri"].filter(pc.match_substring(listed["uri"], "://"))
    return pc.all(pc.match_substring_regex(urls, OPENED_URL)).as_py() is not False


def _line_by_line(data: bytes, path: str) -> pa.Table:
    """Parse slowly, to name the line that is wrong. Raises `BadInput`."""
    try:
        lines = data.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise BadInput(f"cannot read the manifest {path}: {error}") from None
    values = [_manifest_line(line, f"{path}, line {n}") for n, line in enumerate(lines, start=1) if line.strip()]
    return pa.Table.from_pylist(values, schema=_MANIFEST)


def _manifest_line(line: str, where: str) -> dict[str, str]:
    try:
        value = json.loads(line)
    except ValueError:
        raise BadInput(f'{where}: needed one JSON object, {{"uri": …}}; found {line[:80]!r}') from None
    if not isinstance(value, dict) or not isinstance(value.get("uri"), str) or not value["uri"]:
        raise BadInput(f'{where}: needed an object with a text "uri"; found {line[:80]!r}')
    if unknown := value.keys() - {"uri", "id"}:
        raise BadInput(f'{where}: unknown key {min(unknown)!r}; a line has "uri" and, if wanted, "id"')
    name = value.get("id", value["uri"])
    if not isinstance(name, str) or not name:
        raise BadInput(f'{where}: needed a text "id"; found {name!r}')
    require_keepable((value["uri"], name), where)
    try:
        require_openable(value["uri"])
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from None
    return value


def require_keepable(texts: Iterable[str], where: str) -> None:
    """Raises `BadInput` for a URI or id with credentials or control characters, or not in UTF-8: a catalog cannot keep it."""
    for text in texts:
        if holds_credentials(text):
            raise BadInput(
                f"{where}: the URL {text} holds credentials, or a query or fragment that may, and the store would keep them. "
                "Use a URL and an id without them, such as the s3:// URL behind a signed one; credentials belong in the "
                "environment (AWS_*)."
            )
        if any(unicodedata.category(c) in {"Cc", "Cs"} for c in text):
            raise BadInput(f"{where}: {text!a} has control characters, or is not UTF-8; give the video another name")


def _from_glob(pattern: str) -> pa.Table:
    fs, path = filesystem(pattern, is_pattern=True)
    with counting(VIDEO_REQUESTS, fs):
        found = reach(pattern, lambda: sorted(fs.glob(path, detail=True).values(), key=lambda info: info["name"]))
    base = _fixed_folder(path)
    names = [info["name"] for info in found if info["type"] == "file"]
    require_keepable(names, f"the glob {pattern}")
    uris = [str(fs.unstrip_protocol(name)).removeprefix("file://") for name in names]
    ids = [name.removeprefix(base) for name in names]
    return pa.table([pa.array(ids, pa.string()), pa.array(uris, pa.string()), keys_of(ids)], schema=VIDEOS)


def _fixed_folder(pattern: str) -> str:
    """The folders before the first wildcard, to be left out of ids, which must not depend on where the videos are stored."""
    parts = PurePosixPath(pattern).parts
    fixed: list[str] = []
    for part in parts[:-1]:
        if any(c in part for c in "*?["):
            break
        fixed.append(part)
    return f"{PurePosixPath(*fixed)}/" if fixed else ""
