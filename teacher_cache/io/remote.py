"""Reaching files and stores anywhere fsspec goes, and saying plainly what is wrong where that fails."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import fsspec

from schemas.credentials import holds_credentials
from schemas.errors import BadInput, Unreachable
from teacher_cache.io.patience import NotNow, Patience, session

S3_CONNECT_SECONDS = 5
_S3_READ_SECONDS = 60

Result = TypeVar("Result")


def protocol(url: str) -> str:
    """Fsspec's name for a URL's protocol: ``file``, ``s3``, …."""
    scheme = urlsplit(url).scheme
    return "s3" if scheme == "s3a" else scheme or "file"


def storage_options(url: str) -> dict[str, Any]:
    """Options for fsspec. Credentials and endpoint come from the environment (``AWS_*``), never from us. Raises `BadInput`."""
    if protocol(url) != "s3":
        return {}
    _require_endpoints()
    return {
        "config_kwargs": {"connect_timeout": S3_CONNECT_SECONDS, "read_timeout": s3_read_seconds(), "retries": _NO_RETRIES},
        "use_listings_cache": False,
        # With more than one part at a time, s3fs asks for an object's length before it reads it, and for one that is not there
        # lists the folder too. Requests are billed, and a round trip each.
        "max_concurrency": 1,
    }


def _require_endpoints() -> None:
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        endpoint = os.environ.get(name)
        if endpoint and not endpoint.startswith(("http://", "https://")):
            raise BadInput(
                f"{name} is {endpoint!r}; needed a URL that begins with http:// or https://, such as http://{endpoint}"
            )


# `Patience` repeats requests.
_NO_RETRIES = {"mode": "standard", "total_max_attempts": 1}


def s3_read_seconds() -> float:
    """How long an S3 server may be silent before an answer, or in the middle of one, until the request is sent again."""
    return float(os.environ.get("P4D_S3_READ_SECONDS", _S3_READ_SECONDS))


def filesystem(url: str) -> tuple[Any, str]:
    """(fsspec filesystem, path in it). Raises `BadInput` for a kind of URL that is unknown, or that holds credentials."""
    refuse_credentials(url)
    try:
        fs, path = fsspec.url_to_fs(url, **storage_options(url))
    except (ImportError, ValueError) as error:
        raise BadInput(f"cannot use {url}: {error}") from None
    make_patient(fs)
    return fs, path


def make_patient(fs: Any) -> None:
    """Put S3 requests of an fsspec filesystem under `Patience`. Filesystems are shared: do it before each use of one."""
    if "s3" in fs.protocol:
        fs.retries = 1
        fs.session = fs.session or session()


def reach(url: str, operation: Callable[[], Result]) -> Result:
    """What an operation at a URL gives; it is tried again while it fails for a passing reason. Raises `Unreachable`."""
    with reachable(url):
        return Patience(url).ask(operation)


def reach_if_there(url: str, operation: Callable[[], Result]) -> Result | None:
    """As `reach`; None where the operation finds that what it wants is not there."""
    with reachable(url):
        try:
            return Patience(url).ask(operation)
        except FileNotFoundError as error:
            if _is_no_bucket(error):
                raise
            return None


def fetch(url: str, file: Path) -> bool:
    """Copy an object to a file on this machine; False where there is no such object. Raises `Unreachable`."""
    fs, path = filesystem(url)

    def copy() -> bool:
        fs.get_file(path, str(file))
        return True

    return reach_if_there(url, copy) is not None


def require_bucket(url: str) -> None:
    """Raise `Unreachable` where the URL's bucket does not exist: what is not found in it would say nothing.

    Some servers answer so only when they are asked for the bucket itself. One that may not be asked for counts as there.
    """
    if protocol(url) != "s3":
        return
    fs, path = filesystem(url)
    with contextlib.suppress(PermissionError):
        if reach_if_there(url, lambda: fs.call_s3("head_bucket", Bucket=fs.split_path(path)[0])) is None:
            raise Unreachable(_no_bucket(url))


def refuse_credentials(url: str) -> None:
    """Raise `BadInput` if a URL holds a key or is signed: what is stored and shown has the URL in it."""
    if holds_credentials(url):
        raise BadInput(
            f"the URL {url} holds credentials, and URLs are kept in stores and logs. Give it without them: the environment has "
            "them (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, …), and a signed URL has an s3:// one behind it."
        )


@contextlib.contextmanager
def reachable(url: str) -> Iterator[None]:
    """Turn what a filesystem raises into `Unreachable`, with URL and remedy. The server's own words hold no secret."""
    try:
        yield
    except PermissionError as error:
        raise Unreachable(f"access to {url} was refused: {_first_line(error)}. {_credentials_advice(url)}") from None
    except OSError as error:
        if _is_no_bucket(error):
            raise Unreachable(_no_bucket(url)) from None
        if isinstance(error, NotNow) and error.status is None:
            raise Unreachable(f"cannot reach {url}: {_first_line(error)}. {_advice(url)}") from None
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


def _is_no_bucket(error: OSError) -> bool:
    """Of S3's answer s3fs makes a `FileNotFoundError`, and obstore too."""
    answer = getattr(error.__cause__, "response", None) or {}
    return answer.get("Error", {}).get("Code") == "NoSuchBucket" or "<Code>NoSuchBucket</Code>" in str(error)


def _no_bucket(url: str) -> str:
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    where = f"at {endpoint}" if endpoint else "on AWS (AWS_ENDPOINT_URL is not set)"
    return (
        f"cannot use {url}: there is no bucket {urlsplit(url).netloc!r} {where}. Create it, or check its name and the endpoint."
    )


def _advice(url: str) -> str:
    if protocol(url) != "s3":
        return "Check that it exists, is writable and has room."
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "not set")
    return f"Check that the bucket exists, AWS_ENDPOINT_URL (now {endpoint}) and the AWS credentials in the environment."
