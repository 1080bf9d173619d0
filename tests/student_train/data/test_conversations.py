"""LLaVA JSON: what is read, what is refused, and which tokens are learnt."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import BadInput
from student_train.data.conversations import Place, Turn, read_conversations


def item(**changes: Any) -> dict[str, Any]:
    """A sample as RoboFAC and its like write it."""
    turns = [{"from": "human", "value": "<video>\nWhat moves?"}, {"from": "gpt", "value": "A ball."}]
    return {"id": 7, "video": "a/b.mp4", "conversations": turns, "task": "more keys are no harm"} | changes


ASKED, SAID = {"from": "human", "value": "What?"}, {"from": "gpt", "value": "Yes."}


def write(folder: Path, value: Any, name: str = "train.json") -> str:
    path = folder / name
    path.write_text(json.dumps(value), encoding="utf-8")
    return str(path)


def test_a_sample_is_read(tmp_path: Path) -> None:
    (found,) = read_conversations([write(tmp_path, [item()])])
    assert found.video == "a/b.mp4"
    assert found.turns == (Turn("user", (Place.VIDEO, "\nWhat moves?")), Turn("assistant", ("A ball.",)))
    assert found.source == f"{tmp_path}/train.json[0]"


@pytest.mark.parametrize(
    "said",
    [
        {"conversations": [{"from": "user", "value": "<video>\nWhat moves?"}, {"from": "assistant", "value": "A ball."}]},
        {"conversations": [{"from": "human", "value": "<vila/video>\nWhat moves?"}, {"from": "gpt", "value": "A ball."}]},
        {"messages": [{"role": "user", "content": "<video>\nWhat moves?"}, {"role": "assistant", "content": "A ball."}]},
        {
            "messages": [
                {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "What moves?"}]},
                {"role": "assistant", "content": [{"type": "text", "text": "A ball."}]},
            ],
            "videos": ["a/b.mp4"],
            "video": None,
        },
    ],
    ids=["user and assistant", "VILA's word", "messages", "messages of parts"],
)
def test_other_shapes_of_conversations_are_read_alike(tmp_path: Path, said: dict[str, Any]) -> None:
    plain = item()
    other = {name: value for name, value in plain.items() if name != "conversations"} | said
    (one,), (two,) = (read_conversations([write(tmp_path, [value])]) for value in (plain, other))
    assert one == two


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"video": None, "videos": ["a.mp4", "b.mp4"]}, "needed a list of one"),
        ({"conversations": [{"role": "user", "content": [{"type": "audio"}]}, SAID]}, "needed turns like"),
        ({"conversations": [{"role": "user", "content": [7]}, SAID]}, "needed turns like"),
        ({"conversations": [{"role": ["user"], "content": "What?"}, SAID]}, "needed turns like"),
        ({"conversations": [{"role": "user", "content": [{"type": ["video"]}]}, SAID]}, "needed turns like"),
    ],
)
def test_other_shapes_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        read_conversations([write(tmp_path, [item(**changes)])])


def test_lines_and_several_files_are_read_in_order(tmp_path: Path) -> None:
    """Lines whatever they are called, with a byte-order mark, and with what only looks like a line's end in a text."""
    said = {"from": "gpt", "value": "First.\u2028Second.\u0085Third"}
    rows = [item(video=f"{i}.mp4", conversations=[ASKED, said]) for i in (1, 2)]
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n"
    for name in ("more.jsonl", "more.json"):
        (tmp_path / name).write_text(f"\ufeff{text}", encoding="utf-8")
        found = read_conversations([write(tmp_path, [item(video="0.mp4")]), str(tmp_path / name)])
        assert [c.video for c in found] == ["0.mp4", "1.mp4", "2.mp4"]
        assert found[1].turns[1].text == said["value"]


@pytest.mark.parametrize(
    ("question", "expected"),
    [("<image>\nWhat?", "<video>\nWhat?"), ("What?", "<video>\nWhat?"), ("Look: <video> What?", "Look: <video> What?")],
    ids=["image word", "no word", "in the middle"],
)
def test_the_video_has_one_place(tmp_path: Path, question: str, expected: str) -> None:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": "Yes."}]
    (found,) = read_conversations([write(tmp_path, [item(conversations=turns)])])
    assert found.turns[0].text == expected


