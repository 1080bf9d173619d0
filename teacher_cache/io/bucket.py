"""A URL at S3, GCS or Azure in; the objects under it out, through obstore (object_store in Rust)."""

from __future__ import annotations

import contextlib
import html
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

import botocore.session
import obstore
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import NoCredentialsError
from obstore.exceptions import AlreadyExistsError, BaseError, InvalidPathError, PermissionDeniedError, UnauthenticatedError
from obstore.store import AzureStore, GCSStore, S3Store

from schemas.errors import Unreachable
from schemas.storage import DEFAULT_STORAGE, StorageOptions
from teacher_cache.io.backend import Found, Scratch
from teacher_cache.io.patience import NotNow, is_passing, share_service_data
from teacher_cache.io.places import protocol
from teacher_cache.io.remote import CONNECT_SECONDS, NoBucket, read_seconds, require_endpoints

if TYPE_CHECKING:
    from obstore.store import ClientConfig, S3Credential

Client = S3Store | GCSStore | AzureStore

BUCKETS = ("s3", "gs", "az")
"""Protocols of `Bucket`, as `teacher_cache.io.places.protocol` names them."""

# obstore returns a body in one block of fresh memory. Beyond this length, the allocator takes such blocks from the kernel and
# returns them each time, and zeroing their pages costs more than copying out of small pieces.
IN_ONE_PIECE = 16 * 2**20
_PIECE = 2**20

_SENT_PER_SECOND = 2**20
"""Bytes a second of the slowest upload that is not given up: of a shard of 400 MB, some seven minutes."""

_WHOLE_BODY = timedelta(hours=1)
"""A body that is read may take long as long as it makes progress."""

_PER_PAGE = 1000

# botocore renews temporary credentials at least ten minutes before they expire.
_CREDENTIALS_LAST = timedelta(minutes=10)

_STATUS = re.compile(r"status code: (\d+)([\w ]*)")
_CODE = re.compile(r"<Code>(\w+)</Code>|\(code: (\w+)\)")  # the second is of one key among several to delete
_MESSAGE = re.compile(r"<Message>(.*?)</Message>|\"message\": ?\"(.*?)\"", re.DOTALL)
_REGION = re.compile(r"<Region>([\w-]+)</Region>")
_NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|specified bucket does not exist")


_USED_IN: set[int] = set()
"""The process that made the first client. obstore's threads are its alone."""


def forked_since() -> bool:
    """Whether this process was forked from one that had made a client: then a `Bucket` would wait for ever."""
    return bool(_USED_IN) and os.getpid() not in _USED_IN


