"""A path and a byte range in, bytes out, by the client that needs the least CPU per byte for each kind of URL.

Disks are read with `preadv`, S3 through obstore (object_store in Rust), everything else through fsspec.
"""

from __future__ import annotations

import html
import os
import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import botocore.session
import numpy as np
import obstore
from botocore import UNSIGNED
from botocore.exceptions import NoCredentialsError
from fsspec.implementations.local import LocalFileSystem
from obstore.exceptions import BaseError, GenericError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store

from teacher_cache.io.patience import NotNow, is_passing_status
from teacher_cache.io.remote import S3_CONNECT_SECONDS, s3_read_seconds

if TYPE_CHECKING:
    from obstore.store import S3Credential

# obstore returns a body in one block of fresh memory. Beyond this length, the allocator takes such blocks from the kernel and
# returns them each time, and zeroing their pages costs more than copying out of small pieces.
_IN_ONE_PIECE = 16 * 2**20
_PIECE = 2**20

# botocore renews temporary credentials at least ten minutes before they expire.
_CREDENTIALS_LAST = timedelta(minutes=10)


class RangeReader(Protocol):
    """Reads byte ranges of objects. Safe in threads. Raises `FileNotFoundError` if there is no object."""

    def read(self, path: str, start: int, stop: int) -> memoryview:
        """Bytes [start, stop) of an object, fewer if it ends earlier. The memory is valid until the thread's next `read`."""

    def whole(self, path: str) -> bytes:
        """All bytes of an object, owned by the caller."""


def range_reader(fs: Any) -> RangeReader:
    """The reader for an fsspec filesystem's objects, with the same settings and credentials."""
    if isinstance(fs, LocalFileSystem):
        return _Disk()
    if "s3" in fs.protocol:
        return _S3(fs)
    return _Fsspec(fs)


class _Scratch(threading.local):
    """One growing buffer per thread: the kernel need not zero reused memory for every read."""

    def __init__(self) -> None:
        self._memory = memoryview(bytearray())

    def take(self, length: int) -> memoryview:
        if len(self._memory) < length:
            self._memory = np.empty(length, np.uint8).data  # unlike bytearray: not zeroed, and in huge pages
        return self._memory[:length]


class _Disk:
    def __init__(self) -> None:
        self._scratch = _Scratch()

    def read(self, path: str, start: int, stop: int) -> memoryview:
        file = os.open(path, os.O_RDONLY)
        try:
            return self._fill(file, start, stop)
        finally:
            os.close(file)

    def whole(self, path: str) -> bytes:
        return Path(path).read_bytes()

    def _fill(self, file: int, start: int, stop: int) -> memoryview:
        buffer = self._scratch.take(stop - start)
        filled = 0
        while read := os.preadv(file, [buffer[filled:]], start + filled):
            filled += read
        return buffer[:filled]


class _Fsspec:
    def __init__(self, fs: Any) -> None:
        self._fs = fs

    def read(self, path: str, start: int, stop: int) -> memoryview:
        return memoryview(self._fs.cat_file(path, start=start, end=stop))

    def whole(self, path: str) -> bytes:
        return bytes(self._fs.cat_file(path))


class _S3:
    def __init__(self, fs: Any) -> None:
        self._fs = fs
        self._scratch = _Scratch()
        self._stores: dict[str, S3Store] = {}

    def read(self, path: str, start: int, stop: int) -> memoryview:
        store, key = self._bucket_and_key(path)
        try:
            if stop - start <= _IN_ONE_PIECE:
                return memoryview(obstore.get_range(store, key, start=start, end=stop))
            return self._streamed(store, key, start, stop)
        except BaseError as error:
            return _nothing_or_raise(error)

    def whole(self, path: str) -> bytes:
        store, key = self._bucket_and_key(path)
        try:
            return obstore.get(store, key).bytes().to_bytes()
        except BaseError as error:
            return bytes(_nothing_or_raise(error))

    def _streamed(self, store: S3Store, key: str, start: int, stop: int) -> memoryview:
        buffer = self._scratch.take(stop - start)
        filled = 0
        for piece in obstore.get(store, key, options={"range": (start, stop)}).stream(min_chunk_size=_PIECE):
            buffer[filled : filled + len(piece)] = piece
            filled += len(piece)
        return buffer[:filled]

    def _bucket_and_key(self, path: str) -> tuple[S3Store, str]:
        bucket, key, _ = self._fs.split_path(path)
        if bucket not in self._stores:
            self._stores[bucket] = _s3_store(self._fs, bucket)
        return self._stores[bucket], key


def _s3_store(fs: Any, bucket: str) -> S3Store:
    """The bucket, with the endpoint, region and credentials that s3fs found through botocore."""
    about = fs.s3.meta
    return S3Store(
        bucket,
        endpoint=about.endpoint_url,
        region=about.region_name or "us-east-1",
        client_options={
            "allow_http": True,  # if the endpoint's URL says so
            "connect_timeout": timedelta(seconds=S3_CONNECT_SECONDS),
            "read_timeout": timedelta(seconds=s3_read_seconds()),
            "timeout": timedelta(hours=1),  # for a whole body: a slow one may take long as long as it makes progress
        },
        retry_config={"max_retries": 0},  # `Patience` retries requests
        **(
            {"skip_signature": True}
            if about.config.signature_version is UNSIGNED
            else {"credential_provider": _credentials(fs)}
        ),
    )


def _credentials(fs: Any) -> Callable[[], S3Credential]:
    session = botocore.session.Session(profile=fs.kwargs.get("profile"))
    if fs.key:
        session.set_credentials(fs.key, fs.secret, fs.token)
    found = session.get_credentials()
    if found is None:
        raise NoCredentialsError

    def current() -> S3Credential:
        now = found.get_frozen_credentials()
        return {
            "access_key_id": now.access_key,
            "secret_access_key": now.secret_key,
            "token": now.token,
            "expires_at": datetime.now(UTC) + _CREDENTIALS_LAST,
        }

    return current


def _nothing_or_raise(error: BaseError) -> memoryview:
    """No bytes if the range begins beyond the object's end; otherwise raises what fsspec would.

    obstore's own text includes the whole request and response; the error keeps only the status or the server's message.
    """
    text = str(error)
    status = re.search(r"status code: (\d+ [\w ]+)", text)
    if status and status[1].startswith("416"):
        return memoryview(b"")
    message = re.search(r"<Message>(.*?)</Message>", text)
    told = html.unescape(message[1]) if message else status[1] if status else text.splitlines()[0].rpartition(" - ")[2]
    if isinstance(error, PermissionDeniedError | UnauthenticatedError):
        raise PermissionError(told) from None
    number = int(status[1].split()[0]) if status else None
    if isinstance(error, GenericError) and (number is None or is_passing_status(number)):
        raise NotNow(told, number) from None
    raise OSError(told) from None
