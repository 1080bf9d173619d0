"""The sizes of an L4P network that runs in milliseconds, and what one is shown."""

from __future__ import annotations

import torch

from teacher_cache.teachers.l4p.config import L4PConfig

SMALL = L4PConfig(
    image_size=28,
    embed_dim=24,
    depth=4,
    num_heads=2,
    mlp_dim=40,
    hooks=(1, 2, 3, 4),
    feature_dim=8,
    last_dim=4,
    layer_dims=(6, 8, 12, 16),
)


def moving_square(size: int = 112, clips: int = 1) -> torch.Tensor:
    """uint8 (clip, frame 16, size, size, RGB): a red square that moves right over a smooth background."""
    ramp = torch.linspace(0, 200, size)
    frames = torch.stack([ramp.expand(size, size), ramp.expand(size, size).T, torch.full((size, size), 90.0)], -1)
    video = frames.to(torch.uint8).repeat(clips, 16, 1, 1, 1)
    for t in range(16):
        video[:, t, size // 3 : size // 2, 2 * t : 2 * t + size // 4] = torch.tensor([220, 30, 20], dtype=torch.uint8)
    return video
