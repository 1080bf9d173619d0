"""Files of conversations, or of questions and answers, go in; turns of text, with the places of videos and images, come out."""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import ArrowException

from schemas.errors import BadInput
from student_train.data.records import in_llava_shape
from teacher_cache.clips.list_formats import json_objects
from teacher_cache.clips.mixture import files_of
from teacher_cache.io.places import is_utf8

_ROWS = 64
"""Rows of Parquet that are read at once."""
_ROLES = {"human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant", "system": "system"}
_VILA_VIDEO = "<vila/video>"
"""VILA's word for a video."""
_PARTS = {"video": "<video>", "image": "<image>", "video_url": "<video>", "image_url": "<image>"}
"""What a chat message's list of parts has in the place of text."""
_WORD = re.compile("(<video>|<image>)")
"""The words that LLaVA conversations have in the place of a video or an image."""
_ALONE = re.compile("(?:^|\n)[ \t]*(<video>|<image>)[ \t]*(?:$|\n)")
"""Such a word on a line of its own, as no text about the word itself has it."""


class Place(Enum):
    """Where a turn shows something that is not text."""

    VIDEO = "<video>"
    IMAGE = "<image>"


@dataclass(frozen=True)
class Turn:
    """One message of a conversation."""

    role: str
    """``user``, ``assistant`` or ``system``."""
    content: tuple[str | Place, ...]
    """Its text, and the places of the video and of images in it. The words ``<video>`` and ``<image>`` in a text are words."""

    @property
    def text(self) -> str:
        """The text with the word for each place."""
        return "".join(piece.value if isinstance(piece, Place) else piece for piece in self.content)


def turn(role: str, text: str) -> Turn:
    """A turn in which the words ``<video>`` and ``<image>`` are places."""
    return Turn(role, tuple(_pieces(text)))


def _pieces(text: str) -> Iterator[str | Place]:
    for piece in filter(None, _WORD.split(text)):
        yield Place(piece) if _WORD.fullmatch(piece) else piece


@dataclass(frozen=True)
class Conversation:
    """One training sample: text, and the video and images that it is about, if any."""

    source: str
    """Its file and the index in it, for messages."""
    turns: tuple[Turn, ...]
    video: str | None = None
    """The video's path or URL, as the file gives it."""
    clip_id: str | None = None
    """The clip's id in the store, if the file gives it."""
    images: tuple[str, ...] = ()
    """The images' paths or URLs, as the file gives them, in the order of their placeholders."""


class Unread(NamedTuple):
    """A record that is no conversation."""

    message: str
    """Its file and index, and why."""
    is_misplaced: bool
    """Whether the words for videos and images in its text do not fit what it names."""


def read_conversations(files: Sequence[str], leave_out: Container[str] = ()) -> list[Conversation]:
    """The conversations of published files, in order, without those of the ids to leave out: see `conversations_in`.

    Raises `BadInput` that names the file and the index in it.
    """
    found: list[Conversation] = []
    for read in conversations_in(files, leave_out):
        if isinstance(read, Unread):
            raise BadInput(read.message)
        if read is not None:
            found.append(read)
    if not found:
        raise BadInput(f"{', '.join(files)}: no conversation found; needed at least one")
    return found


def conversations_in(files: Sequence[str], leave_out: Container[str] = ()) -> Iterator[Conversation | Unread | None]:
    """Each conversation of JSON or Parquet files, or why a record is none; None for one of an id to leave out.

    JSON is an array of objects, one object a line, or an object of them by their ids; `in_llava_shape` says what each may be.
    Raises `BadInput` for a file that cannot be read.
    """
    for path in files_of(files):
        for number, record in enumerate(records_in(path)):
            source = f"{path}[{number}]"
            if str(record.get("id")) in leave_out:
                yield None
                continue
            try:
                told = list(in_llava_shape(record))
            except BadInput as error:
                yield Unread(f"{source}: {error}", is_misplaced=False)
                continue
            yield from (conversation_of(one, source) for one in told)


