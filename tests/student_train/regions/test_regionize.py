"""Questions that name objects become questions about marks, which `eval` reads; those that cannot say why."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from region_scenes import RegionScenes, write_region_scenes

from schemas.errors import BadInput, SignalMissing
from schemas.regionize import KeptQuestion, RegionizeReport
from student_train.data.conversations import read_conversations
from student_train.evaluation.asking import Asked as MadeReady
from student_train.evaluation.asking import Questions
from student_train.evaluation.benchmarks.protocol import read
from student_train.evaluation.benchmarks.r4d import R4D
from student_train.models.image_text import tiny
from student_train.regions.asked import asked_in
from student_train.regions.linking import ByRules
from student_train.regions.regionize import Wanted, kept_in, regionize
from teacher_cache.io.places import Roots
from teacher_cache.regions.marks import color_of

Scenes = tuple[Path, RegionScenes]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Scenes:
    folder = tmp_path_factory.mktemp("scenes") / "made"
    return folder, write_region_scenes(folder, range(3), frames=3)


def made(
    folder: Path,
    questions: Path,
    store: Any,
    out: Path,
    *,
    benchmark: str | None = None,
    overwrite: bool = False,
    **wanted: Any,
) -> RegionizeReport:
    return regionize(
        asked_in(questions, benchmark),
        store,
        out,
        roots=Roots((str(folder),), "--video-root"),
        linker=ByRules(0.95),
        wanted=Wanted(**wanted),
        overwrite=overwrite,
    )


def records(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "questions.json").read_text())
    return found


def lines(out: Path, name: str) -> dict[str, Any]:
    return {one["id"]: one for one in map(json.loads, (out / name).read_text().splitlines())}


def test_every_question_about_an_object_is_asked_by_its_mark(scenes: Scenes, tmp_path: Path) -> None:
    """The scenes' own questions have marks; named, and rewritten again, they are the same, and the answers with them."""
    folder, store = scenes
    report = made(folder, folder / "questions.json", store, tmp_path)
    asked = records(folder)
    about = {one["id"]: one for one in asked if any("<obj_" in text for text in one["marked"])}
    assert (report.read, report.kept, report.partly) == (len(asked), len(about), 0)
    assert report.dropped == {"names_none": len(asked) - len(about)}
    assert not report.has_faults
    items = {item.id: item for item in read(R4D, tmp_path).items}
    assert items.keys() == about.keys()
    for name, item in items.items():
        one = about[name]
        assert [item.question, *item.options] == one["marked"]
        assert item.right == one["options"].index(one["answer"])
        assert item.task == one["task"]
    assert lines(tmp_path, "dropped.jsonl").keys() == {one["id"] for one in asked} - about.keys()


def test_what_is_written_is_shown_to_a_student_with_its_picture(scenes: Scenes, tmp_path: Path) -> None:
    folder, store = scenes
    made(folder, folder / "questions.json", store, tmp_path)
    found = read(R4D, tmp_path)
    asked = Questions(R4D, found.items, str(tmp_path), tiny().processor)
    ready = asked[0]
    assert isinstance(ready, MadeReady)
    assert len(ready.prompt.images) == 1
    assert ready.text.startswith("The first image shows a key frame")
    for one in kept_in(tmp_path):
        picture = np.asarray(Image.open(tmp_path / one.picture))
        marked = {part.number for part in one.objects}
        assert {f"<obj_{number}>" for number in marked} == {
            word.strip("?:,.") for word in " ".join(one.after).split() if "<obj" in word
        }
        for part in store.clip(one.clip_id).objects:
            assert (picture == color_of(part.number)).all(-1).any() == (part.number in marked)
        assert (tmp_path / one.video).samefile(folder / store.clip(one.clip_id).video)


