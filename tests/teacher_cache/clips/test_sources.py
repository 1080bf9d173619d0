from __future__ import annotations

import json
from pathlib import Path

import fsspec
import pytest

from schemas.errors import BadInput
from schemas.job import VideoSource
from teacher_cache.clips.content import content_digest
from teacher_cache.clips.sources import _common, list_videos


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def manifest(folder: Path, *lines: object) -> VideoSource:
    path = folder / "videos.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return VideoSource(manifest=str(path))


def test_a_glob_gives_ids_that_do_not_hold_where_the_videos_lie(tmp_path: Path) -> None:
    touch(tmp_path, "raw/a.mp4", "raw/deep/b.mp4", "raw/c.txt")
    videos = list_videos(VideoSource(glob=f"{tmp_path}/raw/**/*.mp4"))
    assert dict(zip(videos["id"].to_pylist(), videos["uri"].to_pylist(), strict=True)) == {
        "a.mp4": f"{tmp_path}/raw/a.mp4",
        "deep/b.mp4": f"{tmp_path}/raw/deep/b.mp4",
    }


def test_a_glob_follows_links_and_leaves_none_out(tmp_path: Path) -> None:
    """As in hub caches, git-annex, DVC: links to files and folders, one that leads nowhere, and ones that lead back."""
    touch(tmp_path, "raw/a.mp4", "elsewhere/b.mp4", ".git/annex/c.mp4", "raw/x.mp4/d.txt", "raw/[1].mp4")
    raw = tmp_path / "raw"
    (raw / "linked.mp4").symlink_to("../elsewhere/b.mp4")
    (raw / "broken.mp4").symlink_to("gone")
    (raw / "folder").symlink_to("../elsewhere")
    (raw / "back").symlink_to(".")
    (tmp_path / "elsewhere" / "up").symlink_to("../raw")
    found = ["[1].mp4", "a.mp4", "broken.mp4", "folder/b.mp4", "linked.mp4"]
    for base, pattern in ((raw, "**/*.mp4"), (raw, "**"), (tmp_path, "r*/**/*.mp4")):
        ids = list_videos(VideoSource(glob=f"{base}/{pattern}"))["id"].to_pylist()
        assert [name.removeprefix("raw/") for name in ids if not name.endswith(".txt")] == found
    assert list_videos(VideoSource(glob=f"{raw}/[!a]*.mp4"))["id"].to_pylist() == ["[1].mp4", "broken.mp4", "linked.mp4"]
    assert list_videos(VideoSource(glob=f"{tmp_path}/.git/**/*.mp4"))["id"].to_pylist() == ["annex/c.mp4"]
    assert content_digest(f"{raw}/broken.mp4") is None


def test_several_globs_are_one_list(tmp_path: Path) -> None:
    touch(tmp_path, "one/a.mp4", "one/b.webm", "two/deep/a.mp4")
    source = VideoSource.model_validate({"glob": [f"{tmp_path}/one/*.mp4", f"{tmp_path}/two/**/*.mp4", f"{tmp_path}/one/a*"]})
    videos = list_videos(source)
    assert videos["id"].to_pylist() == ["one/a.mp4", "two/deep/a.mp4"]
    assert videos["uri"].to_pylist() == [f"{tmp_path}/one/a.mp4", f"{tmp_path}/two/deep/a.mp4"]


def test_a_root_keeps_a_globs_ids_as_patterns_are_added(tmp_path: Path) -> None:
    touch(tmp_path, "g/a/1.mp4", "g/a/deep/2.mp4", "g/b/3.mp4")
    root, others = f"{tmp_path}/g/a", f"{tmp_path}/g/b/*.mp4"
    ids = ["1.mp4", "deep/2.mp4", f"{tmp_path}/g/b/3.mp4"]
    for patterns, found in (
        ([f"{root}/**/*.mp4"], ids[:2]),
        ([f"{root}/**/*.mp4", others], ids),
        ([f"{tmp_path}/g/**/*.mp4"], ids),
        ([f"{tmp_path}/g/*/*.mp4", f"{root}/deep/*"], [ids[0], ids[2], ids[1]]),
    ):
        for folder in (root, f"{root}/"):
            videos = list_videos(VideoSource(glob=tuple(patterns), root=folder))
            assert videos["id"].to_pylist() == found
            uris = videos["uri"].to_pylist()
            assert [uri.removeprefix(f"{root}/") for uri in uris] == found
            assert all(Path(uri).exists() for uri in uris)
    with pytest.raises(BadInput, match=r"`videos.root` is .*/g/c, and no video of the glob .* is in it"):
        list_videos(VideoSource(glob=others, root=f"{tmp_path}/g/c"))


