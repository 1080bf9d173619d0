"""A model's optimizer for a run's settings: AdamW, or Muon for the matrices of its layers and AdamW for the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import torch
from torch import nn
from torch.optim import Muon, Optimizer


class JoinedOptimizers(Optimizer):
    """Several optimizers of one model as one: its groups are theirs in their order, its state is of all their parameters."""

    def __init__(self, *parts: Optimizer) -> None:
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Groups and state are the same objects in the parts, so that schedules and checkpoints reach them."""
        groups = iter(self.param_groups)
        for part in self.parts:
            part.param_groups = list(islice(groups, len(part.param_groups)))
            part.state = self.state

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Move the weights by each part's own rule."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()


def with_muon(adamw: Optimizer, matrices: Sequence[nn.Parameter], *, learning_rate: float, weight_decay: float) -> Optimizer:
    """``matrices`` by Muon, what else ``adamw`` has by it. Their rates are alike: Muon's steps are scaled to AdamW's length.

    Muon: https://kellerjordan.github.io/posts/muon/; the scale: arXiv 2502.16982, section 2.2.
    """
    taken = {id(matrix) for matrix in matrices}
    for group in adamw.param_groups:
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in taken]
    muon = Muon(list(matrices), lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
    return JoinedOptimizers(muon, adamw)


def layer_matrices(model: nn.Module, head: nn.Module) -> list[nn.Parameter]:
    """Weights that Muon is meant for: of linear layers that train, but for ``head``, which gives the vocabulary's logits."""
    weights = (layer.get_parameter("weight") for layer in model.modules() if isinstance(layer, nn.Linear))
    return [weight for weight in weights if weight is not head.weight and weight.requires_grad]
