"""A model and the size of a batch go in; the bytes that a training step needs on a device, by what they hold, come out.

Nothing of that size is computed or allocated: layers run on tensors without values, and what autograd would keep is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call

_FLOAT32, _BFLOAT16 = 4, 2


class Batch(NamedTuple):
    """What one process computes on in one forward pass."""

    samples: int
    tokens: int
    """Tokens of each, padding included."""
    labels: int
    """Tokens to predict, of all samples together."""


class Memory(NamedTuple):
    """Bytes on one device. Their sum is what a step needs, besides what the allocator and the libraries keep for themselves."""

    weights: int
    """Weights, those that train in float32."""
    gradients: int
    moments: int
    """AdamW's two for each weight that trains."""
    gathered: int
    """With shards: what is whole for a while, which is all weights outside the layers, and two layers."""
    copies: int
    """Without shards, under bfloat16: autocast's copies of the language model's weights."""
    activations: tuple[int, ...]
    """Of each layer of the language model: what it keeps for the backward pass."""
    recomputed: int
    """With gradient checkpointing: what the largest layer keeps while its backward pass runs."""
    logits: int
    """At the labels, with their float32 copy and its gradient."""
    heads: int
    """What the largest of the teacher's frozen heads keeps for one clip."""

    @property
    def total(self) -> int:
        return sum(sum(part) if isinstance(part, tuple) else part for part in self)


def reckon(
    model: nn.Module,
    llm: Any,
    layers: Iterable[nn.Module],
    batch: Batch,
    *,
    shards: int | None,
    bf16: bool,
    decode: Iterable[Callable[[], Any]] = (),
) -> Memory:
    """The memory of a step on one of its devices.

    ``model``: everything, trained parameters and frozen ones; ``llm``: the stack of layers, as a model of transformers, and
    ``layers`` its layers. Both may be on the meta device. ``shards``: over how many processes weights, gradients and moments
    are sharded; None without sharding. ``decode``: for each frozen head, a function that decodes one clip by it.
    """
    layers = list(layers)
    compute = _BFLOAT16 if bf16 else _FLOAT32
    inside = {parameter for layer in layers for parameter in layer.parameters()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    sharded = set() if shards is None else inside | set(trained)  # frozen weights outside the layers stay whole
    of_trained = sum(parameter.numel() for parameter in trained) * _FLOAT32 // (shards or 1)
    largest = max(sum(parameter.numel() for parameter in layer.parameters()) for layer in layers)
    kept, inputs = kept_by_layers(llm, layers, batch, bf16=bf16)
    recomputes = any(getattr(module, "gradient_checkpointing", False) for module in llm.modules())
    outside = sum(parameter.numel() for parameter in trained if parameter not in inside) * _FLOAT32
    return Memory(
        weights=sum(_bytes(p) // (shards if shards is not None and p in sharded else 1) for p in model.parameters()),
        gradients=of_trained,
        moments=2 * of_trained,
        gathered=0 if shards is None else outside + 2 * largest * compute,
        copies=_BFLOAT16 * sum(p.numel() for p in llm.parameters()) if bf16 and shards is None else 0,
        activations=tuple(inputs if recomputes else kept),
        recomputed=max(kept) if recomputes else 0,
        logits=batch.labels * int(llm.config.vocab_size) * (compute + 2 * _FLOAT32),
        heads=max((_kept_by(run) for run in decode), default=0),
    )


def _bytes(parameter: torch.Tensor) -> int:
    return parameter.numel() * (_FLOAT32 if parameter.requires_grad else parameter.element_size())


def kept_by_layers(llm: Any, layers: Iterable[nn.Module], batch: Batch, *, bf16: bool) -> tuple[list[int], list[int]]:
    """(bytes that each layer keeps for its backward pass, without weights; bytes of each layer's input)."""
    kept: list[int] = []
    inputs: list[int] = []
    is_inside = False

    def begin(_module: nn.Module, states: tuple[torch.Tensor, ...]) -> None:
        nonlocal is_inside
        is_inside = True
        kept.append(0)
        inputs.append(states[0].numel() * states[0].element_size())

    def end(*_: object) -> None:
        nonlocal is_inside
        is_inside = False

    def keep(more: int) -> None:
        if is_inside:
            kept[-1] += more

    handles = [
        handle for layer in layers for handle in (layer.register_forward_pre_hook(begin), layer.register_forward_hook(end))
    ]
    was_training = llm.training
    llm.eval()  # so that nothing is recomputed
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            weights = {
                name: torch.empty(p.shape, dtype=torch.float32 if p.requires_grad else p.dtype, requires_grad=p.requires_grad)
                for name, p in llm.named_parameters()
            }
            embedded = torch.empty(batch.samples, batch.tokens, llm.config.hidden_size, requires_grad=True)
            with _kept(keep, {shape for w in weights.values() for shape in (w.shape, w.shape[::-1])}), _autocast(bf16=bf16):
                # Of tensors without values transformers would make a mask, as it does for padded batches.
                no_mask = dict.fromkeys(("full_attention", "sliding_attention"))
                given = {"inputs_embeds": embedded, "attention_mask": no_mask, "use_cache": False}
                out = functional_call(llm, weights, kwargs=given)
            del out
    finally:
        llm.train(was_training)
        for handle in handles:
            handle.remove()
    return kept, inputs


def _autocast(*, bf16: bool) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=bf16)


def _kept_by(run: Callable[[], Any]) -> int:
    """Bytes that a function keeps for its backward pass."""
    sizes: list[int] = []
    with FakeTensorMode(allow_non_fake_inputs=True), _kept(sizes.append, set()):
        run()
    return sum(sizes)


@contextmanager
def _kept(keep: Callable[[int], None], weights: Collection[torch.Size]) -> Iterator[None]:
    """Tell the bytes of each tensor that autograd keeps, once. A tensor of a weight's shape is that weight, or its copy."""
    seen: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in seen and tensor.shape not in weights:  # noqa: SLF001  # a storage's own name
            seen[storage._cdata] = tensor  # noqa: SLF001  # kept, so that no other storage gets its name
            keep(storage.nbytes())
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        yield
