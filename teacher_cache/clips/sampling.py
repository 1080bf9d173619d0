"""A recipe and the times of a video's frames in; its track, its windows, and the frame numbers of a clip, out. Pure functions.

``uniform`` makes one clip per video, and ``shots`` one per shot. ``fps`` and ``dense`` cut a *track* into windows: the video's
frames at a given rate, or all of them, extended by mirroring until the windows are full.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from schemas.clip import SPREAD, Window
from schemas.errors import VideoError
from schemas.recipe import ClipRecipe

Frames = NDArray[np.int64]
"""Numbers of frames, (frame,)."""

_NEARER = 7 / 16
"""The share of the time between two frames after which the later one is taken. Not a half: where a moment is midway, as every
other one is at 16 of 24 a second, a container that rounds times would otherwise decide, and a copy of the video in another
container would give other frames."""


def windows(recipe: ClipRecipe, taken: int) -> tuple[Window, ...]:
    """The windows of a track of so many frames, in order, each of ``recipe.frames`` positions. Together they cover all of it.

    ``fps`` windows do not overlap. ``dense`` windows begin every half window, as in L4P (arXiv 2502.13078): the track is
    extended to a multiple of that stride, T = ceil(max(n, 16) / 8) * 8, and has (T - 16) / 8 + 1 windows.
    """
    return tuple(Window(start=start, stop=start + recipe.frames) for start in _starts(recipe, taken))


def _starts(recipe: ClipRecipe, taken: int) -> range:
    assert recipe.sampling not in SPREAD
    size = recipe.frames
    stride = size if recipe.sampling == "fps" else size // 2
    length = math.ceil(max(taken, size) / stride) * stride
    return range(0, length - size + 1, stride)


def frame_indices(recipe: ClipRecipe, taken: Frames, window: Window | None, planned: int | None = None) -> tuple[int, ...]:
    """Source frame number, from 0, of each frame of the clip; ``taken`` is the video's `track`.

    If its last frames do not decode, ``taken`` is without them, and ``planned`` is the number of all.

    ``uniform`` (no window) spreads them over the whole video, first and last included: round(linspace(0, n - 1, 16)), the
    protocol of 4D-RGPT (arXiv 2512.17012). A video shorter than the clip repeats frames instead of mirroring, because the
    paper's student is shown the repeats, and the teacher must see the student's frames.

    ``shots`` does the same with the shot, which is the window's segment.

    ``fps`` and ``dense`` need consecutive frames, where a repeat would look like stopped motion; a track that is too short
    is mirrored, as in L4P. Raises `VideoError` if the window is not one of the video's.
    """
    if window is None and recipe.sampling != "uniform":
        raise VideoError("not_probed", "the video opens now, and did not when it was planned; run again with --retry-failed")
    if window is None or recipe.sampling in SPREAD:
        return tuple(int(taken[i]) for i in spread(recipe.frames, len(taken)))
    planned = len(taken) if planned is None else planned
    if window.start not in _starts(recipe, planned) or window.stop - window.start != recipe.frames:
        found = f"its track has {planned} frames, and frames {window.start} to {window.stop} of it were planned"
        raise VideoError("decode_error", f"{found}; it changed since")
    if window.start >= len(taken):
        raise VideoError("decode_error", f"only the first {len(taken)} of the {planned} frames of its track decode")
    return tuple(int(taken[mirrored(p, len(taken))]) for p in range(window.start, window.stop))


def spread(count: int, frames: int) -> tuple[int, ...]:
    """``count`` of so many frames, by number, spread over all of them, as in ``uniform`` sampling."""
    return tuple(int(i) for i in np.round(np.linspace(0, frames - 1, count)))


def mirrored(position: int, length: int) -> int:
    """Map a position of the endlessly mirrored track to one of its ``length`` frames: 0 … n-1, n-2 … 0, 1 … and so on.

    Equals appending the time-reversed copy, without its first frame, again and again (L4P).
    """
    if length == 1:
        return 0
    index = position % (2 * (length - 1))
    return index if index < length else 2 * (length - 1) - index


def track(recipe: ClipRecipe, times: NDArray[np.float64]) -> Frames:
    """Numbers of the frames that the sampling takes from the video, ascending, before any is mirrored.

    ``times``: when each of the video's frames is shown, in seconds, (frame,).

    For ``fps`` they are the frames nearest to the moments 0, 1/fps, 2/fps … after the first frame, each once: where the video
    is slower than the rate, each of its frames. All of them, if the video does not say when they are shown.
    """
    gaps = np.diff(times)
    if recipe.sampling != "fps" or not len(gaps) or gaps.min() <= 0:
        return np.arange(len(times))
    assert recipe.fps is not None
    # A frame is taken if a moment is between the times from which it, and from which the next frame, is the nearest one.
    nearest_from = np.concatenate([times[:-1] + gaps * _NEARER, [times[-1] + gaps[-1] * _NEARER]]) - times[0]
    moments_before = np.ceil(np.concatenate([[0.0], nearest_from]) * recipe.fps)
    return np.flatnonzero(np.diff(moments_before))
