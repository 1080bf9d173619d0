"""LLaVA JSON conversations go in; token ids and labels come out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from schemas.errors import BadInput

if TYPE_CHECKING:
    from student_train.models.backbone import Processor

_ROLES = {"human": "user", "gpt": "assistant", "system": "system"}
VIDEO, IMAGE = "<video>", "<image>"
"""The placeholders for a video and for an image in a conversation's text."""
_PLACEHOLDER = re.compile(f"({VIDEO}|{IMAGE})")
IGNORED_LABEL = -100
"""The label, as in transformers, of a token that the language-modelling loss ignores."""


@dataclass(frozen=True)
class Turn:
    """One message of a conversation."""

    role: str
    """``user``, ``assistant`` or ``system``."""
    text: str


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


def read_conversations(files: Sequence[str]) -> list[Conversation]:
    """The conversations of LLaVA JSON files (a list of objects) and .jsonl files (one object per line), in order.

    Raises `BadInput` that names the file and the index in it.
    """
    found = [_conversation(item, f"{path}[{number}]") for path in files for number, item in enumerate(_items(path))]
    if not found:
        raise BadInput(f"{', '.join(files)}: no conversation found; needed at least one")
    return found


def _items(path: str) -> Iterator[Any]:
    try:
        text = Path(path).read_text(encoding="utf-8")
        lines = text.splitlines() if path.endswith(".jsonl") else None
        items = json.loads(text) if lines is None else [json.loads(line) for line in lines if line.strip()]
    except FileNotFoundError:
        raise BadInput(f"there is no conversation file {path}") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot read the conversations of {path}: {error}") from None
    if not isinstance(items, list):
        raise BadInput(f"{path} holds {type(items).__name__}; needed a list of conversations (or one a line in a .jsonl file)")
    yield from items


def _conversation(item: Any, source: str) -> Conversation:
    if not isinstance(item, dict) or not isinstance(item.get("conversations"), list):
        raise BadInput(f'{source}: needed an object with a list "conversations"')
    turns = tuple(_turn(turn, source) for turn in item["conversations"])
    if not any(turn.role == "assistant" and turn.text for turn in turns):
        raise BadInput(f'{source}: no turn is "from": "gpt", so there is nothing to learn; leave the sample out')
    video, clip_id, images = item.get("video"), item.get("clip_id"), item.get("image")
    for name, value in (("video", video), ("clip_id", clip_id)):
        if value is not None and (not isinstance(value, str) or not value):
            raise BadInput(f"{source}: `{name}` is {value!r}; needed one string (a sample may have one video)")
    images = [images] if isinstance(images, str) else images or []
    if not isinstance(images, list) or not all(isinstance(image, str) and image for image in images):
        raise BadInput(f"{source}: `image` is {str(images)[:80]}; needed one path, or a list of them")
    turns = with_placeholders(turns, source, has_video=bool(video or clip_id), images=len(images))
    return Conversation(source, turns, video, clip_id, tuple(images))


def _turn(turn: Any, source: str) -> Turn:
    if not isinstance(turn, dict) or turn.get("from") not in _ROLES or not isinstance(turn.get("value"), str):
        raise BadInput(f'{source}: needed turns like {{"from": "human" | "gpt", "value": "…"}}; found {str(turn)[:80]}')
    return Turn(_ROLES[turn["from"]], turn["value"])


def with_placeholders(turns: tuple[Turn, ...], source: str, *, has_video: bool, images: int) -> tuple[Turn, ...]:
    """The turns with one ``<video>`` placeholder for the video, if any, and one ``<image>`` for each image.

    Missing placeholders go to the start of the first question, images before the video. Published video conversations use
    either word for the video, so ``<image>`` means the video in a sample that has neither images nor a ``<video>``. Raises
    `BadInput` if the placeholders do not fit the sample.
    """
    if has_video and not images and not _count(turns, VIDEO):
        turns = tuple(Turn(turn.role, turn.text.replace(IMAGE, VIDEO)) for turn in turns)
    found_videos, found_images = _count(turns, VIDEO), _count(turns, IMAGE)
    if found_videos > has_video:
        raise BadInput(
            f"{source}: has {found_videos} <video> placeholders, but "
            + ("a sample may have one video" if has_video else "names no `video` or `clip_id`")
        )
    if found_images not in {0, images}:
        raise BadInput(
            f"{source}: has {found_images} <image> placeholders and names {images} images; needed one per image, or none"
        )
    missing = [IMAGE] * (images - found_images) + [VIDEO] * (has_video - found_videos)
    if not missing:
        return turns
    first = next((i for i, turn in enumerate(turns) if turn.role == "user"), None)
    if first is None:
        raise BadInput(f'{source}: no turn is "from": "human", so there is no turn for the placeholders {", ".join(missing)}')
    return (*turns[:first], Turn("user", "".join(f"{word}\n" for word in missing) + turns[first].text), *turns[first + 1 :])


def _count(turns: Sequence[Turn], word: str) -> int:
    return sum(turn.text.count(word) for turn in turns)


def tokenize(turns: Sequence[Turn], processor: Processor, seconds: Sequence[float] = ()) -> tuple[list[int], list[int]]:
    """(input ids, labels) of one conversation in ChatML, Qwen's chat format. Only answers and their end tokens have labels.

    ``<video>`` and ``<image>`` become the processor's placeholder tokens. ``seconds``: times of the video's frames.
    """
    ids: list[int] = []
    labels: list[int] = []

    def add(pieces: list[int], *, learn: bool) -> None:
        ids.extend(pieces)
        labels.extend(pieces if learn else [IGNORED_LABEL] * len(pieces))

    def encode(text: str) -> list[int]:
        return list(processor.tokenizer(text, add_special_tokens=False).input_ids)

    def visual_ids(piece: str) -> list[int]:
        return processor.video_ids(seconds) if piece == VIDEO else processor.image_ids()

    for turn in turns:
        add(encode(f"<|im_start|>{turn.role}\n"), learn=False)
        if turn.role == "assistant":
            add(encode(turn.text), learn=True)
        else:
            for piece in filter(None, _PLACEHOLDER.split(turn.text)):
                add(visual_ids(piece) if piece in {VIDEO, IMAGE} else encode(piece), learn=False)
        add(encode("<|im_end|>"), learn=turn.role == "assistant")
        add(encode("\n"), learn=False)
    return ids, labels


def prompt(turns: Sequence[Turn], processor: Processor, seconds: Sequence[float] = ()) -> list[int]:
    """Input ids of the turns, ending where the assistant's answer begins."""
    begin = processor.tokenizer("<|im_start|>assistant\n", add_special_tokens=False).input_ids
    return [*tokenize(turns, processor, seconds)[0], *begin]
