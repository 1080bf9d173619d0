"""Sound videos of every kind give the right frames at their times; damaged ones the right frames or an error, never others."""

from __future__ import annotations

import contextlib
import random
import re
import shutil
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
import pytest
import strange_videos
import videos_page
from decoding import decode_frames, opened
from PIL import Image
from strange_videos import FRAGMENTED, pictures

from schemas.clip import Segment, Window
from schemas.errors import VideoError
from schemas.job import VideoSource
from schemas.recipe import ClipRecipe
from teacher_cache.clips import av_video, decord_video
from teacher_cache.clips.decode import clips_of, footage_of, frames_of
from teacher_cache.clips.decoder import Decoder
from teacher_cache.clips.preprocess import FrameSize
from teacher_cache.clips.sampling import mirrored, spread, windows
from teacher_cache.clips.sources import list_videos
from teacher_cache.clips.video import DecodedClip, OpenVideo

Pictures = np.ndarray[Any, np.dtype[np.uint8]]

COUNT = 20
PICTURES = pictures(COUNT, 66, 98)
B_FRAMES = {"bf": "3", "b-adapt": "0"}
GROUPS = {"g": "5", "bf": "2"}
OPEN_GROUPS = {"x264-params": "keyint=6:min-keyint=6:open-gop=1:bframes=3:b-adapt=0:scenecut=0"}
UNEVEN = [0, 10, 20, 500, 510, 520, 1000, 1033, 1066, 2000, 2001, 2002, 2003, 3000, 3500, 3600, 3601, 3700, 9000, 9001]
GROUPS_OF_TEN = {"g": "10", "sc_threshold": "1000000000"}  # of codecs that would add key frames where much changes
WITHOUT_B = {"options": {"bf": "0", "g": "10", "sc_threshold": "0"}}
RATE = {"time_base": Fraction(1, 25), "stamps": range(COUNT)}


def which(picture: Pictures, truth: Pictures) -> int:
    """The number of the picture that a decoded one is."""
    assert picture.shape == truth.shape[1:]
    errors = np.abs(truth.astype(int) - picture).mean((1, 2, 3))
    assert errors.min() < 6
    return int(errors.argmin())


def seen(video: OpenVideo, order: Sequence[int], truth: Pictures) -> list[tuple[int, float] | str]:
    """(number, seconds) of each frame as it was decoded, or the reason why it was not; asked one by one, in this order."""
    found: list[tuple[int, float] | str] = []
    for index in order:
        try:
            (frame,) = video.frames([index])
            found.append((which(frame.picture, truth), round(frame.seconds, 3)))
        except VideoError as error:
            found.append(error.reason)
    return found


def orders(count: int) -> list[list[int]]:
    return [
        list(range(count)),
        list(range(0, count, 7)),
        list(range(count))[::-1],
        random.Random(0).sample(range(count), count),
    ]


SOUND: dict[str, dict[str, Any]] = {
    "one.mp4": {"frames": PICTURES[:1]},
    "one.mkv": {"frames": PICTURES[:1]},
    "odd.mp4": {"frames": pictures(COUNT, 67, 101), "pixels": "yuv444p"},
    "odd.webm": {"frames": pictures(COUNT, 67, 101), "codec": "libvpx-vp9"},
    "flat.webm": {"frames": pictures(COUNT, 1, 97), "codec": "libvpx-vp9"},
    "thin.webm": {"frames": pictures(COUNT, 97, 1), "codec": "libvpx-vp9"},
    "dot.mkv": {"frames": pictures(COUNT, 1, 1), "codec": "ffv1"},
    "uneven.mp4": {"stamps": UNEVEN, "options": GROUPS},
    "uneven.mkv": {"stamps": UNEVEN, "options": GROUPS},
    "ten bits hevc.mp4": {"codec": "libx265", "pixels": "yuv420p10le", "options": {"x265-params": "log-level=none"}},
    "ten bits h264.mp4": {"pixels": "yuv420p10le"},
    "ten bits av1.mp4": {"codec": "libsvtav1", "pixels": "yuv420p10le"},
    "ten bits 422.mov": {"codec": "prores_ks", "pixels": "yuv422p10le"},
    "av1.mkv": {"codec": "libsvtav1"},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"auto-alt-ref": "1", "lag-in-frames": "10", "g": "8"}},
    "vp8.webm": {"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "10", "b": "1M"}},
    "late.mp4": {"shift": 5000, "options": GROUPS},
    "late.mkv": {"shift": 5000, "options": GROUPS},
    "late.ts": {"shift": 5000, "options": GROUPS},
    "no edit list.mp4": {"options": GROUPS, "container_options": {"use_editlist": "0", "movflags": "negative_cts_offsets"}},
    "b-frames.mkv": {"options": B_FRAMES},
    "b-frames.avi": {"options": B_FRAMES, **RATE},
    "b-frames.h264": {"options": B_FRAMES},
    "groups.mp4": {"options": GROUPS},
    "groups.ts": {"options": GROUPS, "begins": 0.08},  # the muxer delays all frames by as many as are reordered
    "groups.mpg": {"frames": PICTURES[:, :64, :96], "codec": "mpeg2video", "begins": 0.54, **RATE},
    "fragments.mp4": {"options": GROUPS, "container_options": FRAGMENTED, "begins": 0.08},
    "open groups.mp4": {"options": OPEN_GROUPS},
    "gaps.avi": {"codec": "mjpeg", "pixels": "yuvj420p", "stamps": UNEVEN},
    "frames.ivf": {"codec": "libvpx-vp9"},
}


