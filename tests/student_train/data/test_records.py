"""Published training sets, in miniature: each is read as it is downloaded, or says what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import published_sets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.errors import BadInput
from schemas.evaluation import multiple_choice
from student_train.data.conversations import Place, ids_in, read_conversations
from student_train.data.records import in_llava_shape
from student_train.evaluation.benchmarks.registry import BENCHMARKS


def told(record: dict[str, Any]) -> list[tuple[str, str]]:
    """(question, answer) of each conversation of a record."""
    return [tuple(turn["value"] for turn in one["conversations"]) for one in in_llava_shape(record)]  # type: ignore[misc]


def test_vsti_s_files_are_read_by_a_wildcard_without_the_dropped_items(tmp_path: Path) -> None:
    *_, erratum = published_sets.vsti(tmp_path)
    files = str(tmp_path / "vstibench_train" / "qa_*.json")
    found = read_conversations([files], ids_in([str(erratum)]))
    assert [one.turns[1].text for one in found] == ["1.6", "B"]  # files by their names
    assert len(read_conversations([files])) == 3
    assert {one.video for one in found} == {"scannet/videos/scene0000_00.mp4"}
    assert all(one.turns[0].content[0] is Place.VIDEO for one in found)  # its `<image>` stands for the video


def test_robofac_s_training_and_test_files_are_read(tmp_path: Path) -> None:
    train = read_conversations([str(published_sets.robofac(tmp_path))])
    test = read_conversations([str(published_sets.robofac_test(tmp_path))])
    assert [[turn.role for turn in one.turns] for one in (*train, *test)] == [["user", "assistant"]] * 4
    assert [one.turns[1].text for one in test] == ["The gripper slipped.", "Yes"]
    assert {one.video for one in (*train, *test)} == {"PickCube/grasp/0f3a.mp4"}


def test_an_object_of_records_is_read_however_it_is_written(tmp_path: Path) -> None:
    path = published_sets.robofac_test(tmp_path)
    pretty = tmp_path / "pretty.json"
    pretty.write_text(path.read_text(encoding="utf-8").replace("{", "{\n"), encoding="utf-8")
    one, two = (read_conversations([str(file)]) for file in (path, pretty))
    assert [conversation.turns for conversation in one] == [conversation.turns for conversation in two]


@pytest.mark.parametrize(
    "erratum", [["a", "b"], [{"id": "a", "why": "camera"}, {"id": "b"}], {"x": ["a"], "y": ["b"]}, {"a": {"why": 1}, "b": {}}]
)
def test_an_erratum_names_ids_in_any_shape(tmp_path: Path, erratum: Any) -> None:
    assert ids_in([str(published_sets.written(tmp_path / "e.json", erratum))]) == {"a", "b"}


def test_an_erratum_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="names no id to leave out"):
        ids_in([str(published_sets.written(tmp_path / "e.json", {}))])


def test_sat_in_parquet_says_how_to_convert_it(tmp_path: Path) -> None:
    path = published_sets.sat(tmp_path)
    with pytest.raises(BadInput, match=rf"in its column image_bytes.*student-train data convert {path} --out DIR"):
        read_conversations([str(path)])


def test_parquet_of_conversations_is_read_at_once(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Which way?"}, {"role": "assistant", "content": "Left."}]
    rows = [
        {"video": "a.mp4", "messages": turns},
        {"image": "1.png", "messages": turns},
        {"images": ["2.png"], "messages": turns},
    ]
    columns = {name: [row.get(name) for row in rows] for name in ("video", "image", "images", "messages")}  # each has nulls
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    found = read_conversations([str(tmp_path / "a.parquet")])
    assert [(one.video, one.images) for one in found] == [("a.mp4", ()), (None, ("1.png",)), (None, ("2.png",))]
    assert found[0].turns[1].text == "Left."


def test_questions_are_asked_as_their_benchmarks_ask() -> None:
    """So that a student is trained on the prompt that it will be given."""
    row = {"question": "Which way?", "answers": ["left", "right"], "correct_answer": "left", "question_type": "ego"}
    (item, _) = BENCHMARKS["sat"].items(row | {"image_bytes": [b"x"]}, 0)
    assert told(row) == [(BENCHMARKS["sat"].prompt(item, None), "left")]
    vsti: dict[str, Any] = {"question": "Which way?", "options": ["A. Left", "B. Right"], "mc_answer": "B"}
    for record, answer in ((vsti, "B"), ({"question": "How far?", "ground_truth": 1.6}, "1.6")):
        (item,) = BENCHMARKS["vstibench"].items({**record, "video_path": "a.mp4", "question_type": "t"}, 0)
        assert told(record) == [(BENCHMARKS["vstibench"].prompt(item, None), answer)]
    assert told({"question": "Which?", "options": [3, None, 7], "answer": 7}) == [
        (multiple_choice("Which?", ["3", "", "7"]), "C")
    ]
    assert told({"question": "Which way does the car turn?", "answer": "Left"}) == [("Which way does the car turn?", "Left")]


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"video": "a.mp4", "caption": "A car."}, "--ask"),
        ({"video": "a.mp4"}, "found the fields video"),
        ({"question": "Which?"}, "a question and no answer"),
        ({"question": ["Which?"], "answer": "a"}, "`question` is .*; needed a text"),
        ({"question": " ", "answer": "a"}, "`question` is ' '; needed a text"),
        ({"question": "Which?", "answer": ["a"]}, "`answer` is .*; needed a text or a number"),
        ({"question": "Which?", "answer": {"a": 1}}, "`answer` is .*; needed a text or a number"),
        ({"question": "Which?", "answer": float("nan")}, "`answer` is 'nan'; needed a text or a number"),
        ({"question": "Which?", "options": [{"a": 1}, "b"], "answer": "b"}, "needed a list of texts or numbers"),
        ({"question": "Which?", "answers": ["a", "b"], "correct_answer": "c"}, "none of the options a, b"),
        ({"question": "Which?", "options": ["a", "b"], "mc_answer": "C"}, "neither an option nor its letter"),
        ({"question": "Which?", "options": ["a"], "answer": "a"}, "needed a list of 2 to"),
        ({"annos": {"Failure detection": [{"value": "Is there one?"}]}}, "needed a question and its answer"),
    ],
)
def test_what_a_record_lacks_is_said(record: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        list(in_llava_shape(record))
