"""A question in; the phrases of it that name objects out, each with its place in the text. English, by rules, without a model.

A phrase is found where a determiner opens it ("the red cup"), or where a plural stands alone ("people"). It ends before the
next preposition, auxiliary, verb or mark. What is asked for names nothing ("which car", "how many people", "is there a dog"),
nor do measures and places ("the speed", "the left side"), the camera, and pronouns. It misses names ("Alice") and singular
nouns without a determiner; a verb that `teacher_cache.regions.words` does not know is taken for a part of the phrase before
it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from teacher_cache.regions import words

MARK = re.compile(r"<obj_(\d{1,3})>")
"""A mark in a question's text, as R4D-Bench writes it; its group is the object's number."""
PRECISION = 0.95
"""Share of the phrases found in questions that were kept aside (`tests/named_objects.py`) that name an object: 53 of 56."""
_TOKEN = re.compile(r"<obj_\d+>|[^\W\d_]+(?:[-'’][^\W\d_]+)*['’]?|\d+(?:\.\d+)?|\S")
_POSSESSIVE = re.compile(r"['’]s?$")
_LONGEST = 16
"""Words of the longest phrase; a text of nouns alone would otherwise be looked through from each of them to its end."""
_BEFORE = 100
"""Characters before a phrase that can ask for it."""


@dataclass(frozen=True)
class Phrase:
    """A phrase that names one object or several, in a question."""

    text: str
    """As the question has it, with its determiner: "the red cups"."""
    start: int
    """Index of its first character."""
    end: int
    """Index after its last character."""

    @property
    def name(self) -> str:
        """Without its determiner and in lower case, as a grounding model is asked for it: "red cups"."""
        return name_of(self.text)

    @property
    def head(self) -> str:
        """The noun that says what it is, in the singular: "cup"."""
        return head_of(self.name)

    @property
    def is_plural(self) -> bool:
        """Whether it names several objects."""
        return words.is_plural(_head(self.name.split())) if self.name else False


def name_of(text: str) -> str:
    """A phrase without its determiner, in lower case, with single spaces and without marks at its end."""
    parts = text.casefold().split()
    while len(parts) > 1 and parts[0] in words.DETERMINERS:
        parts = parts[1:]
    return " ".join(parts).strip(' .,;:!?"')


def head_of(name: str) -> str:
    """The singular of the noun that says what a name is of: the last word before a preposition."""
    return words.singular(_head(name.split())) if name else ""


def _head(parts: Sequence[str]) -> str:
    inner = next((i for i, word in enumerate(parts) if i and (word in words.FUNCTION or _is_worn(parts, i))), len(parts))
    return _POSSESSIVE.sub("", parts[inner - 1])


def _is_worn(parts: Sequence[str], index: int) -> bool:
    return parts[index] in words.VERBS and parts[index].endswith("ing") and index + 1 < len(parts)


class _Token(NamedTuple):
    text: str
    start: int
    end: int

    @property
    def word(self) -> str:
        return self.text.casefold()

    @property
    def noun(self) -> str:
        """Without the ending of a possessive."""
        return _POSSESSIVE.sub("", self.word)

    @property
    def is_word(self) -> bool:
        return self.text[0].isalpha() and self.word not in words.FUNCTION


def phrases_in(question: str) -> tuple[Phrase, ...]:
    """The phrases of a question that name objects, in order; none overlap. Equal questions give equal phrases."""
    return tuple(_phrases(question, _Tokens(_Token(found[0], *found.span()) for found in _TOKEN.finditer(question))))


class _Tokens(tuple[_Token, ...]):
    """The tokens of a text."""

    @cached_property
    def first_auxiliary(self) -> int:
        """Index of the first auxiliary; their number if there is none."""
        return next((number for number, token in enumerate(self) if token.word in words.AUXILIARIES), len(self))


def _phrases(question: str, tokens: _Tokens) -> Iterator[Phrase]:
    number = 0
    while number < len(tokens):
        first = number
        end = _end(tokens, first)
        number = max(end, first + 1)
        if end > first and not is_asked_for(question[max(0, tokens[first].start - _BEFORE) : tokens[first].start]):
            start, stop = tokens[first].start, tokens[end - 1].start + len(tokens[end - 1].noun)
            yield Phrase(question[start:stop], start, stop)


def _end(tokens: _Tokens, first: int) -> int:
    """Index after the phrase that begins at ``first``; ``first`` itself if none does."""
    opens = tokens[first].word in words.DETERMINERS
    start = first + opens
    end = _core(tokens, start, is_determined=opens)
    while end > start and words.singular(tokens[end - 1].noun) in words.PLACES:
        # "the car's speed" is about the car; "the left side" about none.
        cut = next((i for i in range(end - 1, start, -1) if _is_possessive(tokens[i - 1])), start)
        if cut == start:
            return first
        end = cut
    if end == start or (all(_qualifies(token) for token in tokens[start:end])):
        return first
    if not opens and not _stands_alone(tokens, first, end):
        return first
    return _extended(tokens, end)


def _core(tokens: _Tokens, start: int, *, is_determined: bool) -> int:
    """Index after the words of a phrase: adjectives, nouns, and participles before a noun."""
    end = start
    while end < min(len(tokens), start + _LONGEST):
        token = tokens[end]
        if token.word in {"and", "or"} and end > start and tokens[end - 1].word in words.COLOURS:
            if end + 2 < len(tokens) and tokens[end + 1].word in words.COLOURS and tokens[end + 2].is_word:
                end += 2  # "the red and white car"
                continue
            break
        is_number = token.word in words.DETERMINERS and token.word not in {"the", "a", "an"} and end == start
        if is_number and is_determined and tokens[start - 1].word in {"the", "these", "those", "all"}:
            end += 1  # "the two boys"
            continue
        if not _continues(tokens, start, end, is_determined=is_determined):
            break
        end += 1
    return end


def _continues(tokens: _Tokens, start: int, end: int, *, is_determined: bool) -> bool:
    """Whether the word at ``end`` is one more of the phrase."""
    token = tokens[end]
    follows = tokens[end + 1].word if end + 1 < len(tokens) else ""
    if token.word == "can":  # "the trash can"
        return end > start and not _is_asked(tokens, start) and follows not in words.VERBS
    if not token.is_word or token.word in words.DETERMINERS or follows == "than":  # "taller than"
        return False
    if token.word in words.COLOURS and end > start and not _qualifies(tokens[end - 1]) and not follows[:1].isalpha():
        return False  # "is the plate white?"
    if token.word in {"left", "right"} and end > start:  # "the person's left hand", and not "the person left the room"
        return _is_possessive(tokens[end - 1])
    return token.word not in words.VERBS or _is_within(tokens, start, end, is_determined=is_determined)


def _is_within(tokens: _Tokens, start: int, end: int, *, is_determined: bool) -> bool:
    """Whether a word that can be a verb is a part of the phrase: "the moving car", "the spinning top", "the swing"."""
    token = tokens[end]
    if end and _is_possessive(tokens[end - 1]):
        return True  # "the car's wheel"
    follows = tokens[end + 1] if end + 1 < len(tokens) else None
    noun_follows = follows is not None and follows.is_word and follows.word not in words.DETERMINERS
    if noun_follows and follows is not None and follows.word in words.VERBS and follows.word.endswith("ing"):
        noun_follows = False
    if end == start or all(_qualifies(one) for one in tokens[start:end]):
        return is_determined and (noun_follows or not words.is_participle(token.word))
    # "the bus stop", but "does the bus stop": a verb in its bare form needs an auxiliary, or several who do it.
    is_noun = not _is_asked(tokens, start) or (follows is not None and follows.word in words.BARE)
    return token.word in words.BARE and is_noun and not words.is_plural(tokens[end - 1].word)


def _is_asked(tokens: _Tokens, start: int) -> bool:
    """Whether an auxiliary before the phrase awaits a verb in its bare form."""
    return tokens.first_auxiliary < start


def _qualifies(token: _Token) -> bool:
    return token.word in words.ADJECTIVES or token.word in words.COLOURS or token.word in words.DETERMINERS


def _is_possessive(token: _Token) -> bool:
    return token.noun != token.word


def _stands_alone(tokens: _Tokens, first: int, end: int) -> bool:
    """Whether words without a determiner are a plural noun, and not the rest of something else."""
    last = tokens[end - 1].word
    before = tokens[first - 1].word if first else ""
    is_fresh = not first or not (tokens[first - 1].text[0].isalnum() and before not in words.FUNCTION)
    is_unit = bool(first) and tokens[first - 1].text[0].isdigit()
    return (
        is_fresh and not is_unit and words.is_plural(last) and last not in words.VERBS and not _is_possessive(tokens[end - 1])
    )


def _extended(tokens: _Tokens, end: int) -> int:
    """Index after what belongs to a phrase: "of the fridge", and what somebody wears or has in the hand."""
    if end + 1 >= len(tokens):
        return end
    link, start = tokens[end].word, end + 1
    opens = tokens[start].word in words.DETERMINERS
    inner = _core(tokens, start + opens, is_determined=opens)
    if inner == start + opens:
        return end
    last = tokens[inner - 1].noun
    if link == "of" and last not in words.PLACES:
        return inner
    if link in {"in", "with", "wearing"} and (
        last in words.WORN or all(token.word in words.COLOURS for token in tokens[start:inner])
    ):
        return inner
    return end


def is_asked_for(before: str) -> bool:
    """Whether what a text says before a phrase makes it what is asked for: "which", "is there", "the number of"."""
    said = before.casefold().split()[-2:]
    return bool(said) and (said[-1] in words.ASKING or said[-1] == "there" or said in _COUNTED)


_COUNTED = (["number", "of"], ["many", "of"])
