"""A folder of numbered pictures in, on a disk or in a bucket; one file that holds them all, as a video's frames, out.

The file is for a decoder, which is handed one descriptor and opens nothing else: `PACKED_PICTURES`, the length of a JSON header
(8 bytes, little-endian), the header ``{"fps": …, "pictures": [[name, bytes], …]}``, and the pictures, one after the other.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import PurePosixPath
from typing import NamedTuple

from schemas.errors import VideoError
from teacher_cache.clips.ranges import read_part
from teacher_cache.clips.video import PACKED_PICTURES
from teacher_cache.io.local_copy import filled, require_room, write_all
from teacher_cache.io.places import Pictures, local_path
from teacher_cache.io.remote import filesystem, reach_if_there
from teacher_cache.io.request_counts import VIDEO_REQUESTS, counting

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm"})
"""What the names of pictures end in."""

_THREADS = 16
_AT_ONCE = 256
"""Pictures that are fetched before they are written, so that a long folder is never in memory as a whole."""
_NO_URL = re.compile("[#?]")
_NUMBER = re.compile(r"(\d+)\D*$")


class Picture(NamedTuple):
    """A file of a folder."""

    name: str
    size: int
    etag: str
    """Empty on disks, and where a server gives none."""


def listed_pictures(folder: str) -> list[Picture] | None:
    """The pictures in a folder whose names have a number, in the order of the last number in each. None if there is no folder.

    Raises `Unreachable`.
    """
    fs, path = filesystem(folder)

    def look() -> list[Picture]:
        return [
            Picture(
                PurePosixPath(about["name"]).name, int(about["size"] or 0), str(about.get("ETag") or about.get("etag") or "")
            )
            for about in fs.ls(path.rstrip("/"), detail=True)
            if about["type"] != "directory"
        ]

    with counting(VIDEO_REQUESTS, fs, "list"):
        found = reach_if_there(folder, look)
    if found is None:
        return None
    is_remote = local_path(folder) is None  # where a URL with a query or fragment is not opened
    pictures = [one for one in found if is_picture(one.name) and not (is_remote and _NO_URL.search(one.name))]
    return sorted(pictures, key=lambda one: (numbered(one.name), one.name))


def is_picture(name: str) -> bool:
    """Whether a file's name is that of a numbered picture."""
    path = PurePosixPath(name)
    return name.isprintable() and path.suffix.lower() in SUFFIXES and _NUMBER.search(path.stem) is not None


def numbered(name: str) -> int:
    """The last number in a picture's name, which `is_picture` holds for."""
    found = _NUMBER.search(PurePosixPath(name).stem)
    assert found is not None
    return int(found[1])


def pictures_identity(video: Pictures) -> str | None:
    """``etag:BYTES:SHA256@24fps`` of all names, sizes and ETags, by one listing; as `pictures_digest` where there are no ETags.

    None if there is no folder.
    """
    pictures = listed_pictures(video.place)
    if pictures is None or not all(one.etag for one in pictures):
        return pictures_digest(video)
    return f"etag:{sum(one.size for one in pictures)}:{_sha256(pictures).hexdigest()}@{video.rate}"


def pictures_digest(video: Pictures) -> str | None:
    """``sampled-sha256:HEX@24fps`` of all names and sizes, and of the first, middle and last picture; None without a folder."""
    pictures = listed_pictures(video.place)
    if pictures is None:
        return None
    digest = _sha256([one._replace(etag="") for one in pictures])
    for number in sorted({0, len(pictures) // 2, len(pictures) - 1} if pictures else ()):
        digest.update(read_part(video.place + pictures[number].name, 0, pictures[number].size)[0])
    return f"sampled-sha256:{digest.hexdigest()}@{video.rate}"


def _sha256(pictures: Sequence[Picture]) -> hashlib._Hash:
    return hashlib.sha256("".join(f"{one.name}\0{one.size}\0{one.etag}\n" for one in pictures).encode())


def packed(video: Pictures) -> int:
    """A descriptor of a file with the pictures of a folder. Raises `VideoError`, `Unreachable`, `NoRoom`."""
    pictures = listed_pictures(video.place)
    if pictures is None:
        raise VideoError("video_missing", f"there is no folder {video.place}")
    _require_even_steps(pictures)
    header = json.dumps({"fps": video.fps, "pictures": [[one.name, one.size] for one in pictures]}).encode()

    def fill(file: int) -> bool:
        require_room(video.uri, sum(one.size for one in pictures))
        write_all(video.uri, file, PACKED_PICTURES + len(header).to_bytes(8, "little") + header)
        with ThreadPoolExecutor(_THREADS) as threads:
            for start in range(0, len(pictures), _AT_ONCE):
                for data in threads.map(lambda one: _whole(video.place, one), pictures[start : start + _AT_ONCE]):
                    write_all(video.uri, file, data)
        return True

    file = filled(fill)
    assert file is not None
    return file


def _whole(folder: str, picture: Picture) -> bytes:
    data, length = read_part(folder + picture.name, 0, picture.size)
    if length != picture.size:
        raise VideoError("decode_error", f"{picture.name} was listed with {picture.size} bytes, and has {length} now")
    return data


def _require_even_steps(pictures: Sequence[Picture]) -> None:
    """Raises `VideoError` where a picture lacks, or two have one number: the frames would not be those of even times."""
    if not pictures:
        raise VideoError("no_frames", f"the folder holds no picture ({', '.join(sorted(SUFFIXES))}) whose name has a number")
    steps = [numbered(after.name) - numbered(before.name) for before, after in pairwise(pictures)]
    least = max(min(steps, default=1), 1)
    for (before, after), step in zip(pairwise(pictures), steps, strict=True):
        if step != least:
            found = f"{before.name} is followed by {after.name}"
            raise VideoError("pictures_misnumbered", f"{found}; needed one picture every {least} numbers, and no two of one")
