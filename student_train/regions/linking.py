"""Questions and their clips' objects go in; what each phrase means comes out, by rules or by a vision-language model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from schemas.regions import RegionObject
from student_train.regions.asked import Asked
from teacher_cache.reader.marked import RegionFrame
from teacher_cache.regions.links import Link, link, mentions
from teacher_cache.regions.phrases import Phrase


@dataclass(frozen=True, eq=False)
class ToLink:
    """A question whose clip has objects."""

    asked: Asked
    objects: tuple[RegionObject, ...]
    frame: Callable[[], RegionFrame]
    """Reads the frame in which marks are drawn. Raises `VideoError`, `BadInput`."""

    @property
    def shown(self) -> frozenset[int]:
        """Numbers of the objects in the clip's first frame, which is the one that is marked."""
        return frozenset(one.number for one in self.objects if 0 in one.frames)

    def phrases(self) -> list[tuple[Phrase, ...]]:
        """What each of its texts says of objects."""
        return [mentions(text, self.objects) for text in self.asked.texts]


@dataclass(frozen=True)
class Linked:
    """What the phrases of a question mean."""

    links: tuple[tuple[Link, ...], ...]
    """Of each text."""
    parse: float | None
    """How sure it is that a phrase names an object."""


@dataclass(frozen=True)
class Refused:
    """No answer of the model could be used."""

    detail: str


class Linker(Protocol):
    """Tells what phrases mean."""

    name: str
    """For reports."""
    at_once: int
    """How many questions it is given together, at most."""

    def __call__(self, questions: Sequence[ToLink]) -> list[Linked | Refused]:
        """One for each question."""


class ByRules:
    """By the nouns of phrases and objects: `teacher_cache.regions.links.link`."""

    name = "rules"
    at_once = 1

    def __init__(self, precision: float) -> None:
        self._precision = precision

    def __call__(self, questions: Sequence[ToLink]) -> list[Linked | Refused]:
        return [self._linked(one) for one in questions]

    def _linked(self, one: ToLink) -> Linked:
        links = tuple(tuple(link(phrase, one.objects, one.shown) for phrase in found) for found in one.phrases())
        return Linked(links, self._precision)
