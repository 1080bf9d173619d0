"""What an evaluation of a trained student reports: its maps beside the teacher's, and its answers to questions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from schemas.base import Frozen
from schemas.train import Mode

STATIC_TASKS = ("3D Video Grounding", "Dimensional Measurement", "Spatial Relation")
DYNAMIC_TASKS = (
    "Rotational",
    "Counting",
    "Translational",
    "False Positives",
    "Speed & Acceleration",
    "Displacement & Path Length",
)
"""R4D-Bench's kinds of questions, as its files spell them. 4D-RGPT, arXiv 2512.17012, section 4."""
SceneTask = Literal[
    "Translational",
    "Rotational",
    "Counting",
    "Speed & Acceleration",
    "Displacement & Path Length",
    "Spatial Relation",
    "Dimensional Measurement",
    "Ego Motion",
    "Scene Depth",
    "Duration",
]
SCENE_TASKS: tuple[SceneTask, ...] = get_args(SceneTask)
"""Kinds of questions about rendered scenes: R4D-Bench's, and last three that it does not have."""
OPTION_LETTERS = "ABCDE"


def multiple_choice(question: str, options: Sequence[str]) -> str:
    """A question with its options, in the paper's words: 2 to 5 of them, lettered from A."""
    lettered = (f"({letter}) {option}" for letter, option in zip(OPTION_LETTERS, options, strict=False))
    return "\n".join([question, "Options:", *lettered, "Answer with the option's letter from the given choices directly."])


class Unevaluated(Frozen):
    """A clip or a question that has no score."""

    id: str
    video: str
    reason: str
    """A code of `schemas.clip.FailureReason`, ``pending``, ``student_nonfinite``, or an error's name."""
    detail: str


class ClipScores(Frozen):
    """One line of ``clips.jsonl``: a clip's scores by metric, null where the metric says nothing of this clip."""

    clip_id: str
    video: str
    scores: dict[str, float | None]
    baselines: dict[str, float | None]
    """What the metric's constant scores on this clip."""


class MapSummary(Frozen):
    """One metric over all clips that have a score by it."""

    mean: float | None
    median: float | None
    baseline: float | None
    """Mean of what the metric's constant scores, over the same clips."""
    clips: int
    """How many have a score."""


class MapsReport(Frozen):
    """The student's F4D and maps against the teacher's in a store."""

    store: str
    fingerprint: str
    """Of the recipe that the store was written under."""
    clips: int
    """Clips that were scored."""
    metrics: dict[str, MapSummary]
    unevaluated: tuple[Unevaluated, ...]
    """Clips that were asked for and have no scores."""
    note: str | None = None
    """What could not be evaluated at all, and why."""


class Answer(Frozen):
    """One line of ``answers.jsonl``."""

    id: str
    benchmark: str
    task: str
    """The paper's name of the task, where it is one of R4D-Bench's."""
    video: str
    response: str | None = None
    """What the student wrote; null for a question that could not be asked."""
    options: int = 0
    """How many it chose among; 0 for a question whose answer is a number."""
    strict: bool | None = None
    """Whether the letter that it wrote is the right one; null for a number."""
    lenient: bool | None = None
    """The same, where the option's text also counts."""
    accuracy: float | None = None
    """Mean relative accuracy of a number."""
    reason: str | None = None
    """Why it could not be asked."""
    detail: str | None = None


class Accuracy(Frozen):
    """Over some multiple-choice questions that were asked: micro means."""

    questions: int
    strict: float
    """Share of right letters: the published figure."""
    lenient: float
    """The same, where an option's text in place of its letter counts too."""
    chance: float
    """What choosing blindly would give."""


class NumericAccuracy(Frozen):
    """Over some questions whose answer is a number."""

    questions: int
    accuracy: float
    """Mean relative accuracy, over thresholds 0.5, 0.55, …, 0.95."""
    without_number: int
    """Responses that hold no number; they score 0."""


class AnswersReport(Frozen):
    """The student's answers to the questions of a file."""

    questions: str
    """The file."""
    asked: int
    average: Accuracy | None
    """Over all multiple-choice questions; null where there was none."""
    static: Accuracy | None
    """Over those of R4D-Bench's static tasks."""
    dynamic: Accuracy | None
    """Over those of its dynamic tasks."""
    tasks: dict[str, Accuracy]
    numeric: NumericAccuracy | None
    numeric_tasks: dict[str, NumericAccuracy]
    unevaluated: tuple[Unevaluated, ...]
    """Questions that could not be asked; they are in no figure."""


class EvalReport(Frozen):
    """A finished evaluation, as ``eval/report.json`` holds it and ``--json`` prints it."""

    run: str
    mode: Mode
    steps: int
    """Optimizer steps that the student was trained for."""
    maps: MapsReport | None
    answers: AnswersReport | None
    files: tuple[str, ...]
    """What was written, in the run's folder."""
    seconds: float

    @property
    def is_whole(self) -> bool:
        """Whether nothing that was asked for is without a score."""
        return not any(part.unevaluated for part in (self.maps, self.answers) if part is not None)
