"""Items and a model's responses go in; scored answers and their means come out. Text only: `asking` runs the model."""

from __future__ import annotations

import random
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from schemas.evaluation import DYNAMIC_TASKS, OPTION_LETTERS, STATIC_TASKS, Answer, AnswersReport, Mean, Score, Unevaluated
from student_train.evaluation.benchmarks.item import Item
from student_train.evaluation.benchmarks.parsing import Parsed, lenient, mean_relative_accuracy
from student_train.evaluation.benchmarks.protocol import Benchmark, Read

DRAWN = "drawn"
"""The rule of a random letter."""


def scored(benchmark: Benchmark, item: Item, response: str, *, seed: int = 0) -> Answer:
    """The `Answer` of an item: the response, as it was read by the official and the lenient rule, and both scores."""
    found = official = benchmark.parse(response, item)
    if found is None and benchmark.draws and item.options:
        # From the item's id, so that neither the order of the questions nor a resumed run changes it.
        official = Parsed(random.Random(f"{seed}:{item.id}").randrange(len(item.options)), None, DRAWN)  # noqa: S311  # no secret
    leniently = lenient(response, item) or found
    is_number = not item.options
    return _answer(item).model_copy(
        update={
            "response": response,
            "parsed": None if official is None else _written(official),
            "rule": "" if official is None else official.rule,
            "official": _worth(item, official),
            "below": _worth(item, official, or_equal=False) if is_number else None,
            "lenient": _worth(item, leniently),
            "lenient_rule": "" if leniently is None else leniently.rule,
        }
    )


def _answer(item: Item) -> Answer:
    return Answer(
        id=item.id,
        benchmark=item.benchmark,
        task=item.task,
        groups=item.groups,
        pair=item.pair,
        video=item.video,
        images=len(item.images),
        options=len(item.options),
        expected=item.expected,
        fault=item.fault,
    )


def _written(parsed: Parsed) -> str:
    return f"{parsed.number:g}" if parsed.choice is None else OPTION_LETTERS[parsed.choice]


def _worth(item: Item, parsed: Parsed | None, *, or_equal: bool = True) -> float:
    if parsed is None:
        return 0.0
    if item.number is None:
        return float(item.right is not None and parsed.choice == item.right)
    assert parsed.number is not None
    return mean_relative_accuracy(parsed.number, item.number, or_equal=or_equal)


def not_asked(item: Item, reason: str, detail: str) -> Answer:
    """The `Answer` of an item that could not be asked, with the reason."""
    return _answer(item).model_copy(update={"reason": reason, "detail": detail})


def summary(
    benchmark: Benchmark, found: Read, answers: Sequence[Answer], *, frames: int, seed: int = 0, limit: int | None = None
) -> AnswersReport:
    """Means over all questions that were asked, over tasks, and per group and task. ``limit``: how many were to be."""
    asked = [answer for answer in answers if answer.official is not None]
    tasks = {task: score(of_task) for task, of_task in _in_order(_parts(asked, lambda answer: (answer.task,)))}
    micro = score(asked) if asked else None
    macro = _macro(list(tasks.values())) if tasks else None
    own = macro if benchmark.is_macro else micro
    return AnswersReport(
        benchmark=benchmark.name,
        questions=found.source,
        frames=frames,
        seed=seed,
        asked=len(asked),
        expected=benchmark.count,
        limit=limit,
        new_tokens=benchmark.new_tokens,
        overall=None if own is None else own.official,
        is_macro=benchmark.is_macro,
        micro=micro,
        macro=macro,
        groups={name: score(of_group) for name, of_group in _parts(asked, lambda answer: answer.groups).items()},
        tasks=tasks,
        notes=benchmark.notes,
        published=benchmark.published,
        faults=tuple(
            Unevaluated(id=answer.id, video=answer.video, reason="no_right_answer", detail=answer.fault)
            for answer in asked
            if answer.fault is not None
        ),
        unevaluated=(
            *found.unread,
            *(
                Unevaluated(id=answer.id, video=answer.video, reason=answer.reason, detail=answer.detail or "")
                for answer in answers
                if answer.reason is not None
            ),
        ),
    )


def _parts(answers: Iterable[Answer], names: Callable[[Answer], Iterable[str]]) -> dict[str, list[Answer]]:
    found: defaultdict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        for name in names(answer):
            found[name].append(answer)
    return found


def _in_order(tasks: Mapping[str, list[Answer]]) -> list[tuple[str, list[Answer]]]:
    """R4D-Bench's tasks in its order, then the others in order of appearance."""
    order = [*(task for task in (*STATIC_TASKS, *DYNAMIC_TASKS) if task in tasks), *tasks]
    return [(task, tasks[task]) for task in dict.fromkeys(order)]


def score(answers: Sequence[Answer]) -> Score:
    """The `Score` of at least one answer. Answers of a pair are one, right if all are."""
    pairs = _parts(answers, lambda answer: () if answer.pair is None else (answer.pair,))
    units = [*pairs.values(), *([answer] for answer in answers if answer.pair is None)]
    official = [min(answer.official or 0.0 for answer in unit) for unit in units]
    below = [answer.below for answer in answers if answer.below is not None]
    drawn = sum(answer.rule == DRAWN for answer in answers)
    chances = [_chance(unit) for unit in units if all(answer.options for answer in unit)]
    return Score(
        questions=len(units),
        official=statistics.fmean(official),
        standard_error=statistics.stdev(official) / len(units) ** 0.5 if len(units) > 1 else None,
        lenient=statistics.fmean(min(answer.lenient or 0.0 for answer in unit) for unit in units),
        below=statistics.fmean(below) if len(below) == len(answers) else None,
        chance=statistics.fmean(chances) if len(chances) == len(units) else None,
        unparsed=drawn + sum(answer.parsed is None for answer in answers),
        drawn=drawn,
    )


def _chance(unit: Sequence[Answer]) -> float:
    chance = 1.0
    for answer in unit:
        chance /= answer.options
    return chance


def _macro(tasks: Sequence[Score]) -> Mean:
    return Mean(
        tasks=len(tasks),
        official=statistics.fmean(task.official for task in tasks),
        lenient=statistics.fmean(task.lenient for task in tasks),
    )
