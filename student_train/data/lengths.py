"""Conversations go in; their lengths in tokens come out, and which of them fit a limit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from student_train.data.chat import tokenize
from student_train.data.samples import Joined, Sample
from student_train.models.backbone import IGNORED_LABEL

if TYPE_CHECKING:
    from student_train.models.backbone import Processor

_LATE = 9999.9
"""Seconds of a frame whose time is not read for its length alone: as long in text as any. Some students are told the time."""


class Length(NamedTuple):
    """Tokens of a conversation."""

    whole: int
    least: int
    """So many from its start hold every token of frames and images, and one to learn."""


class Fitting(NamedTuple):
    """Conversations that are trained on, none longer than the limit once cut."""

    joined: Joined
    lengths: list[Length]
    """Of each, once cut."""
    cut: int
    """How many of them lose the end of their text."""
    left_out: list[str]
    """For each that does not fit at all: its file and index, and why."""


def length_of(sample: Sample, processor: Processor, frames: int) -> Length:
    """The length of a conversation whose video, if any, shows so many frames."""
    ids, labels = tokenize(sample.conversation.turns, processor, () if sample.video is None else [_LATE] * frames)
    visual = {processor.video_token_id, processor.image_token_id}
    last_visual = next((i for i in range(len(ids) - 1, -1, -1) if ids[i] in visual), -1)
    first_learnt = next(i for i, label in enumerate(labels) if label != IGNORED_LABEL)
    return Length(len(ids), max(last_visual, first_learnt) + 1)


def fitting(joined: Joined, lengths: Sequence[Length], most: int | None) -> Fitting:
    """The conversations that fit ``most`` tokens, whole or with the end of their text cut."""
    kept: list[Sample] = []
    kept_lengths: list[Length] = []
    left_out: list[str] = []
    cut = 0
    for sample, length in zip(joined.samples, lengths, strict=True):
        if most is not None and length.least > most:
            left_out.append(f"{sample.conversation.source}: {length.whole} tokens, and the first {length.least} are needed")
            continue
        cut += most is not None and length.whole > most
        kept.append(sample)
        kept_lengths.append(length if most is None else Length(min(length.whole, most), length.least))
    return Fitting(Joined(kept, joined.dropped), kept_lengths, cut, left_out)
