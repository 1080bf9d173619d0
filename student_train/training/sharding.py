"""FSDP2: a model goes in and is sharded over all ranks in place; its tensors can be read and set unsharded."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(
    model: nn.Module, layers: Iterable[nn.Module], *, device: torch.device, bf16: bool, within: int | None = None
) -> None:
    """Shard the model over all processes, in place, with rank 0's values. Collective.

    The other ranks' parameters need no values (`student_train.models.folder.without_weights`), so one process of all holds the
    whole model, on the host.

    ``layers`` are all-gathered one by one, so every batch must run all of them: a rank whose batch holds no video would skip
    a layer of the vision tower, and the others would wait for it. The other weights are gathered once per pass. Frozen
    weights outside the layers stay unsharded on every rank: gathering them for each pass would save no memory and cost time.
    ``bf16``: the layers compute in bfloat16. ``within``: shard over so many neighbouring processes, those of a machine, and
    repeat the shards on the others (HSDP).
    """
    layers = list(layers)
    values = {name: parameter.detach() for name, parameter in model.named_parameters()} if dist.get_rank() == 0 else {}
    inside = {parameter for layer in layers for parameter in layer.parameters()}
    whole = {p for p in model.parameters() if not p.requires_grad and p not in inside}
    # Inputs keep their dtype: bfloat16 rounds a timestamp of a minute to a quarter of a second. Gradients reduce in float32.
    precision = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if bf16 else None, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    size = dist.get_world_size()
    shape, names = ((size,), ("shard",)) if within is None else ((size // within, within), ("replicate", "shard"))
    mesh = init_device_mesh(device.type, shape, mesh_dim_names=names)
    for layer in layers:
        fully_shard(layer, mesh=mesh, mp_policy=precision)
    # The rest stays in float32 and leaves bfloat16 to autocast: P4D's decoder resizes in the dtype of its weights.
    fully_shard(model, mesh=mesh, mp_policy=MixedPrecisionPolicy(cast_forward_inputs=False), ignored_params=whole)
    _materialize(model, device)
    for name, parameter in model.named_parameters():
        set_from_first(parameter, values.pop(name, None))
    # With this, Trainer neither moves nor wraps the model. accelerate's own FSDP works on GPUs only, and casts the inputs.
    model.is_distributed_loading_by_transformers = True  # type: ignore[assignment]  # a module's attributes are modules to mypy


def _materialize(model: nn.Module, device: torch.device) -> None:
    """Give every parameter memory on the device, without values; buffers keep theirs."""
    buffers = dict(model.named_buffers())
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)  # else weights that are tied would be two from here on
    try:
        model.to_empty(device=device)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])


def unsharded(tensor: torch.Tensor) -> torch.Tensor:
    """The whole tensor, on its device. Collective if the tensor is sharded."""
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def set_from_first(tensor: torch.Tensor, value: torch.Tensor | None) -> None:
    """Set a tensor, sharded or not, from rank 0's unsharded ``value``; the other ranks pass None. Collective."""
    device = tensor.device
    if value is None:
        whole = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
    else:
        whole = value.to(device, tensor.dtype).contiguous()  # as the others' is, whatever its layout in memory
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.broadcast(whole, src=0)
    if isinstance(tensor, DTensor):
        whole = distribute_tensor(whole, tensor.device_mesh, tensor.placements, src_data_rank=None)
    tensor.copy_(whole)
