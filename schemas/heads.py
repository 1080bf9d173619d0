"""The card of a teacher's frozen heads: what a trainer needs to rebuild them beside their safetensors file."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from schemas.base import Frozen, Sealed
from schemas.recipe import Precision
from schemas.signal import Shape, SignalName

HeadGrid = Literal["pixels", "tokens"]
"""Where a head's values lie: on every pixel of every frame, or on every frame's grid of tokens."""


class DPTHeadConfig(Frozen):
    """Widths of one dense prediction head (DPT, arXiv 2103.13413, with 3-D convolutions as in L4P, arXiv 2502.13078)."""

    embed_dim: int = Field(ge=1)
    """Channels of each F4D layer that goes in."""
    feature_dim: int = Field(ge=1)
    """Channels of the fusion pyramid."""
    last_dim: int = Field(ge=1)
    """Channels of the last hidden layers."""
    layer_dims: tuple[int, int, int, int]
    """Channels of the four resampled layers, finest first."""
    grid: HeadGrid
    outputs: tuple[str, ...] = Field(min_length=1)
    """Name of each output channel, as the last linear layer gives it: ``log_depth``, not ``depth``."""


class HeadsCard(Sealed):
    """The frozen heads of one teacher, as a store keeps them."""

    family: str
    heads: dict[SignalName, DPTHeadConfig]
    weights: str
    """Digest of the heads file's bytes."""
    dtype: Precision
    """The precision the teacher decoded its maps in. The file's weights are in it already, save each head's last
    layer, which runs in float32."""
    f4d: Shape
    """One clip's features: (layer, token_time, token_y, token_x, channel)."""
    image_size: int = Field(ge=1)
    """Height and width of the frames the teacher saw, in pixels."""
    frames: int = Field(ge=1)
    """Frames in one clip."""
