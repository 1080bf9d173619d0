"""The card of a teacher's frozen heads: with their safetensors file, all that a trainer needs to rebuild them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from schemas.base import Frozen, Sealed
from schemas.recipe import Precision
from schemas.signal import Shape, SignalName

HeadGrid = Literal["pixels", "tokens"]
"""Resolution of a head's output: every pixel of every frame, or every frame's grid of tokens."""


class DPTHeadConfig(Frozen):
    """Widths of one dense prediction head (DPT, arXiv 2103.13413, with 3-D convolutions as in L4P, arXiv 2502.13078)."""

    embed_dim: int = Field(ge=1)
    """Channels of each F4D layer, the input."""
    feature_dim: int = Field(ge=1)
    """Channels of the fusion pyramid."""
    last_dim: int = Field(ge=1)
    """Channels of the last hidden layers."""
    layer_dims: tuple[int, int, int, int]
    """Channels of the four resampled layers, finest first."""
    grid: HeadGrid
    """Resolution of the output."""
    outputs: tuple[str, ...] = Field(min_length=1)
    """Name of each output channel as the last layer gives it: ``log_depth``, not ``depth``."""


class HeadsCard(Sealed):
    """The frozen heads of one teacher, as a store keeps them."""

    family: str
    """The teacher's family, such as ``l4p``."""
    heads: dict[SignalName, DPTHeadConfig]
    """Signal → its head."""
    weights: str
    """Digest of the bytes of the heads' file."""
    dtype: Precision
    """The precision in which the teacher decoded its maps. The file's weights have it already, except each head's last layer,
    which runs in float32."""
    f4d: Shape
    """Shape of one clip's features: (layer, token_time, token_y, token_x, channel)."""
    image_size: int = Field(ge=1)
    """Height and width of the frames the teacher saw, in pixels."""
    frames: int = Field(ge=1)
    """Frames in one clip."""
