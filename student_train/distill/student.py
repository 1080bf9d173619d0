"""What one training step runs: a batch goes through the student and P4D; every part of the loss comes out by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import nn

from student_train.distill.p4d import P4D
from student_train.models.backbone import Backbone, Visual


class StepLosses(NamedTuple):
    """The losses of one batch."""

    total: torch.Tensor
    """Scalar with a gradient: SFT + alpha · LD + beta · ED. 4D-RGPT, arXiv 2512.17012, section 3."""
    parts: dict[str, torch.Tensor]
    """``sft``, ``ld``, ``ed_…``: unweighted and detached; NaN where no clip of the batch had the target."""


class DistilledStudent(nn.Module):
    """The student and its training-only parts as one module, so that a trainer wraps and steps them together."""

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
    ) -> StepLosses:
        """One batch, as `student_train.data.samples.Collator` makes it.

        ``counts``: what each mean is over in this optimizer step, where it has several batches: ``labels`` and each
        signal's clips. This batch's own counts when absent.
        """
        output = self.student(
            input_ids,
            attention_mask,
            labels=labels,
            visual=visual,
            label_count=None if counts is None else counts["labels"],
        )
        parts = {"sft": output.loss.detach()}
        if output.hidden is None or targets is None:  # text and images train the student alone
            return StepLosses(output.loss + self._idle(), parts)
        distilled = self.p4d(output.hidden, targets, valid, counts)
        return StepLosses(output.loss + distilled.total, {**parts, **distilled.parts})

    def _idle(self) -> torch.Tensor:
        """0, with in its graph every trained weight that text alone may not use: where several processes train, each waits
        for all its gradients. In one process too, since momentum moves a weight with a gradient of 0, but none without.
        """
        used = {id(weight) for weight in self.student.parts()["llm"].parameters()}
        idle = [weight.sum().float() for weight in self.parameters() if weight.requires_grad and id(weight) not in used]
        return 0.0 * torch.stack(idle).sum()
