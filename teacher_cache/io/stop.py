"""A stop request in (a spot interruption notice or an operator's SIGTERM), a flag that engines poll out."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stop:
    """Whether a run has been told to stop, why, and how long ago."""

    def __init__(self) -> None:
        self.reason = ""
        self._since: float | None = None

    def request(self, reason: str) -> None:
        """Tell the run to stop. Only the first request counts."""
        if self._since is None:
            self.reason, self._since = reason, time.monotonic()

    @property
    def is_set(self) -> bool:
        """Whether a stop was requested."""
        return self._since is not None

    def has_lasted(self, seconds: float) -> bool:
        """Whether the stop was requested more than ``seconds`` ago."""
        return self._since is not None and time.monotonic() - self._since > seconds


@contextmanager
def stop_on_sigterm() -> Iterator[Stop]:
    """A `Stop` that SIGTERM sets. Never set outside the main thread, where Python cannot install signal handlers."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, _frame: FrameType | None) -> None:
        stop.request(signal.Signals(number).name)

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)
