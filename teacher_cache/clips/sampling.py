"""A recipe and a video's length and rate in; its windows, and the frame numbers of a clip, out. Pure functions.

``uniform`` makes one clip per video. ``fps`` and ``dense`` cut a *track* into windows: the video's frames at a given rate, or
all of them, extended by mirroring until the windows are full.
"""

from __future__ import annotations

import math

import numpy as np

from schemas.clip import VideoInfo, Window
from schemas.errors import VideoError
from schemas.recipe import ClipRecipe


def windows(recipe: ClipRecipe, footage: VideoInfo) -> tuple[Window, ...]:
    """The windows of a video, in order, each of ``recipe.frames`` positions. Together they cover its whole track.

    ``fps`` windows do not overlap. ``dense`` windows begin every half window, as in L4P (arXiv 2502.13078): the track is
    extended to a multiple of that stride, T = ceil(max(n, 16) / 8) * 8, and has (T - 16) / 8 + 1 windows.
    """
    return tuple(Window(start=start, stop=start + recipe.frames) for start in _starts(recipe, footage))


def _starts(recipe: ClipRecipe, footage: VideoInfo) -> range:
    assert recipe.sampling != "uniform"
    size = recipe.frames
    stride = size if recipe.sampling == "fps" else size // 2
    length = math.ceil(max(_taken(recipe, footage), size) / stride) * stride
    return range(0, length - size + 1, stride)


def frame_indices(recipe: ClipRecipe, footage: VideoInfo, window: Window | None) -> tuple[int, ...]:
    """Source frame number, from 0, of each frame of the clip.

    ``uniform`` (no window) spreads them over the whole video, first and last included: round(linspace(0, n - 1, 16)), the
    protocol of 4D-RGPT (arXiv 2512.17012). A video shorter than the clip repeats frames instead of mirroring, because the
    paper's student is shown the repeats, and the teacher must see the student's frames.

    ``fps`` and ``dense`` need consecutive frames, where a repeat would look like stopped motion; a track that is too short
    is mirrored, as in L4P. Raises `VideoError` if the window is not one of the video's.
    """
    if recipe.sampling == "uniform":
        return spread(recipe.frames, footage)
    if window is None:
        raise VideoError("not_probed", "the video opens now, and did not when it was planned; run again with --retry-failed")
    if window.start not in _starts(recipe, footage) or window.stop - window.start != recipe.frames:
        found = f"the video has {footage.frames} frames, and frames {window.start} to {window.stop} were planned"
        raise VideoError("decode_error", f"{found}; it changed since")
    taken = _taken(recipe, footage)
    return tuple(_source(recipe, footage, mirrored(p, taken)) for p in range(window.start, window.stop))


def spread(count: int, footage: VideoInfo) -> tuple[int, ...]:
    """``count`` frame numbers spread over the whole video, as in ``uniform`` sampling."""
    return tuple(int(i) for i in np.round(np.linspace(0, footage.frames - 1, count)))


def mirrored(position: int, length: int) -> int:
    """Map a position of the endlessly mirrored track to one of its ``length`` frames: 0 … n-1, n-2 … 0, 1 … and so on.

    Equals appending the time-reversed copy, without its first frame, again and again (L4P).
    """
    if length == 1:
        return 0
    index = position % (2 * (length - 1))
    return index if index < length else 2 * (length - 1) - index


def _step(recipe: ClipRecipe, footage: VideoInfo) -> float:
    """Source frames per sampled frame. If the video is slower than the rate, each of its frames is taken once."""
    return max(1.0, footage.fps / recipe.fps) if recipe.sampling == "fps" and recipe.fps is not None else 1.0


def _source(recipe: ClipRecipe, footage: VideoInfo, taken: int) -> int:
    """The source frame nearest in time to the ``taken``-th sampled frame. Steps are at least 1, so none is taken twice."""
    return math.floor(taken * _step(recipe, footage) + 0.5)


def _taken(recipe: ClipRecipe, footage: VideoInfo) -> int:
    """Number of frames that the sampling takes from the video, before mirroring."""
    count = math.ceil((footage.frames - 0.5) / _step(recipe, footage))  # the largest k has k * step + 0.5 < n
    while _source(recipe, footage, count - 1) >= footage.frames:  # floating-point rounding of the quotient
        count -= 1
    return count
