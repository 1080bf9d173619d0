"""The program that a `Decoder` starts: JSON requests in, each a line with a video's descriptor; JSON lines and frames out.

`python -m teacher_cache.clips.decoder_program PARENT_PID DEVICE MEMORY_BYTES CPU_SECONDS [shots]`, with a Unix socket as
standard input. Loads neither torch nor zarr, and goes into its box before it reads the first request.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any

import av
import decord
import numpy as np
import PIL
from pydantic import TypeAdapter

from schemas.clip import Part, Segment
from schemas.errors import VideoError
from schemas.recipe import ClipRecipe
from teacher_cache.clips import box
from teacher_cache.clips.decode import clips_of, footage_of, frames_of, hold_to, opened, ranges_of
from teacher_cache.clips.preprocess import Frame, FrameSize
from teacher_cache.clips.video import AS_TAUGHT, NOT_HELD, Answer, DecodedClip, Device, NotHeld, OpenVideo, Shown
from teacher_cache.io.parent import end_with_parent

_READ = 1 << 16


def _answers(request: dict[str, Any], file: int, device: Device, lacking: str) -> Iterator[Answer]:
    """A request for clips gets one answer once the video is open, and one per part; others get a single answer."""
    began = time.process_time()
    try:
        recipe = ClipRecipe.model_validate(request["recipe"]) if request.get("recipe") else None
        with opened(file, device, Shown(recipe.hdr, recipe.interlaced) if recipe else AS_TAUGHT) as video:
            if "held" in request:
                hold_to(video, request["held"])
            if "of_parts" in request:
                assert recipe is not None
                yield {"ranges": ranges_of(video, recipe, _parts(request["of_parts"]))}, b""
            elif "parts" in request:
                assert recipe is not None
                yield from _clips(request, recipe, video, began, lacking)
            elif "frames" in request:
                yield _frames(request, video)
            else:
                yield _footages(request, recipe, video)
    except VideoError as error:
        yield _refusal(error)
    except NotHeld:
        yield _refusal(VideoError("decode_error", NOT_HELD))


def _clips(request: dict[str, Any], recipe: ClipRecipe, video: OpenVideo, began: float, lacking: str) -> Iterator[Answer]:
    yield {}, b""
    for clip in clips_of(video, recipe, _parts(request["parts"]), began, request.get("student_size")):
        yield _refusal(clip) if isinstance(clip, VideoError) else _clip(clip, lacking)


def _parts(asked: Sequence[Any]) -> list[Part]:
    return [_PART.validate_python(part) for part in asked]


_PART: TypeAdapter[Part] = TypeAdapter(Part)


def _footages(request: dict[str, Any], recipe: ClipRecipe | None, video: OpenVideo) -> Answer:
    segments = [segment and Segment.model_validate(segment) for segment in request["segments"]]
    return {"footages": [_footage(video, segment, recipe) for segment in segments]}, b""


def _footage(video: OpenVideo, segment: Segment | None, recipe: ClipRecipe | None) -> dict[str, Any]:
    try:
        return {"footage": footage_of(video, segment, recipe).model_dump()}
    except VideoError as error:
        return _refusal(error)[0]


def _clip(clip: DecodedClip, lacking: str) -> Answer:
    header = {"clock": clip.clock.model_dump(), "decoder": clip.decoder + lacking, "cpu_seconds": clip.cpu_seconds}
    return _with_pictures(header, [clip.frames] if clip.student is None else [clip.frames, clip.student])


def _frames(request: dict[str, Any], video: OpenVideo) -> Answer:
    segment = request["segment"] and Segment.model_validate(request["segment"])
    found = frames_of(video, request["frames"], FrameSize(*request["size"]), segment)
    return _with_pictures({"clock": found.clock.model_dump(), "footage": found.footage.model_dump()}, [found.frames])


def _with_pictures(header: dict[str, Any], pictures: Sequence[Frame]) -> Answer:
    return header | {"shapes": [frames.shape for frames in pictures]}, b"".join(frames.tobytes() for frames in pictures)


def _refusal(error: VideoError) -> Answer:
    return {"reason": error.reason, "detail": error.detail}, b""


def _requests(channel: socket.socket) -> Iterator[tuple[dict[str, Any], int]]:
    """Each request with its video's descriptor, which comes with the first bytes of its line."""
    line, files = b"", list[int]()
    while (received := socket.recv_fds(channel, _READ, 1))[0]:
        line += received[0]
        files += received[1]
        if line.endswith(b"\n"):
            yield json.loads(line), files.pop()
            line = b""


def _serve(requests: Iterable[tuple[dict[str, Any], int]], answers: IO[bytes], device: Device, lacking: str) -> None:
    for request, file in requests:
        try:
            for header, payload in _answers(request, file, device, lacking):
                spent = {"process_seconds": time.process_time()}
                answers.write(json.dumps(header | spent).encode() + b"\n" + payload)
                answers.flush()
        finally:
            os.close(file)


def _main(parent: int, device: Device, memory_bytes: int, cpu_seconds: int, *, finds_shots: bool) -> None:
    if finds_shots:
        importlib.import_module("teacher_cache.clips.shots")  # while its libraries can be read
    # Native libraries may print to stdout, which must not end up between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    lacking = box.close(device, (av, decord, np, PIL), memory_bytes, cpu_seconds)
    threading.Thread(target=end_with_parent, args=(parent,), daemon=True).start()
    channel = socket.socket(fileno=sys.stdin.fileno())
    _serve(_requests(channel), answers, device, f", without {', '.join(lacking)}" if lacking else "")


if __name__ == "__main__":
    _main(
        int(sys.argv[1]),
        "cuda" if sys.argv[2] == "cuda" else "cpu",
        int(sys.argv[3]),
        int(sys.argv[4]),
        finds_shots="shots" in sys.argv[5:],
    )
