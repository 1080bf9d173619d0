"""What a vision-language model is asked about a picture goes in; answers that were checked come out, or why none could be used.

A model is never trusted: its answer is read as JSON and held against the question. A wrong one is asked for again, with the
fault named, and after some tries the question is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from student_train.regions.linking import Linked, Refused, ToLink
from teacher_cache.regions.links import Link, NotLinked
from teacher_cache.regions.marks import Frame
from teacher_cache.regions.phrases import MARK, Phrase

Found = TypeVar("Found")
Says = Callable[[Sequence[tuple[str, Frame]]], Sequence[str]]
"""(prompt, picture (y, x, RGB)) of each question → a model's text for each."""

_SHOWN = 400
_MARKS = r"<obj_\d{1,3}>(?:(?:, | and |, and )<obj_\d{1,3}>)*"
FINAL = "### Final Answer:"
"""What comes before an answer, so that a model may think first (4D-RGPT, arXiv 2512.17012, appendix A2)."""

_PARSE = """The picture is the first frame of a video. This is a question about the video:

{question}

Which of its phrases name an object that can be seen? Copy each from the question, letter for letter, with the words that
describe it. Leave out the camera, the video, places such as "the left side", and what is asked for, such as "which car".
End with a line "{final}" and one JSON object in the form {{"objects": ["the red cup", "a dog"]}}.
If there are none, that is {{"objects": []}}."""
_LINK = """The picture is the first frame of a video. Its objects have numbered marks:

{marks}

This is a question about the video:

{question}

Write it again, with the mark <obj_k> in the place of each of these phrases that means object k: {phrases}.
For a phrase that means several objects, write "<obj_1> and <obj_2>". Leave a phrase that means no marked object as it is, and
change nothing else. End with a line "{final}" and one JSON object in the form
{{"question": "Is <obj_1> red?", "obj_classes": ["1:cup"]}}. If no phrase means a marked object, "obj_classes" is []."""
_AGAIN = """{prompt}

You answered:

{answer}

That cannot be used: {fault}. Answer again, in the form that is asked for."""


class Unfit(Exception):  # an answer that does not fit is no error of the program's
    """An answer that cannot be used; the message says why, to the model."""


@dataclass(frozen=True, eq=False)
class Ask(Generic[Found]):
    """One thing to ask."""

    prompt: str
    picture: Frame
    """uint8 (y, x, RGB)."""
    check: Callable[[str], Found]
    """Reads an answer. Raises `Unfit`."""


def checked(says: Says, asks: Sequence[Ask[Found]], tries: int) -> list[Found | Refused]:
    """A checked answer to each, asked for at most ``tries`` times; those that are wrong are asked for again together."""
    found: dict[int, Found | Refused] = {}
    prompts = {number: ask.prompt for number, ask in enumerate(asks)}
    for left in range(tries - 1, -1, -1):
        answers = says([(prompt, asks[number].picture) for number, prompt in prompts.items()]) if prompts else ()
        again: dict[int, str] = {}
        for number, answer in zip(prompts, answers, strict=True):
            try:
                found[number] = asks[number].check(answer)
            except Unfit as fault:
                if left:
                    again[number] = _AGAIN.format(prompt=asks[number].prompt, answer=answer[:_SHOWN], fault=fault)
                else:
                    found[number] = Refused(f"no answer of {tries} could be used; the last: {fault}")
        prompts = again
    return [found[number] for number in range(len(asks))]


def parsed(says: Says, questions: Sequence[tuple[str, Frame]], tries: int) -> list[tuple[Phrase, ...] | Refused]:
    """The phrases that name objects in each question, whose picture is its video's first frame."""
    asks = [
        Ask(_PARSE.format(question=text, final=FINAL), picture, partial(phrases_of, question=text))
        for text, picture in questions
    ]
    return checked(says, asks, tries)


def phrases_of(answer: str, question: str) -> tuple[Phrase, ...]:
    """The phrases that an answer names, where they are in the question. Raises `Unfit`."""
    said = _object_in(answer, "objects")["objects"]
    if not isinstance(said, list) or not all(isinstance(one, str) and one.strip() for one in said):
        raise Unfit(f'"objects" is {_short(said)}; needed a list of phrases')
    found: list[Phrase] = []
    for one in sorted({text.strip() for text in said}, key=lambda text: (-len(text), text)):
        places = [Phrase(place[0], *place.span()) for place in re.finditer(rf"(?<!\w){re.escape(one)}(?!\w)", question)]
        if not places:
            raise Unfit(f"{_short(one)} is not in the question, letter for letter")
        if not any(part.isalpha() for part in one):
            raise Unfit(f"{_short(one)} names nothing")
        found += (place for place in places if not any(place.start < other.end and other.start < place.end for other in found))
    return tuple(sorted(found, key=lambda phrase: phrase.start))