def test_what_grounding_missed_is_dropped_with_its_reason(scenes: Scenes, tmp_path: Path) -> None:
    folder, store = scenes
    report = made(folder, folder / "questions.json", store.noisy(0, missed=1.0), tmp_path)
    assert (report.kept, set(report.dropped)) == (0, {"names_none", "not_found"})
    assert not (tmp_path / "test.json").exists()
    some = store.noisy(3, missed=0.4)
    report = made(folder, folder / "questions.json", some, tmp_path / "some")
    assert report.kept > report.partly > 0
    left = lines(tmp_path / "some", "dropped.jsonl")
    assert "not_found" in {one["reason"] for one in left.values()}
    whole = made(folder, folder / "questions.json", some, tmp_path / "whole", whole=True)
    assert (whole.kept, whole.partly, whole.dropped["partly"]) == (report.kept - report.partly, 0, report.partly)
    unsure = made(folder, folder / "questions.json", store, tmp_path / "unsure", least=0.92)
    assert unsure.kept == 0
    assert "find 0.90, and 0.92 is the least" in next(
        one["detail"] for one in lines(tmp_path / "unsure", "dropped.jsonl").values() if one["reason"] == "unsure"
    )


def test_an_unreadable_or_strange_record_costs_itself(scenes: Scenes, tmp_path: Path) -> None:
    folder, store = scenes
    good = next(one for one in records(folder) if "<obj_" in one["marked"][0])
    bad = [
        {**good, "id": "none", "question": None},
        {**good, "id": "marked", "question": "Is <obj_1> red?"},
        {**good, "id": "pictured", "som_image": "x.png"},
        {**good, "id": "elsewhere", "video": "videos/other.mp4"},
        {**good, "id": "outside", "video": "/etc/passwd"},
        {key: value for key, value in good.items() if key != "video"} | {"id": "without"},
        {**good, "id": "no cat", "question": "Where is the cat?"},
    ]
    questions = tmp_path / "questions.json"
    questions.write_text(json.dumps([*bad, good]))
    report = made(folder, questions, store, tmp_path / "out")
    assert report.kept == 1
    assert report.has_faults
    reasons = {name: one["reason"] for name, one in lines(tmp_path / "out", "dropped.jsonl").items()}
    assert reasons == {
        "none": "unreadable", "marked": "has_marks", "pictured": "has_images", "elsewhere": "no_clip", "outside": "no_clip",
        "without": "unreadable", "no cat": "no_object",
    }  # fmt: skip


def test_a_video_that_cannot_be_read_drops_its_questions_alone(scenes: Scenes, tmp_path: Path) -> None:
    folder, store = scenes
    broken = tmp_path / "made"
    (broken / "videos").mkdir(parents=True)
    for clip in store.scenes:
        (broken / clip.video).write_bytes((folder / clip.video).read_bytes())
    (broken / "videos/scene-1.mp4").write_bytes(b"no video")
    report = made(broken, folder / "questions.json", store, tmp_path / "out")
    clips = Counter(one.clip_id for one in kept_in(tmp_path / "out"))
    assert clips.keys() == {"scene-0", "scene-2"}
    left = [one for one in lines(tmp_path / "out", "dropped.jsonl").values() if one["reason"] == "no_frame"]
    assert len(left) == report.dropped["no_frame"]
    assert all("scene-1" in one["id"] for one in left)


def test_conversations_stay_conversations_and_train(scenes: Scenes, tmp_path: Path) -> None:
    folder, store = scenes
    clip = store.scenes[0]
    ball = clip.objects[0]
    told = {
        "video": clip.video,
        "conversations": [
            {"from": "human", "value": f"<video>\nWhere is the {ball.phrase}?"},
            {"from": "gpt", "value": f"The {ball.phrase} is on the floor."},
        ],
    }
    questions = tmp_path / "told.json"
    questions.write_text(json.dumps([told, {"conversations": []}]))
    report = made(folder, questions, store, tmp_path / "out")
    assert (report.kept, report.dropped) == (1, {"unreadable": 1})
    (read_back,) = read_conversations([str(tmp_path / "out/conversations.jsonl")])
    assert [turn.text for turn in read_back.turns] == [
        f"<image>\n<video>\nWhere is <obj_{ball.number}>?",
        f"<obj_{ball.number}> is on the floor.",
    ]
    assert (read_back.clip_id, read_back.video) == (clip.clip_id, "videos/own/scene-0.mp4")
    assert (tmp_path / "out" / read_back.images[0]).is_file()
    assert (tmp_path / "out" / str(read_back.video)).is_file()


