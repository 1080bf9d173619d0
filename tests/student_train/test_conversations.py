"""LLaVA JSON: what is read, what is refused, and which tokens are learnt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import BadInput
from schemas.train import ModelConfig
from student_train.conversations import IGNORED_LABEL, Conversation, Turn, read_conversations, tokenize


def item(**changes: Any) -> dict[str, Any]:
    """A sample as RoboFAC and its like write it."""
    turns = [{"from": "human", "value": "<video>\nWhat moves?"}, {"from": "gpt", "value": "A ball."}]
    return {"id": 7, "video": "a/b.mp4", "conversations": turns, "task": "more keys are no harm"} | changes


def write(folder: Path, value: Any, name: str = "train.json") -> str:
    path = folder / name
    path.write_text(json.dumps(value), encoding="utf-8")
    return str(path)


def test_a_sample_is_read(tmp_path: Path) -> None:
    (found,) = read_conversations([write(tmp_path, [item()])])
    assert found.video == "a/b.mp4"
    assert found.turns == (Turn("user", "<video>\nWhat moves?"), Turn("assistant", "A ball."))
    assert found.source == f"{tmp_path}/train.json[0]"


def test_lines_and_several_files_are_read_in_order(tmp_path: Path) -> None:
    lines = tmp_path / "more.jsonl"
    lines.write_text("\n".join(json.dumps(item(video=f"{i}.mp4")) for i in (1, 2)) + "\n", encoding="utf-8")
    found = read_conversations([write(tmp_path, [item(video="0.mp4")]), str(lines)])
    assert [c.video for c in found] == ["0.mp4", "1.mp4", "2.mp4"]


@pytest.mark.parametrize(
    ("question", "expected"),
    [("<image>\nWhat?", "<video>\nWhat?"), ("What?", "<video>\nWhat?"), ("Look: <video> What?", "Look: <video> What?")],
    ids=["image word", "no word", "in the middle"],
)
def test_the_video_has_one_place(tmp_path: Path, question: str, expected: str) -> None:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": "Yes."}]
    (found,) = read_conversations([write(tmp_path, [item(conversations=turns)])])
    assert found.turns[0].text == expected


def test_plain_text_has_no_place(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "Hello?"}, {"from": "gpt", "value": "Yes."}]
    (found,) = read_conversations([write(tmp_path, [{"conversations": turns}])])
    assert (found.video, found.clip_id, found.turns[0].text) == (None, None, "Hello?")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"a": 1}, "holds dict; needed a list"),
        ([], "no conversation found"),
        ([3], r"\[0\]: needed an object"),
        ([item(), item(conversations="hello")], r"\[1\]: needed an object with a list"),
        ([item(conversations=[{"from": "bot", "value": "hi"}])], "needed turns like"),
        ([item(conversations=[{"from": "human", "value": "hi"}])], "nothing to learn"),
        ([item(video=["a.mp4", "b.mp4"])], "one video a sample"),
        ([item(image="a.png")], "has an `image`"),
        ([item(video=None)], "names no `video`"),
        (
            [item(conversations=[{"from": "human", "value": "<video> <video>"}, {"from": "gpt", "value": "a"}])],
            "2 placeholders",
        ),
        ([item(conversations=[{"from": "gpt", "value": "a"}])], "no place for the video"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, value: Any, expected: str) -> None:
    with pytest.raises(BadInput, match=expected):
        read_conversations([write(tmp_path, value)])


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no conversation file .*absent\.json"):
        read_conversations([str(tmp_path / "absent.json")])
    broken = tmp_path / "broken.json"
    broken.write_text("[{", encoding="utf-8")
    with pytest.raises(BadInput, match=r"cannot read the conversations of .*broken\.json"):
        read_conversations([str(broken)])


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from student_train.model import build_student

    return build_student(ModelConfig())[1]


def test_only_answers_are_learnt(tokenizer: Any) -> None:
    turns = (
        Turn("system", "Be brief."),
        Turn("user", "Look: <video> What?"),
        Turn("assistant", "A bäll."),
        Turn("user", "Sure?"),
        Turn("assistant", "Yes."),
    )
    ids, labels = tokenize(Conversation("here", turns), tokenizer, video_token_id=259, video_tokens=5)
    assert tokenizer.decode([i for i in labels if i != IGNORED_LABEL]) == "A bäll.<|im_end|>Yes.<|im_end|>"
    assert all(label in {IGNORED_LABEL, token} for token, label in zip(ids, labels, strict=True))


def test_the_video_becomes_its_tokens_in_its_place(tokenizer: Any) -> None:
    turns = (Turn("user", "Look: <video> What?"), Turn("assistant", "A ball."))
    ids, _ = tokenize(Conversation("here", turns), tokenizer, video_token_id=259, video_tokens=5)
    start = ids.index(259)
    assert ids[start : start + 5] == [259] * 5
    assert ids.count(259) == 5
    assert tokenizer.decode(ids[:start]) == "<|im_start|>user\nLook: "
    assert tokenizer.decode(ids[start + 5 :]) == " What?<|im_end|>\n<|im_start|>assistant\nA ball.<|im_end|>\n"
