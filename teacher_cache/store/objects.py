"""A store's objects: keys in, bytes out; created once, read, listed and deleted the same way on a disk, S3, GCS and Azure;
read alone on the Hugging Face Hub.

Creation is atomic: an exclusive hard link on a disk, a conditional request elsewhere (S3: ``PutObject`` with
``If-None-Match: *``). It never leaves a half-written object behind. `Objects` adds to a `Backend` the check of keys, the count
of requests, retries and errors for people.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from typing import NamedTuple, TypeVar

from fsspec.implementations.local import LocalFileSystem
from zarr.storage import LocalStore, ObjectStore

from schemas.errors import BadInput, CouldNotRun
from schemas.log import LARGEST_OBJECT
from schemas.storage import DEFAULT_STORAGE, Requests, StorageOptions
from teacher_cache.io.backend import Backend, Found
from teacher_cache.io.bucket import BUCKETS, Bucket, Client, forked_since
from teacher_cache.io.disk import Disk
from teacher_cache.io.forked import ForkedBucket
from teacher_cache.io.hub import Hub
from teacher_cache.io.places import HUB, protocol, require_openable
from teacher_cache.io.remote import reach, reach_if_there
from teacher_cache.io.request_counts import RequestCounts

# Objects fetched at once.
_AT_ONCE = 32

# S3's own numbers: keys in one page of a listing, and in one request to delete.
_PER_PAGE = _PER_DELETE = 1000

Result = TypeVar("Result")


class Listed(NamedTuple):
    """What a listing says about an object."""

    length: int
    """In bytes."""
    modified: datetime
    """When the server last wrote it, by the server's clock; with a time zone."""


def backend_of(url: str, options: StorageOptions) -> Backend:
    """The client for a URL. Raises `BadInput` if no store can lie there, or the options are not for such a place."""
    place = protocol(url)
    if place not in {"file", *BUCKETS, HUB}:
        raise BadInput(f"cannot use {url}: a store lies in a folder on a disk, or at an s3://, gs://, az:// or hf:// URL")
    if place != HUB:
        require_openable(url)
    if place == "file" and options != DEFAULT_STORAGE:
        raise BadInput(f"storage options are for stores on a server, and {url} is on a disk; leave them out")
    if place != "s3" and (options.region or options.profile):
        raise BadInput(f"the storage options `region` and `profile` are for S3, and {url} is elsewhere; leave them out")
    if place == HUB:
        return Hub(url, options)
    if place == "file":
        return Disk(LocalFileSystem._strip_protocol(url))  # noqa: SLF001  # fsspec's own way
    return ForkedBucket(url, options) if forked_since() else Bucket(url, options)


