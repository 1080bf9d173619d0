"""A URL in, its fsspec filesystem or a result out; failures become one clear `Unreachable` or `BadInput`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from urllib.parse import urlsplit

import fsspec

from schemas.errors import BadInput, Unreachable, first_line
from schemas.storage import DEFAULT_STORAGE, StorageOptions
from teacher_cache.io.patience import NotNow, Patience, passing_reason, session
from teacher_cache.io.places import protocol, require_openable

CONNECT_SECONDS = 5
_READ_SECONDS = 60

Result = TypeVar("Result")


class Refused(Unreachable):
    """A server does not allow what was asked of it."""


class NoBucket(FileNotFoundError):
    """An object is missing because its bucket (on Azure: its container) is."""


def _options(url: str, options: StorageOptions) -> dict[str, Any]:
    """Options for fsspec. Credentials come only from the environment (``AWS_*``). Raises `BadInput`."""
    place = protocol(url)
    if place == "https":
        return {"get_client": _https_client}
    given: dict[str, Any] = {"endpoint_url": options.endpoint_url} if options.endpoint_url else {}
    if options.anonymous:
        given |= {"token": "anon"} if place == "gs" else {"anon": True}
    if place != "s3":
        return given
    if not options.endpoint_url:
        require_endpoints()
    given |= {"profile": options.profile} if options.profile else {}
    given |= {"client_kwargs": {"region_name": options.region}} if options.region else {}
    return given | {
        "config_kwargs": {"connect_timeout": CONNECT_SECONDS, "read_timeout": read_seconds(), "retries": _NO_RETRIES},
        "use_listings_cache": False,
        # With concurrency, s3fs requests an object's length before it reads it, and lists the folder of a missing one. Each
        # request is billed and costs a round trip.
        "max_concurrency": 1,
    }


async def _https_client(**options: Any) -> Any:
    """An aiohttp session that refuses to be sent on to a place that is not https, such as a cloud's metadata service."""
    import aiohttp  # noqa: PLC0415  # fsspec needs it for https alone

    async def require_https(_session: Any, _context: Any, sent: Any) -> None:
        if sent.url.join(type(sent.url)(sent.response.headers.get("Location", ""))).scheme != "https":
            raise PermissionError(f"{sent.url} sends on to a place that is not https")

    tracing = aiohttp.TraceConfig()
    tracing.on_request_redirect.append(require_https)
    return aiohttp.ClientSession(trace_configs=[tracing], **options)


def require_endpoints() -> None:
    """Raise `BadInput` if a variable with the endpoint of S3 holds no URL."""
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        endpoint = os.environ.get(name)
        if endpoint and not endpoint.startswith(("http://", "https://")):
            raise BadInput(
                f"{name} is {endpoint!r}; needed a URL that begins with http:// or https://, such as http://{endpoint}"
            )


# `Patience` retries requests.
_NO_RETRIES = {"mode": "standard", "total_max_attempts": 1}


def read_seconds() -> float:
    """Read timeout in seconds: how long a server may be silent before the request is retried."""
    return float(os.environ.get("P4D_S3_READ_SECONDS", _READ_SECONDS))


def filesystem(url: str, *, is_pattern: bool = False, options: StorageOptions = DEFAULT_STORAGE) -> tuple[Any, str]:
    """(fsspec filesystem, path in it). Raises `BadInput` for a URL that is not opened: see `teacher_cache.io.places`."""
    require_openable(url, is_pattern=is_pattern)
    try:
        fs = fsspec.filesystem(protocol(url), **_options(url, options))  # never of a chain, unlike `fsspec.url_to_fs`
    except (ImportError, ValueError) as error:
        raise BadInput(f"cannot use {url}: {error}") from None
    make_patient(fs, options.profile)
    return fs, fs._strip_protocol(url)  # noqa: SLF001  # fsspec's own way


def make_patient(fs: Any, profile: str | None = None) -> None:
    """Put an fsspec filesystem's S3 requests under `Patience`. fsspec shares filesystems, so call it before each use."""
    if "s3" in fs.protocol:
        fs.retries = 1
        fs.session = fs.session or session(profile)


def reach(url: str, operation: Callable[[], Result], endpoint: str | None = None) -> Result:
    """The result of an operation at a URL, retried while it fails for a transient reason. Raises `Unreachable`.

    ``endpoint`` is the server's URL, if the environment does not say it.
    """
    with reachable(url, endpoint):
        return Patience(url, endpoint).ask(operation)


def reach_if_there(url: str, operation: Callable[[], Result], endpoint: str | None = None) -> Result | None:
    """As `reach`; None if the operation raises `FileNotFoundError`. A missing bucket, and silence, is `Unreachable`."""
    with reachable(url, endpoint):
        try:
            return Patience(url, endpoint).ask(operation)
        except FileNotFoundError as error:
            if _is_no_bucket(error) or passing_reason(error):  # over https, fsspec raises it for any failure
                raise
            return None


