"""A path or URL in; whether it may be opened, and where it leads, out. One home for what the project opens at all.

URLs come from catalogs, manifests and conversations that other people wrote. fsspec would open any of its many protocols and
chains of them, some of which run code or read this machine's files.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from schemas.credentials import holds_credentials
from schemas.errors import BadInput

_SAME = {"s3a": "s3", "gcs": "gs", "abfs": "az", "abfss": "az", "local": "file"}
OPENED = ("file", "s3", "gs", "az", "https")
"""The protocols of places that are opened, as `protocol` names them."""
OPENED_URL = rf"^(?:{'|'.join((*OPENED, *_SAME))})://(?:[^?#:]|:[^?#:])*$"
"""A regular expression, also for RE2, that holds for no URL that `require_openable` refuses, but for those with credentials."""
HUB = "hf"
"""The protocol of the Hugging Face Hub, from which stores are read, and nothing else is opened."""


def protocol(url: str) -> str:
    """One name for each of a URL's protocols: ``file``, ``s3``, ``gs``, ``az``, ``https``, …."""
    scheme, separator, _ = url.partition("://")
    return _SAME.get(scheme, scheme) if separator else "file"


def local_path(url: str) -> Path | None:
    """The path on this machine that a path or a ``file://`` URL names; None for a place elsewhere."""
    return Path(url.partition("://")[2] if "://" in url else url) if protocol(url) == "file" else None


class Member(NamedTuple):
    """A file inside of a tar: bytes [start, start + size) of it."""

    place: str
    """Path or URL of the tar."""
    name: str
    """Its name in the tar."""
    start: int
    size: int

    @property
    def uri(self) -> str:
        """What names it: ``s3://bucket/x.tar#0001.mp4@1536+204800``."""
        return f"{self.place}#{self.name}@{self.start}+{self.size}"


class Pictures(NamedTuple):
    """The numbered pictures in a folder, as frames of a video."""

    place: str
    """Path or URL of the folder, with a ``/`` at its end."""
    fps: float
    """How many of them are shown a second."""

    @property
    def uri(self) -> str:
        """What names them: ``frames/bear/#24fps``."""
        return f"{self.place}#{self.rate}"

    @property
    def rate(self) -> str:
        """``24fps``."""
        return f"{repr(self.fps).removesuffix('.0')}fps"


_MEMBER = re.compile(r"(.+\.tar)#(.+)@(\d{1,18})\+(\d{1,18})", re.DOTALL)
_PICTURES = re.compile(r"(.+/)#(\d{1,9}(?:\.\d{1,18})?)fps", re.DOTALL)


def inside(uri: str) -> Member | Pictures | None:
    """What of a file or folder is the video that a URI names; None if that is a file of its own."""
    if "#" not in uri:
        return None
    if found := _MEMBER.fullmatch(uri):
        return Member(found[1], found[2], int(found[3]), int(found[4]))
    if (found := _PICTURES.fullmatch(uri)) and float(found[2]):
        return Pictures(found[1], float(found[2]))
    return None


def member_named(uri: str) -> tuple[str, str] | None:
    """The tar and the name in it that a URI of a list names, without saying where it lies: ``x.tar#0001.mp4``."""
    place, mark, name = uri.partition(".tar#")
    return (f"{place}.tar", name) if place and mark and name else None


def name_without_range(uri: str) -> str:
    """The URI as a list or a conversation names the video."""
    part = inside(uri)
    return f"{part.place}#{part.name}" if isinstance(part, Member) else part.place.rstrip("/") if part else uri


def require_openable(url: str, *, is_pattern: bool = False) -> None:
    """Raise `BadInput` for a URL of another protocol, with a chain, a query or a fragment, or with credentials.

    In a pattern of a glob, a ``?`` stands for any character. A fragment may name a member of a tar, or a folder's pictures.
    """
    if "://" not in url:
        return
    _require_no_credentials(url)
    if "::" in url or protocol(url) not in OPENED:
        raise BadInput(
            f"cannot use {url}: a place is a local path, or an s3://, gs://, az:// or, where it says so, https:// URL; "
            "other protocols, and chains of them, are not opened"
        )
    place = part.place if (part := inside(url)) else (member_named(url) or (url,))[0]
    if "#" in place or ("?" in url and not is_pattern):
        raise BadInput(f"cannot use {url}: a URL with a query (?) or a fragment (#) is not opened. Give it without.")


