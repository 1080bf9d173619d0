"""Which frames of a video make a clip."""

from __future__ import annotations

import numpy as np

from schemas.clip import Sampling
from schemas.errors import VideoError


def frame_indices(sampling: Sampling, frames: int, video_frames: int) -> tuple[int, ...]:
    """Source frame numbers of a clip of ``frames`` frames, from a video of ``video_frames``.

    ``uniform`` spreads them over the whole video, first and last included: round(linspace(0, n - 1, frames)), the
    protocol of 4D-RGPT (arXiv 2512.17012). A video shorter than the clip repeats frames.
    """
    if video_frames < 1:
        raise VideoError("no_frames", "the video holds no frame")
    assert sampling == "uniform"
    return tuple(int(i) for i in np.round(np.linspace(0, video_frames - 1, frames)))
