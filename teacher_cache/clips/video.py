"""What a decoder library gives of an opened video, and what opening takes: the one protocol of all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from schemas.clip import VideoInfo
from teacher_cache.clips.preprocess import Frame

Device = Literal["cpu", "cuda"]


class TimedFrame(NamedTuple):
    """One frame as it is meant to be seen: a quarter turn in the video's metadata is applied."""

    picture: Frame
    """uint8 (height, width, RGB)."""
    seconds: float
    """Presentation time, as the video says it: the first frame need not be at 0."""


class OpenVideo(Protocol):
    """A video that a decoder has opened. Frames are counted from 0 in the order in which they are shown."""

    @property
    def decoder(self) -> str:
        """Name and version of what decodes it."""

    @property
    def footage(self) -> VideoInfo: ...

    def frames(self, indices: Sequence[int]) -> Iterator[TimedFrame]:
        """Each wanted frame, in the order given; ``indices`` ascend without repeats. Raises `VideoError` (decode_error)."""


Opener = Callable[[Path], AbstractContextManager[OpenVideo]]
"""Opens a file that has bytes. Raises `VideoError` where the decoder cannot, or cannot be trusted with it."""
