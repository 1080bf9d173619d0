"""Questions, prompts and scores, each against cases worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import BadInput
from schemas.evaluation import DYNAMIC_TASKS, STATIC_TASKS, Answer
from student_train.evaluation.answers import (
    Question,
    chosen_letter,
    chosen_option,
    mean_relative_accuracy,
    not_asked,
    number_in,
    read_questions,
    scored,
    summary,
    task_name,
    wording,
)

ITEM = {
    "id": 7,
    "benchmark": "vlm4d",
    "task": "Translational",
    "video": "a/clip.mp4",
    "options": ["left", "right", "up", "it does not move"],
    "question": "Which way does <obj_1> move?",
    "answer": "right",
}


def write(folder: Path, *items: Any, name: str = "questions.json") -> Path:
    path = folder / name
    text = "\n".join(map(json.dumps, items)) if name.endswith(".jsonl") else json.dumps(list(items))
    path.write_text(text, encoding="utf-8")
    return path


def question(folder: Path, **changes: Any) -> Question:
    (found,) = read_questions(write(folder, ITEM | changes))
    return found


def test_a_question_is_read_in_the_benchmarks_own_format(tmp_path: Path) -> None:
    found = question(tmp_path, som_image="a/som.png", fps=24)
    assert (found.id, found.benchmark, found.task) == ("7", "vlm4d", "Translational")
    assert (found.video, found.image) == ("a/clip.mp4", "a/som.png")
    assert (found.options[found.right or 0], found.number) == ("right", None)


def test_lines_and_lists_are_read_alike(tmp_path: Path) -> None:
    items = [ITEM, ITEM | {"id": "other"}]
    assert read_questions(write(tmp_path, *items)) == read_questions(write(tmp_path, *items, name="q.jsonl"))


@pytest.mark.parametrize("answer", [3.5, "3.5", 12])
def test_a_question_without_options_asks_for_a_number(tmp_path: Path, answer: object) -> None:
    found = question(tmp_path, options=[], answer=answer, task="camera_displacement")
    assert (found.number, found.right, found.task) == (float(answer), None, "camera_displacement")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"answer": "B"}, r"questions.json\[1\] \(id 7\): `answer` 'B' is none of its options"),
        ({"options": ["right", "Right."]}, "is more than one of its options"),
        ({"options": ["right"]}, "has 1 options; needed 2 to 5"),
        ({"options": list("abcdef")}, "has 6 options"),
        ({"options": "left, right"}, "`options` is 'left, right'; needed a list"),
        ({"options": []}, "its `answer` is 'right'; needed options, or a number"),
        ({"options": [], "answer": "nan"}, "needed options, or a number"),
        ({"options": [], "answer": True}, "needed options, or a number"),
        ({"video": None}, "`video` is None; needed a text"),
        ({"question": " "}, "`question` is ' '; needed a text"),
        ({"task": ["a"]}, "`task`"),
        ({"id": None}, "`id` is None"),
    ],
)
def test_what_is_wrong_with_a_question_is_named(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        read_questions(write(tmp_path, ITEM, ITEM | changes))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "holds no question"),
        ("{}", r"\[0\].*id"),
        ("[1]", "item 1: needed one JSON object; found '1'"),
        ("[", "cannot read"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "q.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BadInput, match=said):
        read_questions(path)
    with pytest.raises(BadInput, match="there is no file"):
        read_questions(tmp_path / "absent.json")


def test_the_prompt_says_the_length_the_question_and_the_options(tmp_path: Path) -> None:
    assert wording(question(tmp_path), 4.25) == (
        "This video is 4.2 seconds long.\nWhich way does <obj_1> move?\nOptions:\n"
        "(A) left\n(B) right\n(C) up\n(D) it does not move\n"
        "Answer with the option's letter from the given choices directly."
    )


def test_a_number_is_asked_for_without_options(tmp_path: Path) -> None:
    asked = wording(question(tmp_path, options=None, answer=2), 1.0)
    assert "Options" not in asked
    assert asked.endswith("Answer with one number, without its unit.")


def test_the_places_of_pictures_are_not_the_questions_to_say(tmp_path: Path) -> None:
    assert question(tmp_path, question="<image>\n<video>\nWhat moves?").text == "What moves?"


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("Dimension Measurement", "Dimensional Measurement"),
        ("Dimensional Measurement", "Dimensional Measurement"),
        ("Spatial Relationship", "Spatial Relation"),
        ("False Positive", "False Positives"),
        ("speed and acceleration", "Speed & Acceleration"),
        ("3D Video Grounding", "3D Video Grounding"),
        ("camera_displacement", "camera_displacement"),
    ],
)
def test_tasks_have_one_name(spelling: str, name: str) -> None:
    assert task_name(spelling) == name


@pytest.mark.parametrize(
    ("response", "index"),
    [
        ("B", 1), ("(B)", 1), ("B.", 1), ("B) right", 1), ("The answer is (C).", 2), ("Answer: D", 3), ("**A**", 0),
        ("A is right", 0), ("A ball, so B", 1), ("A red ball", None), ("E", None), ("Because", None), ("right", None),
        ("", None), ("b", None),
    ],
)  # fmt: skip
def test_letters_are_found_as_the_paper_finds_them(response: str, index: int | None) -> None:
    assert chosen_letter(response, 4) == index


@pytest.mark.parametrize(
    ("response", "index"),
    [
        ("right", 1), ("Right.", 1), ("It moves right", 1), ("B", 1), ("(C)", 2), ("it does not move", 3),
        ("left or right", None), ("upward", None), ("none of them", None),
    ],
)  # fmt: skip
def test_an_options_text_counts_leniently(response: str, index: int | None) -> None:
    assert chosen_option(response, ["left", "right", "up", "it does not move"]) == index


@pytest.mark.parametrize(
    ("response", "index"),
    [("2.5 m", 1), ("about 5 m", 0), ("It is 2.5 m.", 1), ("15 m", 2), ("115 m", None), ("5 meters", None)],
)
def test_numbers_are_not_found_within_numbers(response: str, index: int | None) -> None:
    assert chosen_option(response, ["5 m", "2.5 m", "15 m"]) == index


def test_the_longer_of_two_texts_is_meant() -> None:
    assert chosen_option("I see the red ball", ["ball", "red ball"]) == 1
    assert chosen_option("vitamin C", ["vitamin A", "vitamin C"]) == 1  # though a letter C stands in it


@pytest.mark.parametrize(
    ("response", "number"),
    [("3.5", 3.5), ("about 12 metres", 12), ("-0.5 m", -0.5), ("1,250 cm", 1250), ("1e3", 1000), (".5", 0.5), ("none", None)],
)
def test_the_first_number_is_taken(response: str, number: float | None) -> None:
    assert number_in(response) == number


@pytest.mark.parametrize(
    ("number", "right", "accuracy"),
    [(10, 10, 1.0), (11, 10, 0.8), (9, 10, 0.8), (14.9, 10, 0.1), (15, 10, 0.0), (-10, 10, 0.0), (0, 0, 1.0), (0.1, 0, 0.0)],
)
def test_mean_relative_accuracy(number: float, right: float, accuracy: float) -> None:
    assert mean_relative_accuracy(number, right) == pytest.approx(accuracy)


@given(st.floats(0.01, 100), st.floats(-100, 100), st.floats(0.01, 100))
def test_mean_relative_accuracy_does_not_see_the_unit(right: float, number: float, factor: float) -> None:
    # A rounding error may cross one threshold.
    before, after = mean_relative_accuracy(number, right), mean_relative_accuracy(number * factor, right * factor)
    assert before == pytest.approx(after, abs=0.11)


def test_both_ways_to_score_are_kept_apart(tmp_path: Path) -> None:
    asked = question(tmp_path)
    letter, text, wrong = (scored(asked, response) for response in ("(B)", "right", "A"))
    assert (letter.strict, letter.lenient) == (True, True)
    assert (text.strict, text.lenient) == (False, True)
    assert (wrong.strict, wrong.lenient) == (False, False)


def answers(task: str, *right: bool, options: int = 4) -> list[Answer]:
    return [
        Answer(id=str(i), benchmark="", task=task, video="v", response="", options=options, strict=r, lenient=True)
        for i, r in enumerate(right)
    ]


def test_means_are_over_questions_not_over_tasks() -> None:
    found = summary(
        "q.json",
        [
            *answers("Counting", True, True, True, False),
            *answers("Rotational", False, options=5),
            *answers("Spatial Relation", False, True),
            *answers("somewhere else", True),
        ],
    )
    assert found.asked == 8
    assert found.average is not None
    assert found.static is not None
    assert found.dynamic is not None
    assert (found.average.strict, found.average.lenient) == (pytest.approx(5 / 8), 1.0)
    assert (found.static.strict, found.static.questions) == (pytest.approx(1 / 2), 2)
    assert (found.dynamic.strict, found.dynamic.questions) == (pytest.approx(3 / 5), 5)
    assert found.dynamic.chance == pytest.approx((4 / 4 + 1 / 5) / 5)
    assert list(found.tasks) == ["Spatial Relation", "Rotational", "Counting", "somewhere else"]
    assert found.tasks["Counting"].strict == pytest.approx(3 / 4)


def test_the_nine_tasks_are_static_or_dynamic() -> None:
    assert (len(STATIC_TASKS), len(DYNAMIC_TASKS)) == (3, 6)


def test_numbers_have_a_figure_of_their_own(tmp_path: Path) -> None:
    asked = question(tmp_path, options=[], answer=10, task="distance")
    found = summary("q.json", [scored(asked, "10"), scored(asked, "11 m"), scored(asked, "far")])
    assert found.average is None
    assert found.numeric is not None
    assert (found.numeric.accuracy, found.numeric.without_number) == (pytest.approx(1.8 / 3), 1)
    assert found.numeric_tasks["distance"] == found.numeric


def test_questions_that_could_not_be_asked_are_listed_and_in_no_mean(tmp_path: Path) -> None:
    asked = question(tmp_path)
    found = summary("q.json", [scored(asked, "B"), not_asked(asked, "video_missing", "there is no file")])
    assert found.asked == 1
    assert found.average is not None
    assert found.average.strict == 1.0
    ((missing),) = found.unevaluated
    assert (missing.id, missing.reason, missing.detail) == ("7", "video_missing", "there is no file")
