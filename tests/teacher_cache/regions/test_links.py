"""Which objects a phrase means, and the text that has their marks in its place."""

from __future__ import annotations

import pytest

from schemas.regions import Box, NotFound, RegionObject
from teacher_cache.regions.links import likeness, link, rewritten
from teacher_cache.regions.phrases import phrases_in

WHOLE = Box(left=0, top=0, right=1, bottom=1)


def thing(number: int, phrase: str, score: float = 0.9, reason: NotFound | None = None) -> RegionObject:
    frames = () if reason else (0,)
    return RegionObject(number=number, phrase=phrase, box=WHOLE, score=score, frames=frames, reason=reason)


OBJECTS = [
    thing(1, "red cup"),
    thing(2, "blue cup", 0.8),
    thing(3, "the boys"),
    thing(4, "boy"),
    thing(5, "plate", 0, "no_box"),
]


def linked(question: str, objects: list[RegionObject] = OBJECTS) -> str:
    shown = [one.number for one in objects if one.reason is None]
    return rewritten(question, [link(phrase, objects, shown) for phrase in phrases_in(question)])


@pytest.mark.parametrize(
    ("question", "written"),
    [
        ("Is the red cup near the blue cup?", "Is <obj_1> near <obj_2>?"),
        ("Do the boys' speeds differ?", "Do <obj_3> and <obj_4>' speeds differ?"),
        ("How far is the cups' owner from the plate?", "How far is the cups' owner from the plate?"),
        ("Is the Red cup's handle up?", "Is the Red cup's handle up?"),
        ("What is the red cup's speed?", "What is <obj_1>'s speed?"),
        ("Where are the cups?", "Where are <obj_1> and <obj_2>?"),
        ("Is the green cup full?", "Is the green cup full?"),
    ],
)
def test_only_what_is_linked_is_replaced(question: str, written: str) -> None:
    assert linked(question) == written


def test_a_singular_with_several_that_fit_means_the_one_that_scores_far_higher_or_none() -> None:
    (cup,) = phrases_in("Where is the cup?")
    clear, unclear = ([thing(1, "cup", score), thing(2, "cup", 0.3)] for score in (0.9, 0.8))
    assert link(cup, clear, [1, 2]).numbers == (1,)
    assert link(cup, clear, [1, 2]).confidence == pytest.approx(0.75)
    found = link(cup, unclear, [1, 2])
    assert (found.numbers, found.reason) == ((), "ambiguous")


def test_why_a_phrase_means_none_is_said() -> None:
    (plate,) = phrases_in("Is the plate white?")
    assert link(plate, OBJECTS, [1, 2]).reason == "not_found"
    assert link(plate, [thing(5, "plate")], [1, 2]).reason == "not_in_frame"
    assert link(plate, OBJECTS[:2], [1, 2]).reason == "no_object"


def test_three_of_them_are_a_list() -> None:
    cats = [thing(number, "cat") for number in (1, 2, 12)]
    assert linked("Do the cats run?", cats) == "Do <obj_1>, <obj_2> and <obj_12> run?"


def test_other_nouns_and_other_colours_are_other_objects() -> None:
    assert likeness("the red cup", "red cups") == 1
    assert likeness("red cup", "cup") == 0.5
    assert likeness("red cup", "blue cup") == 0
    assert likeness("cup", "cup holder") == 0
