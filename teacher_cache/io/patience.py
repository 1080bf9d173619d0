"""Retries with backoff. One operation on a server in; its result, or its last error, out.

s3fs's requests reach `Patience` through botocore's retry hook, so a listing of a thousand pages, or a fetch of five hundred
objects, retries only the request that failed. For a failure outside a request's answer (a body cut short), or in another
client (obstore, HTTP), `Patience` retries the whole operation. Nothing else retries: the clients' own retries are off.
"""

from __future__ import annotations

import importlib
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextvars import ContextVar
from functools import lru_cache
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from schemas.credentials import without_credentials

if TYPE_CHECKING:
    from botocore.loaders import Loader
    from botocore.session import Session

PATIENCE_VARIABLE = "P4D_PATIENCE_SECONDS"
_PATIENCE_SECONDS = 600.0
"""How long a server that has answered this process may be unavailable: long enough to restart it."""

_NOBODY_SECONDS, _TROUBLED_SECONDS = 3.0, 30.0
"""How long a server that has never answered successfully may be silent, or send only 5xx: its address may be wrong."""

_FEWEST_TRIES = 3
"""Attempts of each request, however long they take."""

_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.1, 10.0
_TOLD_AFTER_SECONDS, _TOLD_EVERY_SECONDS = 10.0, 60.0

_PASSING_STATUS = frozenset({408, 429, 500, 502, 503, 504})
_PASSING_CODES = frozenset(
    {
        "BadDigest", "ConditionalRequestConflict", "IncompleteBody", "InternalError", "OperationAborted", "RequestTimeout",
        "ServiceUnavailable", "SlowDown", "Throttling", "ThrottlingException", "XAmzContentSHA256Mismatch",
    }
)  # fmt: skip
"""S3 error codes that are transient, whatever the status. They include a conditional create that collided with a delete."""

_PASSING = frozenset(
    {
        "aiohttp.client_exceptions.ClientConnectionError",
        "aiohttp.client_exceptions.ClientPayloadError",
        "botocore.exceptions.ConnectionError",
        "botocore.exceptions.HTTPClientError",
        "botocore.exceptions.IncompleteReadError",
        "botocore.parsers.ResponseParserError",
        "builtins.ConnectionError",
        "builtins.TimeoutError",
        "fsspec.exceptions.FSTimeoutError",
        "http.client.IncompleteRead",
    }
)
"""Transient exception types; by name, because importing all these clients takes longer than opening a store on a disk."""

_STAYING = frozenset({"aiohttp.client_exceptions.ClientSSLError", "botocore.exceptions.SSLError"})
"""Subtypes of the above that are permanent."""

_log = logging.getLogger(__name__)

Result = TypeVar("Result")


class NotNow(OSError):
    """A request failed for a transient reason. ``status`` is the HTTP status, if there was an answer."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Patience:
    """The retry budget of one operation on a server: its requests are retried, with full jitter, until the time is spent.

    The clock starts at the first failure after the operation's last answered request.
    """

    def __init__(self, url: str, endpoint: str | None = None) -> None:
        self._server = _server(url, endpoint)
        self._since: float | None = None
        self._spent = False

    def ask(self, operation: Callable[[], Result]) -> Result:
        """The operation's result. Raises its error if that is permanent, or once the retry time is spent."""
        before = _current.set(self)
        try:
            for tries in count(1):
                try:
                    found = operation()
                except Exception as error:
                    reason = passing_reason(error)
                    wait_seconds = None if reason is None else self.wait_seconds(tries, reason, _status_of(error))
                    if wait_seconds is None:
                        raise
                    time.sleep(wait_seconds)
                else:
                    self.answered()
                    return found
        finally:
            _current.reset(before)
        raise AssertionError

    def answered(self) -> None:
        """Report that the server gave a final answer: success, or a permanent error."""
        self._since = None
        _answering.add(self._server)

    def wait_seconds(self, tries: int, reason: str, status: int | None) -> float | None:
        """Seconds to wait after a request's ``tries``-th failure, counted from 1; None once the retry time is spent."""
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        lasts = now - self._since
        limit = _limit_seconds(self._server, status)
        self._spent = self._spent or (tries >= _FEWEST_TRIES and lasts > limit)
        if self._spent:
            return None
        _tell(self._server, reason, lasts)
        # Full jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter
        longest = min(_LONGEST_WAIT_SECONDS, _FIRST_WAIT_SECONDS * 2 ** min(tries - 1, 20))
        return random.uniform(0, min(longest, max(limit - lasts, 0) + _FIRST_WAIT_SECONDS))  # noqa: S311  # no longer than is left


