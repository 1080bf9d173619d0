"""SAT's real images: arXiv 2412.07755; `array/SAT`. Each question is asked with its options in both orders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from student_train.evaluation.benchmarks.item import Item, ItemError, Record, index_of, option_texts, text
from student_train.evaluation.benchmarks.parsing import Parsed
from student_train.evaluation.benchmarks.protocol import Benchmark


def pictures(record: Record, name: str) -> tuple[bytes, ...]:
    """The image files in a column: bytes, or Hugging Face's ``{"bytes": …}``. Raises `ItemError` if there is none."""
    held = record.get(name)
    found = [one.get("bytes") if isinstance(one, dict) else one for one in held] if isinstance(held, list) else []
    if not found or not all(isinstance(one, bytes) and one for one in found):
        raise ItemError(f"`{name}` holds {str(held)[:40]!r}; needed a list of image files")
    return tuple(one for one in found if isinstance(one, bytes))


def _items(record: Record, index: int) -> Iterator[Item]:
    options = option_texts(record.get("answers"))
    images = pictures(record, "image_bytes")
    for order, shown in (("as given", options), ("reversed", options[::-1])):
        right, fault = index_of(shown, record.get("correct_answer"))
        yield Item(
            id=f"{index} {order}",
            task=text(record, "question_type"),
            question=text(record, "question"),
            options=shown,
            right=right,
            images=images,
            pair=str(index),
            fault=fault,
        )


def _prompt(item: Item, _seconds: float | None) -> str:
    options = _either(item.options)
    return (
        f"Answer in natural language. {item.question} Answer the question using a single word or phrase. "
        f"Choose between the following options: {options}."
    )


def _either(options: Sequence[str]) -> str:
    return " or ".join(f'"{option}"' for option in options)


def _parse(response: str, item: Item) -> Parsed | None:
    """The option whose text the response has, if it has no other's."""
    said = response.casefold()
    held = [index for index, option in enumerate(item.options) if option.casefold() in said]
    return Parsed(held[0], None, "option's text within") if len(held) == 1 else None


SAT = Benchmark(
    name="sat",
    title="SAT (real images)",
    origin="https://huggingface.co/datasets/array/SAT (MIT)",
    files=("SAT_test.parquet",),
    media=(),
    items=_items,
    prompt=_prompt,
    parse=_parse,
    count=150,
    notes=("lmms-eval's `sat` asks for letters in one order: another score",),
)