def test_a_published_benchmark_is_rewritten_from_its_folder(scenes: Scenes, tmp_path: Path) -> None:
    folder, store = scenes
    one = next(one for one in records(folder) if one["task"] == "Translational" and "<obj_" in one["marked"][0])
    root = tmp_path / "VLM4D"
    (root / "data").mkdir(parents=True)
    (root / "videos_real").mkdir()
    name = Path(one["video"]).name
    os.link(folder / one["video"], root / "videos_real" / name)
    choices = dict(zip("ABCDE", one["options"], strict=False))
    record = {"id": "validation_7", "video": f"https://h.co/resolve/main/videos_real/{name}", "question_type": "choice",
              "question": one["question"], "choices": choices, "answer": one["answer"]}  # fmt: skip
    (root / "data/real_mc.json").write_text(json.dumps([record]))
    clips = tuple(replace(clip, video=f"videos_real/{Path(clip.video).name}") for clip in store.scenes)
    placed = replace(store, scenes=clips)
    report = made(root, root, placed, tmp_path / "out", benchmark="vlm4d")
    assert report.kept == 1
    (item,) = read(R4D, tmp_path / "out").items
    assert [item.question, *item.options] == one["marked"]


def test_of_a_video_s_parts_the_clip_is_meant_that_the_question_is_about(scenes: Scenes, tmp_path: Path) -> None:
    folder, store = scenes
    whole = store.scenes[0]
    parts = [replace(whole, clip_id=f"part-{n}", segment=(0.5 * n, 0.5 * n + 0.5)) for n in range(3)]
    one = next(one for one in records(folder) if "<obj_" in one["marked"][0])
    asked = [{**one, "id": str(n), "time_start": 0.5 * n, "time_end": 0.5 * n + 0.5, "source": one["video"]} for n in range(2)]
    named = one | {"id": "2", "clip_id": "part-2"}
    (tmp_path / "questions.json").write_text(json.dumps([*(a | {"video": "clipped/x.mp4"} for a in asked), one, named]))
    report = made(folder, tmp_path / "questions.json", replace(store, scenes=tuple(parts)), tmp_path / "out")
    assert report.dropped == {"no_clip": 1}
    left = lines(tmp_path / "out", "dropped.jsonl")[one["id"]]
    assert "matches several clips" in left["detail"]
    kept = {name: k["clip_id"] for name, k in lines(tmp_path / "out", "kept.jsonl").items()}
    assert kept == {str(n): f"part-{n}" for n in range(3)}
    (first, second, _) = read(R4D, tmp_path / "out").items
    assert [footage.segment is None for footage in second.videos] == [True, False]
    assert second.videos[1].segment is not None
    assert second.videos[1].segment.start_seconds == 0.5
    assert (tmp_path / "out" / first.videos[1].path).is_file()


def test_a_folder_with_questions_and_a_store_without_regions_are_refused(scenes: Scenes, tmp_path: Path) -> None:
    folder, store = scenes
    with pytest.raises(SignalMissing, match="regions and objects are needed"):
        made(folder, folder / "questions.json", replace(store, signals=("depth",)), tmp_path)
    made(folder, folder / "questions.json", store, tmp_path)
    before = KeptQuestion.model_validate_json((tmp_path / "kept.jsonl").read_text().splitlines()[0])
    with pytest.raises(BadInput, match="holds questions already"):
        made(folder, folder / "questions.json", store, tmp_path)
    (tmp_path / "broken.json").write_text("[")
    for broken, of in ((tmp_path / "broken.json", store), (folder / "questions.json", replace(store, signals=()))):
        with pytest.raises(BadInput):
            made(folder, broken, of, tmp_path, overwrite=True)
        assert (tmp_path / before.picture).exists()
    made(folder, folder / "questions.json", store.noisy(0, missed=1.0), tmp_path, overwrite=True)
    assert not (tmp_path / before.picture).exists()
    (tmp_path / "kept.jsonl").unlink()
    with pytest.raises(BadInput, match=r"has no kept\.jsonl"):
        list(kept_in(tmp_path))
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="cannot write to"):
        made(folder, folder / "questions.json", store, tmp_path / "file")