def expect(url: str, endpoint: str | None = None) -> None:
    """Use the long retry time for a server from the first request on, because another process has reached it."""
    _answering.add(_server(url, endpoint))


def passing_reason(error: BaseException) -> str | None:
    """The reason, in words, if the error is transient; None if it is permanent."""
    for one in (error, error.__cause__):
        answer = getattr(one, "response", None)
        if isinstance(answer, Mapping):
            return _reason_of_answer(answer)
        if isinstance(one, NotNow):
            return str(one)
        if _is_a(one, {"aiohttp.client_exceptions.ClientResponseError"}):
            return str(one) if _status_of(one) in _PASSING_STATUS else None
        if _is_a(one, _PASSING) and not _is_a(one, _STAYING):
            return str(one) or type(one).__name__
    return None


def is_passing(status: int | None, code: str) -> bool:
    """Whether an answer of this HTTP status and S3 error code is transient."""
    return status in _PASSING_STATUS or code in _PASSING_CODES


def _is_a(error: BaseException | None, kinds: Collection[str]) -> bool:
    return any(f"{kind.__module__}.{kind.__qualname__}" in kinds for kind in type(error).__mro__)


def session(profile: str | None = None) -> Any:
    """A session for s3fs whose requests are retried under the operation's `Patience`."""
    made = importlib.import_module("aiobotocore.session").AioSession(profile=profile)  # s3fs, which uses it, imports it anyway
    made.register("needs-retry.s3", _needs_retry, unique_id="p4d-patience")
    share_service_data(made)
    return made


def share_service_data(session: Session) -> None:
    """Let a session use what others have read of botocore's description of S3: each client would take 60 ms of CPU for it."""
    session.register_component("data_loader", _service_data(session.get_config_variable("data_path")))


@lru_cache(maxsize=4)
def _service_data(folders: str | None) -> Loader:
    return importlib.import_module("botocore.loaders").create_loader(folders)


_current: ContextVar[Patience | None] = ContextVar("patience", default=None)
"""The current operation's; fsspec passes the context into its event loop."""

_answering: set[str] = set()
"""Servers that have answered this process."""

_told: dict[str, float] = {}
_telling = threading.Lock()

os.register_at_fork(after_in_child=_telling._at_fork_reinit)  # type: ignore[attr-defined]  # noqa: SLF001  # as threading's own locks


def _server(url: str, endpoint: str | None = None) -> str:
    """The unit of an outage: an endpoint, or a server. Its buckets and paths are unavailable together."""
    if endpoint:
        return endpoint
    parts = urlsplit(url)
    return os.environ.get("AWS_ENDPOINT_URL", "s3") if parts.scheme in {"s3", "s3a"} else f"{parts.scheme}://{parts.netloc}"


def patience_seconds() -> float:
    """How long to wait for what others may make good."""
    return float(os.environ.get(PATIENCE_VARIABLE, _PATIENCE_SECONDS))


def _limit_seconds(server: str, status: int | None) -> float:
    limit = patience_seconds()
    if server in _answering:
        return limit
    return min(limit, _NOBODY_SECONDS if status is None else _TROUBLED_SECONDS)


def _needs_retry(
    response: tuple[Any, Mapping[str, Any]] | None,
    attempts: int,
    caught_exception: Exception | None,
    request_dict: dict[str, Any],
    **_: Any,
) -> float | None:
    """Retry hook of botocore: seconds until the request is sent again; None if it is not."""
    patience = _current.get() or request_dict["context"].setdefault("p4d-patience", Patience(request_dict["url"]))
    answer = None if response is None else response[1]
    reason = _reason_of_answer(answer) if answer is not None else passing_reason(caught_exception or OSError())
    if reason is None:
        if answer is not None:
            patience.answered()
        return None
    return patience.wait_seconds(attempts, reason, None if answer is None else _status(answer))


def _status(answer: Mapping[str, Any]) -> int:
    return int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _status_of(error: BaseException | None) -> int | None:
    found = getattr(error, "status", None)
    return found if isinstance(found, int) else None


def _reason_of_answer(answer: Mapping[str, Any]) -> str | None:
    status, code = _status(answer), answer.get("Error", {}).get("Code", "")
    return f"{status} {code}" if is_passing(status, code) else None


def _tell(server: str, reason: str, lasts: float) -> None:
    """Log now and then that the process is waiting, so that it does not look hung."""
    now = time.monotonic()
    with _telling:
        if lasts < _TOLD_AFTER_SECONDS or now - _told.get(server, -_TOLD_EVERY_SECONDS) < _TOLD_EVERY_SECONDS:
            return
        _told[server] = now
    _log.warning("%s", without_credentials(f"{server} has not answered for {lasts:.0f} s ({reason}); still trying"))
