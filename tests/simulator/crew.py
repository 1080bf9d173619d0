"""Threads that actors run in, one at a time."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from threading import Lock, Thread
from typing import Self


class CrewThread(Thread):
    """Does its job each time that it gets its baton."""

    def __init__(self) -> None:
        super().__init__(name="simulated actor", daemon=True)
        self.baton = Lock()
        self.baton.acquire()
        self.job: Callable[[], None] | None = None
        self.start()

    def run(self) -> None:
        while True:
            self.baton.acquire()
            if self.job is None:
                return
            self.job()


class Crew:
    """Threads for actors, kept from run to run: to start one takes longer than ten steps.

    While there is a crew, this thread and those of the crew keep to one core: handing over between cores takes twice as long.
    """

    def __init__(self) -> None:
        self._idle: list[CrewThread] = []
        self._cores = _keep_to_one_core()

    def take(self) -> CrewThread:
        return self._idle.pop() if self._idle else CrewThread()

    def give_back(self, threads: list[CrewThread]) -> None:
        self._idle += threads

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for thread in self._idle:
            thread.job = None
            thread.baton.release()
            thread.join()
        if self._cores:
            os.sched_setaffinity(0, self._cores)


def _keep_to_one_core() -> set[int]:
    """Stay on the core where this thread is. Returns those that it had; none where the system does not let a thread choose."""
    if not hasattr(os, "sched_setaffinity"):
        return set()
    cores = os.sched_getaffinity(0)
    fields = Path("/proc/thread-self/stat").read_text().rpartition(")")[2].split()
    os.sched_setaffinity(0, {int(fields[36])})  # the 39th field of proc(5), of which the first two are before the bracket
    return cores