class Bucket:
    """The objects under a URL. Credentials come from the environment: for S3 as botocore reads it, otherwise as obstore does.

    Errors hold the server's own words, not obstore's, which quote the request.
    """

    is_local = False
    sequential = False

    def __init__(self, url: str, options: StorageOptions) -> None:
        self._url, self._options = url, options
        self._scratch = Scratch()
        self._senders: dict[int, Client] = {}

    @cached_property
    def _maker(self) -> partial[Any]:
        _USED_IN.add(os.getpid())
        with _final_errors():
            return _maker(self._url, self._options)

    def _made(self, retries: int = 0, **about: timedelta) -> Client:
        """A client. `Patience` retries an operation, so most do not."""
        with _final_errors():
            options = self._maker.keywords["client_options"] | about
            client: Client = self._maker(retry_config={"max_retries": retries}, client_options=options)
            return client

    @cached_property
    def _client(self) -> Client:
        return self._made()

    @cached_property
    def patient_client(self) -> Client:
        """A client that sends each request again that fails for a transient reason.

        A listing is one operation of many requests, and one failure must not begin it anew.
        """
        return self._made(retries=5)

    def _sender(self, length: int) -> Client:
        """A client to send so many bytes with. Its server may be silent for as long as they take over a slow link.

        For reqwest, below obstore, all the time of a body that is being sent is silence, whatever progress it makes.
        """
        if length <= _SENT_PER_SECOND:
            return self._client
        size = 1 << (length - 1).bit_length()  # few clients for all lengths: each has connections of its own
        if size not in self._senders:
            seconds = timedelta(seconds=read_seconds() + size / _SENT_PER_SECOND)
            self._senders[size] = self._made(read_timeout=seconds, timeout=_WHOLE_BODY + seconds)
        return self._senders[size]

    def get(self, key: str, most: int) -> bytes:
        client = self._client
        with self._plain_errors():
            found = obstore.get(client, key)
            return found.bytes().to_bytes() if found.meta["size"] <= most else _cut(found, most + 1)

    def get_range(self, key: str, start: int, stop: int) -> memoryview:
        client = self._client
        try:
            with self._plain_errors():
                if stop - start <= IN_ONE_PIECE:
                    return memoryview(obstore.get_range(client, key, start=start, end=stop))
                return self._streamed(client, key, start, stop)
        except _BeyondEnd:
            return memoryview(b"")

    def head(self, key: str) -> tuple[int, str]:
        """An object's length, and its ETag, empty if its server gives none."""
        client = self._client
        with self._plain_errors():
            found = obstore.head(client, key)
            return found["size"], found["e_tag"] or ""

    def get_part(self, key: str, start: int, stop: int) -> tuple[bytes, int]:
        """Bytes [start, stop) of an object, fewer at its end, and its length; 0 if ``start`` is beyond it."""
        client = self._client
        try:
            with self._plain_errors():
                found = obstore.get(client, key, options={"range": (start, stop)})
                return found.bytes().to_bytes(), found.meta["size"]
        except _BeyondEnd:
            return b"", 0

    def _streamed(self, client: Client, key: str, start: int, stop: int) -> memoryview:
        buffer = self._scratch.take(stop - start)
        filled = 0
        for piece in obstore.get(client, key, options={"range": (start, stop)}).stream(min_chunk_size=_PIECE):
            buffer[filled : filled + len(piece)] = piece
            filled += len(piece)
        return buffer[:filled]

    def create(self, key: str, data: bytes) -> bool:
        client = self._sender(len(data))
        try:
            with self._plain_errors():
                obstore.put(client, key, data, mode="create", use_multipart=False)
        except FileExistsError:
            return False
        return True

    def replace(self, key: str, data: bytes) -> None:
        client = self._sender(len(data))
        with self._plain_errors():
            obstore.put(client, key, data, use_multipart=False)

    def list(self, prefix: str) -> Iterator[Found]:
        """As the protocol says. Folders' placeholders, which consoles and some servers make, are left out."""
        client = self.patient_client
        folder, _, name = prefix.rpartition("/")
        # obstore lists whole folders. An offset saves the pages before the prefix.
        offset = prefix[:-1] if len(name) > 1 else None
        with self._plain_errors():
            for page in obstore.list(client, folder or None, offset=offset, chunk_size=_PER_PAGE):
                for about in page:
                    key = about["path"]
                    if key and key.startswith(prefix) and (about["size"] or self.is_object(key)):
                        yield Found(key, about["size"], about["last_modified"])

    def pages(self, folder: str, after: str = "") -> Iterator[Any]:
        """All that lies in a folder and below it, after a key: record batches (path, size, e_tag), as the server's pages.

        It may begin earlier than ``after``, unless that `is_asked_for_as_it_is`. Raises `UnlistableKey` at the page of a key
        that obstore refuses.
        """
        client = self.patient_client
        while not is_asked_for_as_it_is(after):
            after = after[:-1]
        with self._plain_errors():
            yield from obstore.list(client, folder or None, offset=after or None, chunk_size=_PER_PAGE, return_arrow=True)

    def is_object(self, key: str) -> bool:
        """Whether a listed key of no bytes is an object, not a placeholder ``KEY/``: obstore's listing omits the slash."""
        with contextlib.suppress(FileNotFoundError):
            return obstore.head(self.patient_client, key)["e_tag"] is not None
        return False

    def delete(self, keys: Sequence[str]) -> None:
        client = self._client
        with self._plain_errors():
            try:
                obstore.delete(client, list(keys))
            except FileNotFoundError:  # Azure and GCS say so, and may have left out others
                for key in keys:
                    with contextlib.suppress(FileNotFoundError):
                        obstore.delete(client, key)

    def modified(self, key: str) -> datetime:
        client = self._client
        with self._plain_errors():
            return obstore.head(client, key)["last_modified"]

    @contextlib.contextmanager
    def _plain_errors(self) -> Iterator[None]:
        """Turn obstore's errors into those of the protocol."""
        try:
            yield
        except InvalidPathError as error:
            raise UnlistableKey(_last_part(str(error))) from None
        except (BaseError, FileNotFoundError) as error:
            self._raise(error)

    def _raise(self, error: Exception) -> NoReturn:
        text = str(error).partition("\n\nDebug source")[0]
        status = _STATUS.search(text)
        number = int(status[1]) if status else None
        found, message = _CODE.search(text), _MESSAGE.search(text)
        code = found[1] or found[2] if found else ""
        told = html.unescape(message[1] or message[2]) if message else (status[1] + status[2] if status else _last_part(text))
        if "redirect without LOCATION" in text or code == "AuthorizationHeaderMalformed":
            region = _REGION.search(text)
            raise Unreachable(self._other_region(region[1] if region else self._region_told())) from None
        if _NO_BUCKET.search(text):
            raise NoBucket(told) from None
        if is_passing(number, code) or (number is None and "HTTP error" in text):
            raise NotNow(told, number) from None
        # obstore takes any 409 for this, but it may also be about a lease, or a container that is being deleted.
        if isinstance(error, AlreadyExistsError) and (number == 412 or "AlreadyExists" in code):
            raise FileExistsError(told) from None
        if isinstance(error, PermissionDeniedError | UnauthenticatedError) or number in {401, 403} or code == "AccessDenied":
            raise PermissionError(told) from None
        if isinstance(error, FileNotFoundError) or number == 404:
            raise FileNotFoundError(told) from None
        is_beyond = number == 416 or "Wanted range starting at" in text  # obstore's words, where a server gave an empty range
        raise (_BeyondEnd if is_beyond else OSError)(told) from None

    def _region_told(self) -> str | None:
        """The bucket's region, as the server says it to anyone; None if it does not."""
        endpoint = self._client.config.get("endpoint") or self._client.config.get("aws_endpoint_url")
        request = urllib.request.Request(f"{endpoint}/{urlsplit(self._url).netloc}", method="HEAD")  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=CONNECT_SECONDS) as answer:  # noqa: S310  # http or https
                return str(answer.headers.get("x-amz-bucket-region") or "") or None
        except urllib.error.HTTPError as error:
            return error.headers.get("x-amz-bucket-region")
        except OSError:
            return None

    def _other_region(self, region: str | None) -> str:
        asked = self._client.config.get("region")
        lies = f"the region {region}" if region else "another region"
        return (
            f"cannot use {self._url}: its bucket lies in {lies}, and it was asked for in {asked}. "
            f"Set AWS_DEFAULT_REGION{f'={region}' if region else ''}, or `region` in the storage options, to its region."
        )


