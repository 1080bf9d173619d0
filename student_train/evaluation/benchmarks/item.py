"""What every benchmark's records become: one kind of item, or the reason that a record is none."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from schemas.clip import Segment
from schemas.evaluation import OPTION_LETTERS
from teacher_cache.io.places import is_utf8

Record = Mapping[str, Any]


class ItemError(ValueError):
    """A record that cannot be asked; the message says what was found and needed."""


@dataclass(frozen=True)
class Footage:
    """A video to show, or a part of it."""

    path: str
    """Relative to the benchmark's folder."""
    segment: Segment | None = None


@dataclass(frozen=True)
class Item:
    """One question about a video, about images, or about both. Without options, the answer is a number."""

    id: str
    task: str
    question: str
    options: tuple[str, ...] = ()
    right: int | None = None
    """Index of the right option; None for a number, and where the published answer is none of the options."""
    number: float | None = None
    """The right number; None with options."""
    videos: tuple[Footage, ...] = ()
    """The same footage in several places: the first that is there is shown. Empty for images alone."""
    clip_id: str | None = None
    """The clip in a store that its video is, if the file says so."""
    images: tuple[str | bytes, ...] = ()
    """Paths relative to the benchmark's folder, or the files themselves. They are shown before the video."""
    benchmark: str = ""
    """Where a collection took the item from."""
    groups: tuple[str, ...] = ()
    """Groups, beside the task, that have a score of their own."""
    pair: str | None = None
    """Items of one pair count as one: right if each is."""
    period: tuple[str, str] | None = None
    """Start and end in seconds that the prompt speaks of, as the file writes them."""
    fault: str | None = None
    """Why no response can be right, if so: the published answer is missing, or none of the options."""

    @property
    def video(self) -> str:
        """The first place of its video; empty without one."""
        return self.videos[0].path if self.videos else ""

    @property
    def expected(self) -> str | None:
        """The right letter or number, as text."""
        if self.number is not None:
            return f"{self.number:g}"
        return None if self.right is None else OPTION_LETTERS[self.right]


def text(record: Record, *names: str) -> str:
    """The first of these fields that has text. Raises `ItemError` if none has."""
    for name in names:
        value = record.get(name)
        if isinstance(value, str | int | float) and not isinstance(value, bool) and str(value).strip():
            return _written(str(value), name)
    raise ItemError(f"`{names[0]}` is {record.get(names[0])!r}; needed a text")


def path_in(record: Record, name: str) -> str:
    """A path in a field. Raises `ItemError` if there is none."""
    value = record.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ItemError(f"`{name}` is {value!r}; needed a path")
    if "\0" in value:
        raise ItemError(f"`{name}` is {value!r}; no file's name has a NUL")
    return _written(value, name)


def _written(value: str, name: str) -> str:
    if not is_utf8(value):
        raise ItemError(f"`{name}` has half a character (a lone surrogate): {value[:80]!a}; needed text in UTF-8")
    return value


def option_texts(value: object) -> tuple[str, ...]:
    """Options of any kind as texts; null is an empty one. Raises `ItemError` unless they are a list of 2 to 10."""
    if not isinstance(value, list | tuple):
        raise ItemError(f"`options` is {value!r}; needed a list")
    if not 2 <= len(value) <= len(OPTION_LETTERS):
        raise ItemError(f"has {len(value)} options; needed 2 to {len(OPTION_LETTERS)}")
    return tuple("" if one is None else _written(str(one), "options") for one in value)


def index_of(options: Sequence[str], answer: object) -> tuple[int | None, str | None]:
    """(index of the first option that is the answer's text, why there is none)."""
    if answer is None:
        return None, "the published answer is missing"
    found = [index for index, option in enumerate(options) if option.strip() == str(answer).strip()]
    return (found[0], None) if found else (None, f"the published answer {str(answer)!r} is none of the options")


def letter_index(options: Sequence[str], letter: object) -> tuple[int | None, str | None]:
    """(index of the option with that letter, why there is none)."""
    if isinstance(letter, str) and len(letter.strip()) == 1 and letter.strip().upper() in OPTION_LETTERS[: len(options)]:
        return OPTION_LETTERS.index(letter.strip().upper()), None
    return None, f"the published answer {letter!r} is no letter of its {len(options)} options"


def number_of(value: object, name: str = "answer") -> float:
    """A finite number. Raises `ItemError` for anything else."""
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ItemError(f"has no options, and its `{name}` is {repr(value)[:80]}; needed options, or a number")
    return number


def segment_of(start: object, end: object) -> Segment | None:
    """The segment between two times in seconds, of one frame where they are alike; None where either is missing."""
    if start is None or end is None:
        return None
    first, last = number_of(start, "time_start"), number_of(end, "time_end")
    if first < 0 or last < first:
        raise ItemError(f"goes from {first:g} to {last:g} s; needed 0 ≤ start ≤ end")
    # An empty segment has the frame that is shown at its start.
    return Segment(start_seconds=first, end_seconds=max(last, math.nextafter(first, math.inf)))


def without_places(question: str) -> str:
    """The question without placeholders, which `asking` puts in."""
    return question.replace("<video>", "").replace("<image>", "").strip()


def lettered(options: Sequence[str], form: str) -> list[str]:
    """A line for each option, such as ``(A) left`` for the form ``({letter}) {option}``."""
    return [form.format(letter=letter, option=option) for letter, option in zip(OPTION_LETTERS, options, strict=False)]
