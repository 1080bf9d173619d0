"""Writes videos that are hard to read. Their frames tell which they are: each is of another shade, and its corners differ."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition

MILLISECOND = Fraction(1, 1000)
STEP = 10
FRAGMENTED = {"movflags": "frag_keyframe+empty_moov"}


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
        container.start_encoding()
        packets = []
        for frame, stamp in zip(frames, stamps, strict=True):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture.pts, picture.time_base = stamp, time_base
            packets += stream.encode(picture)
        for packet in packets + stream.encode():
            packet.pts += shift
            packet.dts += shift
            container.mux(packet)
    _be_ordinary_again()
    return path


def _be_ordinary_again() -> None:
    """SVT-AV1 gives root's process real-time priority, which it keeps and hands down: all others would wait for it."""
    if hasattr(os, "sched_setscheduler") and os.sched_getscheduler(0) != os.SCHED_OTHER:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def write_packet(path: Path, packet: bytes, *, codec: str, pixels: str, size: tuple[int, int]) -> Path:
    """A video of one frame, whatever is in its packet; the container tells ``size``, (height, width)."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = *size, pixels
        whole = av.Packet(packet)
        whole.stream, whole.pts, whole.dts, whole.is_keyframe = stream, 0, 0, True
        container.mux(whole)
    return path


def write_audio(path: Path) -> Path:
    """Half a second of silence with a picture on its cover, and no video."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("aac", rate=44100, layout="mono")
        cover: Any = container.add_stream("mjpeg", rate=1)
        cover.height, cover.width, cover.pix_fmt, cover.disposition = 64, 64, "yuvj420p", Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(pictures(1, 64, 64)[0], format="rgb24")) + cover.encode())
        for start in range(0, 20 * 1024, 1024):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            silence.rate, silence.pts = 44100, start
            container.mux(stream.encode(silence))
        container.mux(stream.encode())
    return path


def claiming_size(jpegs: bytes, height: int, width: int) -> bytes:
    """Motion JPEG whose every header claims another size than its data have."""
    start_of_frame = b"\xff\xc0\x00\x11\x08"
    first, *others = jpegs.split(start_of_frame)
    return first + b"".join(
        start_of_frame + height.to_bytes(2, "big") + width.to_bytes(2, "big") + other[4:] for other in others
    )


def with_packets(source: Path, path: Path, changed: Callable[[int, Any], None]) -> Path:
    """A copy of a video whose packets, in the order of decoding, were each changed by ``changed(number, packet)``."""
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for number, packet in enumerate(packet for packet in old.demux(video=0) if packet.size):
            packet.stream = stream
            changed(number, packet)
            new.mux(packet)
    return path


def damage(video: Path, number: int) -> None:
    """Overwrite the data of one packet with zeros."""
    with av.open(str(video)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][number]
    data = bytearray(video.read_bytes())
    data[packet.pos + 5 : packet.pos + packet.size] = bytes(packet.size - 5)
    video.write_bytes(data)


def garble(video: Path, number: int) -> None:
    """Change some bytes in the middle of one packet: it decodes, and FFmpeg conceals what it could not make out."""
    with av.open(str(video)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][number]
    data, middle = bytearray(video.read_bytes()), packet.pos + 5 + packet.size // 2
    data[middle : middle + 8] = bytes(byte ^ 0x5A for byte in data[middle : middle + 8])
    video.write_bytes(data)


def corrupt_frames(video: Path) -> list[int]:
    """Numbers of the frames that FFmpeg gives and calls corrupt, of a video that decodes from its first frame to its last."""
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        return [number for number, frame in enumerate(container.decode(stream)) if frame.is_corrupt]
