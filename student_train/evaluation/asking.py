"""Questions and a folder of videos go in; the student's scored answers come out, or the reason one could not be asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from schemas.errors import BadInput, CouldNotRun, Unreachable, VideoError
from schemas.evaluation import Answer
from student_train.data.chat import prompt
from student_train.data.conversations import Place, Turn
from student_train.data.frames import StudentFrames, Watched
from student_train.data.workers import begin_worker
from student_train.evaluation.answers import Question, not_asked, scored, wording
from teacher_cache.io.places import Roots

if TYPE_CHECKING:
    from student_train.models.backbone import Backbone, Processor

_NEW_TOKENS = 32
"""Enough for a letter, a number or an option's text."""
_END = "<|im_end|>"


@dataclass(frozen=True)
class Asked:
    """A question with its token ids and frames."""

    question: Question
    ids: list[int]
    watched: Watched
    image: np.ndarray[Any, np.dtype[np.uint8]] | None
    """(height, width, RGB): the frame with the objects marked, if the question has one."""


class Questions(Dataset[Asked | Answer]):
    """A dataset of prepared questions. One whose video or image cannot be read becomes an `Answer` with the reason. Picklable.

    ``frames``: how many frames of each video to show. ``tell_length``: whether the prompt states the video's length.
    """

    def __init__(
        self, questions: Sequence[Question], video_root: str, frames: int, processor: Processor, *, tell_length: bool = True
    ) -> None:
        self.questions, self.frames, self.processor = questions, frames, processor
        self.roots = Roots((video_root,), "--video-root")
        self.tell_length = tell_length
        self.seen = StudentFrames(processor.image_size, 0)
        self._last: tuple[str, Watched] | None = None

    def __len__(self) -> int:
        return len(self.questions)

    def __getitem__(self, index: int) -> Asked | Answer:
        question = self.questions[index]
        try:
            watched = self._watch(self.roots.find(question.video))
            image = None if question.image is None else self.seen.image(self.roots.find(question.image))
        except VideoError as error:
            return not_asked(question, error.reason, error.detail)
        except BadInput as error:  # of a file that is not under the root
            return not_asked(question, "not_under_video_root", str(error))
        except Unreachable:
            raise
        except CouldNotRun as error:
            return not_asked(question, "image_unreadable", str(error))
        shown = (Place.VIDEO, "\n") if image is None else (Place.IMAGE, "\n", Place.VIDEO, "\n")
        turn = Turn("user", (*shown, wording(question, watched.seconds if self.tell_length else None)))
        return Asked(question, prompt([turn], self.processor, watched.timestamps.tolist()), watched, image)

    def _watch(self, uri: str) -> Watched:
        """Decode a video; successive questions about the same one decode it once."""
        if self._last is None or self._last[0] != uri:
            self._last = (uri, self.seen.watch(uri, self.frames))
        return self._last[1]


def ask(student: Backbone, questions: Questions, *, batch: int, workers: int, device: torch.device) -> Iterator[Answer]:
    """Yields the student's scored answers in the order of the questions, by greedy decoding."""
    loader = DataLoader(
        questions,
        batch_size=batch,
        collate_fn=list,
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
        worker_init_fn=begin_worker,
    )
    for made_ready in loader:
        asked = [one for one in made_ready if isinstance(one, Asked)]
        responses = iter(_responses(student, asked, device) if asked else ())
        for one in made_ready:
            yield scored(one.question, next(responses)) if isinstance(one, Asked) else one


def _responses(student: Backbone, asked: Sequence[Asked], device: torch.device) -> list[str]:
    processor = student.processor
    ids, mask = _padded([one.ids for one in asked], int(processor.tokenizer.pad_token_id))
    images = [one.image for one in asked if one.image is not None]
    visual = processor.visual(
        np.stack([one.watched.frames for one in asked]),  # (clip, frame, height, width, RGB)
        np.stack([one.watched.timestamps for one in asked]),  # (clip, frame)
        np.stack(images) if images else None,  # (image, height, width, RGB)
    )
    on_device = {name: value.to(device) for name, value in visual.items()}
    tokens = student.generate(ids.to(device), mask.to(device), visual=on_device, max_new_tokens=_NEW_TOKENS)
    texts: list[str] = processor.tokenizer.batch_decode(tokens, skip_special_tokens=False)
    return [_spoken(text, processor.tokenizer.all_special_tokens) for text in texts]


def _spoken(text: str, special: Sequence[str]) -> str:
    """The text up to the first special token, such as the end of the turn."""
    text = text.partition(_END)[0]
    for token in special:
        text = text.partition(token)[0]
    return text.strip()


def _padded(rows: Sequence[list[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(input ids, attention mask), int64 (sample, token), padded on the left, so that generation continues every row's end."""
    length = max(map(len, rows))
    ids, mask = torch.full((len(rows), length), pad), torch.zeros(len(rows), length, dtype=torch.int64)
    for number, row in enumerate(rows):
        ids[number, length - len(row) :] = torch.tensor(row)
        mask[number, length - len(row) :] = 1
    return ids, mask
