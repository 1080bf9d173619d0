"""Phrases of a question and a clip's objects in; which objects each phrase means, and the question in marks, out. By rules."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from schemas.regions import RegionObject
from teacher_cache.regions import words
from teacher_cache.regions.phrases import Phrase, head_of, is_asked_for, name_of, phrases_in

LEAST_SHARE = 0.75
"""A phrase in the singular means an object that has this share of the scores of all objects that fit it as well. Scores say how
surely an object is there, and little about which of two of the same name is meant."""

NotLinked = Literal["no_object", "not_found", "not_in_frame", "ambiguous"]
"""Why a phrase means no object. ``no_object``: no object of the clip has its name; ``not_found``: those that have it were not
found in the clip; ``not_in_frame``: they are found in it, and not in the frame that is marked; ``ambiguous``: one is meant, and
several fit about as well."""


@dataclass(frozen=True)
class Link:
    """What a phrase means."""

    phrase: Phrase
    numbers: tuple[int, ...]
    """Of the objects, ascending; empty if it means none."""
    confidence: float | None
    """How well their names agree with it, times their share of the scores of all that fit; None where a model says none."""
    reason: NotLinked | None = None
    """Why ``numbers`` is empty."""


def link(phrase: Phrase, objects: Sequence[RegionObject], shown: Iterable[int]) -> Link:
    """The objects that a phrase means, among those with the same noun. ``shown``: numbers of those in the marked frame.

    A phrase in the plural means all that fit best, one in the singular the one that does.
    """
    fits = {one.number: likeness(phrase.name, one.phrase) for one in objects}
    alike = [one for one in objects if fits[one.number] > 0]
    if not alike:
        return Link(phrase, (), 0.0, "no_object")
    found = [one for one in alike if one.reason is None]
    if not found:
        return Link(phrase, (), 0.0, "not_found")
    numbers = frozenset(shown)
    here = [one for one in found if one.number in numbers]
    if not here:
        return Link(phrase, (), 0.0, "not_in_frame")
    best = max(fits[one.number] for one in here)
    fitting = [one for one in here if fits[one.number] == best]
    if phrase.is_plural:
        return Link(phrase, tuple(sorted(one.number for one in fitting)), best)
    chosen = max(fitting, key=lambda one: (one.score, -one.number))
    whole = sum(one.score for one in fitting)
    share = chosen.score / whole if whole else 1 / len(fitting)
    if share < LEAST_SHARE:
        return Link(phrase, (), best * share, "ambiguous")
    return Link(phrase, (chosen.number,), best * share)


def likeness(one: str, other: str) -> float:
    """How much two phrases say the same, 0 to 1: 0 with other nouns or other colours, else the share of words in common."""
    names = name_of(one), name_of(other)
    first, second = ({words.singular(word) for word in name.split()} for name in names)
    colours = first & words.COLOURS, second & words.COLOURS
    if head_of(names[0]) != head_of(names[1]) or (all(colours) and not colours[0] & colours[1]):
        return 0.0
    return len(first & second) / len(first | second)


def marks(numbers: Sequence[int]) -> str:
    """``<obj_1>``; of several, ``<obj_1>, <obj_2> and <obj_3>``."""
    said = [f"<obj_{number}>" for number in numbers]
    return " and ".join(filter(None, (", ".join(said[:-1]), said[-1])))


def rewritten(text: str, links: Iterable[Link]) -> str:
    """The text with the marks of each linked phrase in its place, and nothing else changed."""
    for one in sorted(links, key=lambda one: one.phrase.start, reverse=True):
        if one.numbers:
            text = f"{text[: one.phrase.start]}{marks(one.numbers)}{text[one.phrase.end :]}"
    return text


def mentions(text: str, objects: Sequence[RegionObject]) -> tuple[Phrase, ...]:
    """What a text says of objects, in order: the phrases that rules find, and each place of an object's own phrase.

    So what a model or a person named is found, where rules would not. Of those that overlap, the longest counts.
    """
    found = [*phrases_in(text)]
    for name in {name_of(one.phrase) for one in objects} - {""}:
        said = r"\s+".join(map(re.escape, name.split()))
        found += [
            Phrase(one[0], *one.span())
            for one in re.finditer(rf"(?<![\w<-])(?:(?:{_OPENING})\s+)?{said}(?![\w>-])", text, re.IGNORECASE)
            if not is_asked_for(text[: one.start()])
        ]
    taken: list[Phrase] = []
    for phrase in sorted(found, key=lambda one: (one.start - one.end, one.start)):
        if not any(phrase.start < other.end and other.start < phrase.end for other in taken):
            taken.append(phrase)
    return tuple(sorted(taken, key=lambda one: one.start))


_OPENING = "|".join(sorted(words.DETERMINERS))
