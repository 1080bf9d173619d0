"""A network's sizes in, the cost of one forward pass out: floating-point operations and bytes, by arithmetic alone."""

from __future__ import annotations

import functools
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

import torch

from schemas.recipe import Precision
from schemas.signal import P4D_SIGNALS, SignalName
from teacher_cache.teachers.heads.dpt import PATCH_SIZE, PYRAMIDS, TUBELET_FRAMES, Factors
from teacher_cache.teachers.heads.precision import TORCH_DTYPES, convert_weights
from teacher_cache.teachers.l4p.config import FRAMES, MAPS, OUTPUTS, L4PConfig
from teacher_cache.teachers.l4p.network import L4P

_FLOAT = 4
"""Bytes of a float32 value, which some tensors are in at every precision."""


def encoder_flops(config: L4PConfig, blocks: int | None = None) -> int:
    """Operations (2 per multiply-add) to embed one clip and run ``blocks`` blocks on it, or all blocks if None."""
    tokens, dim = _tokens(config), config.embed_dim
    embedding = 2 * tokens * dim * 3 * TUBELET_FRAMES * PATCH_SIZE**2
    linear = 2 * tokens * (4 * dim * dim + 2 * dim * config.mlp_dim)
    attention = 2 * 2 * tokens * tokens * dim  # scores, and the weighted sum of the values
    return embedding + (config.depth if blocks is None else blocks) * (linear + attention)


def head_flops(config: L4PConfig, signal: SignalName, *, published_order: bool = False) -> int:
    """Operations (2 per multiply-add) of the convolutions that decode one clip into one map.

    With ``published_order``, counts the 1×1×1 convolutions after the upsampling, as in L4P; here they run before it.
    """
    grids, c, last = _grids(config, signal), config.feature_dim, config.last_dim
    total = 0
    for dim, log_factors, layer in zip(config.layer_dims, grids.resample, grids.layers, strict=True):
        total += math.prod(grids.tokens) * config.embed_dim * dim
        if any(s > 0 for s in log_factors):  # stride equals kernel: each output voxel sees one input voxel
            total += math.prod(layer) * dim * dim
        elif any(s < 0 for s in log_factors):
            total += math.prod(layer) * dim * dim * math.prod(3 if s < 0 else 1 for s in log_factors)
        total += math.prod(layer) * 27 * dim * c
    for number, (layer, fused) in enumerate(zip(grids.layers, grids.fused, strict=True)):
        units = 1 if number == len(grids.layers) - 1 else 2  # the coarsest block has no skip layer
        total += units * 2 * math.prod(layer) * 27 * c * c
        total += math.prod(fused if published_order else layer) * c * c
    total += math.prod(grids.fused[0]) * 27 * c * last
    total += math.prod(grids.output) * (27 * last * last + last * len(OUTPUTS[signal]))
    return 2 * total


def clip_flops(config: L4PConfig, signals: Collection[SignalName] = P4D_SIGNALS) -> int:
    """Operations of this implementation on one clip: no block after the last hook, and only the heads of ``signals``."""
    return encoder_flops(config, max(config.hooks)) + sum(head_flops(config, s) for s in MAPS if s in signals)


def published_flops(config: L4PConfig) -> int:
    """Operations in L4P's published order on one clip: every block, and every dense head."""
    return encoder_flops(config) + sum(head_flops(config, s, published_order=True) for s in MAPS)


@dataclass(frozen=True)
class ForwardBytes:
    """Memory of one forward pass, in bytes, without what the device's libraries allocate for themselves."""

    weights: int
    encoder: int
    """Peak while the encoder runs, including frames, without weights."""
    heads: int
    """The same while the heads run."""

    @property
    def peak(self) -> int:
        """Peak over the whole pass, including weights."""
        return self.weights + max(self.encoder, self.heads)


