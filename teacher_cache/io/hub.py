"""A URL in a data set of the Hugging Face Hub in; the objects under it out, for reading alone.

`huggingface_hub.HfFileSystem` lists an object's folder before it reads a range of it, and each shard has a folder of its own.
So this sends the range's request alone, by the same client, with the same token.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any, NamedTuple, NoReturn
from urllib.parse import quote, urlsplit

from schemas.errors import BadInput, first_line
from schemas.storage import HUB_IS_READ_ONLY, StorageOptions
from teacher_cache.io.backend import Found
from teacher_cache.io.patience import NotNow, is_passing
from teacher_cache.io.places import require_readable_on_the_hub
from teacher_cache.io.remote import CONNECT_SECONDS, NoBucket, read_seconds

_PIECE = 2**20

_MOST_KEPT = 16384
"""Places of objects that are kept: some kilobytes each."""


class _Commit(NamedTuple):
    """What a revision is when it is first asked for: a branch may move on, and an open store must not."""

    sha: str
    time: datetime


class Hub:
    """The objects under ``hf://datasets/USER/NAME[@REVISION][/PATH]``, at the commit that the revision names when first asked.

    The token is the environment's (``HF_TOKEN``) or the one of ``hf auth login``.
    """

    is_local = False
    sequential = False

    def __init__(self, url: str, options: StorageOptions) -> None:
        """Raises `BadInput` for another URL, or if huggingface_hub is not installed."""
        require_readable_on_the_hub(url)
        try:
            import huggingface_hub  # noqa: PLC0415  # an extra, and only for such a URL
        except ImportError:
            raise BadInput(f"to read {url} takes huggingface_hub: pip install 'p4d-cache[hub]'") from None
        self._url = url
        self._hub: Any = huggingface_hub
        try:
            self._place = huggingface_hub.parse_hf_uri(url)
        except ValueError as error:
            raise BadInput(f"cannot use {url}: {first_line(error)}") from None
        self._endpoint = (options.endpoint_url or huggingface_hub.constants.ENDPOINT).rstrip("/")
        self._token = False if options.anonymous else None
        self._kept: dict[str, str] = {}
        """Key → the signed URL that the Hub sent on to, which is good for about an hour. The Hub allows an account some
        thousand requests in five minutes; the servers behind it are asked for each chunk."""

    def get(self, key: str, most: int) -> bytes:
        return self._body(key, {}, most + 1)

    def get_range(self, key: str, start: int, stop: int) -> memoryview:
        with contextlib.suppress(_BeyondEnd):
            return memoryview(self._body(key, {"range": f"bytes={start}-{stop - 1}"}, stop - start, start))
        return memoryview(b"")

    def list(self, prefix: str) -> Iterator[Found]:
        """As the protocol says: one request for each thousand objects of the prefix's folder."""
        root = f"{self._place.path_in_repo}/".removeprefix("/")
        folder = quote(f"{root}{prefix.rpartition('/')[0]}".rstrip("/"), safe="")
        page: str | None = f"{self._api}/tree/{self._commit.sha}{f'/{folder}' if folder else ''}?recursive=true"
        while page:
            try:
                with self._answer(page) as answer:
                    found, page = answer.json(), answer.links.get("next", {}).get("url")
            except FileNotFoundError:  # the Hub has no empty folders
                return
            for about in found:
                key = about["path"].removeprefix(root)
                if about["type"] == "file" and key.startswith(prefix):
                    yield Found(key, int(about["size"]), self._commit.time)

    def modified(self, key: str) -> datetime:
        """As the protocol says: at the latest. The Hub tells only when the revision's last commit was made."""
        self._body(key, {}, 0)
        return self._commit.time

    def create(self, key: str, data: bytes) -> bool:  # noqa: ARG002  # as `Backend` has it
        self._refuse()

    def replace(self, key: str, data: bytes) -> None:  # noqa: ARG002
        self._refuse()

    def delete(self, keys: Sequence[str]) -> None:  # noqa: ARG002
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise BadInput(f"cannot write to {self._url}: {HUB_IS_READ_ONLY}")

    @property
    def _api(self) -> str:
        return f"{self._endpoint}/api/datasets/{self._place.id}"

    @cached_property
    def _commit(self) -> _Commit:
        revision = quote(self._place.revision or self._hub.constants.DEFAULT_REVISION, safe="")
        # Without `expand`, the answer has the name of every file.
        try:
            with self._answer(f"{self._api}/revision/{revision}?expand=sha&expand=lastModified") as answer:
                found = answer.json()
        except FileNotFoundError as error:
            raise NoBucket(str(error)) from None
        return _Commit(found["sha"], datetime.fromisoformat(found["lastModified"]))

    def _body(self, key: str, headers: Mapping[str, str], most: int, start: int = 0) -> bytes:
        """The first ``most`` bytes of an object from ``start`` on, where ``headers`` ask for them."""
        asked = {**headers, "accept-encoding": "identity"}
        if kept := self._kept.get(key):
            try:
                return self._body_at(key, kept, asked, most, start)
            except (FileNotFoundError, PermissionError):  # its time is over
                self._kept.pop(key, None)
        path = f"{self._place.path_in_repo}/{key}".removeprefix("/")
        url = f"{self._endpoint}/datasets/{self._place.id}/resolve/{self._commit.sha}/{quote(path)}"
        return self._body_at(key, url, asked, most, start)

    def _body_at(self, key: str, url: str, headers: Mapping[str, str], most: int, start: int) -> bytes:
        with self._answer(url, headers, stream=True) as answer:
            if urlsplit(str(answer.url)).netloc != urlsplit(self._endpoint).netloc:
                if len(self._kept) >= _MOST_KEPT:
                    self._kept.clear()
                self._kept[key] = str(answer.url)
            skipped = 0 if answer.status_code == 206 else start  # some servers send the whole
            pieces = bytearray()
            for piece in answer.iter_bytes(_PIECE):
                pieces += piece
                if len(pieces) >= skipped + most:
                    break
            return bytes(pieces[skipped : skipped + most])

    @contextlib.contextmanager
    def _answer(self, url: str, headers: Mapping[str, str] | None = None, *, stream: bool = False) -> Iterator[Any]:
        """A server's answer. Raises what `Backend` says, without the URLs that the Hub sends on to, which are signed."""
        errors = self._hub.errors
        in_transport = errors.HfHubHTTPError.__bases__[0]  # of whichever HTTP library this huggingface_hub uses
        token = self._token if url.startswith(f"{self._endpoint}/") else False  # for the Hub alone
        sent = self._hub.utils.build_hf_headers(token=token) | dict(headers or {})
        seconds = (CONNECT_SECONDS, read_seconds(), read_seconds(), None)
        try:
            client = self._hub.get_session()
            with client.stream("GET", url, headers=sent, timeout=seconds) as answer:
                self._hub.utils.hf_raise_for_status(answer)
                if answer.status_code not in {200, 206}:  # such as one that sends on to nowhere
                    raise OSError(f"{answer.status_code} {answer.reason_phrase}")
                if not stream:
                    answer.read()
                yield answer
        except errors.OfflineModeIsEnabled:
            raise OSError("HF_HUB_OFFLINE is set; unset it, or open a copy that `hf download` made") from None
        except errors.HfHubHTTPError as error:
            self._raise(error)
        except in_transport as error:
            raise NotNow(first_line(error)) from None

    def _raise(self, error: Any) -> NoReturn:
        status, errors = error.response.status_code, self._hub.errors
        told = f"{status} {error.server_message or error.response.reason_phrase}"
        if isinstance(error, errors.GatedRepoError | errors.DisabledRepoError):
            raise PermissionError(told) from None
        if isinstance(error, errors.RepositoryNotFoundError | errors.RevisionNotFoundError):
            raise NoBucket(told) from None
        if is_passing(status, ""):
            raise NotNow(told, status) from None
        if status in {401, 403}:
            raise PermissionError(told) from None
        kinds: dict[int, type[OSError]] = {404: FileNotFoundError, 416: _BeyondEnd}
        raise kinds.get(status, OSError)(told) from None


class _BeyondEnd(OSError):
    """A range begins beyond an object's end."""
