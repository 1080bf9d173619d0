"""The card of a teacher's frozen heads: with their safetensors file, all that a trainer needs to rebuild them."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from schemas.base import Frozen, Sealed
from schemas.clip import LARGEST_SIZE, MOST_FRAMES
from schemas.recipe import Precision
from schemas.signal import Shape, SignalName

HeadGrid = Literal["pixels", "tokens"]
"""Resolution of a head's output: every pixel of every frame, or every frame's grid of tokens."""


Width = Annotated[int, Field(ge=1, le=2**14)]
"""Channels of a layer: L4P's widest has 1408."""

_CHANNELS: dict[SignalName, int] = {"depth": 1, "flow": 2, "motion": 1, "camray": 6}
_LAYERS = 4
_MOST_VALUES = 2**28


class DPTHeadConfig(Frozen):
    """Widths of one dense prediction head (DPT, arXiv 2103.13413, with 3-D convolutions as in L4P, arXiv 2502.13078)."""

    embed_dim: Width
    """Channels of each F4D layer, the input."""
    feature_dim: Width
    """Channels of the fusion pyramid."""
    last_dim: Width
    """Channels of the last hidden layers."""
    layer_dims: tuple[Width, Width, Width, Width]
    """Channels of the four resampled layers, finest first."""
    grid: HeadGrid
    """Resolution of the output."""
    outputs: tuple[str, ...] = Field(min_length=1, max_length=16)
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
    image_size: int = Field(ge=1, le=LARGEST_SIZE)
    """Height and width of the frames the teacher saw, in pixels."""
    frames: int = Field(ge=1, le=MOST_FRAMES)
    """Frames in one clip."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.f4d) != 5 or min(self.f4d) < 1 or self.f4d[0] != _LAYERS or math.prod(self.f4d) > _MOST_VALUES:
            raise ValueError(f"f4d is {self.f4d}; needed {_LAYERS} layers of (time, y, x, channel)")
        for signal, head in self.heads.items():
            if head.embed_dim != self.f4d[-1]:
                raise ValueError(f"the head of {signal} reads {head.embed_dim} channels, and f4d has {self.f4d[-1]}")
            if len(head.outputs) != _CHANNELS.get(signal):
                raise ValueError(f"a head of {signal} does not have {len(head.outputs)} outputs")
        return self
