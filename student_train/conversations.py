"""LLaVA JSON conversations in, token ids and labels out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from schemas.errors import BadInput

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ROLES = {"human": "user", "gpt": "assistant", "system": "system"}
# Published sets of video conversations use either word for where the video goes.
_PLACEHOLDERS = ("<video>", "<image>")
IGNORED_LABEL = -100
"""The label of a token that the language-modelling loss leaves out, as transformers has it."""


@dataclass(frozen=True)
class Turn:
    """What one side says."""

    role: str
    """``user``, ``assistant`` or ``system``."""
    text: str


@dataclass(frozen=True)
class Conversation:
    """One training sample: text, and the video that it is about, if any."""

    source: str
    """Where it stands, for messages: the file and its place in it."""
    turns: tuple[Turn, ...]
    video: str | None = None
    """The video's path or url as the file gives it."""
    clip_id: str | None = None
    """The store's own name of the clip, where the file gives it."""


def read_conversations(files: Sequence[str]) -> list[Conversation]:
    """All conversations of LLaVA JSON files (a list of objects) and of .jsonl files (one object a line), in their order.

    Raises `BadInput` that names the file and the place in it.
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
    video, clip_id = item.get("video"), item.get("clip_id")
    for name, value in (("video", video), ("clip_id", clip_id)):
        if value is not None and (not isinstance(value, str) or not value):
            raise BadInput(f"{source}: `{name}` is {value!r}; needed one text (this model shows one video a sample)")
    if item.get("image") is not None:
        raise BadInput(f"{source}: has an `image`; this model takes videos and plain text. Leave the sample out.")
    return Conversation(source, _with_placeholder(turns, source, has_video=bool(video or clip_id)), video, clip_id)


def _turn(turn: Any, source: str) -> Turn:
    if not isinstance(turn, dict) or turn.get("from") not in _ROLES or not isinstance(turn.get("value"), str):
        raise BadInput(f'{source}: needed turns like {{"from": "human" | "gpt", "value": "…"}}; found {str(turn)[:80]}')
    return Turn(_ROLES[turn["from"]], turn["value"])


def _with_placeholder(turns: tuple[Turn, ...], source: str, *, has_video: bool) -> tuple[Turn, ...]:
    """The turns with exactly one ``<video>``, at the first question's beginning where the file names no place."""
    count = sum(turn.text.count(word) for turn in turns for word in _PLACEHOLDERS)
    if not has_video:
        if count:
            raise BadInput(f"{source}: says where a video goes, but names no `video` or `clip_id`")
        return turns
    if count > 1:
        raise BadInput(f"{source}: has {count} placeholders; this model shows one video a sample")
    if count == 1:
        return tuple(Turn(turn.role, turn.text.replace("<image>", "<video>")) for turn in turns)
    first = next((i for i, turn in enumerate(turns) if turn.role == "user"), None)
    if first is None:
        raise BadInput(f'{source}: no turn is "from": "human", so there is no place for the video')
    return (*turns[:first], Turn("user", "<video>\n" + turns[first].text), *turns[first + 1 :])


def tokenize(
    conversation: Conversation, tokenizer: PreTrainedTokenizerBase, video_token_id: int, video_tokens: int
) -> tuple[list[int], list[int]]:
    """(input ids, labels) of one conversation in ChatML, Qwen2's chat format; answers and their ends are learnt, no more.

    ``<video>`` becomes ``video_tokens`` times ``video_token_id``.
    """
    ids: list[int] = []
    labels: list[int] = []

    def add(pieces: list[int], *, learn: bool) -> None:
        ids.extend(pieces)
        labels.extend(pieces if learn else [IGNORED_LABEL] * len(pieces))

    def encode(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False).input_ids)

    for turn in conversation.turns:
        add(encode(f"<|im_start|>{turn.role}\n"), learn=False)
        before, placeholder, after = turn.text.partition("<video>")
        if placeholder:
            add([*encode(before), *[video_token_id] * video_tokens, *encode(after)], learn=False)
        else:
            add(encode(turn.text), learn=turn.role == "assistant")
        add(encode("<|im_end|>"), learn=turn.role == "assistant")
        add(encode("\n"), learn=False)
    return ids, labels
