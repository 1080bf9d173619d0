"""The program that a `Decoder` starts: one JSON request per line in; JSON lines and the frames' bytes out.

`python -m teacher_cache.clips.decoder_program PARENT_PID MEMORY_BYTES`. Loads neither torch nor zarr, and needs no credentials.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import IO, Any

import numpy as np

from schemas.clip import Window
from schemas.errors import CacheError, VideoError
from schemas.recipe import ClipRecipe
from teacher_cache.clips.decode import DecodedClip, clips_of, opened, probe
from teacher_cache.io.parent import end_with_parent

Answer = tuple[dict[str, Any], bytes]
"""A header, and the bytes of the frames that it describes."""


def _answers(request: dict[str, Any]) -> Iterator[Answer]:
    """A request with windows gets one answer once the video is open, and one per window; a probe gets a single answer."""
    began = time.process_time()
    try:
        if "windows" not in request:
            yield {"footage": probe(request["uri"], request["device"]).model_dump()}, b""
            return
        windows = [window and Window.model_validate(window) for window in request["windows"]]
        with opened(request["uri"], request["device"]) as video:
            yield {"decoder": video.decoder}, b""
            yield from map(_clip_answer, clips_of(video, ClipRecipe.model_validate(request["recipe"]), windows, began))
    except VideoError as error:
        yield _refusal(error)
    except CacheError as error:
        yield {"trouble": str(error)}, b""


def _clip_answer(clip: DecodedClip | VideoError) -> Answer:
    if isinstance(clip, VideoError):
        return _refusal(clip)
    header = {
        "shape": clip.frames.shape, "clock": clip.clock.model_dump(),
        "decoder": clip.decoder, "cpu_seconds": clip.cpu_seconds,
    }  # fmt: skip
    return header, np.ascontiguousarray(clip.frames).tobytes()


def _refusal(error: VideoError) -> Answer:
    return {"reason": error.reason, "detail": error.detail}, b""


def _bound_memory(wanted: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if wanted != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_DATA, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def _serve(requests: Iterable[bytes], answers: IO[bytes]) -> None:
    for line in requests:
        for header, payload in _answers(json.loads(line)):
            answers.write(json.dumps(header).encode() + b"\n" + payload)
            answers.flush()


def _main(parent: int, memory_bytes: int) -> None:
    # Native libraries may print to stdout, which must not end up between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=end_with_parent, args=(parent,), daemon=True).start()
    _bound_memory(memory_bytes)
    _serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    _main(int(sys.argv[1]), int(sys.argv[2]))
