"""MMSI-Bench: arXiv 2505.23764; `RunsenXu/MMSI-Bench`. Several images; the options are in the question."""

from __future__ import annotations

import re
from collections.abc import Iterator

from schemas.evaluation import OPTION_LETTERS
from student_train.evaluation.benchmarks.item import Item, Record, letter_index, text
from student_train.evaluation.benchmarks.parsing import Parsed, letter_by
from student_train.evaluation.benchmarks.protocol import Benchmark
from student_train.evaluation.benchmarks.sat import pictures

_ENCLOSED = (r"``([^`]*)``", r"`([^`]*)`", r"\{([^}]*)\}")
_OPTION = re.compile(r"(?:^|[\s,;])([A-F])\s*[:.)]\s*(.*?)(?=(?:[\s,;]+[A-F]\s*[:.)])|\Z)", re.DOTALL)
_USUAL = 4


def _items(record: Record, index: int) -> Iterator[Item]:
    question = text(record, "question").strip()
    options = _options(question)
    right, fault = letter_index(options, record.get("answer"))
    yield Item(
        id=text(record, "id") if record.get("id") is not None else str(index),
        task=text(record, "question_type"),
        question=question,
        options=options,
        right=right,
        images=pictures(record, "images"),
        fault=fault,
    )


def _options(question: str) -> tuple[str, ...]:
    """The options' texts after the word "Options"; four without a text where they are written in another way."""
    found = _OPTION.findall(question.rpartition("Options")[2])
    letters = "".join(letter for letter, _ in found)
    if len(found) > 1 and letters == OPTION_LETTERS[: len(found)]:
        return tuple(option.strip(" ,;\n") for _, option in found)
    return ("",) * _USUAL


def _prompt(item: Item, _seconds: float | None) -> str:
    last = "Answer with the option's letter from the given choices directly. Enclose the option's letter within ``."
    return f"{item.question}\n{last}"


def _parse(response: str, _item: Item) -> Parsed | None:
    """What two backticks, one, or braces enclose, each within the one before; then a letter of its own, A to F in either case.

    As in the published code, a letter before a further word is none, such as the article in "A chair", but also "B is right".
    """
    rule = "standalone letter"
    for pattern in _ENCLOSED:
        if found := re.search(pattern, response):
            response, rule = found[1], "enclosed letter"
    return letter_by([(rule, r"\bX\b(?!\s[a-zA-Z])")], response, len("ABCDEF"), flags=re.IGNORECASE)


MMSI = Benchmark(
    name="mmsi",
    title="MMSI-Bench",
    origin="https://huggingface.co/datasets/RunsenXu/MMSI-Bench",
    files=("MMSI_Bench.parquet", "*.parquet", "data/*.parquet"),
    media=(),
    items=_items,
    prompt=_prompt,
    parse=_parse,
    new_tokens=2048,
    count=1000,
)
