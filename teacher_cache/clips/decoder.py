"""Decoding in processes that can be killed: a damaged video costs its own clip, never the job.

A decoder process runs `teacher_cache.clips.decoder_program`: it reads one JSON request a line, for clips of one video or to
probe it, and answers with JSON lines and, behind a decoded clip's, the frames' bytes.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self

import numpy as np

from schemas.clip import FrameClock, VideoInfo, Window
from schemas.errors import CouldNotRun, VideoError
from schemas.recipe import ClipRecipe
from teacher_cache.clips.decode import DecodedClip, on_disk
from teacher_cache.clips.decoder_program import Answer
from teacher_cache.clips.video import Device

_READ = 1 << 20

_LAST_BREATH_SECONDS = 5
_STOPPED = "the decoder was stopped, or asked for other clips, while it was at work"


class _Lost(Exception):
    """The process died, or was killed at its deadline, with a question unanswered."""

    def __init__(self, reason: str, detail: str) -> None:
        self.error = VideoError(reason, detail)
        super().__init__(str(self.error))


@dataclass
class Decoder:
    """One decoder process, started when first needed and again after it was lost. Use as a context manager.

    One thread asks at a time; any thread may `kill`. On ``cuda`` each process takes some hundred MB of the GPU's memory.
    """

    recipe: ClipRecipe
    timeout_seconds: float
    """Deadline of each clip, from when it is asked for: the first one's covers opening the video. One that lies elsewhere is
    fetched before; how long that may take is `Patience`'s to say, so that a server that is away for a while fails no clip."""
    device: Device = "cpu"
    memory_bytes: int = 4 << 30
    """What the process may allocate, so that a giant picture costs its own clip and not the machine. An 8K video in 10 bits, of
    which a codec may keep 16 frames, takes half of this. On ``cuda`` nothing is bounded: its driver maps as it will."""
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _using: threading.RLock = field(default_factory=threading.RLock, init=False, repr=False)
    """Held while the process's pipes are used, so that they are not closed under who reads."""
    _is_asked: bool = field(default=False, init=False, repr=False)
    """Whether the process owes answers."""
    _is_closed: bool = field(default=False, init=False, repr=False)
    _killed: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)
    """The process that was last told to end by `kill`."""

    def clips(self, uri: str, windows: Sequence[Window | None]) -> Iterator[DecodedClip | VideoError]:
        """One answer for each window, in order; the video is fetched and opened once for all of them.

        The process works one clip ahead of who iterates and then waits. A death or a missed deadline costs the clip that it
        hit, and the windows left are asked of a new process. After a second one, or where the video did not even open, they
        all fail with that reason, untried: a video that hangs costs two deadlines, however many windows it has.

        Raises `CouldNotRun` for what is not the video's fault. An iterator may be left unfinished; another request ends it.
        """
        with contextlib.ExitStack() as stack:
            try:
                path = stack.enter_context(on_disk(uri))
            except VideoError as error:
                yield from _each(deque(windows), error)
            else:
                yield from self._clips_of(path, windows)

    def _clips_of(self, path: Path, windows: Sequence[Window | None]) -> Iterator[DecodedClip | VideoError]:
        left = deque(windows)
        lost_before = False
        while left:
            is_open = False
            deadline = self._deadline()
            process = self._start()
            try:
                self._ask(process, {"uri": str(path), "windows": [window and window.model_dump() for window in left]}, deadline)
                self._read(process, deadline)
                is_open = True
                while left:
                    answer = self._read_clip(process, deadline)
                    left.popleft()
                    self._is_asked = bool(left)
                    yield answer
                    deadline = self._deadline()
            except VideoError as refusal:  # of the video as a whole
                self._is_asked = False
                yield from _each(left, refusal)
            except _Lost as lost:
                yield from _each(left, lost.error, 1 if is_open and not lost_before else len(left))
                lost_before = True
            finally:
                if left:  # there is more to come from the process, and nobody to read it
                    self._end(process)

    def probe(self, uri: str) -> VideoInfo:
        """What a video holds. Raises `VideoError`, or `CouldNotRun` for what is not the video's fault."""
        with on_disk(uri) as path:
            return self._footage_of(path)

    def _footage_of(self, path: Path) -> VideoInfo:
        deadline = self._deadline()
        process = self._start()
        try:
            self._ask(process, {"uri": str(path)}, deadline)
            return VideoInfo.model_validate(self._read(process, deadline)[0]["footage"])
        except _Lost as lost:
            raise lost.error from None
        finally:
            self._is_asked = False

    def kill(self) -> None:
        """End the process; another thread that waits for its answer gets `CouldNotRun`. A next request starts a new one."""
        if (process := self.process) is not None:
            self._killed = process
            process.kill()  # who reads from it now sees its end, and lets go
            self._end(process)

    def close(self) -> None:
        """End the process for good; whoever asks now, or asks later, gets `CouldNotRun`, and no other process is started."""
        self._is_closed = True
        self.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _deadline(self) -> float:
        return time.monotonic() + self.timeout_seconds

    def _start(self) -> subprocess.Popen[bytes]:
        """A process that lives and owes no answer. One that died with nothing asked of it cost no clip."""
        with self._using:
            if self.process is not None and (self._is_asked or self.process.poll() is not None):
                self._end(self.process)
            if self.process is None:
                bound = self.memory_bytes if self.device == "cpu" else resource.RLIM_INFINITY
                self.process = subprocess.Popen(
                    [sys.executable, "-m", "teacher_cache.clips.decoder_program", str(os.getpid()), str(bound)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,  # FFmpeg's remarks; what matters comes back as the reason
                )
            if self._is_closed:  # asked when the process is there: `close` that came before could not see it
                self._end(self.process)
                raise CouldNotRun(_STOPPED)
            self._is_asked = True
            return self.process

    def _ask(self, process: subprocess.Popen[bytes], request: dict[str, Any], deadline: float) -> None:
        line = json.dumps(request | {"recipe": self.recipe.model_dump(), "device": self.device}).encode() + b"\n"
        with self._noticing_loss(process):
            assert process.stdin is not None
            _write(process.stdin, line, deadline)

    def _read_clip(self, process: subprocess.Popen[bytes], deadline: float) -> DecodedClip | VideoError:
        try:
            answer, frames = self._read(process, deadline)
        except VideoError as error:
            return error
        values = np.frombuffer(frames, dtype=np.uint8).reshape(answer["shape"])
        return DecodedClip(values, FrameClock.model_validate(answer["clock"]), answer["decoder"], answer["cpu_seconds"])

    def _read(self, process: subprocess.Popen[bytes], deadline: float) -> Answer:
        """The next answer of the process. Raises `VideoError` and `CouldNotRun` as it says, `_Lost` where it says nothing."""
        with self._noticing_loss(process):
            assert process.stdout is not None
            answer = json.loads(_read_line(process.stdout, deadline))
            frames = _read_exactly(process.stdout, int(np.prod(answer["shape"])), deadline) if "shape" in answer else b""
        if "reason" in answer:
            raise VideoError(answer["reason"], answer["detail"])
        if "trouble" in answer:
            raise CouldNotRun(answer["trouble"])
        return answer, frames

    @contextlib.contextmanager
    def _noticing_loss(self, process: subprocess.Popen[bytes]) -> Iterator[None]:
        with self._using:
            if self.process is not process:
                raise CouldNotRun(_STOPPED)
            try:
                yield
            except TimeoutError:
                self._end(process)
                detail = f"decoding took longer than {self.timeout_seconds:g} s, and its process was killed"
                raise _Lost("decode_timeout", detail) from None
            except (EOFError, BrokenPipeError):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_LAST_BREATH_SECONDS)  # its pipes are closed a little before its end is told
                self._end(process)
                if self._killed is process:
                    raise CouldNotRun(_STOPPED) from None
                raise _Lost("decoder_crashed", f"the decoder's process ended with {_ending(process.returncode)}") from None

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """End a process, if it is still the one."""
        with self._using:
            if self.process is not process:
                return
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(BrokenPipeError):
                    if pipe is not None:
                        pipe.close()
            self.process = None