def conversation_of(record: Mapping[str, Any], source: str) -> Conversation | Unread:
    """The conversation of a record in LLaVA's shape, or why it is none."""
    try:
        said = _conversation(record)
    except BadInput as error:
        return Unread(f"{source}: {error}", is_misplaced=False)
    try:
        turns = with_places(said.turns, has_video=bool(said.video or said.clip_id), images=len(said.images))
    except BadInput as error:
        return Unread(f"{source}: {error}", is_misplaced=True)
    return replace(said, source=source, turns=turns)


def records_in(path: str) -> Iterator[Mapping[str, Any]]:
    """The records of one file. Raises `BadInput`."""
    try:
        with Path(path).open("rb") as file:
            is_parquet = file.read(4) == b"PAR1"
        yield from _rows(path) if is_parquet else json_objects(Path(path), f"cannot read the conversations of {path}")
    except FileNotFoundError:
        raise BadInput(f"there is no conversation file {path}") from None
    except (OSError, ArrowException) as error:
        raise BadInput(f"cannot read the conversations of {path}: {getattr(error, 'strerror', None) or error}") from None


def _rows(path: str) -> Iterator[Mapping[str, Any]]:
    with pq.ParquetFile(path) as file:
        if held := [field.name for field in file.schema_arrow if holds_files(field.type)]:
            raise BadInput(
                f"{path} holds images themselves, in its column {held[0]}, and training reads them in any order. Write them to "
                f"files once: student-train data convert {path} --out DIR"
            )
        for batch in file.iter_batches(_ROWS, use_threads=False):
            yield from batch.to_pylist()


def holds_files(kind: pa.DataType) -> bool:
    """Whether a Parquet column's values are files, or lists of them: bytes, or Hugging Face's ``{"bytes": …, "path": …}``."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return holds_files(kind.value_type)
    if pa.types.is_struct(kind):
        return any(holds_files(kind.field(number).type) for number in range(kind.num_fields))
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def ids_in(files: Sequence[str]) -> frozenset[str]:
    """The ids that JSON files name, such as an erratum: a list of ids or of records with one, or objects of either.

    Raises `BadInput` for a file that is not there, or names none.
    """
    return frozenset(name for path in files_of(files) for name in _ids_of(path))


def _ids_of(path: str) -> set[str]:
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read the ids to leave out of {path}: {getattr(error, 'strerror', None) or error}") from None
    try:
        found = set(_named(json.loads(text)))
    except (ValueError, RecursionError):
        found = {line.strip() for line in text.splitlines() if line.strip() and line.strip()[0] not in "[{"}
    if not found:
        raise BadInput(f"{path} names no id to leave out; needed a JSON list of ids, or of objects with an `id`")
    return found


def _named(value: Any) -> Iterator[str]:
    if isinstance(value, str | int) and not isinstance(value, bool):
        yield str(value)
    elif isinstance(value, list):
        for one in value:
            yield from _named(one)
    elif isinstance(value, dict) and "id" in value:
        yield str(value["id"])
    elif isinstance(value, dict):
        for key, one in value.items():
            if isinstance(one, list):
                yield from _named(one)
            elif isinstance(one, dict):
                yield from _named(one if "id" in one else key)


def _conversation(item: Mapping[str, Any]) -> Conversation:
    """The conversation of a record in LLaVA's shape, without its source, and with the words for places still in its text."""
    told = next(item[name] for name in ("conversations", "messages") if isinstance(item.get(name), list))
    turns = tuple(_turn(one) for one in told)
    if not any(one.role == "assistant" and one.text for one in turns):
        raise BadInput('no turn is "from": "gpt", so there is nothing to learn; leave the sample out')
    video, clip_id, images = item.get("video"), item.get("clip_id"), item.get("image") or item.get("images")
    if video is None and isinstance(videos := item.get("videos"), list) and len(videos) == 1:
        video = videos[0]
    elif video is None and videos:
        raise BadInput(f"`videos` is {str(videos)[:80]}; needed a list of one (a sample may have one video)")
    if not is_utf8("".join(one.text for one in turns)):
        raise BadInput("a turn has half a character (a lone surrogate), which no tokenizer reads; needed text in UTF-8")
    for name, value in (("video", video), ("clip_id", clip_id)):
        if value is not None and (not isinstance(value, str) or not value):
            raise BadInput(f"`{name}` is {value!r}; needed one string (a sample may have one video)")
    images = [images] if isinstance(images, str) else images or []
    if not isinstance(images, list) or not all(isinstance(image, str) and image for image in images):
        raise BadInput(f"`image` is {str(images)[:80]}; needed one path, or a list of them")
    for name in filter(None, (video, clip_id, *images)):
        if "\0" in name or not is_utf8(name):
            raise BadInput(f"names {name[:80]!a}, which has a NUL or half a character; no file is called so")
    return Conversation("", turns, video, clip_id, tuple(images))


