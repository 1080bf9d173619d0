"""What a case puts in the place of threads and clocks that real code has beside its object operations."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from datetime import datetime, tzinfo
from typing import Any, Self

from simulator.world import World


class Datetime(datetime):
    """In the place of `datetime` where a module calls ``datetime.now``: by ``time.time``, an actor's is the server's."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        return datetime.fromtimestamp(time.time(), tz)


class InlineExecutor(Executor):
    """In a thread pool's place: does what is submitted at once, in the thread that submits it."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*arguments, **named))
        except Exception as error:  # noqa: BLE001  # `result` raises it; one that is killed is killed here
            future.set_exception(error)
        return future


class Threading:
    """In the place of the module `threading`: a thread is an actor of its starter's process, killed with it."""

    def __init__(self, world: World) -> None:
        self._world = world

    def Thread(  # noqa: N802  # as the module calls it
        self,
        *,
        target: Callable[..., Any],
        name: str = "thread",
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        daemon: bool = False,  # noqa: ARG002  # whoever waits for it says so
    ) -> SimulatedThread:
        return SimulatedThread(self._world, name, lambda: target(*args, **(kwargs or {})))

    def Condition(self) -> SimulatedCondition:  # noqa: N802
        return SimulatedCondition(self._world)


class SimulatedThread:
    def __init__(self, world: World, name: str, run: Callable[[], Any]) -> None:
        self._world, self._kind, self._run = world, name, run
        self.name = ""

    def start(self) -> None:
        self.name = self._world.thread(self._kind, self._run)

    def join(self) -> None:
        self._world.pause(f"join {self.name}", until=lambda: self._world.has_ended(self.name))

    def is_alive(self) -> bool:
        return bool(self.name) and not self._world.has_ended(self.name)


class SimulatedCondition:
    """Others go on where its holder is at a step, so it is a lock too. Threads switch at steps alone."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._is_held = False

    def __enter__(self) -> Self:
        if self._is_held:
            self._world.pause("lock", until=lambda: not self._is_held)
        self._is_held = True
        return self

    def __exit__(self, *_: object) -> None:
        self._is_held = False

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> bool:
        """A step; with a ``timeout``, one that may come before the predicate holds."""
        self._is_held = False
        free = self._world.pause
        free("wait", until=lambda: not self._is_held and bool(predicate()), may_time_out=timeout is not None)
        if self._is_held:
            free("lock", until=lambda: not self._is_held)
        self._is_held = True
        return bool(predicate())

    def notify_all(self) -> None:
        """Whoever waits looks by itself."""

    notify = notify_all
