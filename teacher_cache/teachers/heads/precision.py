"""What running a network in bfloat16 or float16 means here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from schemas.recipe import Precision
from teacher_cache.teachers.heads.dpt import Float32Conv3d

TORCH_DTYPES: dict[Precision, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def autocast(device_type: str, dtype: Precision) -> torch.autocast:
    """Matrix products in ``dtype``, sums along the residual stream in float32, whatever precision the caller is in."""
    return torch.autocast(device_type, dtype=None if dtype == "float32" else TORCH_DTYPES[dtype], enabled=dtype != "float32")


def convert_weights(model: nn.Module, dtype: Precision) -> None:
    """Round the weights of matrix products to ``dtype`` in place, once, as autocast would at every call.

    Norms and the layers that stay in float32 keep their precision.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv3d | nn.ConvTranspose3d) and not isinstance(module, Float32Conv3d):
            module.to(TORCH_DTYPES[dtype])


@contextmanager
def no_tf32() -> Iterator[None]:
    """Float32 convolutions in float32 on GPUs too, where PyTorch lets cuDNN round them to TF32's 10 bits."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
