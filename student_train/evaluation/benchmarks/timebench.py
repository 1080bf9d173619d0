"""Questions about time, as TimeBench has them: 4D-RGPT, arXiv 2512.17012, which released none. No prompt tells the length."""

from __future__ import annotations

from schemas.evaluation import PublishedRow, multiple_choice
from student_train.evaluation.benchmarks.item import Item
from student_train.evaluation.benchmarks.protocol import Benchmark
from student_train.evaluation.benchmarks.r4d import QUESTIONS

_DIFFERS = "TimeBench is not released: other videos, and options that the paper does not tell in full"


def _prompt(item: Item, _seconds: float | None) -> str:
    return multiple_choice(item.question, item.options)


TIMEBENCH = Benchmark(
    name="timebench",
    title="questions about time, as TimeBench's",
    origin="videos of yours: `student-train data time-questions VIDEOS --out DIR/timebench.json`",
    files=("timebench.json",),
    media=(),
    items=QUESTIONS.items,
    prompt=_prompt,
    parse=QUESTIONS.parse,
    notes=("made from videos of yours by the paper's recipe: a score is comparable with others on the same file alone",),
    published=tuple(
        PublishedRow(who=who, by="paper", overall=overall, differs=_DIFFERS)
        for who, overall in (("chance", 20.0), ("zero-shot", 22.7), ("P4D", 30.1))
    ),
)
