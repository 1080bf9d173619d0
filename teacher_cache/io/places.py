"""A path or URL in; whether it may be opened, and where it leads, out. One home for what the project opens at all.

URLs come from catalogs, manifests and conversations that other people wrote. fsspec would open any of its many protocols and
chains of them, some of which run code or read this machine's files.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from schemas.credentials import holds_credentials
from schemas.errors import BadInput

_SAME = {"s3a": "s3", "gcs": "gs", "abfs": "az", "abfss": "az", "local": "file"}
OPENED = ("file", "s3", "gs", "az", "https")
"""The protocols of places that are opened, as `protocol` names them."""
OPENED_URL = rf"^(?:{'|'.join((*OPENED, *_SAME))})://(?:[^?#:]|:[^?#:])*$"
"""A regular expression, also for RE2, that holds for no URL that `require_openable` refuses, but for those with credentials."""


def protocol(url: str) -> str:
    """One name for each of a URL's protocols: ``file``, ``s3``, ``gs``, ``az``, ``https``, …."""
    scheme, separator, _ = url.partition("://")
    return _SAME.get(scheme, scheme) if separator else "file"


def local_path(url: str) -> Path | None:
    """The path on this machine that a path or a ``file://`` URL names; None for a place elsewhere."""
    return Path(url.partition("://")[2] if "://" in url else url) if protocol(url) == "file" else None


def require_openable(url: str, *, is_pattern: bool = False) -> None:
    """Raise `BadInput` for a URL of another protocol, with a chain, a query or a fragment, or with credentials.

    In a pattern of a glob, a ``?`` stands for any character.
    """
    if "://" not in url:
        return
    if holds_credentials(url):
        raise BadInput(
            f"the URL {url} holds credentials, or a query or fragment that may, and URLs are kept in stores and logs. Give it "
            "without them, instead of a signed URL its s3:// URL, and put credentials in the environment (AWS_ACCESS_KEY_ID, "
            "AWS_SECRET_ACCESS_KEY, …)."
        )
    if "::" in url or protocol(url) not in OPENED:
        raise BadInput(
            f"cannot use {url}: a place is a local path, or an s3://, gs://, az:// or, where it says so, https:// URL; "
            "other protocols, and chains of them, are not opened"
        )
    if "#" in url or ("?" in url and not is_pattern):
        raise BadInput(f"cannot use {url}: a URL with a query (?) or a fragment (#) is not opened. Give it without.")


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
        if "://" not in path and not path.startswith("/") and self.roots:
            path = f"{self.roots[0].rstrip('/')}/{path}"
        require_openable(path)
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