def require_bucket(url: str) -> None:
    """Raise `Unreachable` if the URL's bucket does not exist, which some servers tell only if asked for the bucket itself.

    A bucket that these credentials may not ask for counts as existing: a policy may grant one prefix of it alone.
    """
    if protocol(url) != "s3":
        return
    fs, path = filesystem(url)

    def ask() -> bool:
        with contextlib.suppress(PermissionError):
            fs.call_s3("head_bucket", Bucket=fs.split_path(path)[0])
        return True

    if reach_if_there(url, ask) is None:
        raise Unreachable(_no_bucket(url))


@contextlib.contextmanager
def reachable(url: str, endpoint: str | None = None) -> Iterator[None]:
    """Turn a filesystem's errors into `Unreachable`, with URL and remedy. Servers' error texts contain no secrets."""
    try:
        yield
    except PermissionError as error:
        raise Refused(f"access to {url} was refused: {first_line(error)}. {_credentials_advice(url)}") from None
    except OSError as error:
        if _is_no_bucket(error):
            raise Unreachable(_no_bucket(url, endpoint)) from None
        if (isinstance(error, NotNow) and error.status is None) or (
            isinstance(error, FileNotFoundError) and passing_reason(error)
        ):
            raise Unreachable(f"cannot reach {url}: {passing_reason(error)}. {_advice(url, endpoint)}") from None
        raise Unreachable(f"cannot use {url}: {first_line(error)}. {_advice(url, endpoint)}") from None
    except Exception as error:
        if not type(error).__module__.startswith(("botocore", "aiobotocore", "aiohttp")):
            raise
        raise Unreachable(f"cannot reach {url}: {first_line(error)}. {_advice(url, endpoint)}") from None


_RIGHTS = {
    "s3": "Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and their rights there: "
    "reading needs s3:GetObject and s3:ListBucket, a run also s3:PutObject, and gc s3:DeleteObject.",
    "gs": "Check GOOGLE_APPLICATION_CREDENTIALS, or what `gcloud auth application-default login` gave, and their rights there: "
    "reading needs storage.objects.get and .list, a run also storage.objects.create, and gc storage.objects.delete.",
    "az": "Check the AZURE_* variables (the account's name, and a key, token or identity) and their rights there: "
    "reading needs the role Storage Blob Data Reader, a run and gc Storage Blob Data Contributor.",
    "hf": "Log in with `hf auth login`, or set HF_TOKEN to a token that may read it; of a gated data set, accept the "
    "conditions on its page first.",
}


def _credentials_advice(url: str) -> str:
    return _RIGHTS.get(protocol(url), "Check its permissions.")


def _is_no_bucket(error: OSError) -> bool:
    """Whether the bucket is missing. s3fs reports that as any missing file."""
    answer = getattr(error.__cause__, "response", None) or {}
    return isinstance(error, NoBucket) or answer.get("Error", {}).get("Code") == "NoSuchBucket"


def _no_bucket(url: str, endpoint: str | None = None) -> str:
    if protocol(url) == "hf":
        return (
            f"cannot use {url}: the Hub has no such data set or revision, or it is private. Check its name; for a private one, "
            "log in with `hf auth login`, or set HF_TOKEN."
        )
    name = urlsplit(url).netloc
    if protocol(url) != "s3":
        return f"cannot use {url}: there is no bucket or container {name!r}. Create it, or check its name and the account."
    endpoint = endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    where = f"at {endpoint}" if endpoint else "on AWS (AWS_ENDPOINT_URL is not set)"
    return f"cannot use {url}: there is no bucket {name!r} {where}. Create it, or check its name and the endpoint."


def _advice(url: str, endpoint: str | None) -> str:
    match protocol(url):
        case "s3":
            known = f"`endpoint_url` (now {endpoint})" if endpoint else f"AWS_ENDPOINT_URL (now {_environment_endpoint()})"
            return f"Check that the bucket exists, {known} and the AWS credentials in the environment."
        case "gs":
            return "Check that the bucket exists, and the Google application default credentials."
        case "az":
            return "Check that the container exists, AZURE_STORAGE_ACCOUNT_NAME and the other AZURE_* variables."
        case "hf":
            known = endpoint or os.environ.get("HF_ENDPOINT", "https://huggingface.co")
            return f"Check the network, and that the Hub answers at {known} (HF_ENDPOINT). `hf download` makes a local copy."
        case "https":
            return "Check the address, and that its server answers."
    return "Check that it exists, is writable and has room."


def _environment_endpoint() -> str:
    return os.environ.get("AWS_ENDPOINT_URL", "not set")
