from __future__ import annotations

import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import videos_page
from decoding import decode_clip, decode_frames
from PIL import Image

from schemas.errors import VideoError
from schemas.recipe import ClipRecipe
from teacher_cache.clips.av_video import DECODERS
from teacher_cache.clips.decoder import Decoder
from teacher_cache.clips.preprocess import preprocess
from teacher_cache.clips.sampling import spread
from teacher_cache.clips.video import DecodedClip

RECIPE = ClipRecipe(frames=16, sampling="uniform", preprocessing="l4p", size=56, student_size=None)


def test_a_clip_has_its_frames_and_their_clock(videos: Path) -> None:
    clip = decode_clip(str(videos / "scene-0.mp4"), RECIPE)
    assert clip.frames.shape == (16, 56, 56, 3)
    assert clip.frames.dtype == np.uint8
    assert clip.clock.frame_index == spread(16, 20)
    np.testing.assert_allclose(clip.clock.timestamps_seconds, np.array(clip.clock.frame_index) / 24, atol=1e-3)
    assert clip.decoder == DECODERS["cpu"]


def test_decoded_frames_are_those_that_were_encoded(videos: Path) -> None:
    from teacher_cache.scenes import frame_times, random_scene, render_scene

    truth = render_scene(random_scene(0), frame_times(20, 24), height=64, width=96).rgb
    frames = decode_frames(str(videos / "scene-0.mp4"), [0, 7, 19])
    assert frames.shape == (3, 64, 96, 3)
    for got, index in zip(frames, [0, 7, 19], strict=True):
        errors = [np.abs(got.astype(float) - truth[i]).mean() for i in range(20)]
        assert errors[index] < 6
        assert int(np.argmin(errors)) == index


MATRICES = {  # of the corners [[0, 1], [2, 3]], as FFmpeg's autorotate shows them
    (1, 0, 0, 1): [[0, 1], [2, 3]],
    (0, 1, -1, 0): [[2, 0], [3, 1]],  # clockwise, as a phone held upright writes it
    (-1, 0, 0, -1): [[3, 2], [1, 0]],
    (0, -1, 1, 0): [[1, 3], [0, 2]],
    (-1, 0, 0, 1): [[1, 0], [3, 2]],  # mirrored: a selfie
    (1, 0, 0, -1): [[2, 3], [0, 1]],
    (0, 1, 1, 0): [[0, 2], [1, 3]],
    (0, -1, -1, 0): [[3, 1], [2, 0]],
}


def test_the_page_of_tested_videos_lists_these_turns() -> None:
    letters = "ABCD"
    rows = []
    for matrix, corners in MATRICES.items():
        shown = " / ".join(" ".join(letters[corner] for corner in row) for row in corners)
        rows.append((f"`{' '.join(map(str, matrix))}`", shown))
    videos_page.require("Rotations and mirrors", rows)


def turned(video: Path, a: int, b: int, c: int, d: int) -> bytes:
    """An mp4's bytes with another display matrix."""
    data = video.read_bytes()
    header = data.index(b"tkhd") + 4
    place = header + (40 if data[header] == 0 else 52)  # past version, times, track, duration, layer, group and volume
    matrix = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    assert data[place : place + 36] == struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    return data[:place] + matrix + data[place + 36 :]


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("size", [(64, 96), (90, 120), (144, 96)])
def test_turns_and_mirrors_in_the_metadata_are_applied(
    tmp_path: Path, matrix: tuple[int, int, int, int], size: tuple[int, int]
) -> None:
    """Sizes of which some have padded rows, lying or turned; every corner has its own colour."""
    from teacher_cache.scenes import encode_video

    corners = np.array([[[220, 30, 30], [30, 220, 30]], [[30, 30, 220], [220, 220, 220]]], np.uint8)
    picture, truth = (
        np.asarray(Image.fromarray(of).resize(sides[::-1], Image.Resampling.BILINEAR)).astype(int)
        for of, sides in ((corners, size), (corners.reshape(4, 3)[MATRICES[matrix]], size if matrix[0] else size[::-1]))
    )
    encode_video(tmp_path / "straight.mp4", np.repeat(picture[None].astype(np.uint8), 20, 0), crf=5)
    (tmp_path / "turned.mp4").write_bytes(turned(tmp_path / "straight.mp4", *matrix))
    frames = decode_frames(str(tmp_path / "turned.mp4"), [0, 9])
    assert frames.shape == (2, *truth.shape)
    assert np.abs(frames - truth).mean() < 6
    clip = decode_clip(str(tmp_path / "turned.mp4"), RECIPE)
    assert np.abs(clip.frames[3] - preprocess(truth[None].astype(np.uint8), RECIPE)[0].astype(int)).mean() < 6


