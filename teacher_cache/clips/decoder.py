"""A video's URI and parts or frame numbers in, decoded frames out, by processes that can be killed: a damaged video fails its
own clip, not the job.

A decoder process runs `teacher_cache.clips.decoder_program`, in the box of `teacher_cache.clips.box`. It reads one JSON request
per line, for clips or frames of one video or to probe it, and answers with JSON lines; the frames' bytes follow the line of a
decoded clip. No video library is loaded here.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import resource
import select
import signal
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import IO, Any, Self, TypeVar, get_args

import numpy as np

from schemas.clip import FailureReason, FrameClock, Part, Segment, VideoInfo
from schemas.errors import CouldNotRun, VideoError
from schemas.recipe import ClipRecipe
from teacher_cache.clips import box
from teacher_cache.clips.container_index import indexed, joined, opened_index
from teacher_cache.clips.content import opened_file
from teacher_cache.clips.preprocess import Frame, FrameSize
from teacher_cache.clips.video import OUT_OF_MEMORY, DecodedClip, DecodedFrames, Device, Ranges

DECODE_TIMEOUT_SECONDS = 120.0
"""Deadline of a clip where no job states one."""
LONG = 1 << 25
"""Bytes of a video of which no more is fetched than is wanted, if that is a small part of it."""
_READ = 1 << 20
_LONGEST_TEXT = 1000
_MOST_FRAMES = 1 << 24
"""Frames of the longest video, which is six days at 30 a second; plans of more would fill the memory."""
_PROGRAM = "teacher_cache.clips.decoder_program"
_LONGEST_LINE = 1 << 20
"""Bytes of an answer without its frames."""
_FRAMES_IN_TIME = 1000
"""Frames in which shots are found within the deadline of one clip; more have longer."""
_SEGMENTS_AT_ONCE = 1000
"""Segments in one request, so that the answer is no longer than that."""
_CPU_SECONDS = 3600.0
"""CPU time after which a process is replaced, so that it can have a hard limit."""
_WORKERS = 4
"""Threads of a process that may be at work at once; a decoder library has one or two."""

_LAST_BREATH_SECONDS = 5
_STOPPED = "the decoder was stopped, or asked for other clips, while it was at work"

Made = TypeVar("Made")


_LOST = {"decode_timeout", "decoder_crashed"}


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

    recipe: ClipRecipe | None
    """Of the clips; None for a decoder of which only `frames` and `probe` are asked."""
    timeout_seconds: float
    """Deadline of each clip, from its request on; the first includes opening the video. A remote video is fetched before that,
    under the limits of `Patience`, so that a server outage fails no clip."""
    device: Device = "cpu"
    student_size: int | None = None
    """Height and width of frames for a student, which `clips` gives beside the teacher's; None for none."""
    memory_bytes: int = 4 << 30
    """Memory limit of the process, so that a giant picture fails its own clip instead of exhausting the machine. A 10-bit 8K
    video, of which a codec may keep 16 frames, takes half of this. No limit on ``cuda``, whose driver maps memory freely."""
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _channel: socket.socket | None = field(default=None, init=False, repr=False)
    """Where the process's requests go."""
    _using: threading.RLock = field(default_factory=threading.RLock, init=False, repr=False)
    """Held while the process's pipes are in use, so that they are not closed under a reader."""
    _is_asked: bool = field(default=False, init=False, repr=False)
    """Whether the process still has answers to give."""
    _spent: float = field(default=0, init=False, repr=False)
    """CPU seconds of the process, as of its last answer."""
    _is_closed: bool = field(default=False, init=False, repr=False)
    _killed: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)
    """The process that `kill` ended last."""

    def clips(self, uri: str, parts: Sequence[Part], length: int = 0) -> Iterator[DecodedClip | VideoError]:
        """The clip or `VideoError` of each part, in order. The video is fetched and opened once for all of them.

        ``length``: bytes of the video, if they are known. Of a long one, only what the parts need is fetched, if its container
        says where that lies and it is little.

        The process works one clip ahead of the caller. A crash or missed deadline fails that clip, and a new process goes on
        with the remaining parts. After a second one, or if the video did not even open, all remaining parts fail with
        that reason, untried: a video that hangs costs at most two deadlines, however many parts it has.

        Raises `CouldNotRun` for problems that are not the video's. The iterator may be abandoned; the next request ends it.
        """
        left = deque(parts)
        if length >= LONG and self.device == "cpu":
            yield from self._by_ranges(uri, left)
        if not left:
            return
        with contextlib.ExitStack() as stack:
            try:
                file = stack.enter_context(opened_file(uri))
            except VideoError as error:
                yield from _each(left, error)
            else:
                yield from self._clips_of(file, left)

    def _by_ranges(self, uri: str, left: deque[Part]) -> Iterator[DecodedClip | VideoError]:
        """The clips of the first parts, as far as some bytes of the video are enough for them."""
        assert self.recipe is not None
        with contextlib.ExitStack() as stack:
            try:
                source = indexed(uri)
                if source is None:
                    return
                with source.opened() as index:
                    asked = {"of_parts": _dumped(left), "recipe": self.recipe.model_dump()}
                    ranges = joined(self._answer(index, asked, partial(_ranges, source.length)))
                if not source.pays(ranges):
                    return
                file = stack.enter_context(source.opened(ranges))
            except VideoError:  # which the whole file may not have, or tells better
                return
            for clip in self._clips_of(file, left.copy(), ranges):
                if isinstance(clip, VideoError) and clip.reason not in _LOST:
                    return  # more of it may be needed, or it is damaged: the whole file tells
                left.popleft()
                yield clip

    def _clips_of(self, file: int, left: deque[Part], held: Ranges | None = None) -> Iterator[DecodedClip | VideoError]:
        """The clips of the parts, which leave ``left`` as they come; ``held`` says what of the file there is, if not all."""
        assert self.recipe is not None
        lost_before = False
        while left:
            is_open = False
            deadline = self._deadline()
            process = self._start()
            try:
                asked = {
                    "parts": _dumped(left), "recipe": self.recipe.model_dump(), "student_size": self.student_size,
                    **({} if held is None else {"held": held}),
                }  # fmt: skip
                self._ask(process, file, asked, deadline)
                self._read(process, deadline, _no_more)
                is_open = True
                while left:
                    answer = self._read_clip(process, deadline)
                    left.popleft()
                    self._is_asked = bool(left)
                    yield answer
                    if self._spent > _CPU_SECONDS:
                        break
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
        """How much there is of a video. Raises `VideoError`; `CouldNotRun` if the problem is not the video's."""
        (found,) = self.probe_segments(uri, [None])
        if isinstance(found, VideoError):
            raise found
        return found

    def probe_segments(self, uri: str, segments: Sequence[Segment | None]) -> list[VideoInfo | VideoError]:
        """How much there is of each segment (None: the whole video), or why there is none. The video is opened once.

        Raises `VideoError` if it does not open; `CouldNotRun` if the problem is not the video's.
        """
        if self.recipe and self.recipe.shots:
            return self._shots(uri, segments)
        with opened_index(uri) as (file, is_index):
            try:
                found = self._footages_of(file, segments, self.recipe)
            except VideoError:
                if not is_index:
                    raise
            else:
                if not is_index or not any(isinstance(one, VideoError) for one in found):
                    return found
        with opened_file(uri) as file:  # what an index does not tell, the whole may
            return self._footages_of(file, segments, self.recipe)

    def _shots(self, uri: str, segments: Sequence[Segment | None]) -> list[VideoInfo | VideoError]:
        """As `probe_segments`, with shots. All frames are decoded, so a long video has a longer deadline."""
        with opened_file(uri) as file:
            (whole,) = self._footages_of(file, [None], None)
            if isinstance(whole, VideoError):
                raise whole
            seconds = self.timeout_seconds * max(1.0, whole.frames / _FRAMES_IN_TIME)
            return [found for segment in segments for found in self._footages_of(file, [segment], self.recipe, seconds)]

    def _footages_of(
        self, file: int, segments: Sequence[Segment | None], recipe: ClipRecipe | None, seconds: float | None = None
    ) -> list[VideoInfo | VideoError]:
        found: list[VideoInfo | VideoError] = []
        for start in range(0, len(segments), _SEGMENTS_AT_ONCE):
            some = segments[start : start + _SEGMENTS_AT_ONCE]
            asked = {
                "segments": [segment and segment.model_dump() for segment in some],
                "recipe": recipe and recipe.model_dump(),
            }
            found += self._answer(file, asked, partial(_footages, len(some), recipe is not None), seconds=seconds)
        return found

    def frames(self, uri: str, wanted: Sequence[int] | int, size: FrameSize, segment: Segment | None = None) -> DecodedFrames:
        """The frames of these numbers, in this order, or so many spread over the whole video, or over a segment of it.

        Each is resized in the process.

        Raises `VideoError`; `CouldNotRun` if the problem is not the video's. The deadline is that of a clip.
        """
        numbers = wanted if isinstance(wanted, int) else [int(index) for index in wanted]
        expected = _Expected(numbers if isinstance(numbers, int) else len(numbers), [size])
        with opened_file(uri) as file:
            asked = {"frames": numbers, "size": size, "segment": segment and segment.model_dump()}
            return self._answer(file, asked, partial(_decoded_frames, expected), expected.most_bytes)

    def _answer(
        self,
        file: int,
        request: dict[str, Any],
        made: Callable[[dict[str, Any], bytes], Made],
        most: int = 0,
        seconds: float | None = None,
    ) -> Made:
        """The answer to a request that gets a single one, within ``seconds``, or else `timeout_seconds`."""
        deadline = self._deadline() if seconds is None else time.monotonic() + seconds
        process = self._start()
        try:
            self._ask(process, file, request, deadline)
            return self._read(process, deadline, made, most)
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
            process = self.process
            if process is not None and (self._is_asked or self._spent > _CPU_SECONDS or process.poll() is not None):
                self._end(process)
            if self.process is None:
                self.process, self._channel, self._spent = *self._started(), 0.0
            if self._is_closed:  # checked after the start, since an earlier `close` could not see this process
                self._end(self.process)
                raise CouldNotRun(_STOPPED)
            self._is_asked = True
            return self.process

    def _started(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        """A new process, and the socket that its requests go to."""
        finds_shots = self.recipe is not None and self.recipe.shots is not None
        # Of extras; the process could only die.
        for package in ("av", "decord", *(("cv2", "scenedetect") if finds_shots else ())):
            if find_spec(package) is None:
                raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        memory = self.memory_bytes if self.device == "cpu" else resource.RLIM_INFINITY
        # It works at one clip, and one ahead.
        cpu_seconds = math.ceil(_CPU_SECONDS + 2 * _WORKERS * self.timeout_seconds)
        ours, its = socket.socketpair()
        with its:
            process = subprocess.Popen(
                box.command(_PROGRAM, str(os.getpid()), self.device, str(memory), str(cpu_seconds), *["shots"] * finds_shots),
                stdin=its.fileno(),
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # FFmpeg's log; errors come back as reasons
                cwd="/",
                env=box.environment(self.device),
            )
        return process, ours

    def _ask(self, process: subprocess.Popen[bytes], file: int, request: dict[str, Any], deadline: float) -> None:
        line = json.dumps(request).encode() + b"\n"
        with self._noticing_loss(process):
            assert self._channel is not None
            _write(self._channel, line, file, deadline)

    def _read_clip(self, process: subprocess.Popen[bytes], deadline: float) -> DecodedClip | VideoError:
        assert self.recipe is not None
        try:
            sizes = [FrameSize(size) for size in (self.recipe.size, self.student_size) if size is not None]
            expected = _Expected(self.recipe.frames, sizes)
            return self._read(process, deadline, partial(_decoded_clip, expected), expected.most_bytes)
        except VideoError as error:
            return error

    def _read(
        self, process: subprocess.Popen[bytes], deadline: float, made: Callable[[dict[str, Any], bytes], Made], most: int = 0
    ) -> Made:
        """What is ``made`` of the process's next answer, with at most so many bytes of frames.

        Raises the `VideoError` that it reports; `_Lost` if it is gone, or if a video's author may have taken it over, since it
        answers what the program would not.
        """
        with self._noticing_loss(process):
            assert process.stdout is not None
            answer = json.loads(_read_line(process.stdout, deadline))
            self._spent = float(answer["process_seconds"])
            if "reason" not in answer:
                size = sum(map(math.prod, answer.get("shapes", ())))
                if not 0 <= size <= most:
                    raise ValueError
                return made(answer, _read_exactly(process.stdout, size, deadline))
            error = _refusal(answer)
            if error.detail == OUT_OF_MEMORY:
                self._spent = math.inf  # another process comes next
        raise error

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
            except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
                self._end(process)
                raise _Lost("decoder_crashed", "the decoder's process gave an answer that makes no sense") from None
            except (EOFError, BrokenPipeError, ConnectionResetError):
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
            for pipe in (self._channel, process.stdout):
                if pipe is not None:
                    pipe.close()
            self.process = self._channel = None


def _dumped(parts: Iterable[Part]) -> list[Any]:
    return [part and part.model_dump() for part in parts]


def _ranges(length: int, answer: dict[str, Any], _frames: bytes) -> list[tuple[int, int]]:
    found = [(int(start), int(stop)) for start, stop in answer["ranges"]]
    if any(not 0 <= start < stop <= length for start, stop in found) or found != sorted(found):
        raise ValueError
    return found


def _no_more(_answer: dict[str, Any], _frames: bytes) -> None:
    """The answer says no more than that the video is open."""


@dataclass(frozen=True)
class _Expected:
    """The frames that an answer may hold."""

    count: int
    sizes: Sequence[FrameSize]
    """The sizes that all of them come in."""

    @property
    def most_bytes(self) -> int:
        return self.count * sum(size.most_pixels for size in self.sizes) * 3

    def pictures(self, answer: dict[str, Any], data: bytes) -> list[Frame]:
        """The frames, in each size. Raises `ValueError` for others."""
        found, start = [], 0
        for size, shape in zip(self.sizes, answer["shapes"], strict=True):
            count, height, width, channels = shape
            if count != self.count or channels != 3 or not size.allows(height, width):
                raise ValueError
            pixels = np.frombuffer(data, np.uint8, math.prod(shape), start)
            found.append(pixels.reshape(shape))
            start += pixels.size
        return found

    def clock(self, answer: dict[str, Any]) -> FrameClock:
        """When they are shown. Raises `ValueError` for others."""
        clock = FrameClock.model_validate(answer["clock"])
        if {len(clock.frame_index), len(clock.timestamps_seconds)} != {self.count}:
            raise ValueError
        are_numbers = all(0 <= number < _MOST_FRAMES for number in (*clock.frame_index, clock.undecodable_tail_frames))
        if not are_numbers or not all(map(math.isfinite, clock.timestamps_seconds)):
            raise ValueError
        return clock


def _decoded_clip(expected: _Expected, answer: dict[str, Any], data: bytes) -> DecodedClip:
    cpu_seconds = float(answer["cpu_seconds"])
    if not 0 <= cpu_seconds < math.inf:
        raise ValueError
    frames, *student = expected.pictures(answer, data)
    return DecodedClip(frames, expected.clock(answer), str(answer["decoder"])[:_LONGEST_TEXT], cpu_seconds, *student)


def _decoded_frames(expected: _Expected, answer: dict[str, Any], data: bytes) -> DecodedFrames:
    (frames,) = expected.pictures(answer, data)
    return DecodedFrames(frames, expected.clock(answer), _footage(answer))


def _footage(answer: dict[str, Any]) -> VideoInfo:
    footage = VideoInfo.model_validate(answer["footage"])
    if footage.frames > _MOST_FRAMES or (footage.taken or 0) > footage.frames:
        raise ValueError
    return footage


def _footages(count: int, is_sampled: bool, answer: dict[str, Any], _frames: bytes) -> list[VideoInfo | VideoError]:
    found = [_refusal(one) if "reason" in one else _footage(one) for one in answer["footages"]]
    if len(found) != count or any(isinstance(one, VideoInfo) and (one.taken is not None) != is_sampled for one in found):
        raise ValueError
    return found


def _refusal(answer: dict[str, Any]) -> VideoError:
    if answer["reason"] not in get_args(FailureReason):
        raise ValueError
    return VideoError(answer["reason"], str(answer["detail"])[:_LONGEST_TEXT])


def _each(left: deque[Part], error: VideoError, count: int | None = None) -> Iterator[VideoError]:
    """The error as the answer for the first ``count`` of the parts left, or for all of them."""
    for _ in range(len(left) if count is None else count):
        left.popleft()
        yield error


def _ending(returncode: int) -> str:
    return signal.Signals(-returncode).name if returncode < 0 else f"status {returncode}"


def _wait(pipe: IO[bytes] | socket.socket, event: int, deadline: float) -> None:
    """Wait until a pipe can be read or written, or is closed. Uses poll, since select fails beyond 1024 open files."""
    poll = select.poll()
    poll.register(pipe, event)
    if not poll.poll(1000 * max(0.0, deadline - time.monotonic())):
        raise TimeoutError


def _write(channel: socket.socket, data: bytes, file: int, deadline: float) -> None:
    """Write in pieces that a writable socket accepts without blocking, the first with the descriptor. Raises `TimeoutError`."""
    for start in range(0, len(data), select.PIPE_BUF):
        _wait(channel, select.POLLOUT, deadline)
        socket.send_fds(channel, [data[start : start + select.PIPE_BUF]], [] if start else [file])


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
        if len(line) > _LONGEST_LINE:
            raise ValueError
        line += _read_some(pipe, 1, deadline)
    return bytes(line)


def _read_exactly(pipe: IO[bytes], size: int, deadline: float) -> bytes:
    data = bytearray()
    while len(data) < size:
        data += _read_some(pipe, min(_READ, size - len(data)), deadline)
    return bytes(data)
