"""Requests to object stores in, a `Requests` count out.

s3fs's client reports every answered request, so pages of a listing, and requests that a library sends on its own, are counted.
A 5xx answer, which is retried and not billed, is not counted. An answer that breaks off and is retried counts each time, as it
is billed. For other servers and clients, the caller says what to count.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

from schemas.storage import Requests

RequestKind = Literal["put", "get", "list"]


class RequestCounts:
    """A thread-safe count of requests."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count: dict[RequestKind, int] = {"put": 0, "get": 0, "list": 0}

    def add(self, kind: RequestKind, count: int = 1) -> None:
        """Count requests."""
        with self._lock:
            self._count[kind] += count

    def merge(self, requests: Requests) -> None:
        """Add what another process counted."""
        with self._lock:
            for kind in self._count:
                self._count[kind] += getattr(requests, kind)

    def take(self) -> Requests:
        """The requests counted since the last call; resets the count."""
        with self._lock:
            taken = Requests(**self._count)
            self._count = dict.fromkeys(self._count, 0)
            return taken


VIDEO_REQUESTS = RequestCounts()
"""This process's requests for videos and their lists. Its decoder processes send none: they read files it has fetched."""


# A context variable, since fsspec runs calls in its own thread, with the caller's context.
_COUNTED_IN: ContextVar[RequestCounts | None] = ContextVar("counted_in", default=None)


@contextmanager
def counting(counts: RequestCounts, fs: Any, otherwise: RequestKind | None = None) -> Iterator[None]:
    """Count the requests of an fsspec filesystem inside the block in ``counts``.

    For a filesystem that does not report its requests, count one of kind ``otherwise``, or none if that is None.
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
    """Register for reports of the filesystem's requests; returns whether it sends them."""
    if "s3" not in fs.protocol:
        return False
    fs.s3.meta.events.register("after-call.s3", _answered, unique_id=__name__)
    return True


def _answered(http_response: Any, model: Any, **_: Any) -> None:
    counts, kind = _COUNTED_IN.get(), _kind(model.name)
    if counts is not None and kind is not None and http_response.status_code < 500:
        counts.add(kind)


def _kind(operation: str) -> RequestKind | None:
    """The kind under which S3 bills an operation; None for deletes, which are free."""
    if operation.startswith(("Get", "Head")):
        return "get"
    if operation.startswith("List"):
        return "list"
    return None if operation.startswith(("Delete", "Abort")) else "put"
