"""What `student-train swap-marks` found: how a model's answers follow the marks in what it sees."""

from __future__ import annotations

from typing import Literal

from schemas.base import Frozen
from schemas.evaluation import Unevaluated

MarksShown = Literal["picture", "first", "all"]
"""``picture``: a marked first frame before the video, as R4D-Bench; ``first``: in the video's first frame; ``all``: in every
frame that shows the object."""
MarksAt = Literal["place", "swapped", "background", "nowhere"]
"""``place``: marks as the store has them; ``swapped``: two exchanged; ``background``: the question's on none of the objects;
``nowhere``: no marks."""


class Share(Frozen):
    """A share of some answers."""

    share: float | None
    """Null of none."""
    of: int
    """How many answers it is a share of."""
    standard_error: float | None = None
    """Answers about one clip count as one draw."""


class MarkAnswer(Frozen):
    """What a model said to one question. Answers are letters."""

    id: str
    clip_id: str
    task: str
    swapped: tuple[int, int]
    """The marks that are exchanged."""
    options: int
    """How many."""
    right: str
    right_swapped: str
    """What is right once the marks are exchanged."""
    others: tuple[str, ...]
    """What is right for other objects of the clip, as the marks are."""
    said: dict[MarksAt, str | None]
    """Null for no letter."""


class MarkSwapReport(Frozen):
    """What `student-train swap-marks` writes."""

    model: str
    questions: str
    regions: str
    """The store of regions."""
    shown: MarksShown
    asked: int
    clips: int
    left_out: dict[str, int]
    """Why a question is not asked → how many."""
    right: Share
    """Right answers, with marks in their places."""
    right_background: Share
    """The same answers, with the question's marks on the background."""
    right_nowhere: Share
    """The same, without marks: what the text and the unmarked video tell."""
    follow: Share
    """With two marks swapped: the answer is that of the object under the mark."""
    stay: Share
    """The answer is that of the object that had the mark before."""
    neither: Share
    right_follow: Share
    """The same three, of the questions that were answered right with marks in their places."""
    right_stay: Share
    right_neither: Share
    unchanged: Share
    """The same answer in all four cases."""
    wrong_region: Share
    """Of wrong answers with marks in their places: those that are right for another object of the clip."""
    wrong_region_by_chance: Share
    """What that would be if wrong answers fell on any other option alike."""
    unreadable: Share
    """Answers that are no option."""
    answers: tuple[MarkAnswer, ...]
    unevaluated: tuple[Unevaluated, ...] = ()
    """Questions whose video could not be read; they count in nothing else."""

    @property
    def is_whole(self) -> bool:
        """Whether every question that was to be asked has been."""
        return not self.unevaluated
