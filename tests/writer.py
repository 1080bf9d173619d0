"""A run of a job that is killed, torn or paused at the very step a test names: hundreds of runs, each in a process of its own.

One process imports everything and forks a child for each run. The children are real runs, but for two things that write
nothing and would take most of the time: what a video's decoder gave, and what the teacher gave, are kept from the first run.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import torch

import cluster.local  # noqa: F401  # the engine, which a run would otherwise import anew
from schemas.errors import VideoError
from schemas.job import Job
from teacher_cache.clips.decoder import Decoder
from teacher_cache.clips.video import DecodedClip
from teacher_cache.jobs import commit, engine
from teacher_cache.jobs.run import run_job
from teacher_cache.store import log
from teacher_cache.teachers import registry
from teacher_cache.teachers.l4p.teacher import L4PFamily, L4PTeacher

# Every way in which a run changes a folder, as Python's audit events call them; writing to an open file has none.
_CHANGES = frozenset({"os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate"})
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclass(frozen=True)
class Stop:
    """Where a run is stopped: just before its ``step``-th change to the store's folder, counted from 1."""

    step: int
    how: Literal["kill", "tear", "pause"] = "kill"
    """``tear``: killed in the middle of the first write to a file that this step, or a later one, opens."""
    torn_bytes: int = 50
    """Bytes of the torn file that reach the disk."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended, or that it is paused."""

    status: Literal["done", "killed", "paused", "failed"]
    steps: tuple[str, ...] = ()
    """Each change to the store's folder, of a run that was done: its audit event and path, such as ``os.link log/…``."""
    error: str = ""


class Writers:
    """Runs of jobs in processes of their own; see `writers`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def rehearse(self, job: Job, records_per_checkpoint: int) -> None:
        """Run a job undisturbed, in the process that all others fork from, and keep what decoders and teacher gave."""
        self._connection.send(("rehearse", job, records_per_checkpoint))
        if error := self._connection.recv():
            raise RuntimeError(error)

    def start(self, job: Job, records_per_checkpoint: int, stop: Stop | None = None, **environment: str) -> int:
        """Begin a run; gives its process id.

        Each unit has a record of its own. There is a checkpoint after ``records_per_checkpoint``, and at the end.
        """
        self._connection.send(("start", job, records_per_checkpoint, stop, environment))
        return int(self._connection.recv())

    def wait(self, pid: int) -> Outcome:
        """Wait until a run ends or pauses."""
        self._connection.send(("wait", pid))
        outcome: Outcome = self._connection.recv()
        return outcome

    def proceed(self, pid: int) -> Outcome:
        """Let a paused run go on to its end."""
        os.kill(pid, signal.SIGCONT)
        return self.wait(pid)


@contextlib.contextmanager
def writers() -> Iterator[Writers]:
    """Runs that are all ended on leaving."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there,))
    process.start()
    there.close()
    try:
        yield Writers(here)
    finally:
        here.close()
        process.join()


def _serve(requests: Connection) -> None:
    _keep_what_writes_nothing()
    running: dict[int, int] = {}
    try:
        while True:
            match requests.recv():
                case "rehearse", job, records_per_checkpoint:
                    requests.send(_rehearsed(job, records_per_checkpoint))
                case "start", job, records_per_checkpoint, stop, environment:
                    pid, said = _forked(job, records_per_checkpoint, stop, environment)
                    running[pid] = said
                    requests.send(pid)
                case "wait", pid:
                    requests.send(_waited(pid, running))
    except EOFError:
        for pid in running:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _rehearsed(job: Job, records_per_checkpoint: int) -> str:
    try:
        _run(job, records_per_checkpoint)
    except Exception:  # noqa: BLE001  # whatever it is, the test is told
        return traceback.format_exc()
    return ""


def _run(job: Job, records_per_checkpoint: int) -> None:
    log.MOST_RECORDS, log.WORTH_A_CHECKPOINT = records_per_checkpoint, 2  # a small store is to have checkpoints too
    commit._EVERY_SECONDS, commit._MOST_ROWS = 0, 1
    run_job(job)


