"""The perception decoder (D4DP): hidden states of a clip's video tokens in, the student's F4D out. Training only.

4D-RGPT, arXiv 2512.17012, section 3; exported students do not have it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from schemas.errors import BadInput
from schemas.train import DecoderConfig

F4DShape = tuple[int, int, int, int, int]
"""(layer, token_time, token_y, token_x, channel) of one clip."""


class PerceptionDecoder(nn.Module):
    """Hidden states on the student's token grid, brought to the teacher's grid and then to the teacher's channels.

    Of the frames that one teacher token spans in time, the first stands for it (frames 0, 2, …, 14 of 16); space is
    resized bilinearly. The subclasses differ in the projection.
    """

    def __init__(self, hidden_size: int, f4d_shape: F4DShape) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.f4d_shape = f4d_shape

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states (clip, frame, y, x, hidden) to F4D (clip, layer, token_time, token_y, token_x, channel), both float."""
        return self.project(self.resample(hidden.to(next(self.parameters()).dtype)))

    def resample(self, hidden: torch.Tensor) -> torch.Tensor:
        """(clip, frame, y, x, hidden) to (clip, token_time, token_y, token_x, hidden)."""
        clips, frames, y, x, channels = hidden.shape
        _, steps, height, width, _ = self.f4d_shape
        if frames % steps:
            raise BadInput(
                f"the student saw {frames} frames, but the teacher's F4D has {steps} time steps; "
                f"needed a multiple of {steps} frames. Train on the store's own clips."
            )
        sampled = hidden[:, :: frames // steps]  # (clip, token_time, y, x, hidden)
        if (y, x) == (height, width):
            return sampled
        images = sampled.reshape(clips * steps, y, x, channels).movedim(-1, 1)  # (clip·token_time, hidden, y, x)
        # Antialiasing changes nothing where the grid grows, and keeps every token's say where it shrinks.
        images = F.interpolate(images, (height, width), mode="bilinear", align_corners=False, antialias=True)
        return images.movedim(1, -1).reshape(clips, steps, height, width, channels)

    def project(self, resampled: torch.Tensor) -> torch.Tensor:
        """(clip, token_time, token_y, token_x, hidden) to (clip, layer, token_time, token_y, token_x, channel)."""
        raise NotImplementedError


class Mlp3Decoder(PerceptionDecoder):
    """The paper's decoder: a three-layer MLP with GELU between the layers, Xavier weights and zero biases.

    The paper writes F4D without a layer axis. Where the store holds several of the teacher's layers, the last linear
    layer gives them all, side by side.
    """

    def __init__(self, hidden_size: int, f4d_shape: F4DShape, width: int = 2560) -> None:
        super().__init__(hidden_size, f4d_shape)
        layers, channels = f4d_shape[0], f4d_shape[-1]
        self.mlp = nn.Sequential(
            nn.Linear(hidden_size, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, layers * channels)
        )
        for module in self.mlp:
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def project(self, resampled: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.mlp(resampled)  # (clip, token_time, token_y, token_x, layer·channel)
        return features.view(*resampled.shape[:-1], self.f4d_shape[0], self.f4d_shape[-1]).movedim(-2, 1)


class LinearDecoder(PerceptionDecoder):
    """The released code's decoder: one linear layer for each hook, weights from N(0, 0.1²), zero biases."""

    def __init__(self, hidden_size: int, f4d_shape: F4DShape) -> None:
        super().__init__(hidden_size, f4d_shape)
        self.hooks = nn.ModuleList(nn.Linear(hidden_size, f4d_shape[-1]) for _ in range(f4d_shape[0]))
        for hook in self.hooks:
            assert isinstance(hook, nn.Linear)
            nn.init.normal_(hook.weight, std=0.1)
            nn.init.zeros_(hook.bias)

    def project(self, resampled: torch.Tensor) -> torch.Tensor:
        return torch.stack([hook(resampled) for hook in self.hooks], dim=1)


def perception_decoder(config: DecoderConfig, hidden_size: int, f4d_shape: F4DShape) -> PerceptionDecoder:
    """The decoder that the config names, freshly initialised, for hidden states of ``hidden_size`` channels."""
    if config.kind == "linear":
        return LinearDecoder(hidden_size, f4d_shape)
    return Mlp3Decoder(hidden_size, f4d_shape, config.hidden)
