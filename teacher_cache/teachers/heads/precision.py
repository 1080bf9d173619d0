"""A precision in; autocast contexts and converted weights out: what running a network in bfloat16 or float16 means."""

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
    """Matrix products in ``dtype``, the residual stream in float32, whatever autocast the caller uses."""
    return torch.autocast(device_type, dtype=None if dtype == "float32" else TORCH_DTYPES[dtype], enabled=dtype != "float32")


def convert_weights(model: nn.Module, dtype: Precision) -> None:
    """Round the weights of matrix products to ``dtype``, in place and once, as autocast would in every call.

    Norms and `Float32Conv3d` layers keep their precision.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv3d | nn.ConvTranspose3d) and not isinstance(module, Float32Conv3d):
            module.to(TORCH_DTYPES[dtype])


@contextmanager
def no_tf32() -> Iterator[None]:
    """Compute float32 convolutions in full float32 on GPUs too, where cuDNN by default rounds to TF32's 10-bit mantissa."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
