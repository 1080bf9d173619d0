"""A model's answers are held against the question: what does not fit is asked for again with the fault named, then refused."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Command, is_one_clear_error
from hypothesis import given
from hypothesis import strategies as st
from region_scenes import RegionScenes, write_region_scenes

from schemas.train import ModelConfig
from student_train.models.build import build_student
from student_train.regions.asked import asked_in
from student_train.regions.checked import FINAL, Ask, ByModel, Unfit, checked, links_of, parsed, phrases_of
from student_train.regions.linking import Refused
from student_train.regions.regionize import Wanted, kept_in, regionize
from student_train.regions.vision_model import VisionModel
from teacher_cache.io.places import Roots
from teacher_cache.regions.phrases import phrases_in

FRAME = np.zeros((8, 8, 3), np.uint8)
QUESTION = "Is the red cup nearer than the two plates?"
SLOTS = phrases_in(QUESTION)
GOOD = {"question": "Is <obj_1> nearer than <obj_2> and <obj_3>?", "obj_classes": ["1:cup", "2:plate", "3:plate"]}


def link(said: Any, text: str = "") -> list[tuple[int, ...]]:
    return links_of(f"I think so. {text}\n{FINAL}\n{json.dumps(said)}", QUESTION, SLOTS, frozenset({1, 2, 3}))


def test_an_answer_links_what_it_marks() -> None:
    assert link(GOOD) == [(1,), (2, 3)]
    assert link(GOOD, 'First {"question": "x"}, then') == [(1,), (2, 3)]
    assert link({"question": QUESTION, "obj_classes": []}) == [(), ()]
    half = {"question": "Is the red cup nearer than <obj_2>?", "obj_classes": ["2:plate"]}
    assert link(half) == [(), (2,)]


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        (GOOD | {"question": "Is <obj_1> nearer than <obj_9>?", "obj_classes": ["1:cup", "9:plate"]}, "no <obj_9>"),
        (GOOD | {"question": "Is <obj_1> closer than <obj_2> and <obj_3>?"}, "not the one that was given"),
        (GOOD | {"question": "<obj_1> the red cup nearer than <obj_2> and <obj_3>?"}, "not the one that was given"),
        (GOOD | {"question": GOOD["question"] + " Yes."}, "not the one that was given"),  # type: ignore[operator]
        (GOOD | {"obj_classes": ["1:cup"]}, "needed one"),
        (GOOD | {"obj_classes": ["1:cup", "2:plate", "3:plate", "3:plate"]}, "needed one"),
        (GOOD | {"obj_classes": ["cup", 2, None]}, "needed one"),
        (GOOD | {"obj_classes": "1:cup"}, "a list"),
        (GOOD | {"question": 3}, "a text"),
        ({"objects": []}, 'no JSON object with "question"'),
        ([GOOD["question"]], "no JSON object"),
    ],
)
def test_an_answer_that_does_not_fit_the_question_says_how(said: Any, fault: str) -> None:
    with pytest.raises(Unfit, match=fault):
        link(said)


def test_phrases_are_those_of_the_question_letter_for_letter() -> None:
    def said(*objects: Any) -> list[str]:
        return [phrase.text for phrase in phrases_of(json.dumps({"objects": objects}), QUESTION)]

    assert said("the two plates", "red cup") == ["red cup", "the two plates"]
    assert said() == []
    assert said("cup", "the red cup") == ["the red cup"]  # within it
    for wrong in ("the Red cup", "the blue cup", "", 3, "?"):
        with pytest.raises(Unfit):
            said(wrong)


@given(st.text(max_size=200) | st.recursive(st.none() | st.text('{}[]":,<>obj_1 '), st.lists).map(json.dumps))
def test_no_answer_at_all_is_trusted(answer: str) -> None:
    with contextlib.suppress(Unfit):
        links_of(answer, QUESTION, SLOTS, frozenset({1}))
    with contextlib.suppress(Unfit):
        assert all(QUESTION[one.start : one.end] == one.text for one in phrases_of(answer, QUESTION))


def test_a_wrong_answer_is_asked_for_again_with_its_fault_and_then_refused() -> None:
    asked: list[list[str]] = []

    def says(prompts: Sequence[tuple[str, Any]]) -> list[str]:
        asked.append([text for text, _ in prompts])
        return ["right" if "again" in text and "first" in text else "never" for text, _ in prompts]

    def check(answer: str) -> str:
        if answer != "right":
            raise Unfit(f"it says {answer}")
        return answer

    found = checked(says, [Ask("first", FRAME, check), Ask("second", FRAME, check)], 3)
    assert found == ["right", Refused("no answer of 3 could be used; the last: it says never")]
    assert [len(prompts) for prompts in asked] == [2, 2, 1]
    assert asked[1][0].startswith("first\n")
    assert "That cannot be used: it says never." in asked[1][0]
    assert checked(says, [], 3) == []


def test_a_question_is_parsed_by_what_a_model_says() -> None:
    def says(prompts: Sequence[tuple[str, Any]]) -> list[str]:
        assert all(QUESTION in text for text, _ in prompts)
        return [f'{FINAL} {{"objects": ["the red cup"]}}', "nonsense"][: len(prompts)] if len(prompts) > 1 else ["nonsense"]

    first, second = parsed(says, [(QUESTION, FRAME), (QUESTION, FRAME)], 2)
    assert [phrase.text for phrase in first] == ["the red cup"]  # type: ignore[union-attr]
    assert isinstance(second, Refused)


# --- with real classes of transformers ---


@pytest.fixture(scope="module", params=["qwen2.5-vl", "qwen3-vl"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp(request.param)
    build_student(ModelConfig(backbone=request.param)).save(folder)
    return folder


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RegionScenes]:
    folder = tmp_path_factory.mktemp("scenes") / "made"
    return folder, write_region_scenes(folder, [0], frames=2)


def test_the_nonsense_of_a_random_model_is_refused(model: Path, scenes: tuple[Path, RegionScenes], tmp_path: Path) -> None:
    folder, store = scenes
    says = VisionModel(model, "float32", batch=4, new_tokens=4)
    answers = says([("What is this?", FRAME), ("And this, in other words?", np.zeros((20, 30, 3), np.uint8))])
    assert len(answers) == 2
    assert all(isinstance(found, Refused) for found in parsed(says, [(QUESTION, FRAME)], 1))
    records = json.loads((folder / "questions.json").read_text())[:3]
    (folder / "few.json").write_text(json.dumps(records))
    linker = ByModel(str(model), says, tries=2, at_once=3, precision=0.95)
    roots = Roots((str(folder),), "--video-root")
    report = regionize(asked_in(folder / "few.json", None), store, tmp_path, roots=roots, linker=linker, wanted=Wanted())
    assert (report.kept, report.dropped["refused"]) == (0, sum(any("<obj" in t for t in one["marked"]) for one in records))
    assert report.has_faults


def test_a_model_s_links_are_those_that_it_says(scenes: tuple[Path, RegionScenes], tmp_path: Path) -> None:
    """An answering stand-in, which reads marks and question from the prompt as a model does."""
    folder, store = scenes

    def says(prompts: Sequence[tuple[str, Any]]) -> list[str]:
        return [_links_by_name(text) for text, _ in prompts]

    linker = ByModel("stand-in", says, tries=1, at_once=4, precision=0.95)
    roots = Roots((str(folder),), "--video-root")
    questions = folder / "questions.json"
    report = regionize(asked_in(questions, None), store, tmp_path, roots=roots, linker=linker, wanted=Wanted())
    truth = {one["id"]: one["marked"] for one in json.loads(questions.read_text())}
    assert report.linked_by == "stand-in"
    assert report.kept == sum(any("<obj_" in text for text in texts) for texts in truth.values())
    for one in kept_in(tmp_path):
        assert list(one.after) == truth[one.id]
        assert (one.confidence.parse, one.confidence.link) == (0.95, None)


def _links_by_name(prompt: str) -> str:
    marks = dict(line.split(": ", 1) for line in prompt.split("marks:\n\n")[1].split("\n\n", maxsplit=1)[0].splitlines())
    question = prompt.split("about the video:\n\n")[1].split("\n\nWrite it again", maxsplit=1)[0]
    used = []
    for mark, phrase in marks.items():
        if f"the {phrase}" in question:
            used.append(f"{mark[5:-1]}:{phrase}")
            question = question.replace(f"the {phrase}", mark)
    return f"{FINAL}\n{json.dumps({'question': question, 'obj_classes': used})}"


# --- the list of videos ---


def test_the_phrases_of_questions_become_a_list_of_videos(
    scenes: tuple[Path, RegionScenes], tmp_path: Path, student_train_command: Command
) -> None:
    folder, store = scenes
    out = tmp_path / "videos.jsonl"
    done = student_train_command("data", "phrases", folder / "questions.json", "--out", out, "--json")
    assert done.status == 0, done.err
    (row,) = map(json.loads, out.read_text().splitlines())
    assert row["video"] == str((folder / store.scenes[0].video).resolve())
    assert {*row["phrases"]} <= {one.phrase for one in store.scenes[0].objects}
    assert done.json["phrases"] == len(row["phrases"]) > 1
    records = json.loads((folder / "questions.json").read_text())
    part = {**records[0], "video": "clipped/gone.mp4", "source": records[0]["video"], "time_start": 0.0, "time_end": 0.5}
    (folder / "part.json").write_text(json.dumps([part]))
    done = student_train_command("data", "phrases", folder / "part.json", "--out", out)
    (part_row,) = map(json.loads, out.read_text().splitlines())
    assert (part_row["video"], part_row["start"], part_row["end"]) == (row["video"], 0.0, 0.5)
    (tmp_path / "none.json").write_text(json.dumps([{"id": 1, "task": "t", "video": "x.mp4", "question": "Why?", "answer": 1}]))
    done = student_train_command("data", "phrases", tmp_path / "none.json", "--out", out)
    is_one_clear_error(done, 2, "no question names an object", "there is no video")