def _cut(found: obstore.GetResult, length: int) -> bytes:
    """The first bytes of a body. The rest is not fetched."""
    pieces, missing = [], length
    for piece in found.stream(min_chunk_size=_PIECE):
        pieces.append(bytes(memoryview(piece)[:missing]))
        missing -= len(pieces[-1])
        if not missing:
            break
    return b"".join(pieces)


def shared_bucket(place: str) -> Bucket:
    """The connection to a bucket that this process keeps, since it takes longer to make than to use."""
    return _shared(place, os.environ.get("AWS_ENDPOINT_URL"), os.environ.get("AWS_ACCESS_KEY_ID"))


@lru_cache(maxsize=16)
def _shared(place: str, _endpoint: str | None, _access: str | None) -> Bucket:
    return Bucket(place, DEFAULT_STORAGE)


class UnlistableKey(ValueError):
    """A key with an empty part, one that is a dot, or a control character: obstore's paths have none."""


_ESCAPED = re.compile(r"""[\x00-\x1f\x7f\\{}^%`\]\[">~<#|*?]|(?:^|/)\.{0,2}(?:/|$)""")


def is_asked_for_as_it_is(key: str) -> bool:
    """Whether obstore sends just that key: it escapes some characters. The empty one, for the start, counts as well."""
    return not key or _ESCAPED.search(key) is None


