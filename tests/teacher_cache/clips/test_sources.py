from __future__ import annotations

import json
from pathlib import Path

import pytest

from schemas.errors import BadInput
from schemas.job import VideoSource
from teacher_cache.clips.content import content_digest, content_digests
from teacher_cache.clips.sources import list_videos


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
        ([{"uri": "a", "name": "b"}], "unknown key 'name'"),
        ([{"uri": "a", "id": 7}], 'needed a text "id"; found 7'),
        ([{"uri": "a", "id": "x"}, {"uri": "b", "id": "x"}], "two videos have the id 'x'"),
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


def test_an_unreadable_video_has_no_digest(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    source = manifest(tmp_path, {"uri": "a.mp4"}, {"uri": "gone.mp4"})
    here, gone = content_digests(list_videos(source)["uri"].to_pylist())
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
