"""Decoding in processes that can be killed: a damaged video costs its own clip, never the job.

A decoder process is a plain program that reads one JSON request a line, to decode a clip or to probe a video, and answers
with a JSON line and, for a decoded clip, the frames' bytes. It holds no torch, no zarr and no credentials of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import repeat
from typing import IO, Any, Self, TypeVar

import numpy as np

from schemas.clip import Footage, FrameClock, Window
from schemas.errors import CacheError, CouldNotRun, VideoError
from schemas.recipe import ClipRecipe
from teacher_cache.clips.decode import DecodedClip, decode_clip, on_disk, probe

_READ = 1 << 20

Result = TypeVar("Result")


class DecoderPool:
    """A few decoder processes behind one ordered stream of clips."""

    def __init__(self, recipe: ClipRecipe, processes: int, timeout_seconds: float) -> None:
        self._decoders = [Decoder(recipe, timeout_seconds) for _ in range(processes)]
        self._free = list(self._decoders)
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="decoder")

    def map(
        self, uris: Iterable[str], windows: Iterable[Window | None] = repeat(None), ahead: int = 2
    ) -> Iterator[DecodedClip | VideoError]:
        """One clip for each uri (and window), in order; at most ``ahead`` clips for each process wait decoded."""
        asked = (partial(Decoder.decode, uri=u, window=w) for u, w in zip(uris, windows, strict=False))
        return self._stream(asked, ahead)

    def probe(self, uris: Iterable[str]) -> Iterator[Footage | VideoError]:
        """What each video holds, in order."""
        return self._stream((partial(Decoder.probe, uri=u) for u in uris), ahead=2)

    def _stream(self, asked: Iterable[Callable[[Decoder], Result]], ahead: int) -> Iterator[Result | VideoError]:
        waiting: deque[Future[Result | VideoError]] = deque()
        limit = len(self._decoders) * ahead
        try:
            for ask in asked:
                waiting.append(self._threads.submit(self._asked, ask))
                if len(waiting) >= limit:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def _asked(self, ask: Callable[[Decoder], Result]) -> Result | VideoError:
        decoder = self._free.pop()  # there are as many threads as decoders
        try:
            return ask(decoder)
        except VideoError as error:
            return error
        finally:
            self._free.append(decoder)

    def close(self) -> None:
        for decoder in self._decoders:
            decoder.kill()
        self._threads.shutdown(cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass
class Decoder:
    """One decoder process, started when first needed and again after it was lost.

    A video that lies elsewhere is fetched before the process is asked: how long that may take is `Patience`'s to say, and
    the deadline is for decoding alone, so that a server that is away for a while fails no clip.
    """

    recipe: ClipRecipe
    timeout_seconds: float
    device: str = "cpu"
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def decode(self, uri: str, window: Window | None) -> DecodedClip:
        """Raises `VideoError`, or `CouldNotRun` for what is not the video's fault."""
        with on_disk(uri) as path:
            request = {"uri": str(path), "recipe": self.recipe.model_dump(), "window": window and window.model_dump()}
            answer, frames = self._exchange(request)
        values = np.frombuffer(frames, dtype=np.uint8).reshape(answer["shape"])
        return DecodedClip(values, FrameClock.model_validate(answer["clock"]), answer["decoder"])

    def clips(self, uri: str, windows: Sequence[Window | None]) -> Iterator[DecodedClip | VideoError]:
        for window in windows:
            try:
                yield self.decode(uri, window)
            except VideoError as error:
                yield error

    def probe(self, uri: str) -> Footage:
        """Raises as `decode` does."""
        with on_disk(uri) as path:
            return Footage.model_validate(self._exchange({"uri": str(path)})[0]["footage"])

    def _exchange(self, request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        """One request to the process, and its answer with the bytes behind it."""
        process = self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        deadline = time.monotonic() + self.timeout_seconds
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            answer = json.loads(_read_line(process.stdout, deadline))
            frames = _read_exactly(process.stdout, int(np.prod(answer["shape"])), deadline) if "shape" in answer else b""
        except TimeoutError:
            self.kill()
            detail = f"decoding took longer than {self.timeout_seconds:g} s, and its process was killed"
            raise VideoError("decode_timeout", detail) from None
        except (EOFError, BrokenPipeError):
            self.kill()
            raise VideoError("decoder_crashed", f"the decoder's process ended with {_ending(process.returncode)}") from None
        if "reason" in answer:
            raise VideoError(answer["reason"], answer["detail"])
        if "trouble" in answer:
            raise CouldNotRun(answer["trouble"])
        return answer, frames

    def _started(self) -> subprocess.Popen[bytes]:
        if self.process is None or self.process.poll() is not None:
            self.kill()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "teacher_cache.clips.decoder", str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # FFmpeg's remarks; what matters comes back as the reason
            )
        return self.process

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                with contextlib.suppress(BrokenPipeError):
                    if pipe is not None:
                        pipe.close()
            self.process = None


def _ending(returncode: int) -> str:
    return signal.Signals(-returncode).name if returncode < 0 else f"status {returncode}"


def _read_some(pipe: IO[bytes], size: int, deadline: float) -> bytes:
    if not select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
        raise TimeoutError
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


def _answer(request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """A request with a recipe is for a clip; one without asks what the video holds."""
    try:
        if "recipe" not in request:
            return {"footage": probe(request["uri"]).model_dump()}, b""
        window = request["window"] and Window.model_validate(request["window"])
        clip = decode_clip(request["uri"], ClipRecipe.model_validate(request["recipe"]), window)
    except VideoError as error:
        return {"reason": error.reason, "detail": error.detail}, b""
    except CacheError as error:
        return {"trouble": str(error)}, b""
    header = {"shape": clip.frames.shape, "clock": clip.clock.model_dump(), "decoder": clip.decoder}
    return header, np.ascontiguousarray(clip.frames).tobytes()


def _end_with_parent(parent: int) -> None:
    """A parent killed outright cannot stop a decoder that hangs, so each decoder looks for itself."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(0)


def _serve(requests: Iterable[bytes], answers: IO[bytes]) -> None:
    for line in requests:
        header, payload = _answer(json.loads(line))
        answers.write(json.dumps(header).encode() + b"\n" + payload)
        answers.flush()


def _main(parent: int) -> None:
    # What a native library prints must not end up between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()
    _serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    _main(int(sys.argv[1]))
