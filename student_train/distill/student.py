"""A batch goes through the student and P4D; the total loss and each part of it, by name, come out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import nn

from schemas.signal import SignalName
from student_train.distill.p4d import P4D
from student_train.models.backbone import Backbone, Visual


class StepLosses(NamedTuple):
    """The losses of one batch."""

    total: torch.Tensor
    """Scalar with a gradient: SFT + alpha · LD + beta · Σ weight · ED. 4D-RGPT, arXiv 2512.17012, section 3."""
    parts: dict[str, torch.Tensor]
    """``sft``, ``ld``, ``ed_…``: scalars, unweighted and detached; NaN if no clip of the batch has the target."""
    maps: dict[SignalName, torch.Tensor]
    """The student's maps, as `P4D.maps` returns them; empty unless they were asked for."""


class DistilledStudent(nn.Module):
    """The student and P4D as one module, so that a trainer wraps and steps them together."""

    def __init__(self, student: Backbone, p4d: P4D) -> None:
        super().__init__()
        self.student, self.p4d = student, p4d

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        *,
        labels: torch.Tensor,
        visual: Visual | None = None,
        targets: Mapping[str, torch.Tensor] | None = None,
        valid: Mapping[str, torch.Tensor] | None = None,
        counts: Mapping[str, float] | None = None,
        weights: Mapping[str, torch.Tensor] | None = None,
        with_maps: bool = False,
    ) -> StepLosses:
        """The losses of one batch, as `student_train.data.samples.Collator` makes it.

        ``input_ids``, ``attention_mask``, ``labels``: int64 (sample, token). ``visual``: the model's visual inputs.
        ``targets``, ``valid``, ``weights``: as `P4D.forward` takes them.
        ``counts``: denominators of the means under gradient accumulation: ``labels``, tokens to predict, and per signal,
        clips with a target. This batch's own counts when absent.
        ``with_maps``: whether to give the student's maps of the clips, if there are any.
        """
        output = self.student(
            input_ids,
            attention_mask,
            labels=labels,
            visual=visual,
            label_count=None if counts is None else counts["labels"],
        )
        parts = {"sft": output.loss.detach()}
        if output.hidden is None or targets is None:  # a batch without videos has nothing to distil
            return StepLosses(output.loss + self._idle(), parts, {})
        distilled = self.p4d(output.hidden, targets, valid, counts, weights)
        maps = self.p4d.maps(output.hidden) if with_maps else {}
        return StepLosses(output.loss + distilled.total, {**parts, **distilled.parts}, maps)

    def _idle(self) -> torch.Tensor:
        """A zero loss that gives a zero gradient to every trained weight that a batch without videos may not use.

        DDP waits for a gradient of every weight. A single process does the same, because momentum moves a weight whose
        gradient is 0 but not one whose gradient is None.
        """
        used = {id(weight) for weight in self.student.parts()["llm"].parameters()}
        idle = [weight.sum().float() for weight in self.parameters() if weight.requires_grad and id(weight) not in used]
        return 0.0 * sum(idle, torch.zeros(()))  # there may be none