def require_readable_on_the_hub(url: str) -> None:
    """Raise `BadInput` for a URL that is not in a data set of the Hub, or has credentials, a chain, a query or a fragment."""
    _require_no_credentials(url)
    rest = url.removeprefix(f"{HUB}://datasets/")
    if rest == url or any(mark in rest for mark in ("::", "?", "#")) or not _leads_down(url):
        raise BadInput(f"cannot use {url}: on the Hub, a store lies at hf://datasets/USER/NAME/PATH or …/NAME@REVISION/PATH")


def _require_no_credentials(url: str) -> None:
    if holds_credentials(url):
        raise BadInput(
            f"the URL {url} holds credentials, or a query or fragment that may, and URLs are kept in stores and logs. Give it "
            "without them, instead of a signed URL its s3:// URL, and put credentials in the environment (AWS_ACCESS_KEY_ID, "
            "AWS_SECRET_ACCESS_KEY, …)."
        )


def is_utf8(text: str) -> bool:
    """Whether a text can be written: JSON can hold half a character, such as an emoji's, which no file or tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True)
class Roots:
    """The folders and URLs that a user lets videos and images be read from; none from anywhere else.

    Paths come from stores, conversations and benchmarks, whose authors need not be trusted with this machine's files, or with
    what its credentials open.
    """

    roots: tuple[str, ...]
    setting: str
    """What gives them, for messages: ``data.video_root``, ``--videos``."""

    def find(self, path: str) -> str:
        """Where to read ``path``, which starts from the first root unless it is absolute or a URL.

        For a local file that is its real path, with all links followed. Raises `BadInput` if it is under none of the roots.
        """
        if "\0" in path or not is_utf8(path):
            raise BadInput(f"{path!a} is no path: no file's name has a NUL, or half a character")
        if "://" not in path and not path.startswith("/") and self.roots:
            path = f"{self.roots[0].rstrip('/')}/{path}"
        require_openable(path)
        if part := inside(path):
            return part._replace(place=self._folder(part) if isinstance(part, Pictures) else self.find(part.place)).uri
        local = local_path(path)
        found = path if local is None else os.path.realpath(local)
        if any(_is_under(found, root) for root in self.roots):
            return found
        led = f", a link to {found}," if local is not None and found != str(local.absolute()) else ""
        given = f"are {', '.join(self.roots)}" if self.roots else "are not given"
        raise BadInput(
            f"{path}{led} is not under the folders and URLs that may be read, which {given} ({self.setting}). "
            f"If you trust what lies there, add {found.rpartition('/')[0] or '/'} to {self.setting}."
        )

    def _folder(self, pictures: Pictures) -> str:
        folder = self.find(pictures.place.rstrip("/"))
        if (local := local_path(folder)) is not None and local.is_dir():
            for picture in local.iterdir():
                self.find(str(picture))  # one may be a link
        return f"{folder}/"


def _is_under(path: str, root: str) -> bool:
    """``path`` is a real path or a URL."""
    base = local_path(root)
    if base is not None:
        return path.startswith(os.path.realpath(base).rstrip("/") + "/")
    return _parts(path)[: len(_parts(root))] == _parts(root) and _leads_down(path)


def _parts(url: str) -> list[str]:
    """Protocol, bucket or host, and the parts of the path."""
    return [protocol(url), *url.partition("://")[2].rstrip("/").split("/")]


def _leads_down(url: str) -> bool:
    """Whether no part of the URL leads up again, also not once a server has decoded it."""
    parts = (unquote(part) if protocol(url) == "https" else part for part in _parts(url)[2:])
    return not any(part in {".", ".."} or "/" in part or "\\" in part for part in parts)