def test_globs_of_places_of_several_kinds_are_one_list(s3: str, tmp_path: Path) -> None:
    fs = fsspec.filesystem("s3")
    fs.pipe({f"{s3}/raw/a.mp4": b"a", f"{s3}/raw/b/c.mp4": b"c"})
    touch(tmp_path, "raw/a.mp4")
    here, there = f"{tmp_path}/raw/*.mp4", f"{s3}/raw/**/*.mp4"
    for patterns in ((here, there), (there, here)):
        videos = list_videos(VideoSource(glob=patterns))
        assert set(videos["id"].to_pylist()) == {f"{tmp_path}/raw/a.mp4", f"{s3}/raw/a.mp4", f"{s3}/raw/b/c.mp4"}
        assert videos["uri"].to_pylist() == videos["id"].to_pylist()
    videos = list_videos(VideoSource(glob=(here, there), root=f"{s3}/raw/"))
    assert videos["id"].to_pylist() == [f"{tmp_path}/raw/a.mp4", "a.mp4", "b/c.mp4"]
    assert videos["uri"].to_pylist() == [f"{tmp_path}/raw/a.mp4", f"{s3}/raw/a.mp4", f"{s3}/raw/b/c.mp4"]


@pytest.mark.parametrize(
    ("folders", "common"),
    [
        (["/data/raw/a/", "/data/raw/ab/"], "/data/raw/"),
        (["/a/", "/b/"], "/"),
        (["s3://one/raw/", "s3://other/raw/"], "s3://"),
        (["s3://bucket/raw/", "gs://bucket/raw/"], ""),
        (["gs://bucket/raw/", "gcs://bucket/raw/"], ""),
        (["s3://bucket/raw/", "/raw/"], ""),
    ],
)
def test_what_folders_have_in_common_is_of_whole_folders_of_one_kind(folders: list[str], common: str) -> None:
    assert _common(folders) == common


def test_lists_on_s3(s3: str) -> None:
    fs = fsspec.filesystem("s3")
    fs.pipe(f"{s3}/set/train/metadata.csv", b"file_name,label\na.mp4,cat\n/b.mp4,dog\n")
    fs.pipe(f"{s3}/videos.json", b'[{"uri": "set/a.mp4"}, {"uri": "s3://other/b.mp4", "start": 1}]')
    videos = list_videos(VideoSource(manifest=f"{s3}/set/"))
    assert videos["id"].to_pylist() == ["train/a.mp4", "train//b.mp4"]
    assert videos["uri"].to_pylist() == [f"{s3}/set/train/a.mp4", "/b.mp4"]
    assert list_videos(VideoSource(manifest=f"{s3}/videos.json"))["id"].to_pylist() == ["set/a.mp4", "s3://other/b.mp4@1-"]


