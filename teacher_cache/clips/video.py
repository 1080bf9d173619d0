"""The protocol of decoder libraries: a file in, an opened video out; frame numbers in, RGB frames with timestamps out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from schemas.clip import VideoInfo
from teacher_cache.clips.preprocess import Frame

Device = Literal["cpu", "cuda"]


class TimedFrame(NamedTuple):
    """One frame, upright: the rotation in the video's metadata is applied."""

    picture: Frame
    """uint8 (height, width, RGB)."""
    seconds: float
    """Presentation time from the video; the first frame need not be at 0."""


class OpenVideo(Protocol):
    """A video opened by a decoder. Frames are numbered from 0, in presentation order."""

    @property
    def decoder(self) -> str:
        """Name and version of the decoder."""

    @property
    def footage(self) -> VideoInfo:
        """Number of frames and frame rate."""

    def frames(self, indices: Sequence[int]) -> Iterator[TimedFrame]:
        """The wanted frames, in order. ``indices`` must ascend, without repeats. Raises `VideoError` (decode_error)."""


Opener = Callable[[Path], AbstractContextManager[OpenVideo]]
"""Opens a non-empty file. Raises `VideoError` if the decoder cannot open it, or cannot be trusted with it."""
