"""How a run ended in; one POST of JSON to the URL in P4D_WEBHOOK, if there is one, out. It never changes how the run ends."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from schemas.credentials import without_credentials
from schemas.errors import BadInput, CacheError, Stopped
from schemas.report import RunReport
from teacher_cache.io.console import stderr

VARIABLE = "P4D_WEBHOOK"
"""Its value is a secret: whoever has the URL of a chat's webhook can write there."""
_TRIES = 3
_TIMEOUT_SECONDS = 10
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


class RunEnd:
    """What is to be told of a run."""

    def __init__(self, store: str) -> None:
        self.store, self._began = store, time.monotonic()
        self.report: RunReport | None = None
        """Of a run that has come to its end."""

    def told(self, error: BaseException | None) -> dict[str, Any]:
        """The JSON. ``error``: what ended the run, if it did not come to its end."""
        status = "finished" if error is None else "stopped" if isinstance(error, (Stopped, KeyboardInterrupt)) else "failed"
        value: dict[str, Any] = {"event": "run_ended", "status": status, "store": without_credentials(self.store)}
        value["seconds"] = round(time.monotonic() - self._began, 1)
        if error is not None:
            said = str(error) if isinstance(error, CacheError) else type(error).__name__
            value["message"] = without_credentials(said)
        if (report := self.report) is not None:
            failures = dict(Counter(failure.reason for failure in report.failures))
            value |= {"committed": report.committed, "failed": report.failed, "ok": report.ok}
            value |= {"clips": report.clips.model_dump(), "failures": failures}
        return value | {"text": self._text(value)}

    @staticmethod
    def _text(value: dict[str, Any]) -> str:
        """One line for a chat."""
        did = f": {value['committed']} clips committed, {value['failed']} failed" if "committed" in value else ""
        said = f": {value['message']}" if "message" in value else ""
        return f"{value['store']}: the run {value['status']} after {value['seconds']:.0f} s{did}{said}"


@contextmanager
def webhook(store: str) -> Iterator[RunEnd]:
    """Tell how what is done inside ends. Raises `BadInput` at once if the URL is neither https nor of this machine."""
    url, end = os.environ.get(VARIABLE, ""), RunEnd(store)
    _require_private(url)
    try:
        yield end
    except BaseException as error:
        _tell(url, end.told(error))
        raise
    _tell(url, end.told(None))


def _require_private(url: str) -> None:
    place = urlsplit(url)
    is_private = place.scheme == "https" or (place.scheme == "http" and place.hostname in _LOOPBACK)
    if url and not (is_private and place.hostname):
        raise BadInput(f"{VARIABLE} holds no https:// URL (the value is not shown, as it is a secret); unset it, or correct it")


class _NoRedirect(HTTPRedirectHandler):
    """Another place is not the one that was trusted."""

    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = build_opener(_NoRedirect)


def _tell(url: str, value: dict[str, Any]) -> None:
    if not url:
        return
    headers = {"Content-Type": "application/json"}
    request = Request(url, json.dumps(value).encode(), headers, method="POST")  # noqa: S310  # `_require_private` looked at it
    reason = ""
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(attempt)
        try:
            with _OPENER.open(request, timeout=_TIMEOUT_SECONDS):
                return
        except HTTPError as error:
            error.close()
            reason = f"it answered with status {error.code}"
            if error.code < 500:
                break
        except (URLError, HTTPException, OSError) as error:
            reason = f"it could not be reached ({type(error).__name__})"
    stderr.print(f"the webhook in {VARIABLE} was not told how the run ended: {reason}", soft_wrap=True)