def test_preprocessing_follows_its_named_recipe() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 90, 120, 3), dtype=np.uint8)
    l4p = preprocess(frames, RECIPE)
    # The published loader's chain, with torch for its last step.
    import torch

    small = Image.fromarray(frames[1]).resize((56, 56), Image.Resampling.BILINEAR).resize((120, 90), Image.Resampling.BILINEAR)
    chained = torch.nn.functional.interpolate(
        torch.from_numpy(np.array(small)).permute(2, 0, 1)[None].float(), (56, 56), mode="bilinear", align_corners=False
    )
    # To the nearest whole number: half of one away at most.
    np.testing.assert_allclose(l4p[1].astype(float), chained[0].permute(1, 2, 0).numpy(), rtol=0, atol=0.5 + 1e-3)
    student = preprocess(frames, RECIPE.model_copy(update={"preprocessing": "student", "student_size": 70}))
    assert student.shape == l4p.shape
    # The released 4D-RGPT: its image processor's bicubic square, and torchvision's antialiased resize of that tensor.
    square = torch.from_numpy(np.array(Image.fromarray(frames[1]).resize((70, 70), Image.Resampling.BICUBIC)))
    resized = torch.nn.functional.interpolate(
        square.permute(2, 0, 1)[None].float(), (56, 56), mode="bilinear", align_corners=False, antialias=True
    )
    np.testing.assert_allclose(student[1].astype(float), resized[0].permute(1, 2, 0).round().numpy(), atol=1)
    assert abs((student[1] - resized[0].permute(1, 2, 0).numpy()).mean()) < 0.05  # to the nearest, not down
    assert np.abs(student.astype(int) - l4p).max() > 1
    flat = np.full((1, 33, 47, 3), 200, dtype=np.uint8)
    assert (preprocess(flat, RECIPE) == 200).all()


def test_a_decoder_ends_with_its_parent() -> None:
    """Even one that never sees the end of its requests, as if it hung in a video: here it holds the other end itself."""
    code = (
        "import socket, subprocess, sys, os\n"
        "requests, held = socket.socketpair()\n"
        "os.set_inheritable(held.fileno(), True)\n"
        "command = [sys.executable, '-m', 'teacher_cache.clips.decoder_program', str(os.getpid()), 'cpu', '-1', '60']\n"
        "p = subprocess.Popen(command, stdin=requests, stdout=subprocess.DEVNULL, close_fds=False)\n"
        "print(p.pid, flush=True)\nos.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=False)
    status = Path(f"/proc/{int(done.stdout)}/status")
    deadline = time.monotonic() + 20
    while status.exists() and "zombie" not in status.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_video_on_s3_is_fetched(s3: str, videos: Path) -> None:
    import fsspec

    fs = fsspec.filesystem("s3")
    fs.put_file(str(videos / "scene-1.mp4"), f"{s3}/raw/scene-1.mp4")
    with Decoder(RECIPE, timeout_seconds=60) as decoder:
        (remote,) = decoder.clips(f"{s3}/raw/scene-1.mp4", [None])
        assert isinstance(remote, DecodedClip)
        np.testing.assert_array_equal(remote.frames, decode_clip(videos / "scene-1.mp4", RECIPE).frames)
        with pytest.raises(VideoError, match="video_missing"):
            decoder.probe(f"{s3}/raw/none.mp4")
