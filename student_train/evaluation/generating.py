"""Prompts with frames and images go in; what a model says to each comes out, by greedy decoding in batches of like lengths."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from student_train.data.frames import Watched

if TYPE_CHECKING:
    from student_train.models.backbone import Backbone

_END = "<|im_end|>"

One = TypeVar("One")
Pixels = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True)
class Prompt:
    """What a model is shown and asked."""

    ids: list[int]
    """Token ids, ending where the answer begins, with the processor's for the video and the images."""
    watched: Watched | None
    """The video's frames and their times; None without a video."""
    images: tuple[Pixels, ...]
    """Each (size, size, RGB)."""

    @property
    def shape(self) -> tuple[int, int]:
        """(frames, tokens): a batch's videos have as many frames each, and its prompts about as many tokens."""
        return 0 if self.watched is None else len(self.watched.frames), len(self.ids)


def responses(student: Backbone, prompts: Sequence[Prompt], *, batch: int, device: torch.device, new_tokens: int) -> list[str]:
    """The model's text for each prompt, in their order. ``batch``: most prompts in one forward pass."""
    found: dict[int, str] = {}
    in_order = sorted(range(len(prompts)), key=lambda number: prompts[number].shape)
    for _, alike in groupby(in_order, key=lambda number: prompts[number].shape[0]):
        for together in some(alike, batch):
            said = _said(student, [prompts[number] for number in together], device, new_tokens)
            found |= dict(zip(together, said, strict=True))
    return [found[number] for number in range(len(prompts))]


def some(whole: Iterable[One], count: int) -> Iterator[list[One]]:
    """Yields the whole in lists of ``count``; the last may be shorter."""
    left = iter(whole)
    while taken := list(islice(left, count)):
        yield taken


def _said(student: Backbone, prompts: Sequence[Prompt], device: torch.device, new_tokens: int) -> list[str]:
    processor = student.processor
    ids, mask = _padded([one.ids for one in prompts], int(processor.tokenizer.pad_token_id))
    images = [image for one in prompts for image in one.images]
    watched = [one.watched for one in prompts if one.watched is not None]
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
