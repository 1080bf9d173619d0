"""A shared tensor and losses of its clips go in; their sum, whose gradient is known already, comes out.

The teacher's frozen heads keep gigabytes of activations for each map. So the gradient of a clip's loss in one map is computed
as soon as the loss is, the activations are dropped, and only its sum at F4D waits for the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

LossOfClips = Callable[[slice, torch.Tensor], torch.Tensor]
"""Some clips, and their part of the shared tensor, to their share of a scalar loss."""


class Gathered:
    """Losses of one tensor's clips, added one at a time. ``shared``: float (clip, …).

    ``at_once``: how many clips a loss is computed of at a time.
    """

    def __init__(self, shared: torch.Tensor, at_once: int) -> None:
        self._shared, self._at_once = shared, at_once
        self._total = torch.zeros((), dtype=torch.float32, device=shared.device)
        self._gradient = torch.zeros_like(shared) if torch.is_grad_enabled() and shared.requires_grad else None

    def add(self, weight: float, loss_of: LossOfClips, counts: torch.Tensor) -> torch.Tensor:
        """Add ``weight`` times the loss of the clips that count. Returns the loss without the weight, detached.

        ``counts``: bool (clip,), best on the CPU; where no clip of those at a time counts, nothing is computed.
        """
        summed = torch.zeros_like(self._total)
        for start in range(0, len(self._shared), self._at_once):
            clips = slice(start, start + self._at_once)
            if not bool(counts[clips].any()):
                continue
            piece = self._shared[clips].detach().requires_grad_(self._gradient is not None)
            loss = loss_of(clips, piece)
            if self._gradient is not None:
                (gradient,) = torch.autograd.grad(loss, piece)
                self._gradient[clips] += weight * gradient
            summed += loss.detach().float()
        self._total += weight * summed
        return summed

    def total(self) -> torch.Tensor:
        """The weighted sum of all losses, float32 scalar. Its backward pass gives ``shared`` the gathered gradient."""
        if self._gradient is None:
            return self._total
        total: torch.Tensor = _Known.apply(self._shared, self._total, self._gradient)  # type: ignore[no-untyped-call]  # torch has no types here
        return total


class _Known(torch.autograd.Function):
    """The identity of ``total``, with a gradient in ``shared`` that was computed before."""

    @staticmethod
    def forward(ctx: Any, shared: torch.Tensor, total: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:  # noqa: ARG004  # the graph's input
        ctx.save_for_backward(gradient)
        return total.clone()

    @staticmethod
    def backward(ctx: Any, given: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        # In float32: a loss scale, such as GradScaler's first of 65,536, is beyond float16.
        return (gradient.float() * given).to(gradient.dtype), None, None
