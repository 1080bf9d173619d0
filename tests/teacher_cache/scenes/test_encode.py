"""mp4 files that real decoders read back."""

from __future__ import annotations

import numpy as np
import pytest

from teacher_cache.scenes import encode_video, frame_times, random_scene, render_scene

av = pytest.importorskip("av", reason="PyAV is in the teach extra")


@pytest.fixture(scope="module")
def frames():
    return render_scene(random_scene(1), frame_times(12, 12), height=96, width=128).rgb


@pytest.fixture(scope="module")
def video(frames, tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "scène 1.mp4"
    encode_video(path, frames, fps=12)
    return path


def test_pyav_reads_near_equal_frames_with_their_times(frames, video):
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        decoded = list(container.decode(stream))
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
    back = np.stack([f.to_ndarray(format="rgb24") for f in decoded])
    assert back.shape == frames.shape
    assert np.abs(back.astype(int) - frames).mean() < 6  # mostly colour at half resolution
    np.testing.assert_allclose([f.time for f in decoded], frame_times(12, 12), atol=1e-3)


def test_decord_reads_near_equal_frames(frames, video):
    decord = pytest.importorskip("decord", reason="decord2 is in the teach extra")
    back = decord.VideoReader(str(video), num_threads=1).get_batch(range(12)).asnumpy()
    assert np.abs(back.astype(int) - frames).mean() < 6


def test_same_frames_same_file(frames, video, tmp_path):
    encode_video(tmp_path / "again.mp4", frames, fps=12)
    assert (tmp_path / "again.mp4").read_bytes() == video.read_bytes()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((2, 15, 16, 3), np.uint8), "even width and height"),
        (np.zeros((2, 16, 16), np.uint8), "uint8"),
        (np.zeros((2, 16, 16, 3), np.float32), "float32"),
        (np.zeros((0, 16, 16, 3), np.uint8), "at least one"),
    ],
)
def test_frames_that_cannot_be_encoded_are_refused(bad, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        encode_video(tmp_path / "bad.mp4", bad)
    assert not (tmp_path / "bad.mp4").exists()