@pytest.mark.parametrize("name", SOUND)
def test_each_frame_is_the_right_one_at_its_time(tmp_path: Path, name: str) -> None:
    asked = dict(SOUND[name])
    truth, begins, shift = asked.pop("frames", PICTURES), asked.pop("begins", 0.0), asked.get("shift", 0)
    video = strange_videos.write(tmp_path / name, truth, **asked)
    stamps = asked.get("stamps", range(0, 40 * COUNT, 40))
    seconds = [float((stamp + shift) * asked.get("time_base", strange_videos.MILLISECOND)) + begins for stamp in stamps]
    for order in orders(len(truth)):
        with opened(str(video)) as it:
            assert it.footage.frames == len(truth)
            assert it.decoder == av_video.DECODERS["cpu"]
            found = seen(it, order, truth)
        assert [number for number, _ in found] == order
        np.testing.assert_allclose([time for _, time in found], [seconds[i] for i in order], atol=2e-3)


@pytest.mark.parametrize("name", ["groups.mp4", "groups.ts", "uneven.mkv", "open groups.mp4"])
def test_a_late_frame_is_decoded_from_the_key_frame_before_it(tmp_path: Path, name: str) -> None:
    """And not from the video's start, as where a container cannot be searched."""
    kind = {key: value for key, value in SOUND[name].items() if key != "begins"}
    video = strange_videos.write(tmp_path / name, PICTURES, **kind)
    with opened(video, av_video.opened) as it:
        assert seen(it, [COUNT - 1, 8], PICTURES)[0][0] == COUNT - 1
        assert it._seeks


def test_what_an_edit_list_hides_is_not_there(tmp_path: Path) -> None:
    """The first ten of twenty frames are decoded and never shown."""
    video = strange_videos.write(tmp_path / "edited.mp4", PICTURES, options=B_FRAMES, shift=-400)
    for order in orders(10):
        with opened(str(video)) as it:
            assert it.footage.frames == 10
            assert seen(it, order, PICTURES) == [(10 + i, round(0.04 * i, 3)) for i in order]


