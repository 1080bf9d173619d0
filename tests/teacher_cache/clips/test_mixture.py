"""Published sets of conversations are a job's list of videos: each video once, and a set without any says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import published_sets
import pytest
import yaml

from schemas.errors import BadInput
from schemas.job import VideoSource
from teacher_cache.clips.sources import list_videos


def listed(**source: Any) -> tuple[list[tuple[str, str]], list[str]]:
    """((id, uri) of each video, notes)."""
    notes: list[str] = []
    found = list_videos(VideoSource.model_validate(source), notes.append)
    return list(zip(found["id"].to_pylist(), found["uri"].to_pylist(), strict=True)), notes


def mixture(folder: Path, **sets: Any) -> str:
    path = folder / "mixture.yaml"
    path.write_text(yaml.safe_dump({"sets": sets}, sort_keys=False), encoding="utf-8")
    return str(path)


def test_a_mixture_lists_the_videos_of_all_its_sets_once(tmp_path: Path) -> None:
    published_sets.vsti(tmp_path)
    sat = str(published_sets.sat(tmp_path))
    path = mixture(
        tmp_path,
        vsti={"conversations": f"{tmp_path}/vstibench_train/qa_*.json", "video_root": "s3://bucket/scans/", "weight": 0.5},
        robofac={
            "conversations": [str(published_sets.robofac(tmp_path)), str(published_sets.robofac_test(tmp_path))],
            "video_root": str(tmp_path),  # one file lies in a folder of its own
        },
        sat={"conversations": sat},
    )
    videos, notes = listed(mixture=path)
    vsti, robofac = "scannet/videos/scene0000_00.mp4", "PickCube/grasp/0f3a.mp4"
    assert notes == [f"{sat} is about images or text alone, or empty: a teacher has nothing to see in it"]
    assert videos == [(vsti, f"s3://bucket/scans/{vsti}"), (robofac, f"{tmp_path}/{robofac}")]


@pytest.mark.parametrize("name", ["messages", "RoboFAC's test file", "questions with a root"])
def test_a_manifest_may_be_any_published_set(tmp_path: Path, name: str) -> None:
    if name == "messages":
        told = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "A ball."}]
        path = published_sets.written(tmp_path / "m.json", [{"videos": ["a.mp4"], "messages": told}] * 2)
        videos, _ = listed(manifest=str(path))
        assert videos == [("a.mp4", f"{tmp_path}/a.mp4")]
    elif name == "RoboFAC's test file":
        videos, _ = listed(manifest=str(published_sets.robofac_test(tmp_path)), root=str(tmp_path))
        assert videos == [("PickCube/grasp/0f3a.mp4", f"{tmp_path}/PickCube/grasp/0f3a.mp4")]
    else:
        videos, _ = listed(manifest=str(published_sets.wolf(tmp_path)), format="conversations", root="/data/nuscenes/")
        assert videos == [("final_version/scene-0061.mp4", "/data/nuscenes/final_version/scene-0061.mp4")]


def test_images_alone_are_no_list_of_videos(tmp_path: Path) -> None:
    with pytest.raises(
        BadInput, match=r"lists no video; needed at least one; .*SAT_train.parquet is about images or text alone"
    ):
        listed(manifest=str(published_sets.sat(tmp_path)))


def test_videos_of_two_sets_with_one_name_are_refused(tmp_path: Path) -> None:
    robofac = str(published_sets.robofac(tmp_path))
    sets = {name: {"conversations": robofac, "video_root": f"/data/{name}"} for name in ("a", "b")}
    with pytest.raises(
        BadInput,
        match=r"two videos have the id 'PickCube/grasp/0f3a.mp4': /data/a/.* and /data/b/.*; give the sets one `video_root`",
    ):
        listed(mixture=mixture(tmp_path, **sets))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({"mixture": "a.yaml", "glob": "*.mp4"}, "exactly one of `manifest`, `mixture` and `glob`"),
        ({"mixture": "a.yaml", "root": "/data"}, "`root` is of a `manifest` or a `glob`, and the sets of a `mixture` have"),
        ({"mixture": "a.yaml", "format": "csv"}, "`format` and `columns` describe a `manifest`"),
    ],
)
def test_what_contradicts_a_mixture_is_refused(source: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        VideoSource.model_validate(source)


def test_a_mixture_without_its_files_says_which(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no file matches .*/qa_\*.json"):
        listed(mixture=mixture(tmp_path, vsti={"conversations": f"{tmp_path}/qa_*.json"}))
    with pytest.raises(BadInput, match="there is no file"):
        listed(mixture=str(tmp_path / "none.yaml"))


def test_relative_places_are_whole_in_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers and workers elsewhere would start from another folder."""
    monkeypatch.chdir(tmp_path)
    published_sets.robofac(Path("sets"))
    path, video = mixture(tmp_path, robofac={"conversations": "sets/*.json"}), "PickCube/grasp/0f3a.mp4"
    for source in (
        {"mixture": path},
        {"manifest": "sets/training_qa.json"},
        {"manifest": "sets/training_qa.json", "root": "sets"},
    ):
        assert listed(**source)[0] == [(video, f"{tmp_path}/sets/{video}")]
