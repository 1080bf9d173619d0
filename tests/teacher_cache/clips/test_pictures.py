"""Folders of numbered pictures as videos, on disks and in buckets."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import strange_videos
from conftest import Jobs
from PIL import Image

from schemas.clip import Segment, VideoInfo
from schemas.errors import BadInput, VideoError
from schemas.job import Job, VideoSource
from schemas.recipe import ClipRecipe
from teacher_cache import open_cache
from teacher_cache.clips.content import content_digest, length_of
from teacher_cache.clips.decoder import Decoder
from teacher_cache.clips.identity import asked_for
from teacher_cache.clips.preprocess import FrameSize
from teacher_cache.clips.sources import list_videos
from teacher_cache.clips.video import DecodedClip
from teacher_cache.io.places import Roots
from teacher_cache.io.remote import filesystem
from teacher_cache.jobs.run import run_job

FRAMES = strange_videos.pictures(12, 64, 96)
RECIPE = ClipRecipe(frames=6, sampling="uniform", preprocessing="l4p", size=32, student_size=None)


def write(folder: Path, *, name: str = "{:05d}.png", numbers: range = range(12)) -> Path:
    folder.mkdir(parents=True)
    for frame, number in zip(FRAMES, numbers, strict=True):
        Image.fromarray(frame).save(folder / name.format(number))
    return folder


@pytest.fixture
def decoder() -> Any:
    with Decoder(RECIPE, 60) as made:
        yield made


def clip(decoder: Decoder, uri: str, part: Segment | None = None) -> DecodedClip | VideoError:
    (found,) = decoder.clips(uri, [part])
    return found


def test_a_folder_is_a_video_of_its_numbered_pictures(tmp_path: Path, decoder: Decoder) -> None:
    """In the order of their numbers, which need no zeros; what has no number is no frame."""
    folder = write(tmp_path / "bear", name="frame_{}.png", numbers=range(95, 119, 2))
    Image.fromarray(FRAMES[0]).save(folder / "cover.png")
    (folder / "labels.txt").write_text("7")
    (folder / "masks 1").mkdir()
    uri = f"{folder}/#24fps"
    assert decoder.probe(uri) == VideoInfo(frames=12, fps=24, taken=12)
    found = decoder.frames(uri, [0, 11, 4], FrameSize(96, "own"))
    np.testing.assert_array_equal(found.frames, FRAMES[[0, 11, 4]])
    assert found.clock.timestamps_seconds == (0, 11 / 24, 4 / 24)
    of_segment = clip(decoder, uri, Segment(start_seconds=0.25, end_seconds=0.375))
    assert isinstance(of_segment, DecodedClip)
    assert of_segment.clock.frame_index == (6, 6, 7, 7, 8, 8)
    assert "pictures" in of_segment.decoder


def test_globs_and_lists_of_folders(tmp_path: Path) -> None:
    for name in ("davis/bear", "davis/deep/camel"):
        write(tmp_path / name)
    (tmp_path / "davis/empty").mkdir()
    (tmp_path / "davis/texts").mkdir()
    (tmp_path / "davis/texts/1.txt").touch()
    found = list_videos(VideoSource(glob=f"{tmp_path}/davis/**/", folder_fps=12.5))
    assert found["id"].to_pylist() == ["bear", "deep/camel"]
    assert found["uri"].to_pylist() == [f"{tmp_path}/davis/bear/#12.5fps", f"{tmp_path}/davis/deep/camel/#12.5fps"]
    rows: list[dict[str, Any]] = [
        {"uri": "davis/bear/", "fps": 2},
        {"uri": "davis/texts/", "id": "t"},
        {"uri": "a.mp4", "fps": 1},
    ]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    listed = list_videos(VideoSource(manifest=f"{tmp_path}/list.jsonl"))
    assert listed["id"].to_pylist() == ["davis/bear", "t", "a.mp4"]
    assert listed["uri"].to_pylist() == [f"{tmp_path}/davis/bear/#2fps", f"{tmp_path}/davis/texts/#24fps", f"{tmp_path}/a.mp4"]
    (tmp_path / "list.jsonl").write_text(json.dumps({"uri": "davis/bear/", "fps": "fast"}))
    with pytest.raises(BadInput, match="its `fps` is 'fast'; needed a number"):
        list_videos(VideoSource(manifest=f"{tmp_path}/list.jsonl"))


def test_what_is_wrong_with_a_folder_is_said(tmp_path: Path, decoder: Decoder) -> None:
    def said(folder: Path) -> str:
        return str(clip(decoder, f"{folder}/#24fps"))

    gap = write(tmp_path / "gap")
    (gap / "00004.png").unlink()
    assert (
        said(gap)
        == "pictures_misnumbered: 00003.png is followed by 00005.png; needed one picture every 1 numbers, and no two of one"
    )
    twice = write(tmp_path / "twice")
    shutil.copy(twice / "00003.png", twice / "left 3.png")
    assert "pictures_misnumbered: 00003.png is followed by left 3.png" in said(twice)
    mixed = write(tmp_path / "mixed")
    Image.fromarray(FRAMES[0, :32]).save(mixed / "00001.png")  # no clip has this one
    assert said(mixed) == "decode_error: 00001.png is 96 × 32, and 00000.png is 96 × 64; the pictures of a video have one size"
    deep = write(tmp_path / "deep")
    Image.fromarray(np.full((64, 96), 40000, np.uint16)).save(deep / "00002.png")
    assert "00002.png: its pixels are of the kind I;16" in said(deep)
    damaged = write(tmp_path / "damaged")
    data = (damaged / "00004.png").read_bytes()
    (damaged / "00004.png").write_bytes(data[:60])
    assert said(damaged).startswith("decode_error: frame 4 of 12, 00004.png: ")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert said(empty).startswith("no_frames: the folder holds no picture (.bmp, ")
    assert said(tmp_path / "none").startswith("video_missing: there is no folder")
    assert "a folder of numbered pictures is named with a / at its end" in str(clip(decoder, str(damaged)))


def test_a_damaged_end_is_left_out_and_counted(tmp_path: Path, decoder: Decoder) -> None:
    folder = write(tmp_path / "bear")
    for number in (10, 11):
        (folder / f"{number:05d}.png").write_bytes(b"\x89PNG")
    found = clip(decoder, f"{folder}/#24fps")
    assert isinstance(found, DecodedClip)
    assert found.clock.frame_index == (0, 2, 4, 5, 7, 9)
    assert found.clock.undecodable_tail_frames == 2


def test_another_picture_or_rate_is_another_video(tmp_path: Path) -> None:
    folder = write(tmp_path / "bear")
    before = content_digest(f"{folder}/#24fps")
    shutil.copytree(folder, tmp_path / "copy")
    assert content_digest(f"{tmp_path}/copy/#24fps") == before
    assert content_digest(f"{folder}/#25fps") != before
    (folder / "00011.png").unlink()
    assert content_digest(f"{folder}/#24fps") != before
    assert content_digest(f"{tmp_path}/none/#24fps") is None


def test_a_root_s_pictures_lead_nowhere_else(tmp_path: Path) -> None:
    folder = write(tmp_path / "root/bear")
    roots = Roots((str(tmp_path / "root"),), "--videos")
    assert roots.find("bear/#24fps") == f"{folder}/#24fps"
    (folder / "00012.png").symlink_to(write(tmp_path / "secret") / "00000.png")
    with pytest.raises(BadInput, match="is not under the folders"):
        roots.find("bear/#24fps")
    (tmp_path / "root/x.tar").symlink_to(tmp_path / "secret.tar")
    with pytest.raises(BadInput, match="is not under the folders"):
        roots.find("x.tar#a.mp4@512+7")


def test_folders_on_s3_are_taught_as_those_on_a_disk(s3: str, tmp_path: Path, jobs: Jobs) -> None:
    fs, _ = filesystem(s3)
    for name in ("bear", "camel"):
        fs.put(str(write(tmp_path / "davis" / name)), f"bucket/davis/{name}", recursive=True)
    fs.pipe("bucket/davis/readme.txt", b"pictures")
    stores = []
    for base in (str(tmp_path), s3):
        job = Job.model_validate(jobs.value(f"{base}/store", videos={"glob": f"{base}/davis/*/"}, signals=["depth"]))
        assert run_job(job).clips.committed == 2
        stores.append(open_cache(f"{base}/store"))
    assert [cache.clips["clip_id"].to_pylist() for cache in stores] == [["bear", "camel"]] * 2
    here, there = (cache.read(["depth"], ["camel"])["depth"] for cache in stores)
    np.testing.assert_array_equal(here, there)
    uri = f"{s3}/davis/bear/#24fps"
    assert length_of(uri) == sum(path.stat().st_size for path in (tmp_path / "davis/bear").iterdir())
    assert content_digest(uri) == content_digest(f"{tmp_path}/davis/bear/#24fps")
    before = asked_for(uri)
    assert str(before).startswith(f"etag:{length_of(uri)}:")
    fs.pipe("bucket/davis/bear/00005.png", (tmp_path / "davis/bear/00004.png").read_bytes())
    assert asked_for(uri) != before
    assert asked_for(f"{s3}/davis/none/#24fps") is None
