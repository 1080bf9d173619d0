"""One place that says what running a network in bfloat16 or float16 means here."""

from __future__ import annotations

import torch
from torch import nn

from schemas.recipe import Precision

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

    Norms, and the layers that autocast leaves in float32 (subclasses of the ones named here), keep their precision.
    """
    for module in model.modules():
        if type(module) in (nn.Linear, nn.Conv3d, nn.ConvTranspose3d):
            module.to(TORCH_DTYPES[dtype])
