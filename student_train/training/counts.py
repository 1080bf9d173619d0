"""Batches and losses go in; what they hold, and sums over batches and ranks, come out."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

from student_train.models.backbone import IGNORED_LABEL


class Seen(NamedTuple):
    """What was computed on."""

    tokens: int = 0
    """Tokens of conversations, without padding."""
    padded: int = 0
    """With it."""
    clips: int = 0
    """Videos with targets."""

    def plus(self, other: Seen) -> Seen:
        return Seen(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


def seen_in(batches: list[dict[str, Any]]) -> Seen:
    """Tokens and clips of some batches."""
    masks = [batch["attention_mask"] for batch in batches]
    clips = sum(len(batch["clip_ids"]) for batch in batches)
    return Seen(sum(int(mask.sum()) for mask in masks), sum(mask.numel() for mask in masks), clips)


def step_counts(batches: list[dict[str, Any]]) -> dict[str, float]:
    """The denominators of an optimizer step's means: ``labels``, tokens to predict, and per signal, clips with a target.

    With them, several small batches give the same losses and gradients as one large batch.
    """
    counts = {"labels": float(sum(int((batch["labels"][:, 1:] != IGNORED_LABEL).sum()) for batch in batches))}
    for batch in batches:
        for signal, valid in batch.get("valid", {}).items():
            counts[signal] = counts.get(signal, 0.0) + float(valid.sum())
    return counts


def summed(parts: Any) -> dict[str, float]:
    """The sum of several dictionaries, name by name; a missing name counts as 0."""
    total: dict[str, float] = {}
    for part in parts:
        for name, value in part.items():
            total[name] = total.get(name, 0.0) + value
    return total


def values_of(losses: dict[str, torch.Tensor]) -> dict[str, float]:
    """Scalars as numbers, without the parts that had no target."""
    # Copied to the CPU together, since each copy waits for the device.
    values = dict(zip(losses, torch.stack([value.float() for value in losses.values()]).tolist(), strict=True))
    # A part that is NaN while the total is finite had no target in this batch.
    return {name: value for name, value in values.items() if not math.isnan(value) or math.isnan(values["loss"])}
