"""Clips of long videos, decoded from the bytes that they need: the same frames as from the whole file, or the whole file."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import s3_proxy
import strange_videos
from indexed_videos import GROUPS, KINDS, NOISE

from schemas.clip import Clip, Segment, VideoInfo, Window
from schemas.errors import VideoError
from schemas.recipe import ClipRecipe
from teacher_cache.clips import container_index, decoder
from teacher_cache.clips.content import opened_file
from teacher_cache.clips.decoder import Decoder
from teacher_cache.clips.identity import asked_for
from teacher_cache.clips.video import DecodedClip
from teacher_cache.io.remote import filesystem
from teacher_cache.jobs.scheduler import Block, Span, decode_span

RECIPE = ClipRecipe(frames=4, sampling="uniform", preprocessing="l4p", size=64, student_size=None)
SEGMENT = Segment(start_seconds=0.3, end_seconds=0.5)


class Parts:
    """In the place of `read_part`: ranges of files of a folder, and which of them were asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, list[tuple[int, int]]()
        self.whole = 0

    def read(self, uri: str, start: int, stop: int) -> tuple[bytes, int]:
        data = (self.folder / uri.rpartition("/")[2]).read_bytes()
        self.asked.append((start, min(stop, len(data))))
        return data[start:stop], len(data)

    def opened(self, uri: str) -> Any:
        self.whole += uri.startswith("s3://")
        return opened_file(str(self.folder / uri.rpartition("/")[2]))

    @property
    def sent(self) -> int:
        return sum(stop - start for start, stop in self.asked)


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Parts:
    """Where small videos are read as long ones are."""
    made = Parts(tmp_path)
    monkeypatch.setattr(container_index, "read_part", made.read)
    monkeypatch.setattr(decoder, "opened_file", made.opened)
    for name, value in {"_SHORT": 0, "_START": 64, "_FRAMES": 4096, "_WORTH": 1, "_GAP": 0}.items():
        monkeypatch.setattr(container_index, name, value)
    monkeypatch.setattr(decoder, "LONG", 1)
    return made


@pytest.fixture(scope="module")
def uniform() -> Any:
    with Decoder(RECIPE, 60) as made:
        yield made


@pytest.fixture(scope="module")
def dense() -> Any:
    with Decoder(RECIPE.model_copy(update={"sampling": "dense"}), 60) as made:
        yield made


def same(one: DecodedClip | VideoError, other: DecodedClip | VideoError) -> bool:
    if isinstance(one, VideoError) or isinstance(other, VideoError):
        return str(one) == str(other)
    return one.clock == other.clock and bool((one.frames == other.frames).all())


@pytest.mark.parametrize("kind", KINDS)
def test_frames_are_those_of_the_whole_file(parts: Parts, uniform: Decoder, dense: Decoder, kind: str) -> None:
    path = strange_videos.write(parts.folder / kind, NOISE, **KINDS[kind])
    begins = max(0, KINDS[kind].get("shift", 0)) / 1000
    assert SEGMENT.end_seconds is not None
    segment = Segment(start_seconds=SEGMENT.start_seconds + begins, end_seconds=SEGMENT.end_seconds + begins)
    windows = [Window(start=start, stop=start + 4) for start in (4, 22, 14)]
    for by, asked in ((uniform, [segment, None]), (dense, windows)):
        here = list(by.clips(str(path), asked))
        there = list(by.clips(f"s3://bucket/{kind}", asked, path.stat().st_size))
        assert all(itertools.starmap(same, zip(here, there, strict=True)))
        assert all(isinstance(clip, DecodedClip) for clip in here)
    assert parts.whole == 0


def test_only_what_a_segment_needs_is_read(parts: Parts, uniform: Decoder) -> None:
    path = strange_videos.write(parts.folder / "a.mp4", np.concatenate([NOISE] * 4), options=GROUPS)
    (found,) = uniform.clips("s3://bucket/a.mp4", [SEGMENT], path.stat().st_size)
    assert isinstance(found, DecodedClip)
    assert (parts.whole, parts.sent < path.stat().st_size / 4) == (0, True)


def test_what_needs_more_than_was_foreseen_is_fetched_whole(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that are not there are never taken for pictures; damage and its end are as the whole file tells them."""
    path = strange_videos.write(parts.folder / "a.mp4", NOISE, options=GROUPS)
    damaged = bytearray(path.read_bytes())
    at = damaged.index(b"mdat") + len(damaged) // 3
    damaged[at : at + 9000] = bytes(9000)
    (parts.folder / "damaged.mp4").write_bytes(damaged)
    asked = [SEGMENT, None, Segment(start_seconds=1.2, end_seconds=1.4), Segment(start_seconds=70, end_seconds=80)]
    with Decoder(RECIPE, 60) as made:
        here = list(made.clips(str(parts.folder / "damaged.mp4"), asked))
        there = list(made.clips("s3://bucket/damaged.mp4", asked, len(damaged)))
        assert parts.whole == 1
        assert all(itertools.starmap(same, zip(here, there, strict=True)))
        assert {type(clip) for clip in here} == {DecodedClip, VideoError}

        def too_few(*given: Any) -> list[tuple[int, int]]:
            return given[1]["ranges"][:3]

        monkeypatch.setattr(decoder, "_ranges", too_few)
        (cut,) = made.clips("s3://bucket/a.mp4", [SEGMENT], path.stat().st_size)
        (whole,) = made.clips(str(path), [SEGMENT])
        assert parts.whole == 2
        assert same(cut, whole)
        strange_videos.write(parts.folder / "a.mkv", NOISE, options=GROUPS)
        (mkv,) = made.clips("s3://bucket/a.mkv", [SEGMENT], 10**6)
        assert isinstance(mkv, DecodedClip)
        assert parts.whole == 3


def test_a_segment_of_a_long_video_on_s3(
    counting: s3_proxy.CountingProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the real limits but for the length, of 6 MB: six requests and a seventh of it, a half of which is the index."""
    noise = np.random.default_rng(1).integers(0, 256, (60, 128, 160, 3), dtype=np.uint8)
    path = strange_videos.write(tmp_path / "long.mp4", np.concatenate([noise] * 6), options={"g": "5", "crf": "10"})
    size = path.stat().st_size
    assert size > 6e6
    filesystem("s3://bucket")[0].put_file(str(path), "bucket/long.mp4")
    monkeypatch.setattr(decoder, "LONG", size)
    part = Segment(start_seconds=7.0, end_seconds=7.4)
    uri = "s3://bucket/long.mp4"  # whose length its row tells
    about = {"segment_start": 7.0, "segment_end": 7.4, "content_digest": asked_for(uri)}
    row = Clip(clip_id="a", row=0, video=uri, video_id="a", **about)
    with Decoder(RECIPE, 60) as made:
        (here,) = made.clips(str(path), [part])
        counting.asked.clear()
        counting.sent = 0
        ((there,),) = decode_span(made, Span((Block(0, 0, (row,)),)))
        assert counting.take("long.mp4")["get"] <= 6
        assert counting.sent < size / 7
        assert made.probe("s3://bucket/long.mp4") == VideoInfo(frames=360, fps=25, taken=360)
    assert same(here, there)
    assert isinstance(here, DecodedClip)


def test_a_row_tells_the_length_of_its_video() -> None:
    def length(identity: str | None) -> int:
        return Clip(clip_id="a", row=0, video="a", video_id="a", content_digest=identity).video_bytes

    told = ("etag:123:a-b:c", "etag:123:abc@512+7", "sampled-sha256:12", "etag:x:y", None, "")
    assert [length(identity) for identity in told] == [123, 0, 0, 0, 0, 0]
