"""A URL at S3, GCS or Azure in; the objects under it out, to a process that was forked after `Bucket` had asked for anything.

obstore's threads do not survive a fork: a request of the child's would wait for ever, and disturb the parent's. So such a child
reads by fsspec (s3fs, gcsfs or adlfs), whose threads each process has its own of. It costs about twice the CPU.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, NoReturn

from schemas.errors import Forked
from schemas.storage import StorageOptions
from teacher_cache.io.backend import Found
from teacher_cache.io.remote import filesystem


class ForkedBucket:
    """The objects under a URL, for reading alone. Made, and used, in the forked process."""

    is_local = False
    sequential = False

    def __init__(self, url: str, options: StorageOptions) -> None:
        self._url, self._options = url, options

    @cached_property
    def _place(self) -> tuple[Any, str]:
        fs, path = filesystem(self._url, options=self._options)
        return fs, path.rstrip("/")

    def _path(self, key: str) -> str:
        return f"{self._place[1]}/{key}"

    def get(self, key: str, most: int) -> bytes:
        data: bytes = self._place[0].cat_file(self._path(key), start=0, end=most + 1)
        return data

    def get_range(self, key: str, start: int, stop: int) -> memoryview:
        try:
            return memoryview(self._place[0].cat_file(self._path(key), start=start, end=stop))
        except OSError as error:
            if error.errno == errno.EINVAL:  # the range begins beyond the object's end
                return memoryview(b"")
            raise

    def list(self, prefix: str) -> Iterator[Found]:
        fs, root = self._place
        folder = prefix.rpartition("/")[0]
        for path, about in fs.find(f"{root}/{folder}".rstrip("/"), detail=True).items():
            key = path.removeprefix(f"{root}/")
            if key.startswith(prefix):
                yield Found(key, int(about["size"]), _modified(about))

    def modified(self, key: str) -> datetime:
        return _modified(self._place[0].info(self._path(key)))

    def create(self, key: str, data: bytes) -> bool:  # noqa: ARG002  # as `Backend` has it
        self._refuse()

    def replace(self, key: str, data: bytes) -> None:  # noqa: ARG002
        self._refuse()

    def delete(self, keys: Sequence[str]) -> None:  # noqa: ARG002
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise Forked(f"{self._url} was in use before this process was forked, so it is only read here; write in a new process")


def _modified(about: dict[str, Any]) -> datetime:
    """As s3fs, gcsfs and adlfs call it."""
    found = about.get("LastModified") or about.get("mtime") or about.get("last_modified")
    return found if isinstance(found, datetime) else datetime.fromtimestamp(0, UTC)
