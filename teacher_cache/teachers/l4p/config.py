"""A preset's name in, the sizes of an L4P network (arXiv 2502.13078) and its signals' shapes out."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from schemas.base import Frozen
from schemas.heads import DPTHeadConfig
from schemas.signal import P4D_SIGNALS, Shape, SignalName
from teacher_cache.teachers.heads.dpt import PATCH_SIZE, TUBELET_FRAMES

FRAMES = 16
"""Frames per clip: one L4P window."""
MAPS: tuple[SignalName, ...] = tuple(s for s in P4D_SIGNALS if s != "f4d")
TASKS: dict[SignalName, str] = {"depth": "depth", "flow": "flow_2d_backward", "motion": "dyn_mask", "camray": "camray"}
"""Signal → L4P's name for its head."""
OUTPUTS: dict[SignalName, tuple[str, ...]] = {
    "depth": ("log_depth",),
    "flow": ("u", "v"),
    "motion": ("logit",),
    "camray": ("direction_x", "direction_y", "direction_z", "moment_x", "moment_y", "moment_z"),
}


class L4PConfig(Frozen):
    """Sizes of an L4P network. The defaults are the published model."""

    image_size: int = Field(224, ge=PATCH_SIZE, multiple_of=PATCH_SIZE)
    """Height and width of the frames, in pixels."""
    embed_dim: int = Field(1408, ge=1)
    """Channels of the encoder's tokens, and thus of F4D."""
    depth: int = Field(40, ge=1)
    """Number of encoder blocks."""
    num_heads: int = Field(16, ge=1)
    mlp_dim: int = Field(6144, ge=1)
    hooks: tuple[int, int, int, int] = (14, 21, 28, 36)
    """The four features that the heads read: 0 is the embedding, i the output of block i-1, `depth` the final norm's output."""
    feature_dim: int = Field(256, ge=1)
    """Channels of the heads' fusion pyramid."""
    last_dim: int = Field(128, ge=1)
    """Channels of the heads' last hidden layers."""
    layer_dims: tuple[int, int, int, int] = (256, 512, 1024, 1024)
    """Channels of the heads' four resampled layers."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim {self.embed_dim} is not a multiple of num_heads {self.num_heads}")
        if not all(0 <= hook <= self.depth for hook in self.hooks):
            raise ValueError(f"hooks {self.hooks} must lie between 0 (the embedding) and depth {self.depth} (the last block)")
        return self

    @property
    def f4d(self) -> Shape:
        """Shape of one clip's features: (layer, token_time, token_y, token_x, channel)."""
        side = self.image_size // PATCH_SIZE
        return (len(self.hooks), FRAMES // TUBELET_FRAMES, side, side, self.embed_dim)

    @property
    def shapes(self) -> dict[SignalName, Shape]:
        """Shape of one clip of every signal; axes as in `schemas.signal.SIGNALS`."""
        size, side = self.image_size, self.image_size // PATCH_SIZE
        frame: Shape = (FRAMES, size, size)
        return {"f4d": self.f4d, "depth": frame, "flow": (*frame, 2), "motion": frame, "camray": (FRAMES, side, side, 6)}

    def head(self, signal: SignalName) -> DPTHeadConfig:
        """Sizes of the head of ``signal``. Rays are on the token grid, all other maps on the pixel grid."""
        return DPTHeadConfig(
            embed_dim=self.embed_dim,
            feature_dim=self.feature_dim,
            last_dim=self.last_dim,
            layer_dims=self.layer_dims,
            grid="tokens" if signal == "camray" else "pixels",
            outputs=OUTPUTS[signal],
        )


PRESETS: dict[str, L4PConfig] = {
    "giant": L4PConfig(),
    "tiny": L4PConfig(
        image_size=112,
        embed_dim=192,
        depth=8,
        num_heads=6,
        mlp_dim=512,
        hooks=(3, 4, 6, 7),  # at the published model's fractions of the depth
        feature_dim=16,
        last_dim=8,
        layer_dims=(16, 24, 32, 32),
    ),
}
"""Name → network. `giant` is the published model; `tiny` is this project's own, for tests and demonstrations."""
PACKAGED = {"tiny": Path(__file__).parent / "tiny" / "weights.safetensors"}
"""Preset → weights in this package, used if the job names none."""
