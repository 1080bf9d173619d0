"""Decodes in the test's own process, to compare with what comes out of a decoder's box. Only for videos that a test wrote."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from schemas.clip import Window
from schemas.recipe import ClipRecipe
from teacher_cache.clips import decode
from teacher_cache.clips.preprocess import Frame
from teacher_cache.clips.video import DecodedClip, OpenVideo

Video = TypeVar("Video", bound=OpenVideo)


@contextlib.contextmanager
def opened(path: Path | str, by: Callable[[int], contextlib.AbstractContextManager[Video]] = decode.opened) -> Iterator[Video]:
    """A video, opened by a decoder; by the first that can if none is given."""
    file = os.open(path, os.O_RDONLY)
    try:
        with by(file) as video:
            yield video
    finally:
        os.close(file)


def decode_clip(path: Path | str, recipe: ClipRecipe, window: Window | None = None) -> DecodedClip:
    """The clip of ``window``, or, for ``uniform`` sampling, of the whole video."""
    with opened(path) as video:
        (clip,) = decode.clips_of(video, recipe, [window], time.process_time())
    assert isinstance(clip, DecodedClip)
    return clip


def decode_frames(path: Path | str, indices: Sequence[int]) -> Frame:
    """The frames of these numbers at the video's own size: uint8 (frame, height, width, RGB)."""
    with opened(path) as video:
        return np.stack([frame.picture for frame in video.frames(indices)])
