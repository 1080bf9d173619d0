"""R4D-Bench: 4D-RGPT, arXiv 2512.17012, section 4; `nvidia/R4D-Bench`. Other files of questions may have its fields too."""

from __future__ import annotations

import re
from collections.abc import Iterator

from schemas.evaluation import DYNAMIC_TASKS, STATIC_TASKS, PublishedRow, multiple_choice
from student_train.evaluation.benchmarks.item import (
    Footage,
    Item,
    Record,
    index_of,
    lettered,
    number_of,
    option_texts,
    path_in,
    segment_of,
    text,
    without_places,
)
from student_train.evaluation.benchmarks.parsing import Parsed, any_number, letter_by, paper_letter
from student_train.evaluation.benchmarks.protocol import Benchmark

# The dataset card spells some tasks differently from its files.
_OTHER_SPELLINGS = {
    "Dimension Measurement": "Dimensional Measurement",
    "Spatial Relationship": "Spatial Relation",
    "False Positive": "False Positives",
}
_TASKS = (*STATIC_TASKS, *DYNAMIC_TASKS)
_PREFIX = re.compile(r"^\s*(?:the answer is|answer)\s*:?\s*", re.IGNORECASE)
_MARKS = (
    "The first image shows a key frame, in which the objects of the question have boxes labelled <obj_1>, <obj_2> and so on."
)


def task_name(spelling: str) -> str:
    """R4D-Bench's name of a task, from any of its spellings; another benchmark's task unchanged."""

    def key(name: str) -> str:
        return "".join(c for c in name.replace("&", "and").casefold() if c.isalnum())

    names = {key(name): name for name in _TASKS} | {key(other): name for other, name in _OTHER_SPELLINGS.items()}
    return names.get(key(spelling), spelling)


def _items(record: Record, _index: int) -> Iterator[Item]:
    options = option_texts(record["options"]) if record.get("options") else ()
    right, fault = index_of(options, record.get("answer")) if options else (None, None)
    task, came_from = task_name(text(record, "task")), record.get("benchmark")
    groups = ("static",) if task in STATIC_TASKS else ("dynamic",) if task in DYNAMIC_TASKS else ()
    yield Item(
        id=text(record, "id"),
        task=task,
        question=without_places(text(record, "question", "question_new", "question_raw", "question_old")),
        options=options,
        right=right,
        number=None if options else number_of(record.get("answer")),
        videos=tuple(_footage(record)),
        clip_id=None if record.get("clip_id") is None else text(record, "clip_id"),
        images=(path_in(record, "som_image"),) if record.get("som_image") else (),
        benchmark=text(record, "benchmark") if isinstance(came_from, str) and came_from.strip() else "",
        groups=groups,
        fault=fault,
    )


def _footage(record: Record) -> Iterator[Footage]:
    """The video and, if it is a clip that was not cut, the same seconds of its source."""
    video, source = path_in(record, "video"), record.get("source")
    yield Footage(video)
    if isinstance(source, str) and source.strip() and source != video:
        yield Footage(path_in(record, "source"), segment_of(record.get("time_start"), record.get("time_end")))


def _prompt(item: Item, _seconds: float | None) -> str:
    if not item.options:
        return _own_prompt(item, None)
    options = "\n".join(["Options:", *lettered(item.options, "({letter}) {option}")])
    said = [_MARKS] if item.images else []
    return "\n\n".join([*said, item.question, options, "Answer with only the letter of the correct option."])


def _parse(response: str, item: Item) -> Parsed | None:
    if not item.options:
        return any_number(response)
    said = _PREFIX.sub("", response)
    return letter_by([("(X)", r"\(X\)"), ("standalone letter", r"\bX\b")], said, len(item.options))


def _own_prompt(item: Item, seconds: float | None) -> str:
    """The paper's form: the video's length in ``seconds`` unless None, the question, and the options, if it has any."""
    lines = [] if seconds is None else [f"This video is {seconds:.1f} seconds long."]
    if item.options:
        return "\n".join([*lines, multiple_choice(item.question, item.options)])
    return "\n".join([*lines, item.question, "Answer with one number, without its unit."])


def _own_parse(response: str, item: Item) -> Parsed | None:
    return paper_letter(response, item) if item.options else any_number(response)


_NAMES = dict(zip(("VG", "DM", "SR", "R", "C", "T", "FP", "SA", "DP"), _TASKS, strict=True))


def _row(who: str, by: str, differs: str, *shares: float) -> PublishedRow:
    overall, static, dynamic, *tasks = shares
    named = dict(zip(_NAMES.values(), tasks, strict=True)) if tasks else {}
    return PublishedRow(who=who, by=by, overall=overall, parts={"static": static, "dynamic": dynamic} | named, differs=differs)


_PAPER = "another set of questions (1,517), the paper's own prompt with the video's length, and random letters without a seed"
_RELEASE = "the same files and prompt but for the sentence on marks, and random letters without a seed"

R4D = Benchmark(
    name="r4d",
    title="R4D-Bench",
    origin="https://huggingface.co/datasets/nvidia/R4D-Bench (gated, NVIDIA non-commercial)",
    files=("test.json",),
    media=("videos", "clipped"),
    items=_items,
    prompt=_prompt,
    parse=_parse,
    count=1419,
    draws=True,
    clamps=True,
    notes=("the sentence that explains the marks is in this project's words; the published one was not available",),
    published=(
        _row("chance", "paper", _PAPER, 23.4, 20.0, 24.7),
        _row("GPT-4o", "paper", _PAPER, 42.8, 30.3, 47.5),
        _row("Qwen2.5-VL-7B", "paper", _PAPER, 40.6, 34.1, 43.1),
        _row("NVILA-Lite-8B", "paper", _PAPER, 37.9, 29.1, 41.3, 33.9, 20.2, 46.3, 41.5, 39.6, 41.9, 40.7, 45.9, 32.1),
        _row("4D-RGPT-8B", "paper", _PAPER, 42.2, 32.9, 45.7, 35.1, 26.3, 52.2, 43.1, 40.1, 48.7, 40.2, 50.9, 38.9),
        _row("NVILA-15B", "paper", _PAPER, 39.7, 31.7, 42.7),
        _row("4D-RGPT-15B", "paper", _PAPER, 43.0, 35.8, 45.7),
        _row("NVILA-Lite-8B", "release", _RELEASE, 39.0, 33.0, 40.8, 35.9, 30.1, 39.0, 43.4, 35.7, 45.2, 24.4, 56.8, 12.5),
        _row("4D-RGPT-8B", "release", _RELEASE, 46.2, 41.0, 47.8, 44.7, 37.7, 46.3, 50.9, 46.5, 46.6, 49.6, 59.5, 45.8),
    ),
)
QUESTIONS = Benchmark(
    name="questions",
    title="file of questions in R4D-Bench's fields",
    origin="any source, such as `teacher-cache scenes`",
    files=("questions.json", "questions.jsonl"),
    media=(),
    items=_items,
    prompt=_own_prompt,
    parse=_own_parse,
    new_tokens=32,
)
"""Our own questions, and any others that have R4D-Bench's fields: asked in the paper's form, read without random letters."""