class ByModel:
    """Links phrases by what a model says of the marked picture."""

    def __init__(self, name: str, says: Says, *, tries: int, at_once: int, precision: float) -> None:
        """``precision``: of the rules, which say where phrases are; the model says what they mean."""
        self.name, self.at_once = name, at_once
        self._says, self._tries, self._precision = says, tries, precision

    def __call__(self, questions: Sequence[ToLink]) -> list[Linked | Refused]:
        phrases = [one.phrases() for one in questions]
        asked = [number for number, one in enumerate(questions) if one.shown and any(phrases[number])]
        asks = [self._ask(questions[number], phrases[number]) for number in asked]
        said = checked(self._says, asks, self._tries)
        answers = dict(zip(asked, said, strict=True))
        return [self._linked(one, phrases[number], answers.get(number)) for number, one in enumerate(questions)]

    def _ask(self, one: ToLink, phrases: Sequence[Sequence[Phrase]]) -> Ask[list[tuple[int, ...]]]:
        text, slots = _joined(one.asked.texts, phrases)
        marks = "\n".join(f"<obj_{part.number}>: {part.phrase}" for part in one.objects if part.number in one.shown)
        named = ", ".join(sorted({f'"{slot.text}"' for slot in slots}))
        prompt = _LINK.format(marks=marks, question=text, phrases=named, final=FINAL)
        return Ask(prompt, one.frame().marked(), partial(links_of, question=text, slots=slots, numbers=one.shown))

    def _linked(
        self, one: ToLink, phrases: Sequence[Sequence[Phrase]], answer: list[tuple[int, ...]] | Refused | None
    ) -> Linked | Refused:
        if isinstance(answer, Refused):
            return answer
        if answer is None:
            reason: NotLinked = "no_object" if one.shown else "not_found"
            return Linked(tuple(tuple(Link(slot, (), None, reason) for slot in of) for of in phrases), self._precision)
        numbers = iter(answer)
        return Linked(tuple(tuple(_link(slot, next(numbers)) for slot in of) for of in phrases), self._precision)


def _link(phrase: Phrase, numbers: tuple[int, ...]) -> Link:
    return Link(phrase, numbers, None, None if numbers else "no_object")


def _joined(texts: Sequence[str], phrases: Sequence[Sequence[Phrase]]) -> tuple[str, list[Phrase]]:
    """(the texts as one, the phrases where they are in it)."""
    slots, start = [], 0
    for text, of_text in zip(texts, phrases, strict=True):
        slots += [Phrase(one.text, one.start + start, one.end + start) for one in of_text]
        start += len(text) + 1
    return "\n".join(texts), slots


def links_of(answer: str, question: str, slots: Sequence[Phrase], numbers: frozenset[int]) -> list[tuple[int, ...]]:
    """What each phrase means, by an answer: the question with marks in the place of some phrases, and nothing else changed.

    ``numbers``: of the marks in the picture. Raises `Unfit`.
    """
    said = _object_in(answer, "question")
    text, classes = said["question"], said.get("obj_classes")
    if not isinstance(text, str) or not isinstance(classes, list):
        raise Unfit('needed "question", a text, and "obj_classes", a list')
    marks = {int(number) for number in MARK.findall(text)}
    if absent := sorted(marks - numbers):
        raise Unfit(f"the picture has no <obj_{absent[0]}>; it has {', '.join(f'<obj_{one}>' for one in sorted(numbers))}")
    pattern, end = "", 0
    for slot in slots:
        pattern += f"{re.escape(question[end : slot.start])}(?:({_MARKS})|{re.escape(slot.text)})"
        end = slot.end
    found = re.fullmatch(pattern + re.escape(question[end:]), text)
    if found is None:
        raise Unfit("the question is not the one that was given with marks in the place of phrases of the list")
    named = {int(one[1]) for one in map(_CLASS.fullmatch, filter(_is_text, classes)) if one}
    if named != marks or len(classes) != len(named):
        raise Unfit(f'"obj_classes" is {_short(classes)}; needed one "k:class" for each <obj_k> of the question')
    return [tuple(sorted({int(number) for number in MARK.findall(group or "")})) for group in found.groups()]


_CLASS = re.compile(r"\s*(\d{1,3})\s*:\s*\S.*", re.DOTALL)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _object_in(answer: str, key: str) -> Mapping[str, Any]:
    """The last JSON object of an answer that has the key. Raises `Unfit`."""
    found = [one for one in _objects_in(answer.rpartition(FINAL)[2]) if key in one]
    if not found:
        raise Unfit(f'there is no JSON object with "{key}" in it')
    return found[-1]


def _objects_in(text: str) -> Iterator[Mapping[str, Any]]:
    decoder, start = json.JSONDecoder(), text.find("{")
    while start >= 0:
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            end = start + 1
        else:
            yield value
        start = text.find("{", end)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
