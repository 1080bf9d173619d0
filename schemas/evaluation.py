"""What an evaluation of a trained student reports: scores of its maps against the teacher's, and of its answers."""

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
"""R4D-Bench's static and dynamic tasks, as its files spell them. 4D-RGPT, arXiv 2512.17012, section 4."""
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
"""Kinds of questions about rendered scenes; R4D-Bench does not have the last three."""
OPTION_LETTERS = "ABCDE"


def multiple_choice(question: str, options: Sequence[str]) -> str:
    """A question with its 2 to 5 options, lettered from A, in the paper's wording."""
    lettered = (f"({letter}) {option}" for letter, option in zip(OPTION_LETTERS, options, strict=False))
    return "\n".join([question, "Options:", *lettered, "Answer with the option's letter from the given choices directly."])


class Unevaluated(Frozen):
    """A clip or a question without a score."""

    id: str
    """Id of the clip or the question."""
    video: str
    """Path or URL of its video."""
    reason: str
    """A code of `schemas.clip.FailureReason`, ``pending``, ``student_nonfinite``, ``image_unreadable``, or an error's name."""
    detail: str
    """The reason in words."""


class ClipScores(Frozen):
    """One line of ``clips.jsonl``."""

    clip_id: str
    video: str
    """Path or URL of the clip's video."""
    scores: dict[str, float | None]
    """Metric → the clip's score; null if the metric does not apply to it."""
    baselines: dict[str, float | None]
    """Metric → score of its constant baseline on this clip."""


class MapSummary(Frozen):
    """One metric over all clips that have a score in it."""

    mean: float | None
    median: float | None
    baseline: float | None
    """Mean score of the metric's constant baseline over the same clips."""
    clips: int
    """How many clips have a score."""


class MapsReport(Frozen):
    """Scores of the student's F4D and maps against the teacher's in a store."""

    store: str
    fingerprint: str
    """Fingerprint of the store's recipe."""
    clips: int
    """Clips that were scored."""
    metrics: dict[str, MapSummary]
    """Metric → its summary."""
    unevaluated: tuple[Unevaluated, ...]
    """Requested clips without scores."""
    note: str | None = None
    """Signals that could not be compared, and why."""


class Answer(Frozen):
    """One line of ``answers.jsonl``."""

    id: str
    """Id of the question."""
    benchmark: str
    """The benchmark that the question is from; empty if its file does not say."""
    task: str
    """Kind of question; for R4D-Bench's tasks, the paper's spelling."""
    video: str
    """Path of the video below the folder of videos."""
    response: str | None = None
    """The student's text; null if the question could not be asked."""
    options: int = 0
    """Number of options; 0 if the answer is a number."""
    strict: bool | None = None
    """Whether the letter in the response is right; null for a number."""
    lenient: bool | None = None
    """The same, but the option's text counts as well as its letter."""
    accuracy: float | None = None
    """Mean relative accuracy of a number, 0 to 1; null for multiple choice."""
    reason: str | None = None
    """Why the question could not be asked: a code as in `Unevaluated`."""
    detail: str | None = None
    """The reason in words."""


class Accuracy(Frozen):
    """Accuracy over multiple-choice questions that were asked; each question weighs the same."""

    questions: int
    """Number of questions."""
    strict: float
    """Share of right letters; published figures use this."""
    lenient: float
    """The same, but an option's text counts as well as its letter."""
    chance: float
    """Expected share for random choices."""


class NumericAccuracy(Frozen):
    """Accuracy over questions whose answer is a number."""

    questions: int
    """Number of questions."""
    accuracy: float
    """Mean relative accuracy, 0 to 1, over the thresholds 0.5, 0.55, …, 0.95."""
    without_number: int
    """Responses without a number; they score 0."""


class AnswersReport(Frozen):
    """The student's answers to the questions of a file."""

    questions: str
    """The questions' file."""
    asked: int
    """Questions that were asked."""
    average: Accuracy | None
    """Accuracy over all multiple-choice questions; null if there was none."""
    static: Accuracy | None
    """Accuracy over R4D-Bench's static tasks."""
    dynamic: Accuracy | None
    """Accuracy over R4D-Bench's dynamic tasks."""
    tasks: dict[str, Accuracy]
    """Kind of multiple-choice question → accuracy."""
    numeric: NumericAccuracy | None
    """Accuracy over all questions whose answer is a number; null if there was none."""
    numeric_tasks: dict[str, NumericAccuracy]
    """Kind of question with a number as answer → accuracy."""
    unevaluated: tuple[Unevaluated, ...]
    """Questions that could not be asked; no figure counts them."""


class EvalReport(Frozen):
    """A finished evaluation, as ``eval/report.json`` holds it and ``--json`` prints it."""

    run: str
    """The run's folder."""
    mode: Mode
    """What the run distilled."""
    steps: int
    """Optimizer steps that the student was trained for."""
    maps: MapsReport | None
    """Null if maps were not evaluated."""
    answers: AnswersReport | None
    """Null without questions."""
    files: tuple[str, ...]
    """Files that were written."""
    seconds: float
    """Wall time of the evaluation."""

    @property
    def is_whole(self) -> bool:
        """Whether every requested clip and question has a score."""
        return not any(part.unevaluated for part in (self.maps, self.answers) if part is not None)
