"""Writes videos that are hard to read. Their frames tell which they are: each is of another shade, and its corners differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

MILLISECOND = Fraction(1, 1000)
STEP = 10


def pictures(count: int, height: int, width: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(frame, y, x, RGB): frame ``i`` is the grey 20 + 10 i; the upper left quarter redder, the lower left bluer."""
    grey = np.full((count, height, width, 3), 20, np.uint8) + (STEP * np.arange(count, dtype=np.uint8))[:, None, None, None]
    top, left = (height + 1) // 2, (width + 1) // 2
    grey[:, :top, :left, 0] += 40
    grey[:, top:, :left, 2] += 40
    return grey


def write(
    path: Path,
    frames: np.ndarray[Any, np.dtype[np.uint8]],
    *,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    stamps: Sequence[int] | None = None,
    time_base: Fraction = MILLISECOND,
    options: Mapping[str, str] | None = None,
    container_options: Mapping[str, str] | None = None,
    shift: int = 0,
) -> Path:
    """Write a video; ``stamps`` are each frame's presentation time in ``time_base``, ``shift`` is added after encoding."""
    stamps = range(0, 40 * len(frames), 40) if stamps is None else stamps
    with av.open(str(path), "w", container_options=dict(container_options or {})) as container:
        stream: Any = container.add_stream(codec, rate=25, options=dict(options or {}))
        stream.height, stream.width, stream.pix_fmt, stream.thread_count = *frames.shape[1:3], pixels, 1
        stream.codec_context.time_base = stream.time_base = time_base
        packets = []
        for frame, stamp in zip(frames, stamps, strict=True):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture.pts, picture.time_base = stamp, time_base
            packets += stream.encode(picture)
        for packet in packets + stream.encode():
            packet.pts += shift
            packet.dts += shift
            container.mux(packet)
    return path
