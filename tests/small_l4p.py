"""The sizes of an L4P network that runs in milliseconds."""

from __future__ import annotations

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
