"""Questions about marked objects of a video: what `student-train data regionize` kept, what it dropped, and why."""

from __future__ import annotations

from typing import Literal, get_args

from schemas.base import Frozen
from schemas.regions import Box, Share
from schemas.report import MarkStyle

Fault = Literal["unreadable", "no_video", "no_clip", "no_frame", "refused"]
"""What is wrong with a question, its video or a model. ``unreadable``: a record that is no question; ``no_video``: it is about
images alone, or its video is not a file; ``no_clip``: the store has no regions of its video; ``no_frame``: the frame cannot be
read; ``refused``: no answer of the model could be used."""
DropReason = Literal[
    "unreadable",
    "no_video",
    "no_clip",
    "no_frame",
    "refused",
    "has_marks",
    "has_images",
    "names_none",
    "no_object",
    "not_found",
    "not_in_frame",
    "ambiguous",
    "unsure",
    "partly",
]
"""Why a question is dropped; those of `Fault`, and those that this step is for. ``has_marks``: it has marks already;
``has_images``: it shows images of its own; ``names_none``: it names no object; ``no_object``: the clip has no object of that
name; ``not_found``: it has, and it was not found in the clip; ``not_in_frame``: not in the marked frame; ``ambiguous``: several
fit about as well; ``unsure``: a step is less sure than was asked for; ``partly``: only some of its phrases are linked, and all
were asked for."""
FAULTS: tuple[Fault, ...] = get_args(Fault)


class Confidence(Frozen):
    """How sure each step is, 0 to 1; null where a model does not say."""

    parse: float | None
    """That the phrase names an object: the parser's measured precision."""
    find: float
    """The grounding model's score of the object, or the least of several."""
    link: float | None
    """That the phrase means that object; see `teacher_cache.regions.links.Link`."""


class LinkedPhrase(Frozen):
    """One phrase of a question, and what became of it."""

    text: str
    """As the question has it."""
    numbers: tuple[int, ...]
    """Of the objects that it means; empty if it stays as it is."""
    reason: str | None
    """Why it stays as it is."""


class MarkedObject(Frozen):
    """An object that a question has a mark for."""

    number: int
    """The k of its ``<obj_k>``, and its value in the store's label map."""
    phrase: str
    box: Box
    """In the marked frame."""
    score: Share


class KeptQuestion(Frozen):
    """One line of ``kept.jsonl``: a question, or a conversation, before and after."""

    id: str
    clip_id: str
    video: str
    """Path below the folder."""
    picture: str
    """Path below the folder: the clip's first frame, with the marks of the objects."""
    before: tuple[str, ...]
    """The question and its options, or a conversation's turns."""
    after: tuple[str, ...]
    """The same with marks."""
    objects: tuple[MarkedObject, ...]
    phrases: tuple[LinkedPhrase, ...]
    confidence: Confidence
    """The least of all its phrases that are linked."""
    record: dict[str, object]
    """All that ``test.json`` or ``conversations.jsonl`` has besides: the answer's index among the options, the task, …"""

    @property
    def is_whole(self) -> bool:
        """Whether every phrase that names an object is linked."""
        return all(one.numbers for one in self.phrases)


class DroppedQuestion(Frozen):
    """One line of ``dropped.jsonl``."""

    id: str
    video: str
    """As its file names it; empty without one."""
    before: tuple[str, ...]
    reason: DropReason
    detail: str
    """The reason in words."""


class RegionizeReport(Frozen):
    """What `student-train data regionize` wrote."""

    out: str
    """The folder: ``test.json`` or ``conversations.jsonl``, ``images/``, ``videos/``, ``kept.jsonl``, ``dropped.jsonl``."""
    store: str
    style: MarkStyle
    linked_by: str
    """``rules``, or the model's folder."""
    read: int
    """Questions and conversations of the files."""
    kept: int
    partly: int
    """Of those kept, how many have a phrase that names an object and is not linked."""
    dropped: dict[DropReason, int]
    """Reason → how many; without those that do not occur."""

    @property
    def has_faults(self) -> bool:
        """Whether something was dropped that this step is not for."""
        return any(reason in FAULTS for reason in self.dropped)


class Verdict(Frozen):
    """What people say of one question."""

    verdict: Literal["keep", "fix", "drop"]
    texts: tuple[str, ...] | None = None
    """For ``fix``: the question and its options, or the turns, as they should be."""


class Review(Frozen):
    """What the review page exports."""

    set: str
    """Digest of the questions that the page was made for: `sha256:…` of ``kept.jsonl``."""
    verdicts: dict[str, Verdict]
    """Question's id → its verdict; questions without one are not reviewed yet."""


class PhrasesReport(Frozen):
    """What `student-train data phrases` wrote."""

    out: str
    """The list of videos."""
    questions: int
    """Questions and conversations that were read."""
    videos: int
    """Rows of the list."""
    phrases: int
    """Different phrases of each video, in all."""
    left_out: tuple[str, ...]
    """For each question that gave no phrase though it should be asked for one: its id, and why."""


class ReviewPageReport(Frozen):
    """What `student-train data review` wrote."""

    out: str
    """The page."""
    questions: int
    label_studio: str | None
    """The folder of Label Studio's tasks; null without one."""


class ReviewReport(Frozen):
    """What `student-train data review-apply` wrote."""

    out: str
    """The folder, whose ``test.json`` or ``conversations.jsonl`` is as the reviews say."""
    questions: int
    """Questions and conversations in it."""
    kept: int
    """Questions whose verdict is to keep them as they are; so for the next two."""
    fixed: int
    dropped: int
    unreviewed: int
    """Questions without a verdict."""