def test_times_that_go_back(tmp_path: Path) -> None:
    """Every frame that is given has its own time; without reordering, they are in the order of the file.

    No clip is made of frames whose times run back.
    """
    times = [40 * i - (130 if i > 12 else 0) for i in range(COUNT)]

    def turn_back(number: int, packet: Any) -> None:
        packet.pts, packet.dts = times[number], number - COUNT

    source = strange_videos.write(tmp_path / "jpegs.mkv", PICTURES, codec="mjpeg", pixels="yuvj420p")
    video = strange_videos.with_packets(source, tmp_path / "back.mkv", turn_back)
    for order in orders(COUNT):
        with opened(str(video)) as it:
            assert seen(it, order, PICTURES) == [(i, times[i] / 1000) for i in order]
    recipe = ClipRecipe(frames=2, sampling="dense", preprocessing="l4p", size=14, student_size=None)
    with opened(str(video)) as it:
        clips = list(clips_of(it, recipe, [Window(start=n, stop=n + 2) for n in (11, 12, 13)], began=0.0))
    assert [clip.reason if isinstance(clip, VideoError) else None for clip in clips] == [None, "times_run_back", None]

    shown: dict[int, int] = {}  # of a picture, its time

    def turn_back_groups(number: int, packet: Any) -> None:
        shown[packet.pts // 40] = packet.pts - (250 if number >= 10 else 0)
        packet.pts, packet.dts = shown[packet.pts // 40], number - COUNT

    source = strange_videos.write(tmp_path / "groups.mkv", PICTURES, options=B_FRAMES | {"g": "10"})
    video = strange_videos.with_packets(source, tmp_path / "groups back.mkv", turn_back_groups)
    for order in orders(COUNT):
        with opened(str(video)) as it:
            found = seen(it, order, PICTURES)
        assert len([frame for frame in found if frame == "decode_error"]) < len(order)
        for frame, index in zip(found, order, strict=True):
            assert frame == "decode_error" or (frame[1] * 1000 == shown[int(frame[0])] == sorted(shown.values())[index])


@pytest.mark.parametrize("name", ["uneven.mp4", "uneven.mkv", "uneven.ts"])
def test_a_rate_is_kept_by_the_frames_times(tmp_path: Path, name: str) -> None:
    """Twenty frames in the first second, and ten over ten more: at one a second, eleven."""
    stamps = [*range(0, 1000, 50), *range(1000, 10001, 1000)]
    video = strange_videos.write(tmp_path / name, pictures(30, 66, 98), stamps=stamps, options={"bf": "0"})
    recipe = ClipRecipe(frames=4, sampling="fps", fps=1, preprocessing="l4p", size=14, student_size=None)
    with opened(str(video)) as it:
        assert footage_of(it, None, recipe).taken == 11
        clips = list(clips_of(it, recipe, [Window(start=start, stop=start + 4) for start in (0, 4, 8)], began=0.0))
        begins = it.times[0]
    seconds = [second - begins for clip in clips if isinstance(clip, DecodedClip) for second in clip.clock.timestamps_seconds]
    np.testing.assert_allclose(seconds, [*range(11), 9], atol=2e-3)


LOST_PACKETS: dict[str, tuple[str, dict[str, Any]]] = {
    "an mp4 (MPEG-4) with a packet of zeros": ("a.mp4", {"codec": "mpeg4"}),
    "an mkv (H.264) with a packet of zeros": ("a.mkv", {"options": {"bf": "0", "g": "10"}}),
    "an mkv (Motion JPEG) with a packet of zeros": ("a.mkv", {"codec": "mjpeg", "pixels": "yuvj420p"}),
    "a webm (VP9) with a packet of zeros": ("a.webm", {"codec": "libvpx-vp9", "options": {"g": "10"}}),
}


@pytest.mark.parametrize("case", LOST_PACKETS)
def test_damage_moves_no_frame_to_another_s_place(tmp_path: Path, case: str) -> None:
    """All frames are right but the damaged packet's, and at most those up to the next place where decoding can begin."""
    name, kind = LOST_PACKETS[case]
    noise = np.random.default_rng(0).integers(-4, 5, PICTURES.shape)  # so that a packet has something to lose
    video = strange_videos.write(tmp_path / name, (PICTURES + noise).clip(0, 255).astype(np.uint8), **kind)
    strange_videos.damage(video, 7)
    for order in orders(COUNT):
        with opened(str(video)) as it:
            found = dict(zip(order, seen(it, order, PICTURES), strict=True))
        assert found.get(7, "decode_error") == "decode_error"
        for index in {*range(7), *range(10, COUNT)} & found.keys():
            assert found[index] == (index, round(0.04 * index, 3))


GARBLED: dict[str, tuple[str, dict[str, Any]]] = {
    "an mp4 (MPEG-4) with a garbled packet": (
        "a.mp4",
        {"codec": "mpeg4", "options": GROUPS_OF_TEN},
    ),
    "an mkv (H.264) with a garbled packet": ("a.mkv", WITHOUT_B),
    "a transport stream (H.264) with a garbled packet": ("a.ts", WITHOUT_B),
    "an avi (MPEG-2) with a garbled packet": (
        "a.avi",
        {"codec": "mpeg2video", "frames": PICTURES[:, :64, :96], "options": GROUPS_OF_TEN, **RATE},
    ),
}


@pytest.mark.parametrize("case", GARBLED)
def test_a_frame_that_the_codec_calls_corrupt_is_not_given(tmp_path: Path, case: str) -> None:
    """It decodes without an error, with guesses in place of what its packet lost."""
    name, kind = GARBLED[case]
    truth = kind.get("frames", PICTURES)
    noise = np.random.default_rng(0).integers(-4, 5, truth.shape)
    video = strange_videos.write(tmp_path / name, **kind | {"frames": (truth + noise).clip(0, 255).astype(np.uint8)})
    strange_videos.garble(video, 7)
    assert strange_videos.corrupt_frames(video) == [7]
    for order in ([7], list(range(8)), [7, 3, 7], [12, 7, 0], [8], [6, 9, 10]):
        with opened(str(video)) as it:
            found = [frame if frame == "decode_error" else frame[0] for frame in seen(it, order, truth)]
        assert found == ["decode_error" if index in {7, 8, 9} else index for index in order]
    recipe = ClipRecipe(frames=2, sampling="dense", preprocessing="l4p", size=14, student_size=None)
    with opened(str(video)) as it:
        clips = list(clips_of(it, recipe, [Window(start=5, stop=7), Window(start=6, stop=8)], began=0.0))
    assert [clip.reason if isinstance(clip, VideoError) else None for clip in clips] == [None, "decode_error"]


def noisy(frames: Pictures = PICTURES) -> Pictures:
    """The pictures with noise, so that every packet has something to lose."""
    noise = np.random.default_rng(0).integers(-4, 5, frames.shape)
    return (frames + noise).clip(0, 255).astype(np.uint8)


def cut(video: Path, share: float) -> None:
    """Leave this share of a file's bytes."""
    data = video.read_bytes()
    video.write_bytes(data[: int(len(data) * share)])


def by_ffmpeg_alone(video: Path) -> tuple[int, int]:
    """Packets that FFmpeg finds in a file, and frames that it decodes in one pass without a sign of damage."""
    packets = frames = 0
    with av.open(str(video)) as container:
        container.streams.video[0].thread_count = 1
        for packet in container.demux(video=0):
            packets += packet.size > 0
            with contextlib.suppress(av.error.InvalidDataError):
                frames += sum(not frame.is_corrupt for frame in packet.decode())
    return packets, frames


UNIFORM = ClipRecipe(frames=4, sampling="uniform", preprocessing="l4p", size=14, student_size=None)
LENIENT = UNIFORM.model_copy(update={"max_undecodable_tail_share": 0.4})
FASTSTART = {"container_options": {"movflags": "faststart"}}
GROUPS_OF_EIGHT = {"g": "8", "sc_threshold": "0"}
DAMAGED_TAILS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "a faststart mp4 cut by a tenth": ("a.mp4", FASTSTART | WITHOUT_B, True),
    "a faststart mp4 with B-frames cut by a tenth": (
        "a.mp4",
        FASTSTART | {"options": {"bf": "2", "g": "4", "sc_threshold": "0"}},
        True,
    ),
    "a fragmented mp4 cut by a tenth": ("a.mp4", {"container_options": FRAGMENTED, "options": {"g": "5", "bf": "0"}}, True),
    "a transport stream cut by a tenth": ("a.ts", WITHOUT_B, True),
    "an mkv cut by a tenth": ("a.mkv", WITHOUT_B, True),
    "a webm cut by a tenth": ("a.webm", {"codec": "libvpx-vp9"}, True),
    "an mp4 with a damaged last packet": ("a.mp4", WITHOUT_B, False),
    "a transport stream with a damaged last packet": ("a.ts", WITHOUT_B, False),
    "an mkv with a damaged last packet": ("a.mkv", WITHOUT_B, False),
    "an avi (MPEG-4) with a damaged last packet": ("a.avi", {"codec": "mpeg4", "options": {"g": "10"}, **RATE}, False),
}


def damaged_at_its_end(folder: Path, name: str) -> tuple[Path, int, int, int]:
    """A video of `DAMAGED_TAILS`; how many packets FFmpeg finds, how many frames its index lists, how many decode."""
    file, kind, is_cut = DAMAGED_TAILS[name]
    video = strange_videos.write(folder / file, noisy(), **kind)
    if is_cut:
        cut(video, 0.9)
    else:
        strange_videos.garble(video, COUNT - 1)
    packets, whole = by_ffmpeg_alone(video)
    listed = COUNT if "faststart" in name else packets  # its index tells of frames that are gone
    return video, packets, listed, whole


@pytest.mark.parametrize("name", DAMAGED_TAILS)
def test_what_does_not_decode_at_the_end_is_left_out_and_counted(tmp_path: Path, name: str) -> None:
    video, _, listed, whole = damaged_at_its_end(tmp_path, name)
    assert COUNT // 2 < whole < COUNT
    with opened(str(video)) as it:
        (clip,) = clips_of(it, LENIENT, [None], began=0.0)
        assert isinstance(clip, DecodedClip)
        assert clip.clock.frame_index == spread(4, whole)
        assert clip.clock.undecodable_tail_frames == listed - whole
        watched = frames_of(it, 4, FrameSize(98, "own"))
        assert [which(picture, PICTURES) for picture in watched.frames] == list(spread(4, whole))
        # A segment that ends before has lost nothing; one that goes on has lost the same.
        parts = [Segment(start_seconds=it.times[0], end_seconds=it.times[5]), Segment(start_seconds=it.times[3])]
        before, beyond = clips_of(it, LENIENT, parts, began=0.0)
        assert isinstance(before, DecodedClip)
        assert isinstance(beyond, DecodedClip)
        assert (before.clock.frame_index, before.clock.undecodable_tail_frames) == (spread(4, 5), 0)
        assert beyond.clock.frame_index == tuple(3 + i for i in spread(4, whole - 3))
        assert beyond.clock.undecodable_tail_frames == listed - whole
        strict = LENIENT.model_copy(update={"max_undecodable_tail_share": 0.0})
        (refused,) = clips_of(it, strict, [None], began=0.0)
        assert isinstance(refused, VideoError) == (listed > whole)
        if isinstance(refused, VideoError):
            assert refused.reason == "decode_error"
            assert re.match(rf"at least the last \d+ of its {listed} frames do not decode, and clips", refused.detail)


DENSE = LENIENT.model_copy(update={"sampling": "dense"})
"""Windows of four frames, every two."""


@pytest.mark.parametrize("name", DAMAGED_TAILS)
def test_windows_at_a_damaged_end_are_of_the_frames_before_it(tmp_path: Path, name: str) -> None:
    """They go back from the last frame that decodes, as windows do at a video's end; those before know nothing of it."""
    video, packets, listed, whole = damaged_at_its_end(tmp_path, name)
    with opened(str(video)) as it:
        planned = windows(DENSE, packets)
        found = list(clips_of(it, DENSE, planned, began=0.0))
        for window, clip in zip(planned, found, strict=True):
            if window.start >= whole:
                assert isinstance(clip, VideoError)
                continue
            assert isinstance(clip, DecodedClip)
            assert clip.clock.frame_index == tuple(mirrored(p, whole) for p in range(window.start, window.stop))
            is_at_end = window.stop > whole or window is planned[-1]
            assert clip.clock.undecodable_tail_frames == (listed - whole if is_at_end else 0)
        strict = DENSE.model_copy(update={"max_undecodable_tail_share": 0.0})
        first, *_, last = clips_of(it, strict, planned, began=0.0)
        assert isinstance(first, DecodedClip)
        assert isinstance(last, VideoError) == (listed > whole)


def test_a_tail_longer_than_the_share_and_damage_in_the_middle_are_refused(tmp_path: Path) -> None:
    video = strange_videos.write(tmp_path / "a.mp4", noisy(), **FASTSTART, **WITHOUT_B)
    cut(video, 0.6)
    with opened(str(video)) as it:
        (refused,) = clips_of(it, UNIFORM, [None], began=0.0)
    assert isinstance(refused, VideoError)
    assert re.fullmatch(r"at least the last \d+ of its 20 frames do not decode, and clips.max_.*_share is 0.2", refused.detail)
    video = strange_videos.write(tmp_path / "b.mp4", noisy(), **WITHOUT_B)
    strange_videos.garble(video, 6)
    with opened(str(video)) as it:
        (refused,) = clips_of(it, UNIFORM, [None], began=0.0)
    assert isinstance(refused, VideoError)
    assert refused.detail == "frame 6 of 20 does not decode"


SLICES_OF_MPEG2 = {"codec": "mpeg2video", "frames": PICTURES[:, :64, :96]}
BEGINS_INSIDE: dict[str, tuple[str, dict[str, Any], int]] = {
    "a transport stream that begins inside a group": ("a.ts", {"options": GROUPS_OF_EIGHT | {"bf": "2"}}, 8),
    "a transport stream that begins inside an open group": ("a.ts", {"options": OPEN_GROUPS}, 6),
    "an mkv that begins inside a group": ("a.mkv", {"options": GROUPS_OF_EIGHT | {"bf": "0"}}, 8),
    "a program stream that begins inside an open group": (
        "a.mpg",
        SLICES_OF_MPEG2 | {"options": {"g": "8", "bf": "2", "sc_threshold": "10000000"}} | RATE,
        9,  # the two before it are shown before its key frame, and need the group before
    ),
}


@pytest.mark.parametrize("case", BEGINS_INSIDE)
def test_a_recording_that_begins_inside_a_group(tmp_path: Path, case: str) -> None:
    """Its frames are those from the first one on that decodes; the packets before it are no frames."""
    name, kind, first = BEGINS_INSIDE[case]
    truth = kind.get("frames", PICTURES)
    source = strange_videos.write(tmp_path / f"whole{Path(name).suffix}", **kind | {"frames": noisy(truth)})
    with av.open(str(source)) as old, av.open(str(tmp_path / name), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in [packet for packet in old.demux(video=0) if packet.size][3:]:
            packet.stream = stream
            new.mux(packet)
    for order in orders(COUNT - first):
        with opened(str(tmp_path / name)) as it:
            assert it.footage.frames == COUNT - first
            assert [frame[0] for frame in seen(it, order, truth)] == [first + index for index in order]


HIT_ALIKE: dict[str, tuple[str, dict[str, Any]]] = {
    "an mp4 (H.264) with B-frames and a garbled packet": ("a.mp4", {}),
    "an mkv (H.264) with B-frames and a garbled packet": ("a.mkv", {}),
    "an mp4 (HEVC) with B-frames and a garbled packet": ("a.mp4", {"codec": "libx265"}),
}


@pytest.mark.parametrize("damaged", [4, 5, 8])
@pytest.mark.parametrize("case", HIT_ALIKE)
def test_damage_hits_the_same_frames_whatever_is_asked_for(tmp_path: Path, case: str, damaged: int) -> None:
    """One packet, of a frame that others need or of one that none does: the pictures of each frame are always the same ones."""
    name, kind = HIT_ALIKE[case]
    options = (
        {"options": {"g": "10", "bf": "3", "sc_threshold": "0"}}
        if not kind
        else {"options": {"x265-params": "keyint=10:bframes=3:scenecut=0:log-level=none"}}
    )
    video = strange_videos.write(tmp_path / name, noisy(), **kind, **options)
    intact = shutil.copy(video, tmp_path / f"intact {name}")
    strange_videos.garble(video, damaged)
    found: dict[int, set[bytes | str]] = {index: set() for index in range(COUNT)}
    for order in [*orders(COUNT), *([index] for index in range(COUNT))]:
        with opened(str(video)) as it:
            for index in order:
                try:
                    (frame,) = it.frames([index])
                    found[index].add(frame.picture.tobytes())
                except VideoError as error:
                    found[index].add(error.reason)
    assert all(len(pictures) == 1 for pictures in found.values())
    lost = [index for index, pictures in found.items() if pictures == {"decode_error"}]
    assert 1 <= len(lost) <= 10
    after = (max(lost) // 10 + 1) * 10
    for index in {*range(min(lost) // 10 * 10), *range(after, COUNT)}:
        assert found[index] == {decode_frames(str(intact), [index]).tobytes()}


@pytest.mark.parametrize(
    ("name", "kind", "reason"),
    [
        ("a.mp4", {}, "not_a_video"),  # its index is at its end
        ("a.mp4", {"container_options": {"movflags": "faststart"}}, None),
        ("a.mp4", {"container_options": FRAGMENTED, "options": {"g": "5"}}, None),
        ("a.mkv", {}, None),
        ("a.webm", {"codec": "libvpx-vp9"}, None),
        ("a.ts", {}, None),
    ],
)
def test_a_video_cut_short(tmp_path: Path, name: str, kind: dict[str, Any], reason: str | None) -> None:
    """Gives its first frames; a window beyond them is decode_error at once."""
    video = strange_videos.write(tmp_path / name, noisy(), **kind)
    cut(video, 0.6)
    recipe = ClipRecipe(frames=2, sampling="dense", preprocessing="l4p", size=14, student_size=None)
    windows = [Window(start=start, stop=start + 2) for start in range(COUNT - 1)]
    if reason is not None:
        with pytest.raises(VideoError, match=reason), opened(str(video)):
            pass
        return
    with opened(str(video)) as it:
        answers = list(clips_of(it, recipe, windows, began=0.0))
        numbers = [
            (i, frame) for i, frame in enumerate(seen(it, range(it.footage.frames), PICTURES)) if frame != "decode_error"
        ]
    good = [answer for answer in answers if not isinstance(answer, VideoError)]
    assert 2 <= len(good) < COUNT - 4
    assert answers[: len(good)] == good
    assert {answer.reason for answer in answers[len(good) :] if isinstance(answer, VideoError)} == {"decode_error"}
    assert all(frame[0] == i for i, frame in numbers)


ANIMATED: dict[str, dict[str, Any]] = {
    "a.webp": {"lossless": True},
    "a.gif": {},
    "a.apng": {"format": "PNG"},
    "a.avif": {},
}


@pytest.mark.parametrize("name", ANIMATED)
def test_an_animated_picture_is_a_video(tmp_path: Path, name: str) -> None:
    """Written by Pillow; its frames are shown for 40, 80 and 120 ms in turns."""
    video, shown = tmp_path / name, [40 * (1 + number % 3) for number in range(COUNT)]
    first, *others = map(Image.fromarray, PICTURES)
    first.save(video, save_all=True, append_images=others, duration=shown, **ANIMATED[name])
    seconds = np.cumsum([0, *shown[:-1]]) / 1000
    for order in orders(COUNT):
        with opened(video) as it:
            found = seen(it, order, PICTURES)
        assert found == [(index, round(seconds[index], 3)) for index in order]
    with opened(video) as it:
        (clip,) = clips_of(it, UNIFORM, [None], began=0.0)
    assert isinstance(clip, DecodedClip)
    assert clip.decoder.startswith("Pillow" if name == "a.webp" else "PyAV")


NO_VIDEOS = {
    "a.webp": "still WebP", "a.gif": "still GIF", "a.png": "PNG", "a.avif": "still AVIF", "a.jpg": "JPEG", "a.bmp": "BMP",
    "a.tiff": "TIFF", "a.nfo": "a text", "a.srt": "subtitles", "a.mp4": "a JPEG called mp4",
}  # fmt: skip


@pytest.mark.parametrize("name", NO_VIDEOS)
def test_a_picture_or_a_text_is_no_video(tmp_path: Path, name: str) -> None:
    """Whatever it is called: the mp4 is a JPEG."""
    text = {"a.nfo": "Movie: a film\n" * 20, "a.srt": "1\n00:00:01,000 --> 00:00:02,000\nHello\n"}
    if name in text:
        (tmp_path / name).write_text(text[name])
    else:
        Image.fromarray(PICTURES[3]).save(tmp_path / name, **({"format": "JPEG"} if name == "a.mp4" else {}))
    with pytest.raises(VideoError, match="not_a_video"), opened(tmp_path / name):
        pass


def test_a_webp_that_was_cut_is_refused(tmp_path: Path) -> None:
    first, *others = map(Image.fromarray, PICTURES)
    first.save(tmp_path / "a.webp", save_all=True, append_images=others, duration=40)
    cut(tmp_path / "a.webp", 0.9)
    with pytest.raises(VideoError, match=r"not_a_video|decode_error"), opened(tmp_path / "a.webp") as it:
        list(it.frames(range(COUNT)))


def test_a_name_with_a_colon_is_no_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    strange_videos.write(tmp_path / "12:30.mp4", PICTURES[:3])
    first, *others = map(Image.fromarray, PICTURES[:3])
    first.save(tmp_path / "b.webp", save_all=True, append_images=others, duration=40)
    (tmp_path / "list.jsonl").write_text('{"uri": "12:30.mp4"}\n{"uri": "b.webp"}\n')
    monkeypatch.chdir(tmp_path)
    with Decoder(None, 60) as decoder:
        assert [decoder.probe(uri).frames for uri in list_videos(VideoSource(manifest="list.jsonl"))["uri"].to_pylist()] == [
            3,
            3,
        ]


@pytest.mark.parametrize("kind", [{}, {"options": B_FRAMES}, {"codec": "libvpx-vp9"}, {"frames": pictures(COUNT, 66, 144)}])
def test_decord_gives_the_same_frames_of_what_it_is_trusted_with(tmp_path: Path, kind: dict[str, Any]) -> None:
    truth = kind.get("frames", PICTURES)
    video = strange_videos.write(tmp_path / "a.mp4", **{"frames": truth} | kind)
    with opened(video, decord_video.opened) as other, opened(video, av_video.opened) as it:
        assert other.footage == it.footage
        for one, two in zip(other.frames(range(COUNT)), it.frames(range(COUNT)), strict=True):
            np.testing.assert_array_equal(one.picture, two.picture)
            assert one.seconds == pytest.approx(two.seconds, abs=1e-6)


@pytest.mark.parametrize("name", ["groups.mp4", "groups.ts", "b-frames.avi", "one.mkv", "open groups.mp4"])
def test_decord_is_not_trusted_where_it_miscounts(tmp_path: Path, name: str) -> None:
    asked = {"frames": PICTURES} | SOUND[name]
    asked.pop("begins", None)
    video = strange_videos.write(tmp_path / name, **asked)
    with pytest.raises(VideoError, match="cannot be told apart"), opened(video, decord_video.opened):
        pass


def test_real_footage(real_videos: Path) -> None:
    """Frames asked for one by one, from the last to the first, are those of one pass."""
    for path in sorted(real_videos.glob("*.[mw][pke][4vb]*")):
        with opened(path, av_video.opened) as video:
            if "hdr" in path.name:
                assert seen(video, [0], PICTURES) == ["hdr_unsupported"]
                continue
            wanted = sorted({*range(0, video.footage.frames, 29), video.footage.frames - 1})
            whole = list(video.frames(range(video.footage.frames)))
            for index in wanted[::-1]:
                np.testing.assert_array_equal(decode_frames(str(path), [index])[0], whole[index].picture)
            assert [frame.seconds for frame in whole] == sorted(frame.seconds for frame in whole)


_CODECS = {
    "libx264": "H.264", "libx265": "HEVC", "libsvtav1": "AV1", "libvpx": "VP8", "libvpx-vp9": "VP9", "mpeg2video": "MPEG-2",
    "mjpeg": "Motion JPEG", "prores_ks": "ProRes", "ffv1": "FFV1",
}  # fmt: skip


def test_the_page_of_tested_videos_lists_these() -> None:
    sound = []
    for name, kind in SOUND.items():
        height, width = kind.get("frames", PICTURES).shape[1:3]
        rate = "uneven" if kind.get("stamps") is UNEVEN else "25 a second"
        sound.append(
            (f"`{name}`", _CODECS[kind.get("codec", "libx264")], kind.get("pixels", "yuv420p"), f"{width} × {height}", rate)
        )
    videos_page.require("Containers, codecs and rates", sound)
    damaged = [(case, "the frames before, and their number in the row") for case in DAMAGED_TAILS]
    damaged += [(case, f"the frames from number {first} on") for case, (_, _, first) in BEGINS_INSIDE.items()]
    damaged += [(case, "each frame's own picture, or an error up to the next key frame") for case in LOST_PACKETS]
    damaged += [(case, "not its frame, nor what follows up to the next key frame") for case in GARBLED]
    damaged += [(case, "the same pictures and errors, whatever else is asked for") for case in HIT_ALIKE]
    videos_page.require("Damage", damaged)
    pictures = [(f"`{name}`", "animated", "a video") for name in ANIMATED]
    pictures += [(f"`{name}`", what, "`not_a_video`") for name, what in NO_VIDEOS.items()]
    videos_page.require("Pictures and texts", pictures)