def _turn(item: Any) -> Turn:
    """A turn of LLaVA (``from``, ``value``) or a chat message (``role``, ``content``), whose content may be a list of parts."""
    said = item if isinstance(item, dict) else {}
    role, value = said.get("from", said.get("role")), _words(said.get("value", said.get("content")))
    if not isinstance(role, str) or role not in _ROLES or value is None:
        raise BadInput(
            'needed turns like {"from": "human" | "gpt", "value": "…"}, or {"role": "user" | "assistant", '
            f'"content": "…"}}; found {str(item)[:80]}'
        )
    return Turn(_ROLES[role], (value.replace(_VILA_VIDEO, Place.VIDEO.value) if _ROLES[role] == "user" else value,))


def _words(content: Any) -> str | None:
    """The text of a turn, with the words for the videos and images in a list of parts; None if it is none."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        return None
    pieces = [f"{_PARTS[kind]}\n" if (kind := str(part.get("type"))) in _PARTS else part.get("text") for part in content]
    return "".join(pieces) if all(isinstance(piece, str) for piece in pieces) else None


def with_places(turns: tuple[Turn, ...], *, has_video: bool, images: int) -> tuple[Turn, ...]:
    """The turns with one place for the video, if any, and one for each image, where the questions have the words for them.

    Missing places go to the start of the first question, images before the video. Published video conversations use either
    word for the video, so ``<image>`` means the video in a sample that has neither images nor a ``<video>``. In answers, and
    in a sample of text alone, the words are text. Raises `BadInput` if the words do not fit the sample.
    """
    if not has_video and not images:
        _require_text(turns)
        return turns
    placed = tuple(turn(one.role, one.text) if one.role == "user" else one for one in turns)
    if has_video and not images and not _count(placed, Place.VIDEO):
        placed = tuple(Turn(one.role, tuple(Place.VIDEO if p is Place.IMAGE else p for p in one.content)) for one in placed)
    videos, found = _count(placed, Place.VIDEO), _count(placed, Place.IMAGE)
    if videos > has_video:
        said = "a sample may have one video" if has_video else "the sample names no `video` or `clip_id`"
        raise BadInput(f"has {videos} <video> placeholders, but {said}")
    if found not in {0, images}:
        raise BadInput(f"has {found} <image> placeholders and names {images} images; needed one per image, or none")
    missing = [Place.IMAGE] * (images - found) + [Place.VIDEO] * (has_video - videos)
    if not missing:
        return placed
    first = next((i for i, one in enumerate(placed) if one.role == "user"), None)
    if first is None:
        words = ", ".join(place.value for place in missing)
        raise BadInput(f'no turn is "from": "human", so there is no turn for the placeholders {words}')
    before = tuple(piece for place in missing for piece in (place, "\n"))
    return (*placed[:first], Turn("user", before + placed[first].content), *placed[first + 1 :])


def _require_text(turns: Sequence[Turn]) -> None:
    """Raise `BadInput` if a question of a sample of text alone has a word on a line of its own, for something that it lacks."""
    for one in turns:
        if one.role == "user" and (found := _ALONE.search(one.text)):
            word = found[1]
            keys = "`video` or `clip_id`" if word == Place.VIDEO.value else "`image`"
            raise BadInput(f"has a {word} placeholder, but the sample has no {keys}; name it, or leave the word out")


def _count(turns: Sequence[Turn], place: Place) -> int:
    return sum(one.content.count(place) for one in turns)
