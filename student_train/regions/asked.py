"""A file or a benchmark's folder goes in; its questions come out as texts to rewrite, and as the record that they came from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.errors import BadInput
from schemas.regionize import DroppedQuestion, KeptQuestion
from student_train.data.conversations import Conversation, Place, Unread, conversations_in, records_in
from student_train.evaluation.benchmarks.item import Footage, Item
from student_train.evaluation.benchmarks.protocol import read
from student_train.evaluation.benchmarks.r4d import QUESTIONS
from student_train.evaluation.benchmarks.registry import benchmark_of
from teacher_cache.regions.phrases import MARK


@dataclass(frozen=True)
class Asked:
    """A question with its options, or a conversation, about one video."""

    id: str
    texts: tuple[str, ...]
    """The question and its options, or the turns, without the words for videos and images."""
    footage: tuple[Footage, ...]
    """The same video in several places."""
    source: Item | Conversation
    clip_id: str | None = None
    """The clip's id in the store, if the file gives it."""
    benchmark: str = "own"
    """Where it is from: a published benchmark's name, or that of the one that a collection took it from."""

    def seconds(self, place: Footage | None) -> tuple[float, float] | None:
        """The part of the video that it is about, in seconds, by one of its places; None for all of it."""
        if place is not None and (segment := place.segment) is not None and segment.end_seconds is not None:
            return segment.start_seconds, segment.end_seconds
        period = self.source.period if isinstance(self.source, Item) else None
        try:
            return None if period is None else (float(period[0]), float(period[1]))
        except ValueError:
            return None

    @property
    def video(self) -> str:
        """The first place of its video; empty without one."""
        return self.footage[0].path if self.footage else ""


def is_conversations(path: Path) -> bool:
    """Whether a file's records are conversations. Raises `BadInput` if it cannot be read or holds none."""
    first = next(iter(records_in(str(path))), None)
    if first is None:
        raise BadInput(f"{path} holds no question; needed at least one")
    return any(isinstance(first.get(name), list) for name in ("conversations", "messages"))


def asked_in(source: Path, benchmark: str | None) -> Iterator[Asked | DroppedQuestion]:
    """The questions of a published benchmark's folder, or of a file of questions or of conversations.

    A record that is none, or cannot be rewritten, is dropped, with the reason. Raises `BadInput` for what cannot be read.
    """
    if benchmark is None and is_conversations(source):
        for number, one in enumerate(conversations_in([str(source)])):
            if isinstance(one, Unread):
                yield dropped(f"conversation {number}", "", (), "unreadable", one.message)
            elif one is not None:
                yield _conversation(one, f"conversation-{number}")
        return
    found = read(QUESTIONS, source.parent, source) if benchmark is None else read(benchmark_of(benchmark), source)
    for wrong in found.unread:
        yield dropped(wrong.id, wrong.video, (), "unreadable", wrong.detail)
    for item in found.items:
        texts = (item.question, *item.options)
        came_from = item.benchmark or benchmark or "own"
        yield _usable(Asked(item.id, texts, item.videos, item, item.clip_id, came_from), has_images=bool(item.images))


def _conversation(one: Conversation, name: str) -> Asked | DroppedQuestion:
    texts = tuple("".join(piece for piece in turn.content if not isinstance(piece, Place)).strip() for turn in one.turns)
    footage = () if one.video is None else (Footage(one.video),)
    return _usable(Asked(name, texts, footage, one, one.clip_id), has_images=bool(one.images))


def _usable(asked: Asked, *, has_images: bool) -> Asked | DroppedQuestion:
    about = asked.id, asked.video, asked.texts
    if any(MARK.search(text) for text in asked.texts):
        return dropped(*about, "has_marks", "it has marks already")
    if not asked.footage and asked.clip_id is None:
        return dropped(*about, "no_video", "it is about no video, and marks are drawn in a video's frame")
    if has_images:
        return dropped(*about, "has_images", "it shows images of its own, and the marked frame would come among them")
    return asked


def dropped(name: str, video: str, texts: Sequence[str], reason: Any, detail: str) -> DroppedQuestion:
    """A question that is left out."""
    return DroppedQuestion(id=name, video=video, before=tuple(texts), reason=reason, detail=detail)


def record_of(asked: Asked, place: Footage | None) -> dict[str, Any]:
    """What the rewritten record has besides its texts, video and picture, as JSON types. ``place``: the one of its video."""
    if isinstance(asked.source, Conversation):
        return {"roles": [{"user": "human", "assistant": "gpt"}.get(turn.role, turn.role) for turn in asked.source.turns]}
    item = asked.source
    segment = None if place is None else place.segment
    times: tuple[object, object] | None = None if segment is None else (segment.start_seconds, segment.end_seconds)
    return {
        "benchmark": asked.benchmark,
        "task": item.task,
        "right": item.right,
        "number": item.number,
        **({} if times is None else {"time_start": times[0], "time_end": times[1]}),
        **({} if item.period is None else {"period": list(item.period)}),
    }


def written(one: KeptQuestion) -> dict[str, Any]:
    """A question as it is asked, in R4D-Bench's fields, or a conversation in LLaVA's shape."""
    record: Mapping[str, Any] = one.record
    if "roles" in record:
        turns = [{"from": role, "value": text} for role, text in zip(record["roles"], one.after, strict=True)]
        first = next(turn for turn in turns if turn["from"] == "human")
        first["value"] = f"<image>\n<video>\n{first['value']}"
        return {"id": one.id, "clip_id": one.clip_id, "video": one.video, "image": one.picture, "conversations": turns}
    question, *options = one.after
    if period := record.get("period"):
        question = f"From {period[0]} s to {period[1]} s: {question}"
    answer = record["number"] if not options else None if record["right"] is None else options[record["right"]]
    start, end = record.get("time_start"), record.get("time_end")
    cut = {} if start is None else {"time_start": start, "time_end": end}
    return {
        "id": one.id,
        "benchmark": record["benchmark"],
        "task": record["task"],
        # A part of a video is not cut out: where the file of the part is missing, readers show these seconds of the source.
        "video": f"clipped/{one.video.removeprefix('videos/')}" if cut else one.video,
        "source": one.video,
        **cut,
        "som_image": one.picture,
        **({"options": options} if options else {}),
        "answer": answer,
        "question": question,
        "question_raw": one.before[0],
        "objects": [part.model_dump(mode="json") for part in one.objects],
        "confidence": one.confidence.model_dump(mode="json"),
    }
