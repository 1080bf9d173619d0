"""Work that waits for a server in; as much of it at once as the server's latency asks for."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Result = TypeVar("Result")

FEWEST, MOST = 8, 64
"""Requests in flight that `InFlight` chooses among. Each holds a chunk in memory."""

# Little's law: in flight = rate × latency. A process that asks and decodes does some 1600 chunks a second at most, so more in
# flight than that times the latency only wait in its own memory.
_REQUESTS_PER_SECOND = 1600
# The least of so many latencies is the server's: the others waited for a core, or for bytes.
_LATENCIES = 32


class InFlight:
    """Threads that each fetch and decode a chunk: ``count`` of them at once, or as many as the latency that they meet asks for.

    What was submitted first begins first. Safe in threads.
    """

    def __init__(self, count: int | None = None) -> None:
        self._fixed = count
        self._threads = ThreadPoolExecutor(count or MOST, thread_name_prefix="chunks")  # begins one when none is idle
        self._waiting: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._running = 0
        self._latencies: deque[float] = deque(maxlen=_LATENCIES)
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """How many may be in flight now."""
        if self._fixed is not None:
            return self._fixed
        latency = min(tuple(self._latencies), default=0.0)
        return min(MOST, max(FEWEST, round(latency * _REQUESTS_PER_SECOND)))

    def submit(self, work: Callable[[], Result]) -> Future[Result]:
        """Begin it now, or as soon as there is room."""
        future: Future[Result] = Future()
        with self._lock:
            self._waiting.append((future, work))
        self._begin()
        return future

    def timed(self, request: Callable[[], Result]) -> Result:
        """The answer to a request, whose latency is counted."""
        began = time.perf_counter()
        answer = request()
        self._latencies.append(time.perf_counter() - began)
        return answer

    def _begin(self, *, done: int = 0) -> None:
        begun = []
        with self._lock:
            self._running -= done
            while self._waiting and self._running < self.count:
                future, work = self._waiting.popleft()
                if future.set_running_or_notify_cancel():
                    self._running += 1
                    begun.append((future, work))
        for future, work in begun:
            self._threads.submit(self._run, future, work)

    def _run(self, future: Future[Any], work: Callable[[], Any]) -> None:
        try:
            result = work()
        except BaseException as error:
            self._begin(done=1)
            future.set_exception(error)
            if not isinstance(error, Exception):
                raise
        else:
            self._begin(done=1)
            future.set_result(result)
