"""Colours come out as they were: by the range and the matrix that a video says it is in."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import pytest
import videos_page
from av.filter import Graph
from av.video.reformatter import ColorRange, Colorspace, ColorTrc
from decoding import decode_frames, opened

from schemas.errors import VideoError
from schemas.recipe import ClipRecipe
from teacher_cache.clips import av_video, decord_video
from teacher_cache.clips.decoder import Decoder
from teacher_cache.clips.preprocess import FrameSize, preprocess
from teacher_cache.clips.video import AS_TAUGHT, DecodedClip, Opener

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
def test_high_range_and_fields_are_refused_by_default(tmp_path: Path, kind: dict[str, Any], reason: str | None) -> None:
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


# ITU-R BT.2087: linear BT.709 as linear BT.2020.
_TO_BT_2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])
_NITS = np.array([0.5, 5, 20, 50, 100, 203, 400, 600, 800, 1000])


def pq(nits: np.ndarray) -> np.ndarray:
    """SMPTE ST 2084: cd/m² as values in 0 … 1."""
    powers = (nits / 10000) ** 0.1593017578125
    return np.asarray(((0.8359375 + 18.8515625 * powers) / (1 + 18.6875 * powers)) ** 78.84375)


def hlg(nits: np.ndarray) -> np.ndarray:
    """ITU-R BT.2100: greys that a display of 1000 cd/m² shows at ``nits``, as values in 0 … 1."""
    scene = (nits / 1000) ** (1 / 1.2)
    return np.where(
        scene <= 1 / 12, np.sqrt(3 * scene), 0.17883277 * np.log(12 * np.maximum(scene, 0.08) - 0.28466892) + 0.55991073
    )


def write_hdr(path: Path, values: np.ndarray, transfer: ColorTrc, peak: int | None = None) -> Path:
    """Two frames of squares of non-linear BT.2020 RGB (square, R G B) in 10-bit HEVC without loss."""
    red, green, blue = values.T
    luma = 0.2627 * red + 0.6780 * green + 0.0593 * blue
    planes = luma * 876 + 64, (blue - luma) / 1.8814 * 896 + 512, (red - luma) / 1.4746 * 896 + 512
    mastered = f":master-display=G(8500,39850)B(6550,2300)R(35400,14600)WP(15635,16450)L({peak}0000,50)" if peak else ""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(
            "libx265", rate=25, options={"x265-params": f"lossless=1:log-level=none:bframes=0:frame-threads=1{mastered}"}
        )
        stream.width, stream.height, stream.pix_fmt = len(values) * _SIDE, _SIDE, "yuv444p10le"
        context = stream.codec_context
        context.color_range, context.colorspace, context.color_trc, context.color_primaries = ColorRange.MPEG, 9, transfer, 9
        for number in range(2):
            frame = av.VideoFrame(stream.width, stream.height, stream.pix_fmt)
            frame.pts, frame.time_base = number, Fraction(1, 25)  # or x265's threads may end with times that do not increase
            for plane, wanted in zip(frame.planes, planes, strict=True):
                rows = np.zeros((plane.height, plane.line_size // 2), np.uint16)
                rows[:, : plane.width] = wanted.round().astype(np.uint16).repeat(_SIDE)
                plane.update(rows.tobytes())
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def mapped(path: Path) -> np.ndarray:
    with opened(path, partial(av_video.opened, shown=AS_TAUGHT)) as video:
        (frame,) = video.frames([1])
    return squares(frame.picture)


def test_sdr_that_was_put_into_hdr_comes_back(tmp_path: Path) -> None:
    """Mastered for a display as bright as SDR's white, nothing is rolled off: each colour is the one that it was in BT.709."""
    light = (RGB / 255) ** 2.4 * 203 @ _TO_BT_2020.T
    path = write_hdr(tmp_path / "a.mkv", pq(light), ColorTrc.SMPTE2084, peak=203)
    assert np.abs(mapped(path) - RGB).max() <= 8  # where a channel is cut off, at 255 and at 0
    assert np.abs(mapped(path) - RGB)[:-1].max() <= 3
    flat = decode_flat(path)
    assert np.abs(flat - RGB).max() > 60


def decode_flat(path: Path) -> np.ndarray:
    """The values as if they were SDR's."""
    with av.open(str(path)) as container:
        return squares(next(container.decode(video=0)).to_ndarray(format="rgb24"))


@pytest.mark.parametrize(("code", "transfer"), [(pq, ColorTrc.SMPTE2084), (hlg, ColorTrc.ARIB_STD_B67)], ids=["PQ", "HLG"])
def test_high_range_is_rolled_off_by_bt_2390(
    tmp_path: Path, code: Callable[[np.ndarray], np.ndarray], transfer: ColorTrc
) -> None:
    """Of 1000 cd/m²: below the curve's knee, at 86 cd/m², light stays as it is on a display of BT.1886; the peak is white."""
    path = write_hdr(tmp_path / "a.mkv", code(_NITS)[:, None].repeat(3, 1), transfer)
    found = mapped(path)
    assert (np.ptp(found, axis=1) <= 1).all()  # greys stay grey
    grey = found[:, 1]
    np.testing.assert_allclose(grey[:4], (_NITS[:4] / 203) ** (1 / 2.4) * 255, atol=2)
    assert (np.diff(grey.astype(int))[:6] >= 3).all()  # what is brighter than reference white still differs
    assert grey[5] < 240
    assert grey[-1] >= 253


