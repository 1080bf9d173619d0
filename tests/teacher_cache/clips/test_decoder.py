from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import strange_videos
from decoding import decode_clip
from s3fs import S3FileSystem

from schemas.clip import Window
from schemas.errors import CouldNotRun, VideoError
from schemas.recipe import ClipRecipe
from teacher_cache.clips.av_video import DECODERS
from teacher_cache.clips.content import content_digest
from teacher_cache.clips.decoder import Decoder
from teacher_cache.clips.video import DecodedClip

# Deadlines are what this is about: where one does not hold, nothing else ends the test.
pytestmark = [pytest.mark.timeout(180), pytest.mark.own_decoders]

UNIFORM = ClipRecipe(frames=16, sampling="uniform", preprocessing="l4p", size=112, student_size=None)
DENSE = UNIFORM.model_copy(update={"sampling": "dense", "frames": 8})
# A clip of 8 frames is 300 KB, more than a pipe holds: while one is being read, the next is half written and not yet answered.
FRAMES = 44
WINDOWS = [Window(start=start, stop=start + 8) for start in range(0, FRAMES - 7, 4)]


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A video of ten dense windows, in four groups of pictures."""
    grey = np.tile(strange_videos.pictures(22, 64, 96), (2, 1, 1, 1))
    path = tmp_path_factory.mktemp("long") / "long.mp4"
    return str(strange_videos.write(path, grey, options={"g": "12", "bf": "2"}))


@pytest.fixture
def decoder() -> Iterator[Decoder]:
    with Decoder(DENSE, timeout_seconds=60) as decoder:
        yield decoder


def start(decoder: Decoder, uri: str) -> int:
    """The process id of a decoder that waits for work."""
    decoder.probe(uri)
    assert decoder.process is not None
    return decoder.process.pid


def reasons(answers: list[DecodedClip | VideoError]) -> list[str | None]:
    return [answer.reason if isinstance(answer, VideoError) else None for answer in answers]


def test_windows_of_a_video_are_those_of_as_many_single_clips(decoder: Decoder, long: str) -> None:
    windows = [WINDOWS[k] for k in (0, 1, 2, 7, 3, 3, 9)]
    for clip, window in zip(decoder.clips(long, windows), windows, strict=True):
        alone = decode_clip(long, DENSE, window)
        assert isinstance(clip, DecodedClip)
        np.testing.assert_array_equal(clip.frames, alone.frames)
        assert (clip.clock, clip.decoder) == (alone.clock, DECODERS["cpu"])
        assert clip.clock.frame_index[0] == window.start


def test_a_video_is_opened_once_for_all_its_windows(decoder: Decoder, long: str, tmp_path: Path) -> None:
    """It can be taken away once the first clip has come."""
    video = tmp_path / "gone.mp4"
    video.write_bytes(Path(long).read_bytes())
    clips = decoder.clips(str(video), WINDOWS)
    first = next(clips)
    video.unlink()
    answers = [first, *clips]
    assert [a.clock.frame_index[0] for a in answers if isinstance(a, DecodedClip)] == [w.start for w in WINDOWS]
    assert all(a.cpu_seconds > 0 for a in answers if isinstance(a, DecodedClip))


def test_windows_that_overlap_are_decoded_once(decoder: Decoder, long: str) -> None:
    """Ten windows, half of each another's, cost less than six clips that are asked for one by one."""

    def spent(*asked: Sequence[Window]) -> float:
        return sum(_cpu_seconds(list(decoder.clips(long, windows))) for windows in asked)

    # The least of five, each of both ways in turn: other tests share the cores and their caches.
    assert min(spent(WINDOWS) / spent(*([window] for window in WINDOWS)) for _ in range(5)) < 0.75


def _cpu_seconds(answers: Sequence[DecodedClip | VideoError]) -> float:
    clips = [answer for answer in answers if isinstance(answer, DecodedClip)]
    assert len(clips) == len(answers)
    return sum(clip.cpu_seconds for clip in clips)


