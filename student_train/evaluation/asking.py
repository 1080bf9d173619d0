"""A benchmark's items and its folder go in; a model's scored answers come out, or the reason an item could not be asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

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
from student_train.evaluation.generating import Pixels, Prompt, responses, some
from teacher_cache.io.places import Roots

if TYPE_CHECKING:
    from student_train.models.backbone import Backbone, Processor

_SORTED_BATCHES = 4
"""So many batches are made ready before they are sorted by length. Their frames are in memory."""
_MISSING = "video_missing"


@dataclass(frozen=True)
class Asked:
    """An item made ready to be asked."""

    item: Item
    text: str
    """The prompt after the images and the video."""
    footage: Footage | None
    """The video that was found."""
    prompt: Prompt


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
        return Asked(item, text, footage, Prompt(ids, watched, images))

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
    for batches in some(loader, _SORTED_BATCHES):
        made_ready = list(chain.from_iterable(batches))
        prompts = [one.prompt for one in made_ready if isinstance(one, Asked)]
        said = iter(responses(student, prompts, batch=batch, device=device, new_tokens=questions.benchmark.new_tokens))
        for one in made_ready:
            yield _answer(questions.benchmark, one, next(said), seed) if isinstance(one, Asked) else one


def _answer(benchmark: Benchmark, one: Asked, response: str, seed: int) -> Answer:
    segment = None if one.footage is None else one.footage.segment
    return scored(benchmark, one.item, response, seed=seed).model_copy(
        update={
            "prompt": one.text,
            "video": "" if one.footage is None else one.footage.path,
            "segment": None if segment is None else (segment.start_seconds, segment.end_seconds),
            "times": () if one.prompt.watched is None else tuple(one.prompt.watched.timestamps.tolist()),
        }
    )