class _BeyondEnd(OSError):
    """A range begins beyond an object's end."""


def _last_part(text: str) -> str:
    """The part of obstore's message that says what is wrong."""
    return re.sub(r"^(Generic \w+ error: |.*credential provider: (\w+: )?)", "", text.splitlines()[0].rpartition(" - ")[2])


@contextlib.contextmanager
def _final_errors() -> Iterator[None]:
    """While a client is made: what obstore says about its settings is not transient."""
    try:
        yield
    except BaseError as error:
        raise OSError(_last_part(str(error))) from None


def _maker(url: str, options: StorageOptions) -> partial[Any]:
    place, kind = urlsplit(url), protocol(url)
    about: ClientConfig = {
        "allow_http": True,  # if the endpoint's URL says so
        "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
        "read_timeout": timedelta(seconds=read_seconds()),
        "timeout": _WHOLE_BODY,
    }
    where: dict[str, Any] = {"prefix": place.path.strip("/") or None, "client_options": about}
    if options.anonymous:
        where["skip_signature"] = True
    if kind == "s3":
        return partial(S3Store, place.netloc, **where | _s3(options, about))
    if kind == "gs":
        return partial(GCSStore, place.netloc, **where | _gcs(options))
    # obstore reads AZURE_…: account, key, identity, AZURE_STORAGE_USE_EMULATOR.
    return partial(AzureStore, place.netloc, **where | ({"endpoint": options.endpoint_url} if options.endpoint_url else {}))


def _s3(options: StorageOptions, about: ClientConfig) -> dict[str, Any]:
    """The endpoint, region and credentials that botocore finds, as for every other AWS client. Raises `BadInput`."""
    if not options.endpoint_url:
        require_endpoints()
    session = botocore.session.Session(profile=options.profile)
    share_service_data(session)
    unsigned = Config(signature_version=UNSIGNED) if options.anonymous else None
    found = session.create_client("s3", region_name=options.region, endpoint_url=options.endpoint_url, config=unsigned).meta
    if bundle := session.get_config_variable("ca_bundle"):
        about["root_certificate"] = Path(bundle).read_bytes()
    place = {"endpoint": found.endpoint_url, "region": found.region_name or "us-east-1"}
    return place if options.anonymous else place | {"credential_provider": _Credentials(session)}


class _Credentials:
    """A session's credentials for obstore. botocore renews them (profiles, SSO, roles)."""

    def __init__(self, session: botocore.session.Session) -> None:
        self._found = session.get_credentials()
        if self._found is None:
            raise NoCredentialsError

    def __call__(self) -> S3Credential:
        now = self._found.get_frozen_credentials()
        return {
            "access_key_id": now.access_key,
            "secret_access_key": now.secret_key,
            "token": now.token,
            "expires_at": datetime.now(UTC) + _CREDENTIALS_LAST,
        }


def _gcs(options: StorageOptions) -> dict[str, Any]:
    """Application default credentials; or an emulator, found by its usual variable, which obstore does not read."""
    if options.endpoint_url:
        return {"base_url": options.endpoint_url}
    emulator = os.environ.get("STORAGE_EMULATOR_HOST")
    if not emulator:
        return {}
    # obstore asks for a token to write with, whether it signs or not; an emulator takes any.
    return {"base_url": emulator if "://" in emulator else f"http://{emulator}", "bearer_token": "emulator"}
