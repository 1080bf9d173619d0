"""Questions and a student's responses go in; prompts and scores come out. Text only: `asking` runs the student.

R4D-Bench and its prompt and scoring: 4D-RGPT, arXiv 2512.17012, section 4 and appendix.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.errors import BadInput
from schemas.evaluation import (
    DYNAMIC_TASKS,
    OPTION_LETTERS,
    STATIC_TASKS,
    Accuracy,
    Answer,
    AnswersReport,
    NumericAccuracy,
    Unevaluated,
    multiple_choice,
)
from teacher_cache.clips.lists import json_objects

# The dataset card spells some tasks differently from its files.
_OTHER_SPELLINGS = {
    "Dimension Measurement": "Dimensional Measurement",
    "Spatial Relationship": "Spatial Relation",
    "False Positive": "False Positives",
}
_THRESHOLDS = tuple(percent / 100 for percent in range(50, 100, 5))
_NUMBER = re.compile(r"[-+]?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?")


@dataclass(frozen=True)
class Question:
    """One question about a video, in R4D-Bench's terms. Without options, the answer is a number."""

    id: str
    benchmark: str
    task: str
    video: str
    """Relative to the folder of videos."""
    image: str | None
    """Path of the first frame with objects marked, if the question refers to marks."""
    text: str
    options: tuple[str, ...]
    right: int | None
    """Index of the right option; None for a number."""
    number: float | None
    """The right number; None with options."""


def read_questions(path: Path) -> list[Question]:
    """The questions of a JSON file (an array, or one a line), in order.

    Raises `BadInput` that names the file, the index of the item and what is wrong with it.
    """
    questions = [_question(item, f"{path}[{index}]") for index, item in enumerate(_items(path))]
    if not questions:
        raise BadInput(f"{path} holds no question; needed at least one")
    return questions


def _items(path: Path) -> Iterator[dict[str, Any]]:
    try:
        yield from json_objects(path, f"cannot read the questions of {path}")
    except FileNotFoundError:
        raise BadInput(f"there is no file of questions {path}") from None
    except OSError as error:
        raise BadInput(f"cannot read the questions of {path}: {error}") from None


def _question(item: dict[str, Any], source: str) -> Question:
    if isinstance(item.get("id"), str | int):
        source = f"{source} (id {item['id']})"
    identity, task, video, text = (_text(item, name, source) for name in ("id", "task", "video", "question"))
    image = _text(item, "som_image", source) if item.get("som_image") else None
    options = _options(item, source)
    right, number = (_right(item, options, source), None) if options else (None, _number(item, source))
    benchmark = _text(item, "benchmark", source) if item.get("benchmark") else ""
    return Question(identity, benchmark, task_name(task), video, image, _unplaced(text), options, right, number)


def _text(item: dict[str, Any], name: str, source: str) -> str:
    value = item.get(name)
    if not isinstance(value, str | int) or isinstance(value, bool) or not str(value).strip():
        raise BadInput(f"{source}: `{name}` is {value!r}; needed a text")
    return str(value)


def _unplaced(text: str) -> str:
    """The question without placeholders, which `asking` puts in."""
    return text.replace("<video>", "").replace("<image>", "").strip()


def _options(item: dict[str, Any], source: str) -> tuple[str, ...]:
    options = item.get("options") or ()
    if not isinstance(options, list | tuple) or not all(isinstance(option, str) for option in options):
        raise BadInput(f"{source}: `options` is {options!r}; needed a list of texts, or none for a number")
    if options and not 2 <= len(options) <= len(OPTION_LETTERS):
        raise BadInput(
            f"{source}: has {len(options)} options; "
            f"needed 2 to {len(OPTION_LETTERS)}, for the letters A to {OPTION_LETTERS[-1]}"
        )
    return tuple(options)


def _right(item: dict[str, Any], options: tuple[str, ...], source: str) -> int:
    indices = [index for index, option in enumerate(options) if _plain(option) == _plain(str(item.get("answer")))]
    if len(indices) != 1:
        among = "is none" if not indices else "is more than one"
        raise BadInput(
            f"{source}: `answer` {item.get('answer')!r} {among} of its options ({', '.join(map(repr, options))}); "
            "needed the text of one option"
        )
    return indices[0]


def _number(item: dict[str, Any], source: str) -> float:
    answer = item.get("answer")
    try:
        number = float(answer) if isinstance(answer, str | int | float) and not isinstance(answer, bool) else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise BadInput(f"{source}: has no `options`, and its `answer` is {answer!r}; needed options, or a number")
    return number


def task_name(spelling: str) -> str:
    """R4D-Bench's name of a task, from any of its spellings; another benchmark's task unchanged."""

    def key(name: str) -> str:
        return "".join(c for c in name.replace("&", "and").casefold() if c.isalnum())

    names = {key(name): name for name in (*STATIC_TASKS, *DYNAMIC_TASKS)}
    names |= {key(other): name for other, name in _OTHER_SPELLINGS.items()}
    return names.get(key(spelling), spelling)


def wording(question: Question, seconds: float | None) -> str:
    """The prompt after the video: its length in ``seconds`` unless None, the question, and the options, if it has any."""
    lines = [] if seconds is None else [f"This video is {seconds:.1f} seconds long."]
    if question.options:
        return "\n".join([*lines, multiple_choice(question.text, question.options)])
    return "\n".join([*lines, question.text, "Answer with one number, without its unit."])


