"""Every benchmark by its name, and the rows of the papers that do not show objects by marks."""

from __future__ import annotations

from dataclasses import replace

from schemas.errors import BadInput
from schemas.evaluation import PublishedRow
from student_train.evaluation.benchmarks.mmsi import MMSI
from student_train.evaluation.benchmarks.omnispatial import OMNISPATIAL
from student_train.evaluation.benchmarks.protocol import Benchmark
from student_train.evaluation.benchmarks.r4d import QUESTIONS, R4D
from student_train.evaluation.benchmarks.sat import SAT
from student_train.evaluation.benchmarks.stibench import STIBENCH
from student_train.evaluation.benchmarks.timebench import TIMEBENCH
from student_train.evaluation.benchmarks.vlm4d import VLM4D
from student_train.evaluation.benchmarks.vstibench import VSTIBENCH

_OTHERS = (STIBENCH, VLM4D, MMSI, OMNISPATIAL, SAT, VSTIBENCH)
# 4D-RGPT, arXiv 2512.17012, its table of benchmarks without regions, in the order above.
_PAPER = {
    "GPT-4o": (34.8, 60.0, 30.3, 47.8, 57.5, 38.2),
    "NVILA-Lite-8B": (33.8, 46.5, 31.3, 37.2, 62.0, 45.2),
    "4D-RGPT-8B": (37.6, 52.7, 33.3, 40.4, 64.7, 59.1),
    "NVILA-15B": (34.2, 45.1, 29.5, 41.0, 62.7, 42.4),
    "4D-RGPT-15B": (38.1, 53.7, 31.7, 42.7, 65.3, 58.6),
}
_DIFFERS = "measured by the authors; their prompts and readings of answers are not told in full"
_TAUGHT = (SAT.name, VSTIBENCH.name)
_STUDENTS = ("4D-RGPT-8B", "4D-RGPT-15B")


def _with_rows(benchmark: Benchmark, column: int) -> Benchmark:
    trained = "; trained on the benchmark's own training set" if benchmark.name in _TAUGHT else ""
    rows = tuple(
        PublishedRow(who=who, by="paper", overall=row[column], differs=_DIFFERS + trained * (who in _STUDENTS))
        for who, row in _PAPER.items()
    )
    return replace(benchmark, published=rows)


BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (R4D, *(_with_rows(one, column) for column, one in enumerate(_OTHERS)), TIMEBENCH, QUESTIONS)
}


def benchmark_of(name: str) -> Benchmark:
    """The benchmark of that name. Raises `BadInput` that lists those there are."""
    if name not in BENCHMARKS:
        raise BadInput(f"there is no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]
