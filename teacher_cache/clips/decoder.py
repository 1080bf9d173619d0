"""A video's URI and windows in, decoded clips out, by processes that can be killed: a damaged video fails its own clip, not the
job.

A decoder process runs `teacher_cache.clips.decoder_program`. It reads one JSON request per line, for clips of one video or to
probe it, and answers with JSON lines; the frames' bytes follow the line of a decoded clip.
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
    """The process died, or was killed at its deadline, before it answered."""

    def __init__(self, reason: str, detail: str) -> None:
        self.error = VideoError(reason, detail)
        super().__init__(str(self.error))


@dataclass
class Decoder:
    """One decoder process, started on first use and restarted after a crash. Use as a context manager.

    One thread may decode at a time; any thread may `kill`. On ``cuda``, each process takes some hundred MB of GPU memory.
    """

    recipe: ClipRecipe
    timeout_seconds: float
    """Deadline of each clip, from its request on; the first includes opening the video. A remote video is fetched before that,
    under the limits of `Patience`, so that a server outage fails no clip."""
    device: Device = "cpu"
    memory_bytes: int = 4 << 30
    """Memory limit of the process, so that a giant picture fails its own clip instead of exhausting the machine. A 10-bit 8K
    video, of which a codec may keep 16 frames, takes half of this. No limit on ``cuda``, whose driver maps memory freely."""
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _using: threading.RLock = field(default_factory=threading.RLock, init=False, repr=False)
    """Held while the process's pipes are in use, so that they are not closed under a reader."""
    _is_asked: bool = field(default=False, init=False, repr=False)
    """Whether the process still has answers to give."""
    _is_closed: bool = field(default=False, init=False, repr=False)
    _killed: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)
    """The process that `kill` ended last."""

    def clips(self, uri: str, windows: Sequence[Window | None]) -> Iterator[DecodedClip | VideoError]:
        """The clip or `VideoError` of each window, in order. The video is fetched and opened once for all of them.

        The process works one clip ahead of the caller. A crash or missed deadline fails that clip, and a new process goes on
        with the remaining windows. After a second one, or if the video did not even open, all remaining windows fail with
        that reason, untried: a video that hangs costs at most two deadlines, however many windows it has.

        Raises `CouldNotRun` for problems that are not the video's. The iterator may be abandoned; the next request ends it.
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
            except VideoError as refusal:  # the whole video cannot be opened
                self._is_asked = False
                yield from _each(left, refusal)
            except _Lost as lost:
                yield from _each(left, lost.error, 1 if is_open and not lost_before else len(left))
                lost_before = True
            finally:
                if left:  # the process has more answers, and nobody will read them
                    self._end(process)

    def probe(self, uri: str) -> VideoInfo:
        """A video's number of frames and frame rate. Raises `VideoError`; `CouldNotRun` if the problem is not the video's."""
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
        """Kill the process. A thread that waits for its answer gets `CouldNotRun`; the next request starts a new process."""
        if (process := self.process) is not None:
            self._killed = process
            process.kill()  # a reader sees the end of its pipe, and releases the lock
            self._end(process)

    def close(self) -> None:
        """Kill the process for good. Current and later requests get `CouldNotRun`, and no new process is started."""
        self._is_closed = True
        self.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _deadline(self) -> float:
        return time.monotonic() + self.timeout_seconds

    def _start(self) -> subprocess.Popen[bytes]:
        """A live, idle process. If the last one died while idle, it is replaced, and no clip fails."""
        with self._using:
            if self.process is not None and (self._is_asked or self.process.poll() is not None):
                self._end(self.process)
            if self.process is None:
                bound = self.memory_bytes if self.device == "cpu" else resource.RLIM_INFINITY
                self.process = subprocess.Popen(
                    [sys.executable, "-m", "teacher_cache.clips.decoder_program", str(os.getpid()), str(bound)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,  # FFmpeg's log; errors come back as reasons
                )
            if self._is_closed:  # checked after the start, since an earlier `close` could not see this process
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
        """The next answer of the process. Raises the `VideoError` or `CouldNotRun` that it reports; `_Lost` if it is gone."""
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
                    process.wait(_LAST_BREATH_SECONDS)  # its pipes close slightly before it has exited
                self._end(process)
                if self._killed is process:
                    raise CouldNotRun(_STOPPED) from None
                raise _Lost("decoder_crashed", f"the decoder's process ended with {_ending(process.returncode)}") from None

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """Kill the process and close its pipes, if it is still the current one."""
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
    """The error as the answer for the first ``count`` of the windows left, or for all of them."""
    for _ in range(len(left) if count is None else count):
        left.popleft()
        yield error


def _ending(returncode: int) -> str:
    return signal.Signals(-returncode).name if returncode < 0 else f"status {returncode}"


def _wait(pipe: IO[bytes], event: int, deadline: float) -> None:
    """Wait until a pipe can be read or written, or is closed. Uses poll, since select fails beyond 1024 open files."""
    poll = select.poll()
    poll.register(pipe, event)
    if not poll.poll(1000 * max(0.0, deadline - time.monotonic())):
        raise TimeoutError


def _write(pipe: IO[bytes], data: bytes, deadline: float) -> None:
    """Write in pieces that a writable pipe accepts without blocking. Raises `TimeoutError`."""
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
    """Read byte by byte, so that nothing of the frames after the line is consumed."""
    line = bytearray()
    while not line.endswith(b"\n"):
        line += _read_some(pipe, 1, deadline)
    return bytes(line)


def _read_exactly(pipe: IO[bytes], size: int, deadline: float) -> bytes:
    data = bytearray()
    while len(data) < size:
        data += _read_some(pipe, min(_READ, size - len(data)), deadline)
    return bytes(data)
