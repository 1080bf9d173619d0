"""A precision in; autocast contexts, converted weights and a process's settings out: in what arithmetic a network runs."""

from __future__ import annotations

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


def full_float32() -> None:
    """Make this process compute float32 products and convolutions in full float32, where a GPU by default rounds the latter
    to TF32's 10-bit mantissa; and choose convolutions by their shapes alone, not by timing them.

    PyTorch has these settings once for all threads of a process. So they are set before a teacher is loaded and left so: set
    and reset about each forward, they would be whatever another teacher's thread left.
    """
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
