"""VSTI-Bench: VLM-3R, arXiv 2505.20279; `Journey9ni/vstibench`. Options or numbers, by the kind of question."""

from __future__ import annotations

from collections.abc import Iterator

from schemas.evaluation import OPTION_LETTERS
from student_train.evaluation.benchmarks.item import (
    Footage,
    Item,
    Record,
    letter_index,
    number_of,
    option_texts,
    path_in,
    text,
)
from student_train.evaluation.benchmarks.parsing import Parsed
from student_train.evaluation.benchmarks.protocol import Benchmark


def _items(record: Record, index: int) -> Iterator[Item]:
    options = option_texts(record["options"]) if record.get("options") else ()
    right, fault = letter_index(options, record.get("mc_answer")) if options else (None, None)
    video = path_in(record, "video_path")
    yield Item(
        id=text(record, "id") if record.get("id") is not None else str(index),
        task=text(record, "question_type"),
        question=text(record, "question"),
        options=tuple(_unlettered(option, letter) for option, letter in zip(options, OPTION_LETTERS, strict=False)),
        right=right,
        number=None if options else number_of(record.get("ground_truth"), "ground_truth"),
        videos=(Footage(video), Footage(f"videos/{video}"), Footage(f"video/{video}")),
        benchmark=str(record.get("dataset") or ""),
        fault=fault,
    )


def _unlettered(option: str, letter: str) -> str:
    """``Up`` of ``A. Up``."""
    return option.removeprefix(f"{letter}.").strip()


def _prompt(item: Item, _seconds: float | None) -> str:
    lines = ["These are frames of a video.", item.question]
    if not item.options:
        return "\n".join([*lines, "Please answer the question using a single word or phrase."])
    options = [f"{letter}. {option}" for letter, option in zip(OPTION_LETTERS, item.options, strict=False)]
    return "\n".join([*lines, "Options:", *options, "Answer with the option's letter from the given choices directly."])


def _parse(response: str, item: Item) -> Parsed | None:
    """What is before the first space: a letter in either case, or a number without a unit ("1.6m" is none).

    A line break is no space there: "B", a line break and a reason are no letter.
    """
    first = response.partition(" ")[0].rstrip(".").strip()
    if item.options:
        index, _ = letter_index(item.options, first)
        return None if index is None else Parsed(index, None, "first token")
    try:
        return Parsed(None, float(first), "first token")
    except ValueError:
        return None


VSTIBENCH = Benchmark(
    name="vstibench",
    title="VSTI-Bench",
    origin="https://huggingface.co/datasets/Journey9ni/vstibench (videos of ScanNet and ScanNet++ are not distributed)",
    files=("test.json", "test.jsonl", "test*.parquet", "data/test*.parquet"),
    media=(),
    items=_items,
    prompt=_prompt,
    parse=_parse,
    is_macro=True,
    notes=(
        "its own code shows 32 frames, which some questions count; the 4D-RGPT release shows 16",
        "the mean is over nine kinds of questions; some published figures are over five, with relative positions as one kind",
    ),
)
