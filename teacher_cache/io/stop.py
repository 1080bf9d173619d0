"""A stop request in (a spot interruption notice, an operator's SIGTERM, a time that is up), a flag that engines poll out."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from schemas.errors import OutOfTime, Stopped


class Stop:
    """Whether a run has been told to stop, why, and how long ago."""

    def __init__(self) -> None:
        self.reason = ""
        self.is_out_of_time = False
        """Whether it was `at` that stopped the run."""
        self._since: float | None = None
        self._at, self._at_reason = math.inf, ""

    def request(self, reason: str) -> None:
        """Tell the run to stop. Only the first request counts."""
        if self._since is None:
            self.reason, self._since = reason, time.monotonic()

    def at(self, seconds: float, reason: str) -> None:
        """Request a stop in that many seconds, or now if they are negative."""
        self._at, self._at_reason = time.monotonic() + seconds, reason

    @property
    def is_set(self) -> bool:
        """Whether a stop was requested."""
        if self._since is None and time.monotonic() >= self._at:
            self.is_out_of_time = True
            self.request(self._at_reason)
        return self._since is not None

    def error(self, when: str) -> Stopped:
        """What ends a run that it stopped; ``when`` says how far the run was."""
        kind = OutOfTime if self.is_out_of_time else Stopped
        return kind(f"stopped by {self.reason} {when}; the same command goes on from there")

    def has_lasted(self, seconds: float) -> bool:
        """Whether the stop was requested more than ``seconds`` ago."""
        return self.is_set and self._since is not None and time.monotonic() - self._since > seconds


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
