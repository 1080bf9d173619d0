"""Reaching files and stores anywhere fsspec goes, and saying plainly what is wrong where that fails."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import fsspec

from schemas.credentials import holds_credentials
from schemas.errors import BadInput, Unreachable

# aiobotocore's own patience (60 s to connect, 5 tries, and s3fs tries that 5 times again) would keep a wrong endpoint
# silent for minutes.
S3_CONNECT_SECONDS, S3_READ_SECONDS, S3_ATTEMPTS = 5, 60, 3
_S3_CONFIG = {
    "connect_timeout": S3_CONNECT_SECONDS,
    "read_timeout": S3_READ_SECONDS,
    "retries": {"mode": "standard", "max_attempts": S3_ATTEMPTS},
}
# With more than one part at a time, s3fs asks for an object's length before each GET, and opens a long one once more than it
# reads it; for an object that is not there it lists the folder too. Requests are billed, and a round trip each.
_S3_OPTIONS = {"config_kwargs": _S3_CONFIG, "use_listings_cache": False, "max_concurrency": 1}


def protocol(url: str) -> str:
    """Fsspec's name for the kind of place: ``file``, ``s3``, …."""
    scheme = urlsplit(url).scheme
    return "s3" if scheme == "s3a" else scheme or "file"


def storage_options(url: str) -> dict[str, Any]:
    """Options for fsspec. Credentials and endpoint come from the environment (``AWS_*``), never from us."""
    return _S3_OPTIONS if protocol(url) == "s3" else {}


def filesystem(url: str) -> tuple[Any, str]:
    """(fsspec filesystem, path in it). Raises `BadInput` for a kind of URL that is unknown, or that holds credentials."""
    refuse_credentials(url)
    try:
        fs, path = fsspec.url_to_fs(url, **storage_options(url))
    except (ImportError, ValueError) as error:
        raise BadInput(f"cannot use {url}: {error}") from None
    return fs, path


def refuse_credentials(url: str) -> None:
    """Raise `BadInput` if a URL holds a key or is signed: what is stored and shown has the URL in it."""
    if holds_credentials(url):
        raise BadInput(
            f"the URL {url} holds credentials, and URLs are kept in stores and logs. Give it without them: the environment has "
            "them (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, …), and a signed URL has an s3:// one behind it."
        )


@contextlib.contextmanager
def reachable(url: str) -> Iterator[None]:
    """Turn what a filesystem raises into `Unreachable`, with place and remedy. The server's own words hold no secret."""
    try:
        yield
    except PermissionError as error:
        raise Unreachable(f"access to {url} was refused: {_first_line(error)}. {_credentials_advice(url)}") from None
    except OSError as error:
        raise Unreachable(f"cannot use {url}: {_first_line(error)}. {_advice(url)}") from None
    except Exception as error:
        if not type(error).__module__.startswith(("botocore", "aiobotocore", "aiohttp")):
            raise
        raise Unreachable(f"cannot reach {url}: {_first_line(error)}. {_advice(url)}") from None


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__


def _credentials_advice(url: str) -> str:
    if protocol(url) != "s3":
        return "Check who may read and write there."
    return (
        "Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and their rights there: "
        "reading takes s3:GetObject and s3:ListBucket, a run s3:PutObject too, and gc s3:DeleteObject."
    )


def _advice(url: str) -> str:
    if protocol(url) != "s3":
        return "Check that the place exists, is writable and has room."
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "not set")
    return f"Check that the bucket exists, AWS_ENDPOINT_URL (now {endpoint}) and the AWS credentials in the environment."
