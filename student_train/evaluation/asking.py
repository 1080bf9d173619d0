"""A benchmark's items and its folder go in; a model's scored answers come out, or the reason an item could not be asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, islice
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from schemas.errors import BadInput, CouldNotRun, Unreachable, VideoError
from schemas.evaluation import Answer
from student_train.data.chat import prompt
from student_train.data.conversations import Place, Turn
from student_train.data.frames import StudentFrames, Watched
from student_train.data.workers import begin_worker
from student_train.evaluation.answers import not_asked, scored
from student_train.evaluation.benchmarks.item import Footage, Item
from student_train.evaluation.benchmarks.protocol import Benchmark
from teacher_cache.io.places import Roots

if TYPE_CHECKING:
    from student_train.models.backbone import Backbone, Processor

_END = "<|im_end|>"
_SORTED_BATCHES = 4
"""So many batches are made ready before they are sorted by length. Their frames are in memory."""
_MISSING = "video_missing"

One = TypeVar("One")
Pixels = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True)
class Asked:
    """An item with its token ids, frames and images."""

    item: Item
    text: str
    """The prompt after the images and the video."""
    ids: list[int]
    footage: Footage | None
    """The video that was found."""
    watched: Watched | None
    images: tuple[Pixels, ...]
    """Each (size, size, RGB)."""

    @property
    def shape(self) -> tuple[int, int]:
        """(frames, tokens): a batch's videos have as many frames each, and its prompts about as many tokens."""
        return 0 if self.watched is None else len(self.watched.frames), len(self.ids)


class Questions(Dataset[Asked | Answer]):
    """A dataset of prepared items. One whose video or image cannot be read becomes an `Answer` with the reason. Picklable.

    ``root``: folder or URL that paths start from. ``frames``: most frames of each video to show. ``tell_length``: whether
    the prompt may state the video's length.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        items: Sequence[Item],
        root: str,
        processor: Processor,
        *,
        frames: int | None = None,
        tell_length: bool = True,
    ) -> None:
        self.benchmark, self.items, self.processor = benchmark, items, processor
        self.frames = frames or benchmark.frames
        self.roots = Roots((root,), "--root")
        self.tell_length = tell_length
        self.seen = StudentFrames(processor.image_size, 0)
        self._last: tuple[Footage, Watched] | None = None

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Asked | Answer:
        item = self.items[index]
        try:
            return self._asked(item)
        except VideoError as error:
            return not_asked(item, error.reason, error.detail)
        except BadInput as error:  # of a file that is not under the root
            return not_asked(item, "not_under_video_root", str(error))
        except Unreachable:
            raise
        except CouldNotRun as error:
            return not_asked(item, "image_unreadable", str(error))

    def _asked(self, item: Item) -> Asked:
        footage, watched = self._watch(item.videos) if item.videos else (None, None)
        images = tuple(self._image(image, f"{item.id}, image {number}") for number, image in enumerate(item.images))
        shown: list[str | Place] = []
        for place in [Place.IMAGE] * len(images) + [Place.VIDEO] * (watched is not None):
            shown += (place, "\n")
        text = self.benchmark.prompt(item, watched.seconds if watched is not None and self.tell_length else None)
        turn = Turn("user", (*shown, text))
        ids = prompt([turn], self.processor, () if watched is None else watched.timestamps.tolist())
        return Asked(item, text, ids, footage, watched, images)

    def _watch(self, places: Sequence[Footage]) -> tuple[Footage, Watched]:
        """The first footage that is there; successive items about the same one decode it once."""
        for number, footage in enumerate(places, 1):
            if self._last is not None and self._last[0] == footage:
                return self._last
            try:
                watched = self.seen.watch(self.roots.find(footage.path), self.frames, footage.segment)
            except VideoError as error:
                if error.reason == _MISSING and number < len(places):
                    continue
                raise
            self._last = footage, watched.each_once() if self.benchmark.clamps else watched
            return self._last
        raise AssertionError

    def _image(self, image: str | bytes, name: str) -> Pixels:
        return self.seen.picture(image, name) if isinstance(image, bytes) else self.seen.image(self.roots.find(image))


def ask(
    student: Backbone, questions: Questions, *, batch: int, workers: int, device: torch.device, seed: int = 0
) -> Iterator[Answer]:
    """Yields the student's scored answers in the order of the items, by greedy decoding. ``seed``: of random letters."""
    loader = DataLoader(
        questions,
        batch_size=batch,
        collate_fn=list,
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
        worker_init_fn=begin_worker,
    )
    for some in _some(loader, _SORTED_BATCHES):
        made_ready = list(chain.from_iterable(some))
        asked = sorted((one for one in made_ready if isinstance(one, Asked)), key=lambda one: one.shape)
        answers: dict[str, Answer] = {}
        for _, alike in groupby(asked, key=lambda one: one.shape[0]):
            for together in _some(alike, batch):
                responses = _responses(student, together, device, questions.benchmark.new_tokens)
                answers |= {
                    one.item.id: _answer(questions.benchmark, one, response, seed)
                    for one, response in zip(together, responses, strict=True)
                }
        for one in made_ready:
            yield answers[one.item.id] if isinstance(one, Asked) else one


def _some(whole: Iterable[One], count: int) -> Iterator[list[One]]:
    left = iter(whole)
    while some := list(islice(left, count)):
        yield some


def _answer(benchmark: Benchmark, one: Asked, response: str, seed: int) -> Answer:
    segment = None if one.footage is None else one.footage.segment
    return scored(benchmark, one.item, response, seed=seed).model_copy(
        update={
            "prompt": one.text,
            "video": "" if one.footage is None else one.footage.path,
            "segment": None if segment is None else (segment.start_seconds, segment.end_seconds),
            "times": () if one.watched is None else tuple(one.watched.timestamps.tolist()),
        }
    )


def _responses(student: Backbone, asked: Sequence[Asked], device: torch.device, new_tokens: int) -> list[str]:
    processor = student.processor
    ids, mask = _padded([one.ids for one in asked], int(processor.tokenizer.pad_token_id))
    images = [image for one in asked for image in one.images]
    watched = [one.watched for one in asked if one.watched is not None]
    visual = processor.visual(
        np.stack([one.frames for one in watched]) if watched else None,  # (clip, frame, height, width, RGB)
        np.stack([one.timestamps for one in watched]) if watched else None,  # (clip, frame)
        np.stack(images) if images else None,  # (image, height, width, RGB)
    )
    on_device = {name: value.to(device) for name, value in visual.items()}
    tokens = student.generate(ids.to(device), mask.to(device), visual=on_device, max_new_tokens=new_tokens)
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