def _each(left: deque[Window | None], error: VideoError, count: int | None = None) -> Iterator[VideoError]:
    """The error as the answer to the first ``count`` of the windows left, or to all."""
    for _ in range(len(left) if count is None else count):
        left.popleft()
        yield error


def _ending(returncode: int) -> str:
    return signal.Signals(-returncode).name if returncode < 0 else f"status {returncode}"


def _wait(pipe: IO[bytes], event: int, deadline: float) -> None:
    """Until a pipe can be read or written, or its other end is closed; poll, for select stops at 1024 open files."""
    poll = select.poll()
    poll.register(pipe, event)
    if not poll.poll(1000 * max(0.0, deadline - time.monotonic())):
        raise TimeoutError


def _write(pipe: IO[bytes], data: bytes, deadline: float) -> None:
    """In pieces that a pipe takes without blocking once it can be written at all."""
    for start in range(0, len(data), select.PIPE_BUF):
        _wait(pipe, select.POLLOUT, deadline)
        os.write(pipe.fileno(), data[start : start + select.PIPE_BUF])


def _read_some(pipe: IO[bytes], size: int, deadline: float) -> bytes:
    _wait(pipe, select.POLLIN, deadline)
    data = os.read(pipe.fileno(), size)
    if not data:
        raise EOFError
    return data


def _read_line(pipe: IO[bytes], deadline: float) -> bytes:
    """Byte by byte, so that nothing of the frames behind it is taken."""
    line = bytearray()
    while not line.endswith(b"\n"):
        line += _read_some(pipe, 1, deadline)
    return bytes(line)


def _read_exactly(pipe: IO[bytes], size: int, deadline: float) -> bytes:
    data = bytearray()
    while len(data) < size:
        data += _read_some(pipe, min(_READ, size - len(data)), deadline)
    return bytes(data)
