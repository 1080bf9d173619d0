"""`teacher-cache marks`: a picture for each clip of a store of regions, and a reason for each clip without one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from region_scenes import RegionScenes, write_region_scenes

from schemas.errors import BadInput, SignalMissing, UnknownClip
from teacher_cache.clips.preprocess import FrameSize
from teacher_cache.io.output_folder import file_name
from teacher_cache.regions.marks import color_of
from teacher_cache.report.marks import write_marks

SIZE = FrameSize(448, "own")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RegionScenes]:
    folder = tmp_path_factory.mktemp("scenes")
    return folder, write_region_scenes(folder, range(2), frames=3)


def absolute(scenes: tuple[Path, RegionScenes]) -> RegionScenes:
    folder, store = scenes
    return RegionScenes(tuple(replace(one, video=str(folder / one.video)) for one in store.scenes))


@pytest.mark.parametrize(("style", "size"), [("box", SIZE), ("contour", FrameSize(64))])
def test_each_clip_has_a_picture_with_the_marks_of_its_objects(
    scenes: tuple[Path, RegionScenes], tmp_path: Path, style: str, size: FrameSize
) -> None:
    store = absolute(scenes)
    report = write_marks(store, None, tmp_path, videos=[str(scenes[0])], frame=1, style=style, size=size)  # type: ignore[arg-type]
    assert report.undrawn == ()
    assert [Path(file).name for file in report.files] == ["scene-0.png", "scene-1.png"]
    for file, clip in zip(report.files, store.scenes, strict=True):
        picture = np.asarray(Image.open(file))
        assert picture.shape == ((96, 128, 3) if size is SIZE else (64, 64, 3))
        for one in clip.objects:
            assert (picture == color_of(one.number)).all(-1).any() == (1 in one.frames)


def test_what_cannot_be_drawn_costs_itself_and_says_why(scenes: tuple[Path, RegionScenes], tmp_path: Path) -> None:
    store = absolute(scenes)
    inside = [str(scenes[0])]
    report = write_marks(store, ["scene-1"], tmp_path, videos=inside, frame=3, size=SIZE)
    assert [one.reason for one in report.undrawn] == ["not_shown"]
    assert "has 3 frames; needed one of 0 to 2" in report.undrawn[0].detail
    report = write_marks(store, None, tmp_path, videos=[str(tmp_path)], size=SIZE)
    assert len(report.undrawn) == 2
    assert not list(tmp_path.iterdir())
    with pytest.raises(UnknownClip, match="no clip 'other'"):
        write_marks(store, ["other"], tmp_path, size=SIZE)
    with pytest.raises(SignalMissing, match="regions and objects are needed"):
        write_marks(RegionScenes(store.scenes, signals=("depth",)), None, tmp_path, size=SIZE)
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="cannot write"):
        write_marks(store, None, tmp_path / "file", videos=inside, size=SIZE)


def test_any_id_names_a_file_of_its_own() -> None:
    ids = ["a/b.mp4", "a%2Fb.mp4", "../x", "..", ".", "", "é" * 300, "é" * 301, "\udcff", "a b"]
    names = [file_name(one, ".png") for one in ids]
    assert len(set(names)) == len(ids)
    assert all("/" not in name and not name.startswith(".") and len(name) < 255 for name in names)
    assert file_name("scene-0.mp4", ".png") == "scene-0.mp4.png"