@pytest.mark.parametrize("way", [signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV])
def test_a_death_costs_the_clip_it_hit(decoder: Decoder, long: str, way: signal.Signals) -> None:
    pid = start(decoder, long)
    clips = decoder.clips(long, WINDOWS)
    answers = [next(clips), next(clips)]
    os.kill(pid, way)
    answers += clips
    assert reasons(answers) == [None, None, "decoder_crashed", *[None] * 7]
    assert isinstance(answers[2], VideoError)
    assert answers[2].detail == f"the decoder's process ended with {way.name}"
    assert isinstance(answers[3], DecodedClip)
    assert answers[3].clock.frame_index[0] == WINDOWS[3].start


def test_a_hang_costs_the_clip_it_hit_and_one_deadline(long: str) -> None:
    with Decoder(DENSE, timeout_seconds=6) as decoder:
        pid = start(decoder, long)
        clips = decoder.clips(long, WINDOWS)
        answers = [next(clips)]
        os.kill(pid, signal.SIGSTOP)
        answers += clips
    assert reasons(answers) == [None, "decode_timeout", *[None] * 8]


def test_a_second_death_fails_the_windows_left_untried(decoder: Decoder, long: str) -> None:
    clips = decoder.clips(long, WINDOWS)
    answers = [next(clips)]
    for _ in range(2):
        assert decoder.process is not None
        decoder.process.send_signal(signal.SIGKILL)
        answers += [next(clips), next(clips)]
    assert reasons(answers) == [None, "decoder_crashed", None, "decoder_crashed", "decoder_crashed"]
    assert reasons(list(clips)) == ["decoder_crashed"] * 5
    assert decoder.process is None
    assert reasons(list(decoder.clips(long, WINDOWS[:2]))) == [None, None]


def test_a_video_that_hangs_when_opened_costs_one_deadline(long: str) -> None:
    with Decoder(DENSE, timeout_seconds=6) as decoder:
        os.kill(start(decoder, long), signal.SIGSTOP)
        begun = time.monotonic()
        # More windows than a pipe holds of requests.
        answers = list(decoder.clips(long, WINDOWS * 225))
        assert time.monotonic() - begun < 30
        assert reasons(answers) == ["decode_timeout"] * 2250
        assert "longer than 6 s" in str(answers[0])
        assert reasons(list(decoder.clips(long, WINDOWS[:1]))) == [None]


def test_a_death_between_videos_costs_nothing(decoder: Decoder, long: str) -> None:
    pid = start(decoder, long)
    os.kill(pid, signal.SIGKILL)
    assert decoder.process is not None
    decoder.process.wait()
    assert reasons(list(decoder.clips(long, WINDOWS[:2]))) == [None, None]


def test_an_iterator_may_be_left(decoder: Decoder, long: str) -> None:
    """Its clips are never taken for those of the next."""
    left, closed = decoder.clips(long, WINDOWS), decoder.clips(long, WINDOWS)
    next(left)
    next(closed)
    closed.close()
    again = decoder.clips(long, WINDOWS[4:6])
    first = next(again)
    assert isinstance(first, DecodedClip)
    assert first.clock.frame_index[0] == WINDOWS[4].start
    with pytest.raises(CouldNotRun, match="asked for other clips"):
        next(left)
    assert reasons(list(again)) == [None]


def test_a_closed_decoder_starts_no_process(decoder: Decoder, long: str) -> None:
    decoder.close()
    with pytest.raises(CouldNotRun, match="the decoder was stopped"):
        decoder.probe(long)
    assert decoder.process is None


def test_killing_a_decoder_at_work_blames_no_video(decoder: Decoder, long: str) -> None:
    os.kill(start(decoder, long), signal.SIGSTOP)
    threading.Timer(1, decoder.kill).start()
    with pytest.raises(CouldNotRun, match="was stopped"):
        list(decoder.clips(long, WINDOWS))
    assert reasons(list(decoder.clips(long, WINDOWS[:1]))) == [None]