def test_the_recipe_says_what_becomes_of_high_range_and_the_trainer_sees_it(tmp_path: Path) -> None:
    path = str(write_hdr(tmp_path / "a.mkv", hlg(_NITS)[:, None].repeat(3, 1), ColorTrc.ARIB_STD_B67))
    refusing = ClipRecipe(frames=2, sampling="uniform", preprocessing="l4p", size=_SIDE, student_size=None)
    with Decoder(refusing, 60) as decoder:
        (clip,) = decoder.clips(path, [None])
        assert isinstance(clip, VideoError)
        assert (clip.reason, clip.detail) == (
            "hdr_unsupported",
            "its transfer function is HLG, and `clips.hdr` is `refuse`; `bt2390` decodes it as SDR",
        )
    with Decoder(refusing.model_copy(update={"hdr": "bt2390"}), 60) as decoder:
        (clip,) = decoder.clips(path, [None])
        assert isinstance(clip, DecodedClip)
    with Decoder(None, 60) as decoder:
        (seen,) = decoder.frames(path, [1], FrameSize(1000, "own")).frames
    np.testing.assert_array_equal(preprocess(seen[None], refusing), clip.frames[1:])


def woven(top_first: bool, height: int = 64, width: int = 96, frames: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """A bar that moves: every other picture (picture, y, x, RGB), and frames whose second field is of the next picture."""
    pictures = np.full((2 * frames, height, width, 3), 60, np.uint8)
    for number, picture in enumerate(pictures):
        picture[8:56, 4 + 3 * number : 28 + 3 * number] = [200, 180, 80]
    fields = pictures[::2].copy()
    later = int(top_first)  # the first line of the field that comes second
    fields[:, later::2] = pictures[1::2, later::2]
    return pictures[::2], fields


@pytest.mark.parametrize("order", ["tff", "bff"])
@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
def test_fields_become_pictures_of_the_first_one_s_time(tmp_path: Path, codec: str, order: str) -> None:
    truth, fields = woven(order == "tff")
    options = (
        {"x264-params": f"{order}=1", "crf": "5"} if codec == "libx264" else {"flags": "+ildct+ilme", "qmin": "1", "qmax": "2"}
    )
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream: Any = container.add_stream(codec, rate=25, options=options | {"bf": "2", "g": "8", "crf": "5"})
        stream.height, stream.width, stream.pix_fmt = *truth.shape[1:3], "yuv420p"
        stream.codec_context.colorspace = Colorspace.ITU709
        for number, picture in enumerate(fields):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
                format="yuv420p", dst_colorspace=Colorspace.ITU709
            )
            frame.pts, frame.time_base = number, Fraction(1, 25)
            marked = Graph()
            marked.link_nodes(
                marked.add_buffer(template=stream, time_base=Fraction(1, 25)),
                marked.add("setfield", order),
                marked.add("buffersink"),
            ).configure()
            marked.push(frame)
            container.mux(stream.encode(marked.pull()))
        container.mux(stream.encode())
    with av.open(str(tmp_path / "a.mkv")) as container:
        combed = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    whole = [0, 1, 2, 3, 4, 5, 6, 7]
    found = np.empty_like(truth)
    for asked in (whole, whole[::-1], [5, 0, 3]):
        with opened(tmp_path / "a.mkv", partial(av_video.opened, shown=AS_TAUGHT)) as video:
            for index in asked:
                (frame,) = video.frames([index])
                wrong, left = (np.abs(pictures.astype(int) - truth[index]) for pictures in (combed[index], frame.picture))
                assert left.mean() < 0.65 * wrong.mean()  # the picture of the other field is twice as far
                assert left.mean() < 2.5
                found[index] = frame.picture
    with opened(tmp_path / "a.mkv", partial(av_video.opened, shown=AS_TAUGHT)) as video:
        together = [frame.picture for frame in video.frames(whole)]
    np.testing.assert_array_equal(together, found)


def test_the_page_of_tested_videos_lists_these_colours() -> None:
    rows = [(f"{matrix}, {span} range", "the colours that were put in") for matrix in _WEIGHTS for span in ("limited", "full")]
    rows += [("no matrix", "as BT.601"), ("PQ and HLG, BT.2020", "`hdr_unsupported`")]
    rows += [("PQ and HLG, BT.2020, with `hdr: bt2390`", "SDR of the same colours, rolled off by the curve of BT.2390")]
    rows += [("interlaced", "`interlaced_unsupported`")]
    rows += [
        (f"interlaced {codec}, {order} field first, with `interlaced: bwdif`", "pictures of the first field's time")
        for codec in ("H.264", "MPEG-2")
        for order in ("top", "bottom")
    ]
    videos_page.require("Colours and fields", rows)
