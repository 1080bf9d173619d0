"""Colours come out as they were: by the range and the matrix that a video says it is in."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace, ColorTrc
from decoding import decode_frames, opened

from schemas.errors import VideoError
from teacher_cache.clips import av_video, decord_video
from teacher_cache.clips.video import Opener

Matrix = Literal["BT.601", "BT.709"]

RGB = np.array(
    [[220, 40, 40], [40, 200, 60], [50, 60, 210], [200, 200, 60], [128, 128, 128], [235, 235, 235], [20, 20, 20], [255, 128, 0]]
)
# Of red and blue in luma; ITU-R BT.601 and BT.709.
_WEIGHTS = {"BT.601": (0.299, 0.114), "BT.709": (0.2126, 0.0722)}
_SPACES = {"BT.601": Colorspace.ITU601, "BT.709": Colorspace.ITU709}
_SIDE = 16


def yuv(rgb: np.ndarray, matrix: Matrix, *, full: bool) -> np.ndarray:
    """(Y Cb Cr, colour) uint8 of (colour, R G B), as the recommendations define them."""
    of_red, of_blue = _WEIGHTS[matrix]
    red, green, blue = (rgb / 255).T
    luma = of_red * red + (1 - of_red - of_blue) * green + of_blue * blue
    planes = np.stack([luma, (blue - luma) / (2 * (1 - of_blue)), (red - luma) / (2 * (1 - of_red))])
    scale, offset = ([255, 255, 255], [0, 128, 128]) if full else ([219, 224, 224], [16, 128, 128])
    return (planes.T * scale + offset).round().clip(0, 255).astype(np.uint8).T


def write(path: Path, matrix: Matrix, *, full: bool, says_matrix: bool = True, codec: str = "ffv1") -> Path:
    """Two frames of squares of `RGB` in YUV, without loss."""
    colours = yuv(RGB, matrix, full=full).repeat(_SIDE, axis=1)[:, None].repeat(_SIDE, axis=1)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25, options={"qp": "0"} if codec == "libx264" else {})
        stream.width, stream.height, stream.pix_fmt = len(RGB) * _SIDE, _SIDE, "yuv444p"
        stream.codec_context.color_range = ColorRange.JPEG if full else ColorRange.MPEG
        if says_matrix:
            stream.codec_context.colorspace = _SPACES[matrix]
        for _ in range(2):
            frame = av.VideoFrame(stream.width, stream.height, stream.pix_fmt)
            for plane, values in zip(frame.planes, colours, strict=True):
                rows = np.zeros((plane.height, plane.line_size), np.uint8)
                rows[:, : plane.width] = values
                plane.update(rows.tobytes())
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def squares(picture: np.ndarray) -> np.ndarray:
    """The colour at the middle of each square."""
    return picture[_SIDE // 2, _SIDE // 2 :: _SIDE].astype(int)


@pytest.mark.parametrize("opener", [av_video.opened, decord_video.opened], ids=["PyAV", "decord"])
@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", ["BT.601", "BT.709"])
def test_range_and_matrix_are_those_of_the_video(tmp_path: Path, matrix: Matrix, full: bool, opener: Opener) -> None:
    with opened(write(tmp_path / "a.mkv", matrix, full=full), opener) as video:
        for frame in video.frames([0, 1]):
            assert np.abs(squares(frame.picture) - RGB).max() <= 2


def test_another_range_or_matrix_would_be_seen() -> None:
    """The colours above tell all four apart by far more than what rounding leaves."""
    ways = [(matrix, full) for matrix in _WEIGHTS for full in (False, True)]
    planes = [yuv(RGB, matrix, full=full).astype(int) for matrix, full in ways]
    for number, one in enumerate(planes):
        for other in planes[number + 1 :]:
            assert np.abs(one - other).max() >= 10


@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
def test_h264_says_its_range_and_matrix_too(tmp_path: Path, full: bool) -> None:
    path = write(tmp_path / "a.mp4", "BT.709", full=full, codec="libx264")
    assert np.abs(squares(decode_frames(str(path), [1])[0]) - RGB).max() <= 2


def test_a_video_that_says_no_matrix_is_taken_for_bt_601(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", "BT.601", full=False, says_matrix=False)
    assert np.abs(squares(decode_frames(str(path), [1])[0]) - RGB).max() <= 2


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ({"color_trc": ColorTrc.SMPTE2084}, "hdr_unsupported"),
        ({"color_trc": ColorTrc.ARIB_STD_B67}, "hdr_unsupported"),
        ({"options": {"x264-params": "tff=1"}}, "interlaced_unsupported"),
        ({"color_trc": ColorTrc.BT709}, None),
    ],
    ids=["PQ", "HLG", "interlaced", "SDR"],
)
def test_high_range_and_fields_are_refused(tmp_path: Path, kind: dict[str, Any], reason: str | None) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25, options=kind.get("options", {}))
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        if "color_trc" in kind:
            stream.codec_context.color_trc = kind["color_trc"]
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((64, 96, 3), 90, np.uint8), format="rgb24")))
        container.mux(stream.encode())
    if reason is None:
        assert decode_frames(tmp_path / "a.mp4", [1]).shape == (1, 64, 96, 3)
        return
    with pytest.raises(VideoError, match=reason):
        decode_frames(tmp_path / "a.mp4", [1])
