"""Videos inside of tars: listed by headers alone, read by ranges alone, and told apart from what is no tar."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Jobs

from schemas.errors import BadInput, VideoError
from schemas.job import Job, VideoSource
from teacher_cache import open_cache
from teacher_cache.clips import tars
from teacher_cache.clips.content import content_digest, length_of, opened_file
from teacher_cache.clips.decoder import Decoder
from teacher_cache.clips.extra import Dropped
from teacher_cache.clips.sources import list_videos
from teacher_cache.clips.tars import index_of
from teacher_cache.io.places import Member, inside
from teacher_cache.io.remote import filesystem
from teacher_cache.io.request_counts import VIDEO_REQUESTS
from teacher_cache.jobs.audit import reteach
from teacher_cache.jobs.run import run_job

LONG = "a folder/" + "long" * 40 + ".mp4"


def tarred(path: Path, files: Mapping[str, bytes], form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in files.items():
            about = tarfile.TarInfo(name)
            about.size = len(data)
            tar.addfile(about, io.BytesIO(data))
    return path


@pytest.fixture
def files(videos: Path) -> dict[str, bytes]:
    """As WebDataset writes them: what belongs together follows each other, and has one name up to the first dot."""
    some = [(videos / f"scene-{seed}.mp4").read_bytes() for seed in range(3)]
    return {
        "0000.json": b'{"split": "train", "caption": "of the JSON", "nested": [1]}',
        "0000.mp4": some[0],
        "0000.txt": b"of the text\n",
        "0001.left.mp4": some[1],
        "0001.right.mp4": some[2],
        "0001.txt": "zwei Ansichten, \u00e4hnlich".encode(),
        "0001.cls": b"7",
        LONG: some[0],
    }


def read(uri: str) -> bytes:
    with opened_file(uri) as file:
        return open(file, "rb", closefd=False).read()


def says(videos: Any, name: str) -> list[Any]:
    return [json.loads(text).get(name) if text else None for text in videos["extra"].to_pylist()]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_stands_for_the_videos_in_it(tmp_path: Path, files: dict[str, bytes], form: int) -> None:
    if form == tarfile.USTAR_FORMAT:
        files = {name: data for name, data in files.items() if name != LONG}
    tarred(tmp_path / "x.tar", files, form)
    (tmp_path / "plain.mp4").write_bytes(files["0000.mp4"])
    notes: list[str] = []
    videos = list_videos(VideoSource(glob=f"{tmp_path}/*"), notes.append)
    names = [name for name in files if name.endswith(".mp4")]
    assert videos["id"].to_pylist() == ["plain.mp4", *(f"x.tar#{name}" for name in names)]
    assert [read(uri) for uri in videos["uri"].to_pylist()[1:]] == [files[name] for name in names]
    assert says(videos, "caption")[1:4] == ["of the JSON", *["zwei Ansichten, \u00e4hnlich"] * 2]
    assert says(videos, "split")[:3] == [None, "train", None]
    assert [note for note in notes if "nested" in note]


def test_a_list_names_a_tar_a_member_or_a_segment_of_one(tmp_path: Path, files: dict[str, bytes]) -> None:
    tarred(tmp_path / "x.tar", files | {"0002.gif": b"GIF89a"})
    (tmp_path / "y.tar#0000.mp4").write_bytes(files["0000.mp4"])  # a file of such a name is a file
    rows: list[dict[str, Any]] = [
        {"uri": "x.tar", "split": "of the list"},
        {"uri": "x.tar#0002.gif", "id": "named"},
        {"uri": "x.tar#0000.mp4", "start": 0.2, "end": 0.5},
        {"uri": "x.tar#none.mp4"},
        {"uri": "y.tar#0000.mp4"},
        {"uri": "z.tar"},
    ]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    videos = list_videos(VideoSource(manifest=f"{tmp_path}/list.jsonl"))
    ids = videos["id"].to_pylist()
    assert ids[4:] == ["named", "x.tar#0000.mp4@0.2-0.5", "x.tar#none.mp4", "y.tar#0000.mp4", "z.tar"]
    assert says(videos, "split")[:4] == ["of the list"] * 4
    found = dict(zip(ids, videos["uri"].to_pylist(), strict=True))
    assert read(found["named"]) == b"GIF89a"
    assert read(found["y.tar#0000.mp4"]) == read(found["x.tar#0000.mp4@0.2-0.5"]) == files["0000.mp4"]
    assert videos["segment_end"].to_pylist()[5] == 0.5
    for missing in ("x.tar#none.mp4", "z.tar"):
        with pytest.raises(VideoError, match="video_missing"), opened_file(found[missing]):
            pass
        assert content_digest(found[missing]) is None


def broken(whole: bytes) -> dict[str, bytes]:
    third = tarfile.BLOCKSIZE * (whole.index(b"0001.left.mp4") // tarfile.BLOCKSIZE)
    return {
        "no tar.tar": b"some text" * 999,
        "empty.tar": b"",
        "packed.tar": gzip.compress(whole),
        "damaged.tar": whole[:third] + b"\1" * 512 + whole[third + 512 :],
        "cut.tar": whole[: whole.index(b"0001.txt") // 512 * 512 - 2000],
        "endless.tar": header(b"x", 2**40) + whole,
        "backwards.tar": header(b"0", -(2**20)) + whole,
    }


def header(kind: bytes, size: int) -> bytes:
    about = tarfile.TarInfo("a.mp4")
    about.type = kind
    block = bytearray(about.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = (b"\x80" if size >= 0 else b"\xff") + (size % 2**88).to_bytes(11, "big")
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block)


def test_what_is_no_whole_tar_is_told_of_and_fails_its_own_rows(tmp_path: Path, files: dict[str, bytes]) -> None:
    whole = tarred(tmp_path / "x.tar", {name: data for name, data in files.items() if name != LONG}).read_bytes()
    for name, data in broken(whole).items():
        (tmp_path / name).write_bytes(data)
    notes: list[str] = []
    videos = list_videos(VideoSource(glob=f"{tmp_path}/*.tar"), notes.append)
    found = dict(zip(videos["id"].to_pylist(), videos["uri"].to_pylist(), strict=True))
    whole_ones = {"0000.mp4", "0001.left.mp4", "0001.right.mp4"}
    assert set(found) == {
        "no tar.tar", "empty.tar", "packed.tar", "endless.tar", "backwards.tar", "damaged.tar#0000.mp4",
        *(f"{tar}.tar#{name}" for tar in ("x", "cut") for name in whole_ones),
    }  # fmt: skip
    said = {note.partition(" was not read to its end")[0].rpartition("/")[2]: note for note in notes}
    assert {*broken(whole)} <= {*said}
    assert "its first 1 videos are taken: a damaged header, at its byte" in said["damaged.tar"]
    assert "its first 3 videos are taken" in said["cut.tar"]
    for name in ("no tar.tar", "endless.tar"):
        with pytest.raises(VideoError, match="not_a_video: a tar whose members could not be listed"), opened_file(found[name]):
            pass
    with (
        pytest.raises(VideoError, match=r"video_missing: .*the tar was cut short"),
        opened_file(found["cut.tar#0001.right.mp4"]),
    ):
        pass
    assert read(found["cut.tar#0001.left.mp4"]) == files["0001.left.mp4"]


def test_names_that_a_store_cannot_keep_are_left_out_and_told_of(tmp_path: Path, videos: Path) -> None:
    data = (videos / "scene-0.mp4").read_bytes()
    tarred(tmp_path / "x.tar", {"a\nb.mp4": data, "b.mp4": data, "c.txt": b"\xff", "d.json": b"[1]", "e.txt": b" " * 2**17})
    notes: list[str] = []
    assert list_videos(VideoSource(glob=f"{tmp_path}/x.tar"), notes.append)["id"].to_pylist() == ["x.tar#b.mp4"]
    assert len([note for note in notes if "not kept" in note]) == 4
    tarred(tmp_path / "none.tar", {"a.jpg": b"", "b.txt": b""})
    with pytest.raises(BadInput, match=r"none.tar has no member whose name is that of a video"):
        list_videos(VideoSource(glob=f"{tmp_path}/none.tar"))


def test_a_tar_that_was_written_again_gives_no_other_video(tmp_path: Path, files: dict[str, bytes]) -> None:
    uri = str(list_videos(VideoSource(glob=f"{tarred(tmp_path / 'x.tar', files)}"))["uri"][0])
    before = content_digest(uri)
    for changed in ({"first.txt": b"more"} | files, {"0000.json": b" " * 59, "0000.mp4": files["0001.left.mp4"]}):
        tarred(tmp_path / "x.tar", changed)
        with (
            pytest.raises(VideoError, match=r"video_missing: .* the tar was cut short, or written again since"),
            opened_file(uri),
        ):
            pass
        assert content_digest(uri) != before
    # What a store of somebody's says of a place takes no room that is not there.
    with pytest.raises(VideoError, match="video_missing"), opened_file(f"{tmp_path}/x.tar#a.mp4@512+{10**17}"):
        pass


def test_a_tar_on_s3_is_listed_by_its_headers_and_read_by_ranges(
    s3: str, tmp_path: Path, videos: Path, tiny_store: Path, jobs: Jobs
) -> None:
    """Of 12 MB, a twentieth is read to list it, and of each video no more than its own bytes."""
    noise = np.random.default_rng(0).bytes(4_000_000)
    scenes = {f"{seed}.mp4": (videos / f"scene-{seed}.mp4").read_bytes() for seed in range(2)}
    members = {"0.txt": b"a caption", **scenes} | {f"{n}.bin": noise for n in range(3)} | {"noise.mp4": noise}
    tar = tarred(tmp_path / "x.tar", dict(sorted(members.items())))
    fs, _ = filesystem(s3)
    fs.put_file(str(tar), "bucket/set/x.tar")
    VIDEO_REQUESTS.take()
    listed = list_videos(VideoSource(glob=f"{s3}/set/*.tar"))
    assert VIDEO_REQUESTS.take().get <= len(members) + 1
    assert listed["id"].to_pylist() == ["x.tar#0.mp4", "x.tar#1.mp4", "x.tar#noise.mp4"]
    identities = listed["content_digest"].to_pylist()
    assert len({text.partition("@")[0] for text in identities}) == 1
    assert identities[0].startswith(f"etag:{tar.stat().st_size}:")
    uris = listed["uri"].to_pylist()
    assert length_of(uris[2]) == len(noise)
    with Decoder(None, 60) as decoder:
        assert decoder.probe(uris[0]) == decoder.probe(str(videos / "scene-0.mp4"))
    assert VIDEO_REQUESTS.take().get == 1
    job = jobs.value(f"{s3}/store", videos={"glob": f"{s3}/set/*.tar"}, signals=["depth"])
    report = run_job(Job.model_validate(job))
    assert (report.clips.committed, report.clips.failed) == (2, 1)
    ours, theirs = open_cache(f"{s3}/store"), open_cache(str(tiny_store))
    for seed in range(2):
        depth = [
            cache.read(["depth"], [name])["depth"]
            for cache, name in ((ours, f"x.tar#{seed}.mp4"), (theirs, f"scene-{seed}.mp4"))
        ]
        np.testing.assert_array_equal(*depth)
    assert ours.clips["caption"].to_pylist() == ["a caption", None, None]
    assert run_job(Job.model_validate(job)).done_before == 3
    retaught, findings = reteach(f"{s3}/store", 2, videos=[s3])
    assert (len(retaught), findings) == (2, ())
    # A list that names a member has the same row for it, and asks once for all members of a tar.
    rows = "\n".join(json.dumps({"uri": f"{s3}/set/x.tar#{seed}.mp4", "id": f"x.tar#{seed}.mp4"}) for seed in range(2))
    (tmp_path / "list.jsonl").write_text(rows)
    assert run_job(Job.model_validate(job | {"videos": {"manifest": f"{tmp_path}/list.jsonl"}})).done_before == 2


def test_a_uri_says_what_it_is_of() -> None:
    member = Member("s3://b/x.tar", "a b#c.tar@7+7.mp4", 1536, 0)
    assert inside(member.uri) == member
    assert inside("x.tar#a.mp4") is inside("a.mp4#@1+2") is inside("x/#0fps") is None
    assert tars.key_of("a.b/0001.left.MP4") == ("a.b/0001", "left.mp4")
    with pytest.raises(VideoError, match="video_missing"):
        index_of("/no/such.tar", Dropped())
