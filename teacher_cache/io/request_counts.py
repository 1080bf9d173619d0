"""Counting what is asked of object stores: requests in, a `Requests` out.

s3fs's client tells of each request that was answered, so pages of a listing, and whatever else a library asks on its own, are
counted as they are; an answer of 5xx, which is asked again and not billed, is not; one that breaks off and is asked again
counts each time, as it is billed. What is asked of other servers, or through other clients, the caller says.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

from schemas.report import Requests

RequestKind = Literal["put", "get", "list"]


class RequestCounts:
    """A count of requests that any thread may add to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count: dict[RequestKind, int] = {"put": 0, "get": 0, "list": 0}

    def add(self, kind: RequestKind, count: int = 1) -> None:
        with self._lock:
            self._count[kind] += count

    def merge(self, requests: Requests) -> None:
        """Add what another process counted."""
        with self._lock:
            for kind in self._count:
                self._count[kind] += getattr(requests, kind)

    def take(self) -> Requests:
        """What was counted since the last time; the count begins anew."""
        with self._lock:
            taken = Requests(**self._count)
            self._count = dict.fromkeys(self._count, 0)
            return taken


VIDEO_REQUESTS = RequestCounts()
"""What this process asked of the servers that hold videos and their lists. Its decoders read only what it has fetched."""


# fsspec runs a call in its own thread, under the caller's context.
_COUNTED_IN: ContextVar[RequestCounts | None] = ContextVar("counted_in", default=None)


@contextmanager
def counting(counts: RequestCounts, fs: Any, otherwise: RequestKind | None = None) -> Iterator[None]:
    """What is asked of an fsspec filesystem inside is counted in ``counts``.

    ``otherwise`` says what is asked, once, for a filesystem that does not tell of it itself; None counts nothing.
    """
    tells = _tells(fs)
    token = _COUNTED_IN.set(counts)
    try:
        yield
    finally:
        _COUNTED_IN.reset(token)
        if otherwise is not None and not tells:
            counts.add(otherwise)


def _tells(fs: Any) -> bool:
    """Whether the filesystem tells of its requests, from here on."""
    if "s3" not in fs.protocol:
        return False
    fs.s3.meta.events.register("after-call.s3", _answered, unique_id=__name__)
    return True


def _answered(http_response: Any, model: Any, **_: Any) -> None:
    counts, kind = _COUNTED_IN.get(), _kind(model.name)
    if counts is not None and kind is not None and http_response.status_code < 500:
        counts.add(kind)


def _kind(operation: str) -> RequestKind | None:
    """How S3 bills an operation. Deletes are free."""
    if operation.startswith(("Get", "Head")):
        return "get"
    if operation.startswith("List"):
        return "list"
    return None if operation.startswith(("Delete", "Abort")) else "put"
