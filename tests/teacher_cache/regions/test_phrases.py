"""Phrases of a question that name objects: where they begin and end, and how many of a list marked by hand are found."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from named_objects import DEVELOPMENT, HELD_OUT, unmarked

from teacher_cache.regions.phrases import Phrase, head_of, name_of, phrases_in

WORDS = ["the", "a", "two", "cup's", "cups'", "left", "of", "and", "moving", "<obj_1>", "'s", "?", "is"]


def found(question: str) -> list[str]:
    return [phrase.text for phrase in phrases_in(question)]


def shares(questions: tuple[str, ...]) -> tuple[float, float]:
    """(precision, recall) of exact spans."""
    right = said = there = 0
    for question in questions:
        text, spans = unmarked(question)
        got = {(phrase.start, phrase.end) for phrase in phrases_in(text)}
        right, said, there = right + len(got & set(spans)), said + len(got), there + len(spans)
    return right / said, right / there


@pytest.mark.parametrize(
    ("questions", "precision", "recall"),
    [(DEVELOPMENT, 52 / 52, 52 / 53), (HELD_OUT, 53 / 56, 53 / 54)],
    ids=["own", "held out"],
)
def test_of_a_list_marked_by_hand_it_finds_what_the_docs_say(
    questions: tuple[str, ...], precision: float, recall: float
) -> None:
    assert shares(questions) == pytest.approx((precision, recall))


@pytest.mark.parametrize(
    ("question", "phrases"),
    [
        ("How fast is the car's wheel compared to the car's speed?", ["the car's wheel", "the car"]),
        ("Did the person who left the room come back?", ["the person", "the room"]),
        ("How many dogs are there, and how many of the cats?", []),
        ("Is there a cat under the table?", ["the table"]),
        ("Does the left one move?", []),
        ("How far does <obj_1> go from the door?", ["the door"]),
        ("", []),
    ],
)
def test_what_is_asked_for_or_measured_names_nothing(question: str, phrases: list[str]) -> None:
    assert found(question) == phrases


def test_a_phrase_says_its_name_its_noun_and_its_number() -> None:
    (boys, door) = phrases_in("Do The two boys open the door of the fridge?")
    assert (boys.name, boys.head, boys.is_plural) == ("boys", "boy", True)
    assert (door.name, door.head, door.is_plural) == ("door of the fridge", "door", False)
    assert head_of("man wearing a hat") == "man"
    assert name_of("  The  Red cup. ") == "red cup"


@given(st.text(max_size=60) | st.lists(st.sampled_from(WORDS)).map(" ".join))
def test_any_text_gives_phrases_of_itself_in_order(question: str) -> None:
    end = 0
    for phrase in phrases_in(question):
        assert phrase == Phrase(question[phrase.start : phrase.end], phrase.start, phrase.end)
        assert end <= phrase.start < phrase.end
        assert phrase.name
        end = phrase.end


@pytest.mark.parametrize("text", ["cup ", "which cups is the ", "the cup of ", "a' "])
def test_a_hostile_text_takes_no_more_than_its_length(text: str) -> None:
    def seconds(times: int) -> float:
        begin = time.process_time()
        phrases_in(text * times)
        return time.process_time() - begin

    seconds(100)
    assert seconds(8000) < 10 * seconds(2000)  # 4 times; 16 where each word looks through the rest