def forward_bytes(
    config: L4PConfig, dtype: Precision, batch: int, signals: Collection[SignalName] = P4D_SIGNALS
) -> ForwardBytes:
    """Predict the memory of `L4PTeacher.raw` on ``batch`` clips.

    Comments name the tensors that are still alive when the largest tensor of each stage is allocated.
    """
    size = TORCH_DTYPES[dtype].itemsize
    values = batch * FRAMES * 3 * config.image_size**2
    frames = values * (1 + _FLOAT)  # uint8, and normalised float32
    tokens = batch * _tokens(config)
    stream = tokens * config.embed_dim * _FLOAT
    inside_block = 3 * stream + max(  # the residual stream before the block, inside it and after its norm, plus either …
        tokens * 5 * config.embed_dim * size,  # … queries, keys, values, the attention output and its copy in token order, or …
        tokens * 2 * config.mlp_dim * size,  # … the hidden layer before and after GELU
    )
    hooks = len(config.hooks)
    # Features alive while a block runs, besides one that may be the block's own input.
    kept = max(sum(hook < entry - 1 for hook in config.hooks) for entry in range(1, max(config.hooks) + 1))
    encoder = frames + max(
        values * _FLOAT,  # one step of normalising
        kept * stream + inside_block,
        2 * hooks * stream,  # features and their stack
    )
    held = frames + hooks * stream
    heads = 0
    for signal in (s for s in MAPS if s in signals):
        heads = max(heads, held + _head_bytes(config, signal, size, batch))
        held += batch * math.prod(config.shapes[signal]) * _FLOAT
    return ForwardBytes(weights=weight_bytes(config, dtype), encoder=encoder, heads=max(heads, held))


@functools.cache  # the network is built for it, of tensors without memory, which takes longer than all the rest here
def weight_bytes(config: L4PConfig, dtype: Precision) -> int:
    """Bytes of the weights, in the precision they are kept in, and of the position table."""
    with torch.device("meta"):
        model = L4P(config)
    convert_weights(model, dtype)
    return sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()])


def _head_bytes(config: L4PConfig, signal: SignalName, size: int, batch: int) -> int:
    """Peak memory of one head, besides its input features."""
    grids, c, last = _grids(config, signal), config.feature_dim, config.last_dim
    voxels = [batch * math.prod(grid) for grid in grids.layers]
    layers = sum(n * dim for n, dim in zip(voxels, config.layer_dims, strict=True))
    narrowed = sum(voxels) * c
    finest, fused = voxels[0] * c, batch * math.prod(grids.fused[0]) * c
    hidden, full = batch * math.prod(grids.fused[0]) * last, math.prod(grids.output) * last
    maps = batch * math.prod(grids.output) * len(OUTPUTS[signal]) * _FLOAT
    last_layer = _FLOAT if size < _FLOAT else 0  # its input is converted to float32
    return max(
        (layers + narrowed + 4 * finest) * size,  # finest block: its input, the sum with the layer, two inside a residual unit
        (layers + narrowed + 2 * finest + fused) * size,  # its input, the tensor to upsample, and the result
        (layers + fused + hidden) * size,  # head1
        # head2, clip by clip: the earlier clips' maps, its input, a convolution's output, the ReLU's output
        (layers + hidden) * size + maps // batch * (batch - 1) + full * 3 * size,
        (layers + hidden) * size + maps + full * (2 * size + last_layer),  # its input, the ReLU's output, and its float32 copy
    )


class _Grids(NamedTuple):
    """Sizes (time, y, x) of a head's stages; four of each, finest layer first."""

    tokens: Factors
    resample: tuple[Factors, ...]
    """Base-2 logarithms, as in `PYRAMIDS`."""
    layers: tuple[Factors, ...]
    fused: tuple[Factors, ...]
    output: Factors


def _grids(config: L4PConfig, signal: SignalName) -> _Grids:
    grid = config.head(signal).grid
    pyramid = PYRAMIDS[grid]
    _, t, h, w, _ = config.f4d
    layers = tuple(_scaled((t, h, w), factors) for factors in pyramid.resample)
    fused = tuple(_times(layer, factors) for layer, factors in zip(layers, pyramid.fuse, strict=True))
    scale = PATCH_SIZE if grid == "pixels" else 1
    return _Grids((t, h, w), pyramid.resample, layers, fused, (t * TUBELET_FRAMES, h * scale, w * scale))


def _scaled(grid: Factors, log_factors: Factors) -> Factors:
    t, y, x = (n * 2**s if s >= 0 else -(-n // 2**-s) for n, s in zip(grid, log_factors, strict=True))
    return (t, y, x)


def _times(grid: Factors, factors: Factors) -> Factors:
    t, y, x = (n * f for n, f in zip(grid, factors, strict=True))
    return (t, y, x)


def _tokens(config: L4PConfig) -> int:
    return math.prod(config.f4d[1:4])
