"""Ranges of an object's bytes, from each kind of URL by the client that costs the least CPU a byte.

A disk is read with `preadv`, S3 through obstore (object_store in Rust), all else through fsspec.
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

# obstore hands a body over in one piece of fresh memory. Beyond this length the allocator takes such pieces from the kernel
# and gives them back each time, and clearing their pages costs more than the copy out of small ones.
_IN_ONE_PIECE = 16 * 2**20
_PIECE = 2**20

# botocore renews temporary credentials at the latest ten minutes before they end.
_CREDENTIALS_LAST = timedelta(minutes=10)


class RangeReader(Protocol):
    """Reads parts of objects, into memory that is used again: what it returns is valid until the same thread's next call.

    Safe in threads. Raises `FileNotFoundError` where there is no object.
    """

    def read(self, path: str, start: int, stop: int) -> memoryview:
        """Bytes [start, stop) of an object; fewer where it ends before."""

    def whole(self, path: str) -> bytes:
        """All bytes of an object, the caller's own."""


def range_reader(fs: Any) -> RangeReader:
    """The reader for what an fsspec filesystem reaches, under the same settings and credentials."""
    if isinstance(fs, LocalFileSystem):
        return _Disk()
    if "s3" in fs.protocol:
        return _S3(fs)
    return _Fsspec(fs)


class _Scratch(threading.local):
    """One growing buffer for each thread: memory used again is not cleared by the kernel for every read."""

    def __init__(self) -> None:
        self._memory = memoryview(bytearray())

    def take(self, length: int) -> memoryview:
        if len(self._memory) < length:
            self._memory = np.empty(length, np.uint8).data  # not cleared first, and in huge pages
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
    """The bucket under the endpoint, region and credentials that s3fs, through botocore, found for itself."""
    about = fs.s3.meta
    return S3Store(
        bucket,
        endpoint=about.endpoint_url,
        region=about.region_name or "us-east-1",
        client_options={
            "allow_http": True,  # where the endpoint says so
            "connect_timeout": timedelta(seconds=S3_CONNECT_SECONDS),
            "read_timeout": timedelta(seconds=s3_read_seconds()),
            "timeout": timedelta(hours=1),  # of a whole body: a slow one is read as long as it goes on
        },
        retry_config={"max_retries": 0},  # `Patience` repeats requests
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
    """No bytes, where the range begins behind the object's end; else raises what fsspec would.

    obstore's own text goes on with the whole request and answer; what is told is the status and the server's message.
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