def test_what_is_not_the_video_s_fault_is_no_row(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that does not answer says nothing of the video."""
    for name, value in {"ENDPOINT_URL": "http://127.0.0.1:9", "ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "x"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setattr(S3FileSystem, "_cache", {})  # connections that are open keep the place they began with
    with pytest.raises(CouldNotRun, match=r"s3://bucket/a\.mp4"):
        list(decoder.clips("s3://bucket/a.mp4", [None]))


def test_each_kind_of_damage_has_its_reason(decoder: Decoder, tmp_path: Path, long: str) -> None:
    found = {}
    for name, content in {"text": b"no video\n" * 100, "empty": b"", "cut": Path(long).read_bytes()[:500]}.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    strange_videos.write_audio(tmp_path / "sound.mp4")
    strange_videos.write(
        tmp_path / "no frames.mp4", strange_videos.pictures(0, 64, 64), container_options=strange_videos.FRAGMENTED
    )
    for name in ("text", "empty", "cut", "folder", "pipe", "sound.mp4", "no frames.mp4", "missing"):
        (error,) = decoder.clips(str(tmp_path / name), [None])
        assert isinstance(error, VideoError)
        assert "\n" not in error.detail
        assert list(map(str, decoder.clips(str(tmp_path / name), [None]))) == [str(error)]  # the log must not vary
        found[name] = error.reason
        content_digest(str(tmp_path / name))  # planning must live through each
    assert found == {
        "text": "not_a_video", "empty": "video_empty", "cut": "not_a_video", "folder": "not_a_video", "pipe": "not_a_video",
        "sound.mp4": "not_a_video", "no frames.mp4": "no_frames", "missing": "video_missing",
    }  # fmt: skip


def test_where_no_decoder_opens_a_video_each_says_why(decoder: Decoder, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video\n" * 100)
    with pytest.raises(VideoError, match=r"not_a_video: PyAV: Invalid data .*; decord: not tried"):
        decoder.probe(str(tmp_path / "text.mp4"))


@pytest.mark.parametrize("size", [(65535, 65535), (16000, 16000)])
def test_a_header_that_claims_a_giant_picture_costs_its_clip(decoder: Decoder, tmp_path: Path, size: tuple[int, int]) -> None:
    video = strange_videos.write(tmp_path / "huge.mkv", strange_videos.pictures(20, 64, 96), codec="mjpeg", pixels="yuvj420p")
    video.write_bytes(strange_videos.claiming_size(video.read_bytes(), *size))
    (error,) = decoder.clips(str(video), [WINDOWS[0]])
    assert isinstance(error, VideoError)
    assert error.reason == "decode_error"


def test_memory_is_bounded(tmp_path: Path, long: str) -> None:
    video = strange_videos.write(tmp_path / "giant.mov", strange_videos.pictures(1, 8000, 8000), codec="png", pixels="rgb24")
    with Decoder(UNIFORM, timeout_seconds=60, memory_bytes=500 << 20) as decoder:
        (error,) = decoder.clips(str(video), [None])
        assert str(error) == "decode_error: its pictures take more memory than a decoder may have"
        (clip,) = decoder.clips(long, [None])
        assert isinstance(clip, DecodedClip), clip


def test_cuda_is_used_where_it_is_and_only_then_named(long: str) -> None:
    with Decoder(DENSE, timeout_seconds=60, device="cuda") as decoder:
        clips = list(decoder.clips(long, WINDOWS))
    device = "cuda" if Path("/dev/nvidia0").exists() else "cpu"
    named = f"{DECODERS[device]}, without landlock, seccomp"  # a GPU's driver needs what these refuse
    assert [clip.decoder for clip in clips if isinstance(clip, DecodedClip)] == [named] * len(WINDOWS)
    assert [clip.clock.frame_index[0] for clip in clips if isinstance(clip, DecodedClip)] == [w.start for w in WINDOWS]
