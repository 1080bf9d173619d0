"""Requests of lmms-eval go in; a student's responses come out: frames with their own times, images as pictures."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, cast, get_args

import torch
from lmms_eval.api.model import lmms
from PIL import Image

from schemas.clip import Segment
from schemas.errors import BadInput, CacheError
from schemas.train import Dtype
from student_train.data.chat import prompt
from student_train.data.conversations import Place, Turn
from student_train.data.frames import StudentFrames, Watched
from student_train.data.workers import workers_of
from student_train.evaluation.generating import Pixels, Prompt, responses
from student_train.evaluation.models import device as own_device
from student_train.evaluation.models import open_model
from student_train.lmms.published import NOT_ASKED, told
from teacher_cache.io.console import progress_bar

_WINDOW_BATCHES = 4
"""So many batches are made ready before they are sorted by length. The next ones' frames are read meanwhile."""
_RECENT = 8
"""Videos whose frames are kept for the requests that follow."""
_NEW_TOKENS = 128
"""Longest response where a task names none."""

Message = Mapping[str, Any]
"""``{"role": …, "content": [{"type": "text" | "image" | "video", …}, …]}``."""


class Ready(NamedTuple):
    """A request that can be answered."""

    prompt: Prompt
    new_tokens: int
    until: tuple[str, ...]
    """A response ends before the first of these."""


