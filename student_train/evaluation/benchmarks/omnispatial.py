"""OmniSpatial: arXiv 2506.03135; `qizekun/OmniSpatial`. One image a question."""

from __future__ import annotations

from collections.abc import Iterator

from student_train.evaluation.benchmarks.item import Item, Record, lettered, option_texts, path_in, text
from student_train.evaluation.benchmarks.parsing import Parsed, letter_by
from student_train.evaluation.benchmarks.protocol import Benchmark


def _items(record: Record, _index: int) -> Iterator[Item]:
    options = option_texts(record.get("options"))
    answer = record.get("answer")
    is_index = isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(options)
    name, kind = text(record, "id"), text(record, "task_type")
    yield Item(
        id=f"{kind} {name}",  # ids are numbered within a kind
        task=text(record, "sub_task_type", "task_type"),
        question=text(record, "question"),
        options=options,
        right=answer if is_index and isinstance(answer, int) else None,
        images=(path_in(record, "image_path") if record.get("image_path") else f"{kind}/{name.partition('_')[0]}.png",),
        groups=(kind,),
        fault=None if is_index else f"the published answer {answer!r} is no index of its {len(options)} options",
    )


# The published prompt `none` with the format `direct`, word for word: github.com/qizekun/OmniSpatial (MIT), vlms_eval.
_ROLE = """
You are a spatial-reasoning assistant.

Task
-----
You will receive \x20
1. **Image** - a single RGB frame depicting a scene. \x20
2. **Question** - a natural-language query about spatial relationships between objects in the image. \x20
3. **Options** - ≥2 answer candidates, each tagged by a capital letter (A, B, C, D…).

Based on the image and question, provide your answer.
Always ground your answer in the visual evidence; do not hallucinate unseen objects.
If uncertain, pick the most plausible option—never refuse or reply “insufficient information.”
"""
_FORM = """
Note: You only need to respond with A, B, C, or D without providing any additional information.
"""


def _prompt(item: Item, _seconds: float | None) -> str:
    asked = "\n".join([item.question, *lettered(item.options, "{letter}. {option}")])
    return f"{_ROLE}\n{_FORM}\n\n{asked}"


def _parse(response: str, item: Item) -> Parsed | None:
    return letter_by([("first character", r"\A\s*X")], response.upper(), len(item.options))


OMNISPATIAL = Benchmark(
    name="omnispatial",
    title="OmniSpatial",
    origin="https://huggingface.co/datasets/qizekun/OmniSpatial (CC BY-NC 4.0)",
    files=("data.json", "OmniSpatial-test/data.json"),
    media=("Dynamic_Reasoning", "Spatial_Interaction", "Complex_Logic", "Perspective_Taking", "OmniSpatial-test"),
    items=_items,
    prompt=_prompt,
    parse=_parse,
    count=1533,
    notes=(
        "the published prompt that asks for a letter alone; published figures are of one that tells the model how to reason",
        "published figures are means of five runs with other seeds; here the answer is greedy, in one run",
    ),
)
