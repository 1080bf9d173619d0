"""STI-Bench: arXiv 2503.23765; `MINT-SJTU/STI-Bench`. The whole video is shown; the prompt tells the period it asks about."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

from schemas.evaluation import OPTION_LETTERS
from student_train.evaluation.benchmarks.item import (
    Footage,
    Item,
    ItemError,
    Record,
    letter_index,
    lettered,
    option_texts,
    path_in,
    text,
)
from student_train.evaluation.benchmarks.parsing import Parsed, letter_by
from student_train.evaluation.benchmarks.protocol import Benchmark

# As the benchmark's own code finds letters: in either case, and not always as words of their own ("Answer: Blue" is B).
_RULES = (
    ("(X)", r"\(X\)"),
    ("Ans=X", r"Ans\s*=\s*['\"]?X"),
    ("Answer: X", r"Answer\s*[:=]\s*X"),
    ("Option X", r"Option\s+X"),
    ("X is correct", r"\bX\s*(?:is|was)\s*correct"),
    ("X. or X) at a line's end", r"\bX[.)]\s*$"),
    ("last character", r"(?-i:X)\s*\Z"),
)


def _items(record: Record, index: int) -> Iterator[Item]:
    options = option_texts(_candidates(record.get("Candidates")))
    right, fault = letter_index(options, record.get("Answer"))
    video = path_in(record, "Video")
    yield Item(
        id=text(record, "ID") if record.get("ID") is not None else str(index),
        task=text(record, "Task"),
        question=text(record, "Question"),
        options=options,
        right=right,
        videos=(Footage(f"video/{video}"), Footage(video)),
        benchmark=str(record.get("Source") or ""),
        groups=tuple(f"scene: {record[name]}" for name in ("Scene",) if record.get(name)),
        period=(text(record, "time_start"), text(record, "time_end")),
        fault=fault,
    )


def _candidates(value: object) -> list[object]:
    """The options, in the order of their letters. They are an object, or its JSON; Parquet gives absent letters as null."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise ItemError(f"`Candidates` is {str(value)[:80]!r}; needed an object of letters, or its JSON") from None
    if not isinstance(value, Mapping):
        raise ItemError(f"`Candidates` is {value!r}; needed an object of letters")
    held: dict[str, object] = {str(letter): option for letter, option in value.items() if option is not None}
    if sorted(held) != list(OPTION_LETTERS[: len(held)]):
        raise ItemError(f"`Candidates` has the letters {', '.join(held)}; needed A, B, C and so on")
    return [held[letter] for letter in sorted(held)]


def _prompt(item: Item, _seconds: float | None) -> str:
    start, end = item.period or ("", "")
    options = lettered(item.options, "({letter}) {option}")
    return "\n".join([f"From {start} s to {end} s. {item.question}", *options, "Please output only the option letter!"])


def _parse(response: str, item: Item) -> Parsed | None:
    return letter_by(_RULES, response, len(item.options), flags=re.IGNORECASE | re.MULTILINE)


STIBENCH = Benchmark(
    name="stibench",
    title="STI-Bench",
    origin="https://huggingface.co/datasets/MINT-SJTU/STI-Bench (unzip video.zip to video/)",
    files=("qa.parquet",),
    media=("video",),
    items=_items,
    prompt=_prompt,
    parse=_parse,
    count=2064,
    notes=("its own code shows 30 frames; the 4D-RGPT release 16",),
)
