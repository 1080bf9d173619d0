"""Frame choice is a pure function, so its laws are tested on videos of every length and rate."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.clip import Sampling, VideoInfo, Window
from schemas.errors import VideoError
from schemas.recipe import ClipRecipe
from teacher_cache.clips.sampling import frame_indices, mirrored, windows


def recipe(sampling: Sampling, frames: int = 16, fps: float | None = None) -> ClipRecipe:
    return ClipRecipe(frames=frames, sampling=sampling, preprocessing="l4p", size=56, student_size=None, fps=fps)


DENSE = recipe("dense")
lengths = st.integers(1, 700)
rates = st.floats(0.05, 240)


def appended_mirror(n: int, length: int) -> list[int]:
    """L4P's way, as its paper's loader does it: append the reversed copy without its first frame, then crop."""
    track = list(range(n)) if n > 1 else [0] * length
    while len(track) < length:
        track += track[::-1][1:]
    return track[:length]


def frames_of(of: ClipRecipe, footage: VideoInfo) -> list[tuple[int, ...]]:
    return [frame_indices(of, footage, window) for window in windows(of, footage)]


def test_uniform_sampling_is_the_paper_s() -> None:
    def uniform(frames: int, video_frames: int) -> tuple[int, ...]:
        return frame_indices(recipe("uniform", frames), VideoInfo(frames=video_frames, fps=24), None)

    assert uniform(16, 16) == tuple(range(16))
    assert uniform(4, 100) == (0, 33, 66, 99)
    assert uniform(4, 2) == (0, 0, 1, 1)
    assert uniform(4, 1) == (0, 0, 0, 0)


@settings(deadline=None)
@given(lengths, st.integers(0, 3000))
def test_a_track_is_continued_by_its_mirror_image(n: int, position: int) -> None:
    assert mirrored(position, n) == appended_mirror(n, position + 1)[position]


@settings(deadline=None)
@given(lengths, st.sampled_from([4, 8, 16]))
def test_dense_windows_are_the_padded_video_cut_at_every_half_window(n: int, frames: int) -> None:
    of, stride = recipe("dense", frames), frames // 2
    padded = math.ceil(max(n, frames) / stride) * stride
    track = appended_mirror(n, padded)
    cut = frames_of(of, VideoInfo(frames=n, fps=24))
    assert len(cut) == (padded - frames) // stride + 1
    assert cut == [tuple(track[start : start + frames]) for start in range(0, padded - frames + 1, stride)]
    assert {index for clip in cut for index in clip} == set(range(n))


def test_dense_windows_of_known_lengths() -> None:
    assert [len(windows(DENSE, VideoInfo(frames=n, fps=24))) for n in (1, 16, 17, 24, 25, 240, 1000)] == [
        1,
        1,
        2,
        2,
        3,
        29,
        124,
    ]
    assert frame_indices(DENSE, VideoInfo(frames=3, fps=24), Window(start=0, stop=16)) == (
        0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2, 1,
    )  # fmt: skip
    assert frame_indices(DENSE, VideoInfo(frames=20, fps=24), Window(start=8, stop=24))[-5:] == (19, 18, 17, 16, 15)


@settings(deadline=None)
@given(lengths, rates, rates, st.sampled_from([4, 16]))
def test_fps_windows_cover_the_video_at_the_rate_and_never_skip_or_repeat(
    n: int, video_fps: float, fps: float, frames: int
) -> None:
    of, footage = recipe("fps", frames, fps), VideoInfo(frames=n, fps=video_fps)
    cut = windows(of, footage)
    assert [w.start for w in cut] == list(range(0, len(cut) * frames, frames))
    track = [index for clip in frames_of(of, footage) for index in clip]
    assert all(0 <= index < n for index in track)
    taken = sorted(set(track))
    assert track == [taken[mirrored(p, len(taken))] for p in range(len(track))]  # in order once, then the mirror
    assert len(track) - len(taken) < frames  # no window is all mirror
    step = max(1.0, video_fps / fps)
    assert all(abs(later - earlier - step) <= 1 for earlier, later in pairwise(taken))
    np.testing.assert_allclose(taken, np.arange(len(taken)) * step, atol=0.5 + 1e-6)
    assert n - 1 - taken[-1] < step + 1  # to the video's end


def test_fps_of_known_rates() -> None:
    footage = VideoInfo(frames=96, fps=24)
    assert frames_of(recipe("fps", fps=8), footage) == [tuple(range(0, 48, 3)), tuple(range(48, 96, 3))]
    assert frames_of(recipe("fps", 4, 10.0), VideoInfo(frames=10, fps=25)) == [(0, 3, 5, 8)]
    slower = frames_of(recipe("fps", fps=60), footage)
    assert slower == [tuple(range(s, s + 16)) for s in range(0, 96, 16)]  # each frame once, not repeated
    assert frames_of(recipe("fps", 4, 1.0), VideoInfo(frames=6, fps=0)) == [(0, 1, 2, 3), (4, 5, 4, 3)]  # rate not known


def test_a_window_that_is_not_the_video_s_is_refused() -> None:
    for window in (Window(start=8, stop=24), Window(start=4, stop=20)):
        with pytest.raises(VideoError, match="it changed since"):
            frame_indices(DENSE, VideoInfo(frames=16, fps=24), window)
    with pytest.raises(VideoError, match="not_probed"):
        frame_indices(DENSE, VideoInfo(frames=16, fps=24), None)
