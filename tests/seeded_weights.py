"""A network in, the same network with weights from a seed out: a teacher for tests that needs no file."""

from __future__ import annotations

import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from teacher_cache.teachers.l4p.network import L4P
from teacher_cache.teachers.l4p.teacher import PRESETS

_GAINS = {
    "patch_embed.proj.weight": 2.0,  # so that what the video shows is not drowned by its position
    "conv1.weight": 0.7,  # residual units without norms: at full gain each would double what passes through
    "conv2.weight": 0.7,
    "head2.2.weight": 0.2,  # log depth within a few units, flow within a few pixels
}
"""Standard deviation of a layer's output over its input's, by the end of the weight's name; 1 for the others."""


def seed_weights(model: nn.Module, seed: int) -> None:
    """Fill every matrix, kernel and bias from the seed, and leave the norms as they are.

    The same bytes on every machine and release: uniform numbers made of PCG64's raw bits by exact float32 arithmetic.
    Each parameter has a stream of its own, named by it, so that adding a layer changes no other.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.copy_(_uniform(seed, name, parameter.shape) * _bound(name, parameter, model))


def _uniform(seed: int, name: str, shape: torch.Size) -> Tensor:
    """Uniform in [-1, 1), float32."""
    bits = np.random.PCG64([seed, zlib.crc32(name.encode())]).random_raw(math.prod(shape)) >> np.uint64(40)
    return torch.from_numpy(bits.astype(np.float32) * np.float32(2**-23) - np.float32(1)).reshape(shape)


def _bound(name: str, parameter: Tensor, model: nn.Module) -> float:
    if parameter.dim() == 1:
        return 0.05
    owner = model.get_submodule(name.rpartition(".")[0])
    # Stride equals kernel in every transposed convolution here: a voxel of its output sees one voxel of its input.
    fan_in = parameter.shape[0] if isinstance(owner, nn.ConvTranspose3d) else math.prod(parameter.shape[1:])
    gain = next((g for end, g in _GAINS.items() if name.endswith(end)), 1.0)
    return gain * math.sqrt(3 / fan_in)


def far_weights(folder: Path, head: str, by: float) -> Path:
    """A checkpoint of the tiny L4P, with weights from a seed, one of whose heads gives so much more."""
    model = L4P(PRESETS["tiny"])
    seed_weights(model, seed=1)
    state = {f"l4p_model.{name}": tensor.clone() for name, tensor in model.state_dict().items()}
    last = [name for name in state if f".{head}." in name and name.endswith("head2.2.bias")]
    assert last
    for name in last:
        state[name] += by
    torch.save({"state_dict": state}, folder / "far.ckpt")
    return folder / "far.ckpt"