@pytest.mark.parametrize(
    ("image", "question", "expected"),
    [
        ("a.png", "What?", "<image>\nWhat?"),
        (["a.png", "b.png"], "First <image>, then <image>?", "First <image>, then <image>?"),
        (["a.png", "b.png"], "Which?", "<image>\n<image>\nWhich?"),
    ],
)
def test_images_have_their_places(tmp_path: Path, image: Any, question: str, expected: str) -> None:
    (found,) = read_conversations(
        [write(tmp_path, [item(video=None, image=image, conversations=[ASKED | {"value": question}, SAID])])]
    )
    assert found.turns[0].text == expected
    assert found.images == (("a.png",) if image == "a.png" else tuple(image))


@pytest.mark.parametrize(
    ("question", "expected"),
    [("What?", "<image>\n<video>\nWhat?"), ("<image> What?", "<video>\n<image> What?"), ("<video> <image>", "<video> <image>")],
)
def test_an_image_may_come_beside_the_video(tmp_path: Path, question: str, expected: str) -> None:
    (found,) = read_conversations(
        [write(tmp_path, [item(image="marks.png", conversations=[ASKED | {"value": question}, SAID])])]
    )
    assert found.turns[0].text == expected


def test_plain_text_has_no_place(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "Hello?"}, {"from": "gpt", "value": "Yes."}]
    (found,) = read_conversations([write(tmp_path, [{"conversations": turns}])])
    assert (found.video, found.clip_id, found.turns[0].text) == (None, None, "Hello?")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"a": 1}, r"\[0\]: needed an object with a list"),
        ([], "no conversation found"),
        ([3], "item 1: needed one JSON object; found '3'"),
        ([item(), item(conversations="hello")], r"\[1\]: needed an object with a list"),
        ([item(conversations=[{"from": "bot", "value": "hi"}])], "needed turns like"),
        ([item(conversations=[{"from": "human", "value": "hi"}])], "nothing to learn"),
        ([item(video=["a.mp4", "b.mp4"])], "a sample may have one video"),
        ([item(image=3)], "`image` is 3; needed one path"),
        (
            [item(image=["a.png", "b.png"], conversations=[ASKED | {"value": "<image>?"}, SAID])],
            "1 <image> placeholders and names 2",
        ),
        ([item(video=None)], "a <video> placeholder, but the sample has no `video` or `clip_id`"),
        ([item(conversations=[ASKED | {"value": "<video> <video>"}, SAID])], "2 <video> placeholders"),
        ([item(video=None, conversations=[ASKED | {"value": "<image>"}, SAID])], "a <image> placeholder, .* no `image`"),
        ([item(conversations=[{"from": "gpt", "value": "a"}])], "no turn for the placeholders <video>"),
        ([item(conversations=[ASKED, {"from": "gpt", "value": "\ud83d"}])], r"\[0\]: a turn has half a character"),
        ([item(video="a\ud83d.mp4")], r"\[0\]: names 'a\\ud83d.mp4', which has a NUL or half a character"),
        ([item(image="a\0.png")], r"\[0\]: names 'a\\x00.png', which has a NUL or half a character"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, value: Any, expected: str) -> None:
    with pytest.raises(BadInput, match=expected):
        read_conversations([write(tmp_path, value)])


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no conversation file .*absent\.json"):
        read_conversations([str(tmp_path / "absent.json")])
    broken = tmp_path / "broken.json"
    for data, said in (
        (b"[{", "line 1: needed item 1"),
        (b'["\xe9"', "it is not UTF-8"),
        (gzip.compress(b"[]"), "unpack it with"),
    ):
        broken.write_bytes(data)
        with pytest.raises(BadInput, match=rf"^cannot read the conversations of \S*broken\.json(, |: ).*{said}"):
            read_conversations([str(broken)])


@pytest.mark.parametrize(
    ("sample", "question", "answer"),
    [
        (item(), "<video>\nWhat is a <b>?", "An HTML tag like <video> or <image>."),
        (item(video=None), "What does <video> mean in HTML, and <image>?", "<video> plays a film."),
    ],
    ids=["in an answer", "without anything shown"],
)
def test_the_words_alone_show_nothing(tmp_path: Path, sample: dict[str, Any], question: str, answer: str) -> None:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    (found,) = read_conversations([write(tmp_path, [sample | {"conversations": turns}])])
    assert [one.text for one in found.turns] == [question, answer]
    assert sum(isinstance(piece, Place) for one in found.turns for piece in one.content) == (sample["video"] is not None)
