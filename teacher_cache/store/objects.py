"""A store's objects: keys in, bytes out; created once, read and listed the same way at every URL that fsspec supports.

On a disk, creation is an exclusive hard link; on an object store, a create-if-absent (S3: ``PutObject`` with
``If-None-Match: *``). Neither leaves a half-written object behind.
"""

from __future__ import annotations

import contextlib
import os
import re
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem
from zarr.storage import FsspecStore, LocalStore

from schemas.errors import BadInput
from schemas.report import Requests
from teacher_cache.io.remote import filesystem, make_patient, protocol, reach, reach_if_there, storage_options
from teacher_cache.io.request_counts import RequestCounts, RequestKind, counting
from teacher_cache.store.ranges import RangeReader, range_reader

# A single PutObject is atomic and supports If-None-Match everywhere; a multipart upload supports it only in its last request,
# and not on every server. So an object is uploaded in one request, up to S3's own limit of 5 GiB.
_SINGLE_PUT_LIMIT = 5 * 2**30

# Objects fetched at once.
_AT_ONCE = 32

# S3 metadata key for the random number of the create call that made the object.
_CREATION = "p4d-creation"

TEMPORARY_SUFFIX = ".tmp"


class Objects:
    """The objects under one root.

    Keys are relative, with ``/`` between parts. Picklable: a copy in another process opens its own connection.
    Every method raises `Unreachable` if the server refuses the credentials, or does not answer within the limits of `Patience`.
    A key that leads out of the root is `BadInput`.
    """

    def __init__(self, url: str) -> None:
        self.url = _normal(url)
        self._fs, root = filesystem(self.url)
        self._root = root.rstrip("/")
        self._real_root = Path(self._root).resolve()
        self._counts = RequestCounts()

    def __reduce__(self) -> tuple[type[Objects], tuple[str]]:
        return Objects, (self.url,)

    def take_requests(self) -> Requests:
        """Requests sent since the last call. On a disk: the requests that S3 would have received instead.

        A retried request counts once; a listing counts once per page.
        """
        return self._counts.take()

    def _asking(self, kind: RequestKind | None = None) -> AbstractContextManager[None]:
        return counting(self._counts, self._fs, kind)

    @property
    def is_local(self) -> bool:
        """Whether the objects are files on a local or mounted disk."""
        return isinstance(self._fs, LocalFileSystem)

    def _path(self, key: str) -> str:
        path = f"{self._root}/{key}" if key else self._root
        # On a disk, part of the path may be a symbolic link that leads out of the root.
        is_elsewhere = self.is_local and not Path(path).resolve().is_relative_to(self._real_root)
        if key.startswith("/") or ".." in key.split("/") or is_elsewhere:
            raise BadInput(f"the key {key!r} leads out of the store {self.url}")
        return path

    def create(self, key: str, data: bytes) -> bool:
        """Create an object unless it exists. Returns True if this call created it, False if it existed. Atomic."""
        path = self._path(key)
        with self._asking("put"):
            if not self.is_local:
                mark = {_CREATION: uuid.uuid4().hex}
                return reach(self.url, lambda: self._create_remote(path, data, mark))
            is_new = reach(self.url, lambda: _create_file(Path(path), data))
        if not is_new:
            self._counts.add("get")  # on S3, one more request finds out which call created the object
        return is_new

    def _create_remote(self, path: str, data: bytes, mark: dict[str, str]) -> bool:
        """``mark`` identifies this call: if a request succeeds but its answer is lost, the retry finds an object so marked."""
        is_s3 = protocol(self.url) == "s3"
        options = self._put_options() | ({"Metadata": mark} if is_s3 else {})
        try:
            self._fs.pipe_file(path, data, mode="create", **options)
        except OSError as error:
            if not _already_there(error):
                raise
            return is_s3 and mark.items() <= self._metadata(path).items()
        return True

    def _metadata(self, path: str) -> dict[str, str]:
        try:
            return dict(self._fs.metadata(path))
        except FileNotFoundError:  # deleted since
            return {}

    def replace(self, key: str, data: bytes) -> None:
        """Overwrite an object. Only for objects that can be derived again at any time, such as an array's metadata."""
        path = self._path(key)

        def put() -> None:
            if self.is_local:
                temporary = _temporary(Path(path))
                _write_synced(temporary, data)
                temporary.replace(path)
            else:
                self._fs.pipe_file(path, data, **self._put_options())

        with self._asking("put"):
            reach(self.url, put)

    def _put_options(self) -> dict[str, Any]:
        return {"chunksize": _SINGLE_PUT_LIMIT} if protocol(self.url) == "s3" else {}

    def get(self, key: str) -> bytes | None:
        """The object's bytes, or None if there is no such object."""
        path = self._path(key)
        self._counts.add("get")  # counted here, since obstore, which reads from S3, reports no requests
        return reach_if_there(self.url, lambda: self._ranges.whole(path))

    def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        """Key → bytes, fetched concurrently. Missing objects are left out."""
        if not keys:
            return {}
        with ThreadPoolExecutor(min(_AT_ONCE, len(keys)), thread_name_prefix="objects") as threads:
            found = dict(zip(keys, threads.map(self.get, keys), strict=True))
        return {key: data for key, data in found.items() if data is not None}

    @cached_property
    def _ranges(self) -> RangeReader:
        return range_reader(self._fs)

    def get_range(self, key: str, start: int, stop: int) -> memoryview | None:
        """Bytes [start, stop) of an object, fewer if it ends earlier, or None if there is no such object.

        The memory is valid until the same thread's next `get_range`; copy it to keep it.
        """
        path = self._path(key)
        self._counts.add("get")
        return reach_if_there(self.url, lambda: self._ranges.read(path, start, stop))

    def listing(self, prefix: str = "") -> dict[str, int]:
        """Key → length in bytes, of every object under ``prefix``, sorted by key."""
        path = self._path(prefix)
        with self._asking("list"):
            if self.is_local:
                return reach_if_there(self.url, lambda: _files(Path(self._root), Path(path))) or {}
            found = reach_if_there(self.url, lambda: self._fs.find(path, detail=True)) or {}
        # S3 has no folders, but some servers list an empty placeholder that ends in "/".
        return {p[len(self._root) + 1 :]: int(i["size"]) for p, i in sorted(found.items()) if not p.endswith("/")}

    def modified_seconds(self, key: str) -> float:
        """When the object was last written, in seconds since 1970."""
        path = self._path(key)
        with self._asking("get"):
            return reach(self.url, lambda: float(self._fs.modified(path).timestamp()))

    def folders(self) -> list[str]:
        """Names of the folders directly under the root."""
        return [name for name, is_folder in self.level().items() if is_folder]

    def level(self, prefix: str = "") -> dict[str, bool]:
        """Name → whether it is a folder, for the names directly under ``prefix``, sorted. Not recursive."""
        path = self._path(prefix)
        with self._asking("list"):
            found = reach_if_there(self.url, lambda: self._fs.ls(path, detail=True)) or []
        return {
            i["name"].rstrip("/").rsplit("/", 1)[-1]: i["type"] == "directory" for i in sorted(found, key=lambda i: i["name"])
        }

    def delete(self, key: str) -> None:
        """Delete an object, if it exists."""
        path = self._path(key)
        with self._asking():
            reach_if_there(self.url, lambda: self._fs.rm_file(path))

    def delete_many(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.delete(key)

    def zarr_store(self) -> FsspecStore | LocalStore:
        """A read-only Zarr store over the same objects."""
        if self.is_local:
            return LocalStore(self._root, read_only=True)
        store = FsspecStore.from_url(self.url, storage_options=storage_options(self.url), read_only=True)
        make_patient(store.fs)
        return store


def _normal(url: str) -> str:
    """The URL with single slashes in its path and none at the end: on S3, ``a//b`` and ``a/b`` are different keys."""
    scheme, mark, path = url.rpartition("://")
    return f"{scheme}{mark}{re.sub('/{2,}', '/', path).rstrip('/')}"


def _files(root: Path, folder: Path) -> dict[str, int]:
    """Path under ``root`` → bytes of every file in ``folder``, sorted. Unlike fsspec's, it follows no link to a folder."""
    found: dict[str, int] = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent) / name
            with contextlib.suppress(FileNotFoundError):  # a writer's temporary file, removed meanwhile
                found[path.relative_to(root).as_posix()] = path.lstat().st_size
    return dict(sorted(found.items()))


def _already_there(error: OSError) -> bool:
    """Whether a create failed because the object exists. s3fs raises S3's 412 as an OSError around the server's response."""
    if isinstance(error, FileExistsError):
        return True
    answer = getattr(error.__cause__, "response", {})
    return answer.get("Error", {}).get("Code") in {"PreconditionFailed", "ConditionalRequestConflict"}


def _temporary(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}{TEMPORARY_SUFFIX}")


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _create_file(path: Path, data: bytes) -> bool:
    if path.exists():  # the link below decides; this only avoids a useless write
        return False
    temporary = _temporary(path)
    try:
        _write_synced(temporary, data)
        # A link, unlike a rename, fails when the name is taken.
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    return True
