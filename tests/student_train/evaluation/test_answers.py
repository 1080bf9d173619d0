"""Questions in R4D-Bench's fields, lenient readings and means, each against cases worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import BadInput
from schemas.evaluation import DYNAMIC_TASKS, STATIC_TASKS, Answer, AnswersReport
from student_train.evaluation.answers import not_asked, score, scored, summary
from student_train.evaluation.benchmarks.item import Item
from student_train.evaluation.benchmarks.parsing import first_number, lenient, mean_relative_accuracy, paper_letter
from student_train.evaluation.benchmarks.protocol import Benchmark, Read, read
from student_train.evaluation.benchmarks.r4d import QUESTIONS, R4D, task_name
from student_train.evaluation.benchmarks.registry import BENCHMARKS

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


def question(folder: Path, **changes: Any) -> Item:
    (found,) = read(QUESTIONS, folder, write(folder, ITEM | changes)).items
    return found


def of_options(*options: str, right: int = 0) -> Item:
    return Item(id="1", task="t", question="?", options=options, right=right)


def test_a_question_is_read_in_the_benchmarks_own_format(tmp_path: Path) -> None:
    found = question(tmp_path, som_image="a/som.png", fps=24)
    assert (found.id, found.benchmark, found.task) == ("7", "vlm4d", "Translational")
    assert (found.video, found.images) == ("a/clip.mp4", ("a/som.png",))
    assert (found.options[found.right or 0], found.number, found.expected) == ("right", None, "B")


def test_lines_and_lists_are_read_alike(tmp_path: Path) -> None:
    items = [ITEM, ITEM | {"id": "other"}]
    one, other = (read(QUESTIONS, tmp_path, write(tmp_path, *items, name=name)) for name in ("q.json", "q.jsonl"))
    assert one.items == other.items


@pytest.mark.parametrize("answer", [3.5, "3.5", 12])
def test_a_question_without_options_asks_for_a_number(tmp_path: Path, answer: object) -> None:
    found = question(tmp_path, options=[], answer=answer, task="camera_displacement")
    assert (found.number, found.right, found.task) == (float(str(answer)), None, "camera_displacement")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"options": ["right"]}, "has 1 options; needed 2 to 10"),
        ({"options": list("abcdefghijk")}, "has 11 options"),
        ({"options": "left, right"}, "`options` is 'left, right'; needed a list"),
        ({"options": []}, "its `answer` is 'right'; needed options, or a number"),
        ({"options": [], "answer": "nan"}, "needed options, or a number"),
        ({"options": [], "answer": True}, "needed options, or a number"),
        ({"video": None}, "`video` is None; needed a path"),
        ({"question": " "}, "`question` is ' '; needed a text"),
        ({"task": ["a"]}, "`task`"),
        ({"source": "b.mp4", "time_start": 3, "time_end": 2}, "goes from 3 to 2 s"),
    ],
)
def test_a_bad_item_costs_itself_alone_and_is_listed(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    found = read(QUESTIONS, tmp_path, write(tmp_path, ITEM, ITEM | {"id": "bad"} | changes))
    assert [item.id for item in found.items] == ["7"]
    ((unread),) = found.unread
    assert (unread.id, unread.reason) == ("bad", "item_unreadable")
    assert said in unread.detail
    assert summary(QUESTIONS, found, [], frames=16).unevaluated == (unread,)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "holds no question"),
        ("[1]", "item 1: needed one JSON object; found '1'"),
        ("[", "cannot read"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "q.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BadInput, match=said):
        read(QUESTIONS, tmp_path, path)
    with pytest.raises(BadInput, match="there is no file"):
        read(QUESTIONS, tmp_path, tmp_path / "absent.json")


def test_the_prompt_says_the_length_the_question_and_the_options(tmp_path: Path) -> None:
    assert QUESTIONS.prompt(question(tmp_path), 4.25) == (
        "This video is 4.2 seconds long.\nWhich way does <obj_1> move?\nOptions:\n"
        "(A) left\n(B) right\n(C) up\n(D) it does not move\n"
        "Answer with the option's letter from the given choices directly."
    )


def test_a_number_is_asked_for_without_options(tmp_path: Path) -> None:
    asked = QUESTIONS.prompt(question(tmp_path, options=None, answer=2), 1.0)
    assert "Options" not in asked
    assert asked.endswith("Answer with one number, without its unit.")


def test_the_places_of_pictures_are_not_the_questions_to_say(tmp_path: Path) -> None:
    assert question(tmp_path, question="<image>\n<video>\nWhat moves?").question == "What moves?"


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
    found = paper_letter(response, of_options("1", "2", "3", "4"))
    assert (found and found.choice) == index


def leniently(response: str, *options: str) -> int | None:
    found = lenient(response, of_options(*options))
    return None if found is None else found.choice


@pytest.mark.parametrize(
    ("response", "index"),
    [
        ("right", 1), ("Right.", 1), ("It moves right", 1), ("B", 1), ("(C)", 2), ("it does not move", 3),
        ("left or right", None), ("upward", None), ("none of them", None),
    ],
)  # fmt: skip
def test_an_options_text_counts_leniently(response: str, index: int | None) -> None:
    assert leniently(response, "left", "right", "up", "it does not move") == index


@pytest.mark.parametrize(
    ("response", "index"),
    [
        ("2.5 m", 1), ("about 5 m", 0), ("It is 2.5 m.", 1), ("15 m", 2), ("115 m", None), ("5 meters", 0), ("2.501", 1),
        ("2.51", None), ("5 m or 15 m", None),
    ],
)  # fmt: skip
def test_numbers_are_not_found_within_numbers(response: str, index: int | None) -> None:
    assert leniently(response, "5 m", "2.5 m", "15 m") == index


def test_the_longer_of_two_texts_is_meant() -> None:
    assert leniently("I see the red ball", "ball", "red ball") == 1
    assert leniently("vitamin C", "vitamin A", "vitamin C") == 1  # though a letter C stands in it


@pytest.mark.parametrize(
    ("response", "number"),
    [("3.5", 3.5), ("about 12 metres", 12), ("-0.5 m", -0.5), ("1,250 cm", 1250), ("1e3", 1000), (".5", 0.5), ("none", None)],
)
def test_the_first_number_is_taken(response: str, number: float | None) -> None:
    assert first_number(response) == number


@pytest.mark.parametrize(
    ("number", "right", "below", "or_equal"),
    [
        (10, 10, 1.0, 1.0), (14.9, 10, 0.1, 0.1), (15, 10, 0.0, 0.1), (12.5, 10, 0.5, 0.6), (-10, 10, 0.0, 0.0),
        (0, 0, 1.0, 1.0),        (0.1, 0, 0.0, 0.0), (11.1, 10, 0.8, 0.8),
    ],
)  # fmt: skip
def test_mean_relative_accuracy_by_both_rules(number: float, right: float, below: float, or_equal: float) -> None:
    assert mean_relative_accuracy(number, right, or_equal=False) == pytest.approx(below)
    assert mean_relative_accuracy(number, right) == pytest.approx(or_equal)


@given(st.floats(0.01, 100), st.floats(-100, 100), st.floats(0.01, 100))
def test_mean_relative_accuracy_does_not_see_the_unit(right: float, number: float, factor: float) -> None:
    # A rounding error may cross one threshold.
    before, after = mean_relative_accuracy(number, right), mean_relative_accuracy(number * factor, right * factor)
    assert before == pytest.approx(after, abs=0.11)


def test_both_ways_to_score_are_kept_apart(tmp_path: Path) -> None:
    asked = question(tmp_path)
    letter, text, wrong = (scored(QUESTIONS, asked, response) for response in ("(B)", "right", "A"))
    assert (letter.official, letter.lenient) == (1, 1)
    assert (text.official, text.lenient, text.lenient_rule) == (0, 1, "option's text")
    assert (wrong.official, wrong.lenient, wrong.parsed, wrong.expected) == (0, 0, "A", "B")


def answers(task: str, *right: bool, options: int = 4, groups: tuple[str, ...] = ()) -> list[Answer]:
    return [
        Answer(
            id=f"{task} {i}", benchmark="", task=task, groups=groups, video="v", response="", options=options, parsed="A",
            official=float(r), lenient=1.0,
        )
        for i, r in enumerate(right)
    ]  # fmt: skip


def told(*some: Answer, benchmark: Benchmark = R4D) -> AnswersReport:
    return summary(benchmark, Read("q.json", (), ()), some, frames=16)


def test_micro_means_are_over_questions_and_macro_means_over_tasks() -> None:
    found = told(
        *answers("Counting", True, True, True, False, groups=("dynamic",)),
        *answers("Rotational", False, options=5, groups=("dynamic",)),
        *answers("Spatial Relation", False, True, groups=("static",)),
        *answers("somewhere else", True),
    )
    assert found.asked == 8
    assert found.micro is not None
    assert found.macro is not None
    assert (found.micro.official, found.micro.lenient, found.overall) == (pytest.approx(5 / 8), 1.0, pytest.approx(5 / 8))
    assert found.macro.official == pytest.approx((3 / 4 + 0 + 1 / 2 + 1) / 4)
    static, dynamic = found.groups["static"], found.groups["dynamic"]
    assert (static.official, static.questions) == (pytest.approx(1 / 2), 2)
    assert (dynamic.official, dynamic.questions) == (pytest.approx(3 / 5), 5)
    assert dynamic.chance == pytest.approx((4 / 4 + 1 / 5) / 5)
    assert list(found.tasks) == ["Spatial Relation", "Rotational", "Counting", "somewhere else"]
    # Deviation of 1, 1, 1, 0 is 0.5, over the root of 4.
    assert (found.tasks["Counting"].official, found.tasks["Counting"].standard_error) == (0.75, pytest.approx(0.25))
    assert found.tasks["Rotational"].standard_error is None


def test_a_benchmarks_own_figure_is_its_own_kind_of_mean() -> None:
    some = (*answers("one", True, True, True, False), *answers("two", False))
    assert told(*some, benchmark=BENCHMARKS["vstibench"]).overall == pytest.approx((3 / 4 + 0) / 2)
    assert told(*some, benchmark=BENCHMARKS["stibench"]).overall == pytest.approx(3 / 5)


def test_a_pair_counts_once_and_only_if_both_are_right() -> None:
    pairs = [
        answer.model_copy(update={"pair": pair, "options": 2})
        for pair, rights in (("a", (True, True)), ("b", (True, False)))
        for answer in answers(pair, *rights)
    ]
    found = score(pairs)
    assert (found.questions, found.official, found.lenient, found.chance) == (2, 0.5, 1.0, 0.25)


def test_the_nine_tasks_are_static_or_dynamic(tmp_path: Path) -> None:
    assert (len(STATIC_TASKS), len(DYNAMIC_TASKS)) == (3, 6)
    assert question(tmp_path, task="Displacement & Path Length").groups == ("dynamic",)


def test_numbers_have_no_chance_and_both_rules(tmp_path: Path) -> None:
    asked = question(tmp_path, options=[], answer=10, task="distance")
    found = told(*(scored(BENCHMARKS["vstibench"], asked, said) for said in ("10", "15", "far")), benchmark=QUESTIONS)
    assert found.micro is not None
    assert (found.micro.official, found.micro.below) == (pytest.approx(1.1 / 3), pytest.approx(1 / 3))
    assert (found.micro.chance, found.micro.unparsed) == (None, 1)
    assert found.tasks["distance"] == found.micro


def test_questions_that_could_not_be_asked_are_listed_and_in_no_mean(tmp_path: Path) -> None:
    asked = question(tmp_path)
    found = told(scored(R4D, asked, "B"), not_asked(asked, "video_missing", "there is no file"))
    assert found.asked == 1
    assert found.micro is not None
    assert found.micro.official == 1.0
    ((missing),) = found.unevaluated
    assert (missing.id, missing.reason, missing.detail) == ("7", "video_missing", "there is no file")


def test_a_foreign_answer_is_counted_wrong_and_listed(tmp_path: Path) -> None:
    found = told(scored(R4D, question(tmp_path, answer="sideways"), "B"))
    assert found.micro is not None
    assert (found.asked, found.micro.official, found.unevaluated) == (1, 0, ())
    assert [(one.id, one.reason) for one in found.faults] == [("7", "no_right_answer")]


def test_published_rows_are_marked_as_theirs() -> None:
    for name, benchmark in BENCHMARKS.items():
        assert all(row.differs and row.by in {"paper", "release"} for row in benchmark.published)
        assert bool(benchmark.published) == (name != "questions")
    release = next(row for row in R4D.published if (row.who, row.by) == ("4D-RGPT-8B", "release"))
    assert (release.overall, release.parts["static"], release.parts["Displacement & Path Length"]) == (46.2, 41.0, 45.8)