class Student(lmms):  # type: ignore[misc]  # lmms-eval ships no types
    """A run of `student-train fit`, a checkpoint, an export, or a plain NVILA-Lite or Qwen-VL folder. Answers greedily.

    ``pretrained``: the folder. ``batch_size``: most requests in one forward pass. ``max_num_frames``: frames of a video.
    ``dtype``: of the weights; the run's by default, and bfloat16 for a model that is no run's. ``workers``: threads that read
    videos. ``device``: by default the process's own GPU, if there is one.
    """

    is_simple = False

    def __init__(
        self,
        *,
        pretrained: str,
        batch_size: int | str = 1,
        max_num_frames: int = 16,
        dtype: str | None = None,
        workers: int | None = None,
        device: str | None = None,
        max_batch_size: object = None,  # noqa: ARG002  # of batch_size=auto, which is refused
    ) -> None:
        super().__init__()
        with told():
            if not str(batch_size).isdigit() or int(batch_size) < 1:
                raise BadInput(f"batch_size is {batch_size!r}; needed a number from 1")
            if dtype is not None and dtype not in get_args(Dtype):
                raise BadInput(f"dtype is {dtype!r}; needed one of {', '.join(get_args(Dtype))}")
            self.device = torch.device(device) if device else own_device()
            self.student = open_model(Path(pretrained), cast("Dtype | None", dtype)).student.to(self.device).eval()
        self.batch, self.frames = int(batch_size), int(max_num_frames)
        self.workers = max(1, workers_of(workers))
        self._own = threading.local()
        self._lock = threading.Lock()
        self._recent: OrderedDict[tuple[str, Segment | None], Future[Watched]] = OrderedDict()

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The response to each request; `NOT_ASKED` to one whose video or image cannot be read, with a warning."""
        said: list[str] = []
        with progress_bar("answers", len(requests), "requests") as advance:
            for window in self._windows(requests):
                answered = dict.fromkeys(range(len(window)), NOT_ASKED)
                for new_tokens in {one.new_tokens for one in window if one is not None}:
                    ready = {n: one for n, one in enumerate(window) if one is not None and one.new_tokens == new_tokens}
                    texts = responses(
                        self.student,
                        [one.prompt for one in ready.values()],
                        batch=self.batch,
                        device=self.device,
                        new_tokens=new_tokens,
                    )
                    answered |= {n: _before(text, one.until) for (n, one), text in zip(ready.items(), texts, strict=True)}
                said += answered.values()
                advance(len(window))
        return said

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Refused: students are asked for text."""
        raise NotImplementedError(f"a student writes answers; tasks of the kind {requests[0].request_type!r} need likelihoods")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Refused: students are asked one question at a time."""
        raise NotImplementedError(f"a student answers one turn; tasks of the kind {requests[0].request_type!r} need several")

    def _windows(self, requests: Sequence[Any]) -> Iterator[list[Ready | None]]:
        """The requests made ready, in their order; the next window's are read while one is answered."""
        left = iter(requests)
        with ThreadPoolExecutor(self.workers) as pool:

            def begun() -> list[Future[Ready | None]]:
                return [pool.submit(self._ready, one) for one in islice(left, _WINDOW_BATCHES * self.batch)]

            ahead = deque([begun(), begun()])
            while window := ahead.popleft():
                yield [one.result() for one in window]
                ahead.append(begun())

    def _ready(self, request: Any) -> Ready | None:
        _, to_messages, settings, doc_id, task, split = request.args
        try:
            made = self._prompt(to_messages(self.task_dict[task][split][doc_id]))
        except (CacheError, ValueError) as error:  # a task's own times may be no part of a video
            logging.getLogger(__name__).warning("%s, document %s is not asked: %s", task, doc_id, error)
            return None
        until = settings.get("until") or ()
        ends = (until,) if isinstance(until, str) else tuple(until)
        return Ready(made, int(settings.get("max_new_tokens", _NEW_TOKENS)), ends)

    def _prompt(self, messages: Sequence[Message]) -> Prompt:
        turns, images = [], []
        watched: Watched | None = None
        for message in messages:
            content: list[str | Place] = []
            for part in _parts(message):
                if part["type"] == "text":
                    content.append(part["text"])
                elif part["type"] == "image":
                    content += (Place.IMAGE, "\n")
                    images.append(self._image(part["url"]))
                elif part["type"] == "video" and watched is None:
                    content += (Place.VIDEO, "\n")
                    watched = self._watched(part)
                else:
                    raise BadInput(
                        f"a student takes text, images and one video a question; this one has more, or {part['type']}"
                    )
            turns.append(Turn(message["role"], tuple(content)))
        ids = prompt(turns, self.student.processor, () if watched is None else watched.timestamps.tolist())
        return Prompt(ids, watched, tuple(images))

    @property
    def _seen(self) -> StudentFrames:
        """This thread's own reader of frames."""
        if not hasattr(self._own, "seen"):
            self._own.seen = StudentFrames(self.student.processor.image_size, 0)
        seen: StudentFrames = self._own.seen
        return seen

    def _image(self, image: Image.Image | str) -> Pixels:
        return self._seen.image(image) if isinstance(image, str) else self._seen.fitted(image)

    def _watched(self, part: Message) -> Watched:
        # Some tasks give a video as an object of its path and its part.
        given = part["url"] if isinstance(part["url"], Mapping) else part
        path = next((given[name] for name in ("url", "path", "video") if isinstance(given.get(name), str)), None)
        if path is None:
            raise BadInput(f"a video is given as {str(part['url'])[:80]!r}; needed a path")
        start, end = given.get("start_time", given.get("video_start")), given.get("end_time", given.get("video_end"))
        segment = None if start is None and end is None else Segment(start_seconds=start or 0.0, end_seconds=end)
        watched = self._once(path, segment)
        return watched.each_once() if part.get("each_once") else watched

    def _once(self, path: str, segment: Segment | None) -> Watched:
        """The frames; requests near one another that are about the same ones read them once, and share their memory."""
        with self._lock:
            mine = (path, segment) not in self._recent
            recent = self._recent.setdefault((path, segment), Future())
            while len(self._recent) > _RECENT:
                self._recent.popitem(last=False)
        if mine:
            try:
                recent.set_result(self._seen.watch(path, self.frames, segment))
            except BaseException as error:  # noqa: BLE001  # raised below, and by those that wait for it
                recent.set_exception(error)
        return recent.result()


def _parts(message: Message) -> list[dict[str, Any]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def _before(text: str, ends: Sequence[str]) -> str:
    for end in filter(None, ends):
        text = text.partition(end)[0]
    return text.strip()
