"""Normalised video in, token features out: L4P's encoder, a VideoMAEv2 vision transformer.

VideoMAEv2 is arXiv 2303.16727, L4P is arXiv 2502.13078. Parameters have the names of L4P's checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from teacher_cache.teachers.heads.dpt import PATCH_SIZE, TUBELET_FRAMES

NORM_EPS = 1e-6


def position_table(tokens: int, dim: int) -> Tensor:
    """Fixed sinusoidal encoding of the flat token index: float32 (token, channel), even channels sine, odd channels cosine.

    Angles reach 2000 radians, where float32 is off by 1e-4, so they are computed in float64 and only the result is rounded.
    """
    channel = np.arange(dim)
    angle = np.arange(tokens)[:, None] / 10000.0 ** (2 * (channel // 2) / dim)
    table = np.where(channel % 2 == 0, np.sin(angle), np.cos(angle))
    return torch.from_numpy(table.astype(np.float32))  # unlike torch.tensor, has values also under the "meta" device


class PatchEmbed(nn.Module):
    """Cuts video into tubelets of 2 frames × 14 × 14 pixels and projects each to a token."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        tubelet = (TUBELET_FRAMES, PATCH_SIZE, PATCH_SIZE)
        self.proj = nn.Conv3d(3, dim, kernel_size=tubelet, stride=tubelet)

    def forward(self, frames: Tensor) -> Tensor:
        """(batch, 3, frame, y, x) → (batch, token, channel), tokens ordered by time, row, column."""
        tokens: Tensor = self.proj(frames)
        return tokens.flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention over all tokens. Keys have no bias."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, token, channel) → (batch, token, channel)."""
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv = F.linear(x, self.qkv.weight, bias)
        q, k, v = qkv.view(*x.shape[:2], 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)  # each (batch, head, token, channel)
        mixed = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return out


class MLP(nn.Module):
    """Two linear layers with an exact GELU between them, not its tanh approximation."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, token, channel) → (batch, token, channel)."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class Block(nn.Module):
    """A pre-norm transformer block. The residual stream stays in float32 under autocast."""

    def __init__(self, dim: int, num_heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = MLP(dim, mlp_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, token, channel) → (batch, token, channel)."""
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class VideoEncoder(nn.Module):
    """A plain video transformer: no class token, fixed positions, joint attention over space and time."""

    def __init__(self, *, tokens: int, dim: int, depth: int, num_heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(dim)
        self.blocks = nn.ModuleList(Block(dim, num_heads, mlp_dim) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.positions: Tensor
        self.register_buffer("positions", position_table(tokens, dim), persistent=False)

    def forward(self, frames: Tensor, entries: Iterable[int]) -> dict[int, Tensor]:
        """Features by their number in L4P's list. Runs no block beyond the last requested one.

        ``frames``: (batch, 3, frame, y, x), RGB normalised with ImageNet's mean and standard deviation.
        Entry 0 is the embedding, entry i the raw output of block i-1, and the last entry (the depth) the last block's output
        after the final norm. Returns entry → float32 (batch, token, channel).
        """
        wanted = set(entries)
        last, depth = max(wanted), len(self.blocks)
        x = self.patch_embed(frames).float() + self.positions
        features = {0: x} if 0 in wanted else {}
        for entry, block in enumerate(islice(self.blocks, last), start=1):
            x = block(x)
            if entry in wanted:
                features[entry] = self.norm(x) if entry == depth else x
        return features
