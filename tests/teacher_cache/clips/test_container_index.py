"""A video's packets as its index alone tells them, and as the whole file does."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import strange_videos
from indexed_videos import FAST, GROUPS, KINDS, NOISE, UNEVEN
from strange_videos import FRAGMENTED

from schemas.clip import Segment, VideoInfo
from schemas.errors import VideoError
from teacher_cache.clips import container_index, ranges
from teacher_cache.clips.container_index import opened_index
from teacher_cache.clips.decoder import Decoder
from teacher_cache.clips.packets import read_packets
from teacher_cache.io.remote import filesystem
from teacher_cache.io.request_counts import VIDEO_REQUESTS


class _Local:
    """In the place of a bucket: the files of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.sent = folder, 0

    def get_part(self, key: str, start: int, stop: int) -> tuple[bytes, int]:
        data = (self.folder / key).read_bytes()
        self.sent += len(data[start:stop])
        return data[start:stop], len(data)


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _Local:
    """Where small videos are read as long ones are."""
    made = _Local(tmp_path)
    monkeypatch.setattr(ranges, "shared_bucket", lambda _: made)
    for name, value in {"_SHORT": 0, "_START": 64, "_FRAMES": 8192, "_WORTH": 1}.items():
        monkeypatch.setattr(container_index, name, value)
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_tells_what_the_whole_file_does(local: _Local, kind: str) -> None:
    path = strange_videos.write(local.folder / kind, NOISE, **KINDS[kind])
    with path.open("rb") as file:
        whole = read_packets(file.fileno())
    with opened_index(f"s3://bucket/{kind}") as (index, is_index):
        found = read_packets(index)
    assert is_index
    assert local.sent < path.stat().st_size / 2
    assert (found.footage, found.stamps, found.ticks) == (whole.footage, whole.stamps, whole.ticks)


@pytest.mark.parametrize(
    "movflags", ["frag_keyframe+empty_moov", "dash+global_sidx", "frag_keyframe+default_base_moof+omit_tfhd_offset"]
)
def test_the_indexes_of_fragments_tell_what_the_whole_file_does(
    local: _Local, monkeypatch: pytest.MonkeyPatch, movflags: str
) -> None:
    monkeypatch.setattr(container_index, "_SHORTEST_FRAGMENT", 10000)
    monkeypatch.setattr(container_index, "_AHEAD", 1000)
    how: dict[str, Any] = {"container_options": {"movflags": movflags}, "options": GROUPS, "stamps": UNEVEN}
    path = strange_videos.write(local.folder / "a.mp4", NOISE, **how)
    with path.open("rb") as file:
        whole = read_packets(file.fileno())
    with opened_index("s3://bucket/a.mp4") as (index, is_index):
        found = read_packets(index)
    assert is_index
    assert local.sent < path.stat().st_size / 2
    assert (found.footage, found.stamps) == (whole.footage, whole.stamps)


def test_what_has_no_index_in_one_place_is_fetched_whole(local: _Local, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pytest.fail

    def fetched(uri: str) -> Any:
        raise VideoError("no_frames", uri)

    monkeypatch.setattr(container_index, "opened_file", fetched)
    # Of fragments it would take a request for every few kilobytes.
    kinds: dict[str, dict[str, Any]] = {"fragments.mp4": {"container_options": FRAGMENTED}, "a.mkv": {}, "a.ts": {}}
    paths = [strange_videos.write(local.folder / name, NOISE, options=GROUPS, **how) for name, how in kinds.items()]
    data = strange_videos.write(local.folder / "cut.mp4", NOISE, container_options=FAST).read_bytes()
    (local.folder / "cut.mp4").write_bytes(data[: len(data) * 9 // 10])
    (local.folder / "text.mp4").write_bytes(b"no video, but a text of some length" * 9)
    (local.folder / "empty.mp4").touch()
    for path in (*paths, *(local.folder / name for name in ("cut.mp4", "text.mp4", "empty.mp4"))):
        with pytest.raises(VideoError, match=path.name), opened_index(f"s3://bucket/{path.name}"):
            whole(path.name)


def test_a_long_video_on_s3_is_counted_without_fetching_it(s3: str, tmp_path: Path) -> None:
    """With the real limits, of a video of 6 MB whose index comes last, by its decoder's process."""
    noise = np.random.default_rng(1).integers(0, 256, (30, 400, 600, 3), dtype=np.uint8)
    path = strange_videos.write(tmp_path / "long.mp4", noise, options={"g": "5", "bf": "2", "crf": "16"})
    assert path.stat().st_size > 5e6
    fs, _ = filesystem(s3)
    fs.put_file(str(path), "bucket/long.mp4")
    shutil.copy(path, tmp_path / "here.mp4")
    segments = [None, Segment(start_seconds=0.2, end_seconds=0.5), Segment(start_seconds=7.0, end_seconds=None)]
    with Decoder(None, 60) as decoder:
        VIDEO_REQUESTS.take()
        found = decoder.probe_segments(f"{s3}/long.mp4", segments[:2])
        assert VIDEO_REQUESTS.take().get == 4  # its start, the box after the frames, the index, the first frames
        assert found == [VideoInfo(frames=30, fps=25), VideoInfo(frames=8, fps=25)]
        here = decoder.probe_segments(str(tmp_path / "here.mp4"), segments)
        there = decoder.probe_segments(f"{s3}/long.mp4", segments)  # the last is not in it, which the whole file confirms
    assert [str(one) for one in here] == [str(one) for one in there]
    assert isinstance(here[2], VideoError)
