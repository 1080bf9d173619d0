"""Which videos a job is about: a manifest or a glob → videos with ids, and a digest of each one's content."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from schemas.clip import Video
from schemas.credentials import holds_credentials
from schemas.errors import BadInput
from schemas.job import VideoSource
from teacher_cache.remote import filesystem, reachable

_BLOCK = 64 * 1024
_READERS = 16


def list_videos(source: VideoSource) -> list[Video]:
    """The job's videos, each once, in the order they are listed. Raises `BadInput` if there is none."""
    videos = _from_manifest(source.manifest) if source.manifest is not None else _from_glob(str(source.glob))
    by_id: dict[str, Video] = {}
    for video in videos:
        first = by_id.setdefault(video.id, video)
        if first.uri != video.uri:
            raise BadInput(f"two videos have the id {video.id!r}: {first.uri} and {video.uri}; give each its own id")
    if not by_id:
        place = f"the manifest {source.manifest} lists" if source.manifest else f"the glob {source.glob} matches"
        raise BadInput(f"{place} no video; needed at least one")
    return list(by_id.values())


def _from_manifest(path: str) -> Iterator[Video]:
    try:
        fs, place = filesystem(path)
        lines = _read_whole(fs, place, path).decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise BadInput(f"cannot read the manifest {path}: {error}") from None
    folder = path.rpartition("/")[0]
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield _manifest_line(line, f"{path}, line {number}", folder)


def _read_whole(fs: Any, place: str, path: str) -> bytes:
    with reachable(path):
        try:
            return bytes(fs.cat_file(place))
        except FileNotFoundError:
            raise BadInput(f"there is no manifest {path}") from None


def _manifest_line(line: str, where: str, folder: str) -> Video:
    try:
        value = json.loads(line)
    except ValueError:
        raise BadInput(f'{where}: needed one JSON object, {{"uri": …}}; found {line[:80]!r}') from None
    if not isinstance(value, dict) or not isinstance(value.get("uri"), str) or not value["uri"]:
        raise BadInput(f'{where}: needed an object with a text "uri"; found {line[:80]!r}')
    if unknown := value.keys() - {"uri", "id"}:
        raise BadInput(f'{where}: unknown key {min(unknown)!r}; a line has "uri" and, if wanted, "id"')
    uri, name = value["uri"], value.get("id", value["uri"])
    if not isinstance(name, str) or not name:
        raise BadInput(f'{where}: needed a text "id"; found {name!r}')
    is_absolute = "://" in uri or uri.startswith("/")
    return _video(uri if is_absolute or not folder else f"{folder}/{uri}", name, where)


def _video(uri: str, name: str, where: str) -> Video:
    """Raises `BadInput` for a uri or an id that a catalog cannot or must not keep."""
    if holds_credentials(uri) or holds_credentials(name):
        raise BadInput(
            f"{where}: the URL {uri} holds credentials, and the store would keep them. Give one without, such as the "
            "s3:// URL behind a signed one, and an id without them; the environment has the credentials (AWS_*)."
        )
    if unnameable := [text for text in (uri, name) if any(unicodedata.category(c) in {"Cc", "Cs"} for c in text)]:
        raise BadInput(f"{where}: {unnameable[0]!a} has control characters, or is not UTF-8; give the video another name")
    return Video(uri=uri, id=name)


def _from_glob(pattern: str) -> Iterator[Video]:
    fs, path = filesystem(pattern)
    with reachable(pattern):
        found = sorted(fs.glob(path, detail=True).values(), key=lambda info: info["name"])
    base = _fixed_folder(path)
    for info in found:
        if info["type"] == "file":
            uri = str(fs.unstrip_protocol(info["name"])).removeprefix("file://")
            yield _video(uri, info["name"].removeprefix(base), f"the glob {pattern}")


def _fixed_folder(pattern: str) -> str:
    """The folders before the first wildcard, so that ids do not hold where the videos happen to lie."""
    parts = PurePosixPath(pattern).parts
    fixed: list[str] = []
    for part in parts[:-1]:
        if any(c in part for c in "*?["):
            break
        fixed.append(part)
    return f"{PurePosixPath(*fixed)}/" if fixed else ""


def content_digests(videos: Iterable[Video], advance: Callable[[int], None] = lambda _: None) -> dict[str, str | None]:
    """Video id → `content_digest`, read side by side; None where there is none."""
    listed = list(videos)
    with ThreadPoolExecutor(_READERS) as readers:
        found: dict[str, str | None] = {}
        for video, digest in zip(listed, readers.map(lambda v: content_digest(v.uri), listed), strict=True):
            found[video.id] = digest
            advance(1)
        return found


def content_digest(uri: str) -> str | None:
    """``sampled-sha256:<hex>`` over a file's length and its first, middle and last 64 KiB; None if there is no such file.

    Hashing terabytes whole would take longer than teaching them. Length and three blocks tell apart any two videos
    that encoders make; a file altered by hand in its middle only can escape.
    """
    fs, path = filesystem(uri)
    with reachable(uri):
        try:
            length = int(fs.info(path)["size"])
            blocks = [fs.cat_file(path, start=start, end=stop) for start, stop in _sampled(length)]
        except FileNotFoundError:
            return None
    digest = hashlib.sha256(length.to_bytes(8, "little"))
    for block in blocks:
        digest.update(block)
    return f"sampled-sha256:{digest.hexdigest()}"


def _sampled(length: int) -> list[tuple[int, int]]:
    """Half-open byte ranges to hash of a file of that length; the whole of a short one."""
    if length <= 3 * _BLOCK:
        return [(0, length)] if length else []
    return [(start, start + _BLOCK) for start in (0, (length - _BLOCK) // 2, length - _BLOCK)]


def local_path(uri: str) -> Path | None:
    """The path of a video on this machine's disk, or None for one that must be fetched."""
    return Path(uri.removeprefix("file://")) if "://" not in uri or uri.startswith("file://") else None
