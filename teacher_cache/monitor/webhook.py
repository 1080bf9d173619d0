"""How a run ended in; one POST of JSON to the URL in P4D_WEBHOOK, if there is one, out. It never changes how the run ends."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from schemas.credentials import without_credentials
from schemas.errors import BadInput, CacheError, Stopped
from schemas.report import RunReport
from teacher_cache.io.console import stderr

VARIABLE = "P4D_WEBHOOK"
"""Its value is a secret: whoever has the URL of a chat's webhook can write there."""
_TRIES = 3
_SECONDS = 15
"""For all tries together, however slowly a server answers: a pod that is told to go has a minute for all that it does."""
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
    try:
        place = urlsplit(url)
        is_private = place.scheme == "https" or (place.scheme == "http" and place.hostname in _LOOPBACK)
        is_url = bool(place.hostname) and url.isascii() and url.isprintable() and " " not in url and place.port != 0
    except ValueError:
        is_private = is_url = False
    if url and not (is_private and is_url):
        raise BadInput(f"{VARIABLE} holds no https:// URL (the value is not shown, as it is a secret); unset it, or correct it")


class _NoRedirect(HTTPRedirectHandler):
    """Another place is not the one that was trusted."""

    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = build_opener(_NoRedirect)


def _tell(url: str, value: dict[str, Any]) -> None:
    if not url:
        return
    reasons = [f"it did not answer within {_SECONDS} s"]
    # In a thread that may be left behind, since a server may send its answer byte by byte for ever.
    asking = threading.Thread(target=_ask, args=(url, json.dumps(value).encode(), reasons), daemon=True)
    asking.start()
    asking.join(_SECONDS)
    if reasons:
        stderr.print(f"the webhook in {VARIABLE} was not told how the run ended: {reasons[-1]}", soft_wrap=True)


def _ask(url: str, data: bytes, reasons: list[str]) -> None:
    """Try to POST. Adds to ``reasons`` why it failed, and clears them once it was told."""
    request = Request(url, data, {"Content-Type": "application/json"}, method="POST")  # noqa: S310  # `_require_private` looked at it
    for attempt in range(_TRIES):
        time.sleep(attempt)
        try:
            with _OPENER.open(request, timeout=_SECONDS / _TRIES):
                reasons.clear()
                return
        except HTTPError as error:
            error.close()
            reasons.append(f"it answered with status {error.code}")
            if error.code < 500:
                return
        except (OSError, HTTPException, ValueError) as error:
            reasons.append(f"it could not be reached ({type(error).__name__})")
