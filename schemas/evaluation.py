"""What an evaluation of a trained student reports: scores of its maps against the teacher's, and of its answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self, get_args

from pydantic import Field

from schemas.base import Frozen
from schemas.errors import CacheError, VideoError
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
OPTION_LETTERS = "ABCDEFGHIJ"


def multiple_choice(question: str, options: Sequence[str]) -> str:
    """A question with its options, lettered from A, in the paper's wording."""
    lettered = (f"({letter}) {option}" for letter, option in zip(OPTION_LETTERS, options, strict=False))
    return "\n".join([question, "Options:", *lettered, "Answer with the option's letter from the given choices directly."])


class Unevaluated(Frozen):
    """A clip or a question without a score."""

    id: str
    """Id of the clip or the question."""
    video: str
    """Path or URL of its video."""
    reason: str
    """A code of `schemas.clip.FailureReason`, ``pending``, ``student_nonfinite``, ``image_unreadable``,
    ``not_under_video_root``, or ``item_unreadable``."""
    detail: str
    """The reason in words."""

    @classmethod
    def because(cls, error: CacheError, *, id: str, video: str) -> Self:  # noqa: A002  # the field's name
        """Of what a video, an image or the targets could not be read for; the video's own reason if that is the cause."""
        for one in (error, error.__cause__):
            if isinstance(one, VideoError):
                return cls(id=id, video=video, reason=one.reason, detail=one.detail)
        return cls(id=id, video=video, reason=type(error).__name__, detail=str(error))


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
    groups: tuple[str, ...] = ()
    """Groups, beside the task, that have a score of their own."""
    pair: str | None = None
    """Answers of one pair count as one: right if each is."""
    video: str
    """Path of the video below the folder of videos; empty without one."""
    images: int = 0
    """Number of images shown before the video."""
    segment: tuple[float, float | None] | None = None
    """Start and end, in seconds, of the part of the video that was shown; null for the whole."""
    times: tuple[float, ...] = ()
    """Presentation time of each frame that was shown, in seconds."""
    prompt: str | None = None
    """The text after the images and the video; null if the question could not be asked."""
    response: str | None = None
    """The student's text; null if the question could not be asked."""
    options: int = 0
    """Number of options; 0 if the answer is a number."""
    expected: str | None = None
    """The right letter or number; null if the published answer is none."""
    parsed: str | None = None
    """The letter or number that the official rule reads in the response; null if it finds none."""
    rule: str = ""
    """What found it; ``drawn`` for a random letter."""
    official: float | None = None
    """By the benchmark's own rule: 1 if right, else 0; for a number, its mean relative accuracy."""
    below: float | None = None
    """Mean relative accuracy with "<" in place of "≤"; null with options."""
    lenient: float | None = None
    """As ``official``, but an option's text or value counts as its letter does, and a number anywhere in the response."""
    lenient_rule: str = ""
    """What found the lenient answer; empty if nothing did."""
    fault: str | None = None
    """Why no response can be right: the published answer is missing, or none of the options. It counts as wrong."""
    reason: str | None = None
    """Why the question could not be asked: a code as in `Unevaluated`."""
    detail: str | None = None
    """The reason in words."""


class Score(Frozen):
    """Mean over questions that were asked; each weighs the same."""

    questions: int
    """Number of questions; a pair is one."""
    official: float
    """Mean by the benchmark's own rule, 0 to 1."""
    standard_error: float | None
    """Standard error of that mean: the deviation over the root of the number; null for a single question."""
    lenient: float
    """Mean by the lenient rule."""
    below: float | None = None
    """For numbers, ``official`` with "<" in place of "≤"; null if any question has options."""
    chance: float | None
    """Expected mean of random choices; null if any answer is a number."""
    unparsed: int
    """Responses in which the official rule found nothing."""
    drawn: int
    """How many of those counted as a random option."""


class Mean(Frozen):
    """Mean of the tasks' scores; each task weighs the same."""

    tasks: int
    official: float
    lenient: float


class PublishedRow(Frozen):
    """Another's figures for a benchmark, in per cent. They are theirs, not measured here."""

    who: str
    """The model."""
    by: Literal["paper", "release"]
    """Where they stand: in the paper, 4D-RGPT, arXiv 2512.17012 v4, or in the README of its release of June 2026."""
    overall: float
    """The benchmark's own mean."""
    parts: dict[str, float] = Field({})
    """Task or group → its figure."""
    differs: str
    """What makes it not comparable with ours."""


class AnswersReport(Frozen):
    """Answers to the questions of a benchmark or a file."""

    benchmark: str
    """Name of the benchmark."""
    questions: str
    """The questions' file."""
    frames: int
    """Most frames of a video that were shown."""
    seed: int
    """Seed of random letters."""
    asked: int
    """Questions that were asked."""
    expected: int | None = None
    """Published number of questions; null if it is not known."""
    limit: int | None = None
    """Only the first so many questions were to be asked; null: all of them."""
    new_tokens: int
    """Longest response, in tokens."""
    overall: float | None
    """The figure that the benchmark's own code reports: the official micro or macro mean."""
    is_macro: bool = False
    """Whether that is the macro mean."""
    micro: Score | None
    """Over all questions; null if none was asked."""
    macro: Mean | None
    """Over tasks."""
    groups: dict[str, Score]
    """Group of questions, such as R4D-Bench's static and dynamic tasks → score."""
    tasks: dict[str, Score]
    """Kind of question → score."""
    notes: tuple[str, ...] = ()
    """What makes these scores differ from published ones."""
    published: tuple[PublishedRow, ...] = ()
    """Others' figures."""
    faults: tuple[Unevaluated, ...] = ()
    """Questions without a right answer in the file; they were asked, and count as wrong."""
    unevaluated: tuple[Unevaluated, ...]
    """Questions that could not be asked; no figure counts them."""


class EvalReport(Frozen):
    """A finished evaluation, as ``eval/report.json`` holds it and ``--json`` prints it."""

    run: str
    """The folder of the run, checkpoint or model."""
    mode: Mode | None
    """What the run distilled; null for a model that is no run's."""
    steps: int | None
    """Optimizer steps that the student was trained for; null for a model that is no run's."""
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
