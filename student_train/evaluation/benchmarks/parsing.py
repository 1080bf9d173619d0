"""A response goes in; the letter, the option or the number that it gives comes out, and the rule that found it.

Published code reads responses in several ways, each kept here as it is told, since another way is another score.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from schemas.evaluation import OPTION_LETTERS
from student_train.evaluation.benchmarks.item import Item

_NUMBER = re.compile(r"[-−+]?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?")
_THRESHOLDS = np.linspace(0.5, 0.95, 10)
_NEAR = 1e-3
"""Relative distance within which a number in a response is an option's."""


class Parsed(NamedTuple):
    """What a response was read as."""

    choice: int | None
    """Index of the option; None for a number."""
    number: float | None
    rule: str
    """How it was found."""


Parser = Callable[[str, Item], Parsed | None]
"""A response and its item → what it says; None if nothing was found."""


def letter_by(rules: Sequence[tuple[str, str]], response: str, count: int, *, flags: int = 0) -> Parsed | None:
    """The letter, of ``count``, that the first matching rule finds. ``rules``: (name, pattern with ``X`` for it)."""
    for name, pattern in rules:
        if found := re.search(pattern.replace("X", f"([{OPTION_LETTERS[:count]}])"), response, flags):
            return Parsed(OPTION_LETTERS.index(found[1].upper()), None, name)
    return None


def paper_letter(response: str, item: Item) -> Parsed | None:
    """The first option letter that is a word of its own. The article in "A red ball" is not one."""
    return letter_by([("standalone letter", r"(?!\bA (?!is\b)[a-z])\bX\b")], response, len(item.options))


def any_number(response: str) -> Parsed | None:
    """The first number in a response, with its unit or without."""
    number = first_number(response)
    return None if number is None else Parsed(None, number, "first number")


def first_number(response: str) -> float | None:
    """The first number in a response; None if it has none."""
    found = _NUMBER.search(response)
    return None if found is None else float(found[0].replace(",", "").replace("−", "-"))


def lenient(response: str, item: Item) -> Parsed | None:
    """The option that a response gives by its text, letter or value; or the first number in it.

    An option's text that is the whole response comes first, then a letter, then the only option text within the response,
    then the only option whose number is the response's. Some models answer with values whatever the prompt says: letters alone
    counted a model of 47.5% as 20.3%.
    """
    if not item.options:
        return any_number(response)
    plain = _plain(response)
    whole = [index for index, option in enumerate(item.options) if _plain(option) == plain and plain]
    if len(whole) == 1:
        return Parsed(whole[0], None, "option's text")
    if (letter := paper_letter(response, item)) is not None:
        return letter
    inside = [index for index, option in enumerate(item.options) if _stands_in(_plain(option), plain)]
    # In a response with "red ball", the option "ball" does not count if "red ball" is an option too.
    texts = [_plain(item.options[index]) for index in inside]
    longest = [i for i, part in zip(inside, texts, strict=True) if not any(part != t and _stands_in(part, t) for t in texts)]
    if len(longest) == 1:
        return Parsed(longest[0], None, "option's text within")
    near = [] if inside else _near(first_number(response), item.options)
    return Parsed(near[0], None, "option's value") if len(near) == 1 else None


def _near(number: float | None, options: Sequence[str]) -> list[int]:
    if number is None:
        return []
    values = [(index, first_number(option)) for index, option in enumerate(options)]
    return [index for index, value in values if value is not None and abs(value - number) <= _NEAR * abs(value)]


def _stands_in(part: str, text: str) -> bool:
    """Whether ``text`` contains ``part`` as whole words and numbers: 5 m is not in 2.5 m, nor 4 in −4 or 4,000."""
    before = r"(?<![\w.−-])" if part[:1].isdigit() else r"(?<![\w.])"
    return bool(part) and re.search(rf"{before}{re.escape(part)}(?!\w|[.,]\d)", text) is not None


def _plain(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folded.split()).strip(" .,:;!?\"'")


def mean_relative_accuracy(number: float, right: float, *, or_equal: bool = True) -> float:
    """Share of the thresholds θ = 0.5, 0.55, …, 0.95 with |number − right| / |right| ≤ 1 − θ; below it without ``or_equal``.

    VSI-Bench, arXiv 2412.14171, has "<" in its text and "≤" in its code, and takes ten thresholds in floating point. If the
    right number is 0, which its code divides by, only 0 scores.
    """
    if right == 0:
        return float(number == 0)
    error = abs(number - right) / abs(right)
    within = error <= 1 - _THRESHOLDS if or_equal else error < np.round(1 - _THRESHOLDS, 2)
    return float(within.mean())
