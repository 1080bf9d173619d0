"""An AdamW optimizer and some of its weight matrices go in; one optimizer comes out, with Muon for those matrices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import nn
from torch.optim import Muon, Optimizer


class JoinedOptimizers(Optimizer):
    """Several optimizers of one model as one: parameter groups in the optimizers' order, and one shared state."""

    def __init__(self, *parts: Optimizer) -> None:
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Make groups and state the same objects in every part, so that schedulers and checkpoints reach them."""
        groups = iter(self.param_groups)
        for part in self.parts:
            part.param_groups = list(islice(groups, len(part.param_groups)))
            part.state = self.state

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Step every optimizer; returns the closure's loss, if there is a closure."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the joined state, and share it with the parts again."""
        super().load_state_dict(state_dict)
        self._share()


def with_muon(adamw: Optimizer, matrices: Sequence[nn.Parameter], *, learning_rate: float, weight_decay: float) -> Optimizer:
    """Muon for ``matrices``, ``adamw`` for its other parameters.

    One learning rate suits both, because Muon's updates are scaled to the RMS of AdamW's.

    Muon: https://kellerjordan.github.io/posts/muon/; the scale: arXiv 2502.16982, section 2.2.
    """
    taken = {id(matrix) for matrix in matrices}
    for group in adamw.param_groups:
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in taken]
    muon = Muon(list(matrices), lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
    return JoinedOptimizers(muon, adamw)


def with_learning_rates(optimizer: Optimizer, rates: Mapping[nn.Parameter, float]) -> Optimizer:
    """The optimizer, with each of its groups split by the learning rates of the weights that have their own."""
    if isinstance(optimizer, JoinedOptimizers):
        return JoinedOptimizers(*(with_learning_rates(part, rates) for part in optimizer.parts))
    groups, optimizer.param_groups = optimizer.param_groups, []
    for group in groups:
        by_rate: dict[float, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            by_rate.setdefault(rates.get(parameter, group["lr"]), []).append(parameter)
        for rate, parameters in by_rate.items():
            optimizer.add_param_group({**group, "params": parameters, "lr": rate})
    return optimizer


def layer_matrices(model: nn.Module, head: nn.Module) -> list[nn.Parameter]:
    """The weights that Muon updates: those of trained linear layers, except ``head``, the language-model head."""
    weights = (layer.get_parameter("weight") for layer in model.modules() if isinstance(layer, nn.Linear))
    return [weight for weight in weights if weight is not head.weight and weight.requires_grad]
