"""Frame choice is a pure function, so its laws are tested on videos of every length and rate."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from schemas.clip import Sampling, Window
from schemas.errors import VideoError
from schemas.recipe import ClipRecipe
from teacher_cache.clips.sampling import frame_indices, mirrored, track, windows


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


def even(frames: int, fps: float = 24) -> NDArray[np.float64]:
    """When the frames of a video are shown that begins at 3 s, as some do."""
    return 3 + np.arange(frames) / fps


def frames_of(of: ClipRecipe, times: NDArray[np.float64]) -> list[tuple[int, ...]]:
    taken = track(of, times)
    return [frame_indices(of, taken, window) for window in windows(of, len(taken))]


def test_uniform_sampling_is_the_paper_s() -> None:
    def uniform(frames: int, video_frames: int) -> tuple[int, ...]:
        of = recipe("uniform", frames)
        return frame_indices(of, track(of, even(video_frames)), None)

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
    cut = frames_of(of, even(n))
    assert len(cut) == (padded - frames) // stride + 1
    assert cut == [tuple(track[start : start + frames]) for start in range(0, padded - frames + 1, stride)]
    assert {index for clip in cut for index in clip} == set(range(n))


def test_dense_windows_of_known_lengths() -> None:
    assert [len(windows(DENSE, n)) for n in (1, 16, 17, 24, 25, 240, 1000)] == [1, 1, 2, 2, 3, 29, 124]
    assert frame_indices(DENSE, np.arange(3), Window(start=0, stop=16)) == (
        0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2, 1,
    )  # fmt: skip
    assert frame_indices(DENSE, np.arange(20), Window(start=8, stop=24))[-5:] == (19, 18, 17, 16, 15)


@settings(deadline=None)
@given(lengths, rates, rates, st.sampled_from([4, 16]))
def test_fps_windows_cover_the_video_at_the_rate_and_never_skip_or_repeat(
    n: int, video_fps: float, fps: float, frames: int
) -> None:
    of, times = recipe("fps", frames, fps), even(n, video_fps)
    cut = windows(of, len(track(of, times)))
    assert [w.start for w in cut] == list(range(0, len(cut) * frames, frames))
    found = [index for clip in frames_of(of, times) for index in clip]
    taken = sorted(set(found))
    assert found == [taken[mirrored(p, len(taken))] for p in range(len(found))]  # in order once, then the mirror
    assert len(found) - len(taken) < frames  # no window is all mirror
    step = max(1.0, video_fps / fps)
    assert all(abs(later - earlier - step) <= 1 for earlier, later in pairwise(taken))
    assert n - 1 - taken[-1] < step + 1  # to the video's end


@settings(deadline=None)
@given(st.lists(st.floats(0.001, 3), min_size=1, max_size=60), st.floats(0.3, 60), st.floats(-5, 5))
def test_fps_goes_by_time_at_any_uneven_rate(gaps: list[float], fps: float, begins: float) -> None:
    times = begins + np.concatenate([[0], np.cumsum(gaps)])
    taken = track(recipe("fps", fps=fps), times)
    assert taken[0] == 0
    moments = np.arange(int((times[-1] - times[0]) * fps) + 1) / fps + times[0]
    away = np.abs(times[taken][None] - moments[:, None]).min(1)
    least = np.abs(times[None] - moments[:, None]).min(1)
    widest = max(gaps)
    assert (away <= least + widest / 8 + 1e-9).all()  # every moment has its frame; of two nearly as near, the later
    held = np.abs(times[taken][:-1, None] - moments[None]).min(1)
    assert (held <= widest).all()
    assert len(taken) <= len(moments) + 1  # and no frame is taken for none


def test_fps_of_known_rates() -> None:
    assert frames_of(recipe("fps", fps=8), even(96)) == [tuple(range(0, 48, 3)), tuple(range(48, 96, 3))]
    assert frames_of(recipe("fps", 4, 10.0), even(10, 25)) == [(0, 3, 5, 8)]
    slower = frames_of(recipe("fps", fps=60), even(96))
    assert slower == [tuple(range(s, s + 16)) for s in range(0, 96, 16)]  # each frame once, not repeated
    assert frames_of(recipe("fps", 4, 1.0), np.zeros(6)) == [(0, 1, 2, 3), (4, 5, 4, 3)]  # times not known


def test_a_second_of_an_uneven_video_is_a_second() -> None:
    """Twenty frames in the first second, and ten over ten more."""
    times = np.concatenate([np.arange(20) / 20, np.arange(1, 11)])
    assert times[track(recipe("fps", fps=1), times)].tolist() == list(range(11))
    assert times[track(recipe("fps", fps=2), times)].tolist() == [0, 0.5, *range(1, 11)]


@pytest.mark.parametrize(("video_fps", "fps"), [(24, 16), (24, 24), (30, 20), (30000 / 1001, 29.97), (60, 24), (25, 50)])
def test_a_container_that_rounds_times_gives_the_same_frames(video_fps: float, fps: float) -> None:
    exact, of = even(900, video_fps), recipe("fps", fps=fps)
    for rate in (1000, 90000, 12800):
        np.testing.assert_array_equal(track(of, np.round(exact * rate) / rate), track(of, exact))


def test_a_window_that_is_not_the_video_s_is_refused() -> None:
    for window in (Window(start=8, stop=24), Window(start=4, stop=20)):
        with pytest.raises(VideoError, match="it changed since"):
            frame_indices(DENSE, np.arange(16), window)
    with pytest.raises(VideoError, match="not_probed"):
        frame_indices(DENSE, np.arange(16), None)