def test_a_manifest_gives_each_video_once_with_uris_from_its_folder(tmp_path: Path) -> None:
    source = manifest(
        tmp_path, {"uri": "v/a.mp4"}, {"uri": "/abs/b.mp4", "id": "b"}, "", {"uri": "v/a.mp4"}, {"uri": "s3://x/c.mp4"}
    )
    videos = list_videos(source)
    assert list(zip(videos["id"].to_pylist(), videos["uri"].to_pylist(), strict=True)) == [
        ("v/a.mp4", f"{tmp_path}/v/a.mp4"), ("b", "/abs/b.mp4"), ("s3://x/c.mp4", "s3://x/c.mp4"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["not json"], "line 1: needed one JSON object"),
        ([{"uri": "a"}, {"url": "b"}], 'line 2: needed an object with a text "uri"'),
        ([{"uri": "a", "id": [7]}], 'needed a text "id"; found [7]'),
        ([{"uri": "a", "id": "x"}, {"uri": "b", "id": "x"}], "two videos have the id 'x'"),
        ([{"uri": "a", "id": "x", "start": 1}, {"uri": "a", "id": "x", "start": 2}], "two videos have the id 'x': 1.0 and 2.0"),
        ([{"uri": "a"}, {"uri": "a", "start": 3, "end": 3}], "line 2: a segment from 3 to 3 s is empty"),
        ([{"uri": "a", "end": 0}], "line 1: a segment from 0 to 0 s is empty"),
        ([{"uri": "a", "start": "00:01"}], "line 1: needed \"start\" in seconds, at least 0; found '00:01'"),
        (['{"uri": "a"}', "", '{"uri": "b", "x": \x01}'], "line 3: needed one JSON object"),
        ([], "lists no video"),
    ],
)
def test_a_manifest_s_mistakes_are_named(tmp_path: Path, lines: list[object], said: str) -> None:
    with pytest.raises(BadInput) as caught:
        list_videos(manifest(tmp_path, *lines))
    assert said in str(caught.value)


def test_an_empty_glob_and_a_missing_manifest_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="matches no video"):
        list_videos(VideoSource(glob=f"{tmp_path}/*.mp4"))
    with pytest.raises(BadInput, match="there is no manifest"):
        list_videos(VideoSource(manifest=str(tmp_path / "none.jsonl")))


def test_a_digest_is_of_the_content_alone(tmp_path: Path) -> None:
    big = bytes(range(256)) * 4096
    (tmp_path / "a").write_bytes(big)
    (tmp_path / "copy").write_bytes(big)
    assert content_digest(str(tmp_path / "a")) == content_digest(str(tmp_path / "copy"))
    for place in (0, len(big) // 2, len(big) - 1):
        changed = bytearray(big)
        changed[place] ^= 1
        (tmp_path / "changed").write_bytes(changed)
        assert content_digest(str(tmp_path / "changed")) != content_digest(str(tmp_path / "a"))
    (tmp_path / "changed").write_bytes(big + b"\0")
    assert content_digest(str(tmp_path / "changed")) != content_digest(str(tmp_path / "a"))


def test_a_path_that_no_file_could_have_is_a_video_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "below.mp4", tmp_path / ("a" * 300)):
        assert content_digest(str(path)) is None


def test_an_unreadable_video_has_no_digest(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    source = manifest(tmp_path, {"uri": "a.mp4"}, {"uri": "gone.mp4"})
    here, gone = map(content_digest, list_videos(source)["uri"].to_pylist())
    assert gone is None
    assert here is not None
    assert here.startswith("sampled-sha256:")


@pytest.mark.parametrize(
    "line",
    [
        {"uri": "https://bucket.s3.amazonaws.com/a.mp4?X-Amz-Credential=AKIA&X-Amz-Signature=5eCr3t", "id": "a"},
        {"uri": "s3://AKIA:5eCr3t@bucket/a.mp4"},
        {"uri": "a.mp4", "id": "https://host/a.mp4?sig=5eCr3t"},
        "s3://AKIA:5eCr3t@bucket/a.mp4",
    ],
)
def test_a_manifest_with_a_secret_is_refused_and_does_not_show_it(tmp_path: Path, line: object) -> None:
    with pytest.raises(BadInput) as caught:
        list_videos(manifest(tmp_path, {"uri": "first.mp4"}, line))
    assert "line 2" in str(caught.value)
    assert "5eCr3t" not in str(caught.value)


@pytest.mark.parametrize("name", ["a\x1b[2J.mp4", "a\nb.mp4", "a\udcff.mp4"])
def test_a_name_that_commands_a_terminal_or_cannot_be_stored_is_refused(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "plain 日本　語.mp4")
    assert list_videos(VideoSource(glob=f"{tmp_path}/*.mp4"))["id"].to_pylist() == ["plain 日本　語.mp4"]
    (tmp_path / name).touch()
    for source in (VideoSource(glob=f"{tmp_path}/*.mp4"), manifest(tmp_path, {"uri": "plain.mp4", "id": name})):
        with pytest.raises(BadInput, match="control characters, or is not UTF-8") as caught:
            list_videos(source)
        assert ascii(name)[1:-1] in str(caught.value)
