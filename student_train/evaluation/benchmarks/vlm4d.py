"""VLM4D's real videos: arXiv 2508.02095; `shijiezhou/VLM4D`, `data/real_mc.json`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from schemas.evaluation import OPTION_LETTERS
from student_train.evaluation.benchmarks.item import (
    Footage,
    Item,
    ItemError,
    Record,
    index_of,
    lettered,
    option_texts,
    path_in,
    text,
)
from student_train.evaluation.benchmarks.parsing import Parsed, letter_by
from student_train.evaluation.benchmarks.protocol import Benchmark

_LAST_EXO = 922
_RULES = (
    ("leading letter", r"\A\W*X\b"),
    ("answer … X", r"(?i:answer)\b[^\n]*?\bX\b"),
    ("standalone letter", r"\bX\b"),
)


def _items(record: Record, index: int) -> Iterator[Item]:
    choices = record.get("choices")
    if not isinstance(choices, Mapping) or sorted(choices) != list(OPTION_LETTERS[: len(choices)]):
        raise ItemError(f"`choices` is {choices!r}; needed an object of the letters A, B, C and so on")
    options = tuple(option.strip() for option in option_texts([choices[letter] for letter in sorted(choices)]))
    right, fault = index_of(options, record.get("answer"))
    name = text(record, "id") if record.get("id") is not None else str(index)
    number = re.search(r"(\d{1,9})$", name)
    yield Item(
        id=name,
        task=text(record, "question_type"),
        question=text(record, "question"),
        options=options,
        right=right,
        videos=(Footage(_path(path_in(record, "video"))),),
        groups=() if number is None else ("exocentric" if int(number[1]) <= _LAST_EXO else "egocentric",),
        fault=fault,
    )


def _path(video: str) -> str:
    """The path in a download of the dataset, which the file gives as a URL on the hub."""
    return video.partition("/resolve/main/")[2] or video


def _prompt(item: Item, _seconds: float | None) -> str:
    last = "Answer with the option's letter from the given choices directly."
    return "\n".join([item.question, *lettered(item.options, "{letter}: {option}"), last])


def _parse(response: str, item: Item) -> Parsed | None:
    return letter_by(_RULES, response, len(item.options))


VLM4D = Benchmark(
    name="vlm4d",
    title="VLM4D (real videos)",
    origin="https://huggingface.co/datasets/shijiezhou/VLM4D",
    files=("data/real_mc.json", "QA/real_mc.json", "real_mc.json"),
    media=("videos_real",),
    items=_items,
    prompt=_prompt,
    parse=_parse,
    count=1371,
    notes=(
        "the sentence that asks for a letter is in this project's words",
        "its own code lets the model reason, shows 10 frames and has a language model judge the answer: not comparable",
    ),
)
