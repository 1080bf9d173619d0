"""What `student-train data check` found in training data, and what `student-train data convert` wrote."""

from __future__ import annotations

from typing import Literal, get_args

from schemas.base import Frozen

Fault = Literal[
    "unreadable",
    "too_few",
    "misplaced",
    "outside_roots",
    "missing_file",
    "same_name",
    "ambiguous_clip",
    "without_targets",
    "no_option",
]
"""What stops a fit, or teaches a wrong answer. ``unreadable``: a file that cannot be read, or a record that is no
conversation; ``too_few``: a set without a conversation, or with fewer than its ``count``; ``misplaced``: the words for videos
and images in the text do not fit those that the record names; ``outside_roots``: a file that may not be read, since it is
under no root; ``missing_file``: a video or an image that is not there, or is empty; ``same_name``: a name that is another
video in another set, which no store can keep apart; ``ambiguous_clip``: a video that several clips of the store could be;
``without_targets``: a video that the store has no targets for; ``no_option``: an answer to a question with options that is
neither one of them nor its letter."""
Doubt = Literal["duplicate", "contradiction", "mixed_answers", "also_validation"]
"""What a fit takes, and you may not want. ``duplicate``: the same question about the same files with the same answer again;
``contradiction``: with another answer; ``mixed_answers``: some questions with options are answered by letters, others by texts;
``also_validation``: a video that is both in the training and in the validation conversations."""
FAULTS: tuple[Fault, ...] = get_args(Fault)
DOUBTS: tuple[Doubt, ...] = get_args(Doubt)


class Finding(Frozen):
    """One thing that was found."""

    kind: Fault | Doubt
    set: str
    """The mixture's set; empty without a mixture, ``validation`` for the validation conversations."""
    detail: str
    """Which file, record or video, and why."""
    conversations: int
    """How many conversations it hits."""


class CheckedSet(Frozen):
    """What one set holds."""

    conversations: int
    """Conversations that can be read."""
    left_out: int
    """Records of the ids that ``leave_out`` names."""
    without_targets: int
    """Conversations whose video has no targets in the store."""
    turns: int
    """Questions and answers, and system texts."""
    videos: int
    """Different videos."""
    images: int
    """Different images."""
    video_places: int
    """Places of videos in the texts, the missing ones put in."""
    image_places: int
    """Places of images in the texts, the missing ones put in."""
    by_letter: int
    """Questions with options that are answered by a letter."""
    by_text: int
    """Questions with options that are answered by an option's text."""
    free: int
    """Questions without options."""


class CheckReport(Frozen):
    """Training data, as `student-train data check` found it."""

    store: str | None
    """The store whose targets were looked for; null if none was."""
    sets: dict[str, CheckedSet]
    """As in `Finding.set`."""
    faults: dict[Fault, int]
    """Kind → how often it was found; without those that were not."""
    doubts: dict[Doubt, int]
    """As ``faults``."""
    findings: tuple[Finding, ...]
    """Some of each kind, or all."""

    @property
    def is_sound(self) -> bool:
        """Whether there is no fault."""
        return not self.faults


class ConvertReport(Frozen):
    """What `student-train data convert` wrote."""

    out: str
    """The file of conversations."""
    conversations: int
    images: int
    """Different image files beside it."""
    left_out: tuple[str, ...]
    """For some records that are no conversation: their file and index, and why."""
    left_out_count: int


class TimeQuestionsReport(Frozen):
    """What `student-train data time-questions` wrote."""

    out: str
    """The file of questions."""
    questions: int
    left_out: tuple[str, ...]
    """For each video without a question: its path, and why."""


RegionQuestionKind = Literal["nearer", "approach", "faster", "larger", "direction"]


class RegionQuestionsReport(Frozen):
    """What `student-train data region-questions` wrote."""

    out: str
    """The file of conversations."""
    clips: int
    """Clips that were looked at."""
    questions: int
    kinds: dict[RegionQuestionKind, int]
    """Kind → questions of it."""
    below_margin: dict[RegionQuestionKind, int]
    """Kind → questions that were not asked, since their answer is not clear of the maps' errors."""