class Objects:
    """The objects under one root.

    Keys are relative, with ``/`` between parts. Picklable: a copy in another process opens its own connection.
    Every method raises `Unreachable` if the server refuses the credentials, or does not answer within the limits of `Patience`.
    A key that leads out of the root is `BadInput`.
    """

    def __init__(self, url: str, options: StorageOptions | None = None) -> None:
        self.url, self.options = _normal(url), options or DEFAULT_STORAGE
        self._backend = backend_of(self.url, self.options)
        self._counts = RequestCounts()

    def __reduce__(self) -> tuple[type[Objects], tuple[str, StorageOptions]]:
        return Objects, (self.url, self.options)

    @property
    def is_local(self) -> bool:
        """Whether the objects are files on a local or mounted disk."""
        return self._backend.is_local

    def take_requests(self) -> Requests:
        """Requests since the last call: one for each operation, and one for each 1000 keys of a listing, as S3 bills them.

        A retried request counts once. On a disk: the requests that S3 would have received instead.
        """
        return self._counts.take()

    def _reach(self, operation: Callable[[], Result]) -> Result:
        return reach(self.url, operation, self.options.endpoint_url)

    def _reach_if_there(self, operation: Callable[[], Result]) -> Result | None:
        return reach_if_there(self.url, operation, self.options.endpoint_url)

    def _require_inside(self, key: str) -> None:
        if key.startswith("/") or ".." in key.split("/"):
            raise BadInput(f"the key {key!r} leads out of the store {self.url}")

    def _require_sendable(self, key: str, data: bytes) -> None:
        self._require_inside(key)
        if len(data) > LARGEST_OBJECT:
            raise BadInput(
                f"{key} of {self.url} would be {len(data):,} bytes long, and one object holds at most {LARGEST_OBJECT:,}; "
                "give the job a smaller `layout.clips_per_shard`, or a coarser encoding"
            )

    def create(self, key: str, data: bytes) -> bool:
        """Create an object unless it exists. Atomic; on a disk it survives a loss of power. True: this call created it.

        False: an object is there. If an earlier answer to this very call was lost, it may be this call's; who cares compares.
        """
        self._require_sendable(key, data)
        self._counts.add("put")
        return self._reach(lambda: self._backend.create(key, data))

    def replace(self, key: str, data: bytes) -> None:
        """Overwrite an object. Only for objects that can be derived again at any time, such as an array's metadata."""
        self._require_sendable(key, data)
        self._counts.add("put")
        self._reach(lambda: self._backend.replace(key, data))

    def get(self, key: str, most: int = LARGEST_OBJECT) -> bytes | None:
        """The object's bytes, or None if there is no such object.

        Of an object longer than ``most`` bytes, only one more than that are fetched: enough to fail the check of its content,
        however much lies there.
        """
        self._require_inside(key)
        self._counts.add("get")
        return self._reach_if_there(lambda: self._backend.get(key, most))

    def get_many(self, keys: Sequence[str], most: int = LARGEST_OBJECT) -> dict[str, bytes]:
        """Key → bytes as `get` gives them, fetched concurrently. Missing objects are left out."""
        if len(keys) < 2 or self._backend.sequential:
            found = {key: self.get(key, most) for key in keys}
            return {key: data for key, data in found.items() if data is not None}
        with ThreadPoolExecutor(min(_AT_ONCE, len(keys)), thread_name_prefix="objects") as threads:
            found = dict(zip(keys, threads.map(partial(self.get, most=most), keys), strict=True))
        return {key: data for key, data in found.items() if data is not None}

    def get_range(self, key: str, start: int, stop: int) -> memoryview | None:
        """Bytes [start, stop) of an object, fewer if it ends earlier, or None if there is no such object.

        The memory is valid until the same thread's next `get_range`; copy it to keep it.
        """
        self._require_inside(key)
        self._counts.add("get")
        return self._reach_if_there(lambda: self._backend.get_range(key, start, stop))

    def listing(self, prefix: str = "") -> dict[str, Listed]:
        """The objects whose keys begin with ``prefix``, which need not be a folder; sorted by key. Never cached."""
        self._require_inside(prefix)
        found: list[Found] = self._reach(lambda: sorted(self._backend.list(prefix)))
        self._counts.add("list", max(1, math.ceil(len(found) / _PER_PAGE)))
        return {about.key: Listed(about.length, about.modified) for about in found}

    def modified(self, key: str) -> datetime | None:
        """When the object was last written, by the server's clock; None if there is no such object."""
        self._require_inside(key)
        self._counts.add("get")
        return self._reach_if_there(lambda: self._backend.modified(key))

    def delete_many(self, keys: Sequence[str]) -> None:
        """Delete objects, in as few requests as the server allows. Those that do not exist are no error."""
        for key in keys:
            self._require_inside(key)
        for start in range(0, len(keys), _PER_DELETE):
            some = keys[start : start + _PER_DELETE]
            self._reach(partial(self._backend.delete, some))

    def require_bucket(self) -> None:
        """Raise `Unreachable` if the bucket does not exist, which some servers tell only if they are asked to list it.

        A bucket that these credentials may not list counts as existing.
        """

        def ask() -> None:
            with contextlib.suppress(PermissionError):
                next(iter(self._backend.list("zarr.json")), None)

        if not self.is_local:
            self._counts.add("list")
            self._reach(ask)

    def zarr_store(self) -> ObjectStore[Client] | LocalStore:
        """A read-only Zarr store over the same objects, for Zarr's own reader."""
        match self._backend:
            case Disk(root=root):
                return LocalStore(root, read_only=True)
            case Bucket(patient_client=client):
                return ObjectStore(client, read_only=True)
        raise BadInput(f"Zarr has no store for {self.url}")


def probe_create_if_absent(objects: Objects, key: str, data: bytes) -> None:
    """Create an object twice and raise `CouldNotRun` unless the place refuses the second.

    Give an object that every store holds alike, such as a group's metadata: the probe then leaves nothing to delete, for which
    a run needs no right, and does no harm where the place does not keep create-if-absent.
    """
    objects.create(key, data)
    if objects.create(key, data):
        raise CouldNotRun(
            f"cannot keep a store at {objects.url}: its server ignores If-None-Match, so two runs could overwrite each other's "
            "work. Use one that refuses to create an object that exists, such as AWS S3, GCS, Azure, MinIO or SeaweedFS."
        )


def _normal(url: str) -> str:
    """The URL with single slashes in its path and none at the end: on S3, ``a//b`` and ``a/b`` are different keys."""
    scheme, mark, path = url.rpartition("://")
    return f"{scheme}{mark}{re.sub('/{2,}', '/', path).rstrip('/')}"