def chosen_letter(response: str, count: int) -> int | None:
    """Index of the first option letter in a response that is a word of its own, of ``count`` letters from A; None if none.

    This is the paper's scoring. The article in "A red ball" is not a letter.
    """
    found = re.search(rf"(?!\bA (?!is\b)[a-z])\b([{OPTION_LETTERS[:count]}])\b", response)
    return None if found is None else OPTION_LETTERS.index(found[1])


def chosen_option(response: str, options: Sequence[str]) -> int | None:
    """Index of the option that a response gives by its text or its letter; None if there is no single one.

    An option's text that is the whole response comes first, then a letter, then the only option text within the response.
    Some models answer with values whatever the prompt says: letters alone counted a model of 47.5% as 20.3%.
    """
    plain = _plain(response)
    whole = [index for index, option in enumerate(options) if _plain(option) == plain]
    if len(whole) == 1:
        return whole[0]
    letter = chosen_letter(response, len(options))
    if letter is not None:
        return letter
    inside = [index for index, option in enumerate(options) if _stands_in(_plain(option), plain)]
    # In a response with "red ball", the option "ball" does not count if "red ball" is an option too.
    longest = [p for p in inside if not any(p != q and _stands_in(_plain(options[p]), _plain(options[q])) for q in inside)]
    return longest[0] if len(longest) == 1 else None


def _stands_in(part: str, text: str) -> bool:
    """Whether ``text`` contains ``part`` as whole words and numbers: 5 m is not in 2.5 m."""
    return bool(part) and re.search(rf"(?<![\w.]){re.escape(part)}(?!\w|\.\d)", text) is not None


def _plain(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folded.split()).strip(" .,:;!?\"'")


def number_in(response: str) -> float | None:
    """The first number in a response; None if it has none."""
    found = _NUMBER.search(response)
    return None if found is None else float(found[0].replace(",", ""))


def mean_relative_accuracy(number: float, right: float) -> float:
    """Share of the thresholds θ = 0.5, 0.55, …, 0.95 with |number − right| / |right| < 1 − θ.

    VSI-Bench, arXiv 2412.14171. If the right number is 0, only 0 scores.
    """
    if right == 0:
        return float(number == 0)
    error = abs(number - right) / abs(right)
    return sum(error < round(1 - threshold, 2) for threshold in _THRESHOLDS) / len(_THRESHOLDS)


def scored(question: Question, response: str) -> Answer:
    """The `Answer` of a question: the response and its score."""
    answer = Answer(id=question.id, benchmark=question.benchmark, task=question.task, video=question.video, response=response)
    if question.number is not None:
        number = number_in(response)
        accuracy = 0.0 if number is None else mean_relative_accuracy(number, question.number)
        return answer.model_copy(update={"accuracy": accuracy})
    return answer.model_copy(
        update={
            "options": len(question.options),
            "strict": chosen_letter(response, len(question.options)) == question.right,
            "lenient": chosen_option(response, question.options) == question.right,
        }
    )


def not_asked(question: Question, reason: str, detail: str) -> Answer:
    """The `Answer` of a question that could not be asked, with the reason."""
    return Answer(
        id=question.id,
        benchmark=question.benchmark,
        task=question.task,
        video=question.video,
        options=len(question.options),
        reason=reason,
        detail=detail,
    )


def summary(path: str, answers: Sequence[Answer]) -> AnswersReport:
    """Accuracies over all asked questions, over static and dynamic tasks, and per task. ``path``: the questions' file."""
    chosen = [answer for answer in answers if answer.strict is not None]
    numbers = [answer for answer in answers if answer.accuracy is not None]
    static = [answer for answer in chosen if answer.task in STATIC_TASKS]
    dynamic = [answer for answer in chosen if answer.task in DYNAMIC_TASKS]
    return AnswersReport(
        questions=path,
        asked=len(chosen) + len(numbers),
        average=_accuracy(chosen) if chosen else None,
        static=_accuracy(static) if static else None,
        dynamic=_accuracy(dynamic) if dynamic else None,
        tasks={task: _accuracy(of_task) for task, of_task in _by_task(chosen)},
        numeric=_numeric(numbers) if numbers else None,
        numeric_tasks={task: _numeric(of_task) for task, of_task in _by_task(numbers)},
        unevaluated=tuple(
            Unevaluated(id=answer.id, video=answer.video, reason=answer.reason, detail=answer.detail or "")
            for answer in answers
            if answer.reason is not None
        ),
    )


def _by_task(answers: Sequence[Answer]) -> list[tuple[str, list[Answer]]]:
    """(task, its answers): R4D-Bench's tasks in its order, then the others in order of appearance."""
    found: defaultdict[str, list[Answer]] = defaultdict(list)
    for task in (*STATIC_TASKS, *DYNAMIC_TASKS):
        found[task] = []
    for answer in answers:
        found[answer.task].append(answer)
    return [(task, of_task) for task, of_task in found.items() if of_task]


def _accuracy(answers: Sequence[Answer]) -> Accuracy:
    count = len(answers)
    return Accuracy(
        questions=count,
        strict=sum(bool(answer.strict) for answer in answers) / count,
        lenient=sum(bool(answer.lenient) for answer in answers) / count,
        chance=sum(1 / answer.options for answer in answers) / count,
    )


def _numeric(answers: Sequence[Answer]) -> NumericAccuracy:
    return NumericAccuracy(
        questions=len(answers),
        accuracy=sum(answer.accuracy or 0.0 for answer in answers) / len(answers),
        without_number=sum(number_in(answer.response or "") is None for answer in answers),
    )
