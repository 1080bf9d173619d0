"""The protocol of decoder libraries: a file in, an opened video out; frame numbers in, RGB frames with timestamps out.

Also what a decoder process answers with. Loads no decoder library, so that the process that asks need not hold one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from schemas.clip import FrameClock, Hdr, Interlaced, VideoInfo
from teacher_cache.clips.preprocess import Frame

OUT_OF_MEMORY = "its pictures take more memory than a decoder may have"
"""What is said of a video at which a decoder's memory ended. Libraries keep some of it, so that process is not used again."""

NOT_HELD = "the part of the file that is here does not have it"
"""What is said where more of a file is needed than was fetched; then all of it is."""

PACKED_PICTURES = b"P4D pictures 001"
"""The first bytes of a file of pictures: see `teacher_cache.clips.pictures`."""

Device = Literal["cpu", "cuda"]


class NotHeld(Exception):
    """More of a file is needed than was fetched. Not a `VideoError`: of the video it says nothing."""


Ranges = Sequence[tuple[int, int]]
"""Bytes [start, stop) of a file, ascending, apart from each other."""


class TimedFrame(NamedTuple):
    """One frame, upright: the rotation in the video's metadata is applied."""

    picture: Frame
    """uint8 (height, width, RGB)."""
    seconds: float
    """Presentation time from the video; the first frame need not be at 0."""


class OpenVideo(Protocol):
    """A video opened by a decoder. Frames are numbered from 0, in presentation order."""

    times: NDArray[np.float64]
    """Presentation time of each frame in seconds, (frame,), as `frames` tells it; from the rate if the video states none."""

    @property
    def decoder(self) -> str:
        """Name and version of the decoder."""

    @property
    def footage(self) -> VideoInfo:
        """Number of frames and frame rate."""

    missing: int
    """Frames after the last that the container lists, and that the file, cut short, does not hold."""

    def whole_frames(self, least: int, /) -> int:
        """Number of frames up to the last one that decodes; if that is below ``least``, any number below it from there on."""

    def frames(self, indices: Sequence[int]) -> Iterator[TimedFrame]:
        """The wanted frames, in order. ``indices`` must ascend, without repeats. Raises `VideoError` (decode_error)."""


class Shown(NamedTuple):
    """What pictures are made of frames that are not those of a plain SDR video."""

    hdr: Hdr = "refuse"
    interlaced: Interlaced = "refuse"


PLAIN = Shown()
"""Refuses them."""
AS_TAUGHT = Shown("bt2390", "bwdif")
"""For whoever asks for frames by number: a store that refuses such videos has no numbers of them, and no other way is there."""

Opener = Callable[[int, Shown], AbstractContextManager[OpenVideo]]
"""Opens a non-empty file by its descriptor. Raises `VideoError` if the decoder cannot open it, or cannot be trusted with it."""


@dataclass(frozen=True)
class DecodedClip:
    """A decoded clip, in the teacher's input size, and in the student's if that was asked for."""

    frames: Frame
    """uint8 (frame, size, size, RGB)."""
    clock: FrameClock
    decoder: str
    """Name and version of the decoder, and the layers of protection that its process lacked."""
    cpu_seconds: float
    """CPU time of the decoding process, all threads, since its previous answer. The first clip's includes opening the video."""
    student: Frame | None = None
    """uint8 (frame, student_size, student_size, RGB), from the same pictures."""

    def seen(self, *, flipped: bool) -> DecodedClip:
        """The clip as its row shows it: with left and right swapped if ``flipped``."""
        if not flipped:
            return self
        frames, student = (pixels if pixels is None else np.ascontiguousarray(pixels[:, :, ::-1])
                           for pixels in (self.frames, self.student))  # fmt: skip
        assert frames is not None
        return replace(self, frames=frames, student=student)


@dataclass(frozen=True)
class DecodedFrames:
    """Frames that were asked for by number."""

    frames: Frame
    """uint8 (frame, height, width, RGB)."""
    clock: FrameClock
    footage: VideoInfo


Answer = tuple[dict[str, Any], bytes]
"""A header, and the bytes of the frames that it describes."""