def _forked(job: Job, records_per_checkpoint: int, stop: Stop | None, environment: dict[str, str]) -> tuple[int, int]:
    """(process id of a run, pipe on which it says how it ended)."""
    listen, say = os.pipe()
    pid = os.fork()
    if pid:
        os.close(say)
        return pid, listen
    try:
        os.environ.update(environment)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # here, in the main thread: Python ignores it
        steps = _Steps(job.store, stop)
        _run(job, records_per_checkpoint)
        os.write(say, "\n".join(["done", *steps.taken]).encode())
    except BaseException:  # noqa: BLE001  # whatever it is, the test is told
        os.write(say, f"failed\n{traceback.format_exc()}".encode())
    finally:
        os._exit(0)


def _waited(pid: int, running: dict[int, int]) -> Outcome:
    _, status = os.waitpid(pid, os.WUNTRACED)
    if os.WIFSTOPPED(status):
        return Outcome("paused")
    with os.fdopen(running.pop(pid)) as said:
        word, _, rest = said.read().partition("\n")
    if os.WIFSIGNALED(status):
        return Outcome("killed")
    return Outcome("done", steps=tuple(rest.splitlines())) if word == "done" else Outcome("failed", error=rest)


class _Steps:
    """This process's changes under a folder, one of which stops it."""

    def __init__(self, folder: str, stop: Stop | None) -> None:
        self.taken: list[str] = []
        self._folder, self._stop = folder, stop
        self._one_at_a_time = threading.Lock()
        sys.addaudithook(self._heard)

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            opened, _, flags = arguments
            paths, is_change = [opened], bool(flags & _WRITING)
        else:
            # The last path is the one that changes: that of a link is its new name.
            paths, is_change = [a for a in reversed(arguments) if isinstance(a, str | os.PathLike)], event in _CHANGES
        path = os.fspath(paths[0]) if is_change and isinstance(paths[0], str | os.PathLike) else ""
        # A folder that is there already is not made again.
        if path.startswith(self._folder) and not (event == "os.mkdir" and Path(path).is_dir()):
            with self._one_at_a_time:  # or two threads would both find the step taken that stops them
                self.taken.append(f"{event} {path[len(self._folder) + 1 :]}")
                number = len(self.taken)
            if self._stop is not None and number == self._stop.step:
                _stop_here(self._stop)


def _stop_here(stop: Stop) -> None:
    if stop.how == "tear":
        # The kernel writes up to the limit, and then kills.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (stop.torn_bytes, resource.RLIM_INFINITY))
    else:
        os.kill(os.getpid(), signal.SIGSTOP if stop.how == "pause" else signal.SIGKILL)


def _keep_what_writes_nothing() -> None:
    """Let every decoded clip, and every answer of the tiny L4P, be worked out once."""
    torch.set_num_threads(1)  # threads of a pool would not be in the children
    decode: Callable[..., Iterator[DecodedClip | VideoError]] = Decoder.clips
    raw: Callable[..., Any] = L4PTeacher.raw
    decoded: dict[Any, DecodedClip | VideoError] = {}
    taught: dict[Any, Any] = {}

    def decode_once(decoder: Decoder, uri: str, parts: Sequence[Any], length: int) -> Iterator[DecodedClip | VideoError]:
        keys = [(uri, part, decoder.recipe) for part in parts]
        new = [key for key in keys if key not in decoded]
        decoded.update(zip(new, decode(decoder, uri, [part for _, part, _ in new], length), strict=True))
        return iter([decoded[key] for key in keys])

    def raw_once(teacher: L4PTeacher, frames: torch.Tensor, signals: Any) -> Any:
        key = frames.numpy().tobytes(), tuple(signals)
        if key not in taught:
            taught[key] = raw(teacher, frames, signals)
        return dict(taught[key])

    Decoder.clips, L4PTeacher.raw = decode_once, raw_once  # type: ignore[method-assign]
    loading = [(L4PFamily, "identify"), (L4PFamily, "load"), (L4PTeacher, "heads")]
    for owner, name in [*loading, (registry, "entry_points"), (engine, "entry_points")]:
        setattr(owner, name, _once_each(getattr(owner, name)))


def _once_each(function: Callable[..., Any]) -> Callable[..., Any]:
    """As `functools.cache`, by what the arguments look like, since a job's options cannot be hashed."""
    given: dict[str, Any] = {}

    @functools.wraps(function)
    def once(*args: Any, **options: Any) -> Any:
        key = repr((args, options))
        if key not in given:
            given[key] = function(*args, **options)
        return given[key]

    return once
