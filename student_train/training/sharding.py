"""A model in; the same model with its weights spread over the processes out, and ways to read and set them whole. FSDP2."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(model: nn.Module, layers: Iterable[nn.Module], *, device: torch.device, bf16: bool) -> None:
    """Shard the model over all processes, in place. Collective.

    ``layers`` are gathered one after another, and must be what every batch runs: a process whose batch showed no video
    would let the others wait for a layer of the vision tower. The rest is gathered once for each pass. What is frozen and
    outside the layers stays whole in each process: gathering it each time would take the same memory, and time.
    """
    layers = list(layers)
    inside = {parameter for layer in layers for parameter in layer.parameters()}
    whole = {p for p in model.parameters() if not p.requires_grad and p not in inside}
    for parameter in whole:
        parameter.data = parameter.data.to(device)
    # Inputs keep their type: in bfloat16 a minute is known to a quarter of a second. Gradients are summed in float32.
    precision = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if bf16 else None, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for layer in layers:
        fully_shard(layer, mesh=mesh, mp_policy=precision)
    # The rest stays in float32, whose products autocast rounds: P4D's decoder resizes in its weights' type.
    fully_shard(model, mesh=mesh, mp_policy=MixedPrecisionPolicy(cast_forward_inputs=False), ignored_params=whole)
    # Trainer then neither moves nor wraps it. accelerate would shard it itself, but on GPUs only, and with the inputs cast.
    model.is_distributed_loading_by_transformers = True  # type: ignore[assignment]  # a module's attributes are modules to mypy


def to_host(tensor: torch.Tensor) -> torch.Tensor:
    """The whole of a tensor, on the host. Collective where it is sharded."""
    tensor = tensor.detach()
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).cpu()


@torch.no_grad()
def set_from_first(tensor: torch.Tensor, value: torch.Tensor | None) -> None:
    """Give a tensor the value that the leading process has of it, whole; the others give None. Collective."""
    device = tensor.device
    whole = torch.empty(tensor.shape, dtype=tensor.dtype, device=device) if value is None else value.to(device, tensor.dtype)
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.broadcast(whole, src=0)
    if isinstance(tensor, DTensor):
        whole = distribute_tensor(whole, tensor.device_mesh, tensor.placements, src_data_rank=None)
    tensor.copy_(whole)
