"""Hidden states at a clip's video tokens go in; the student's own F4D and maps come out. For training only.

4D-RGPT, arXiv 2512.17012, section 3, where the decoder is called D4DP. Exported students have none of this.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import nn

from schemas.errors import BadInput
from schemas.signal import Shape, SignalName
from schemas.train import DecoderConfig

Grid = tuple[int, int, int]
"""Tokens of one clip along (time, y, x)."""
F4DShape = tuple[int, int, int, int, int]
"""(layer, token_time, token_y, token_x, channel) of one clip."""


class Heads(Protocol):
    """The teacher's frozen heads as P4D uses them: F4D to dense maps, with gradients flowing back to F4D."""

    def raw(self, f4d: torch.Tensor, signals: Collection[SignalName]) -> dict[SignalName, torch.Tensor]:
        """F4D, float (clip, layer, token_time, token_y, token_x, channel), to raw maps, float (clip, frame, …).

        Raw: log depth, flow in pixels, motion logits, camera rays as the head gives them.
        """


def resample(hidden: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Hidden states, float (clip, time, y, x, hidden), from the student's grid to the teacher's: (clip, *grid, hidden).

    In time, each teacher token takes the first of the frames it spans (frames 0, 2, …, 14 of 16); in space, the states are
    resized bilinearly. Raises `BadInput` if the frames do not divide into the teacher's time steps.
    """
    clips, frames, y, x, channels = hidden.shape
    steps, height, width = grid
    if frames % steps:
        raise BadInput(
            f"the student saw {frames} frames, but the teacher's F4D has {steps} time steps; "
            f"needed a multiple of {steps} frames. Train on the store's own clips."
        )
    sampled = hidden[:, :: frames // steps]  # (clip, token_time, y, x, hidden)
    if (y, x) == (height, width):
        return sampled
    images = sampled.reshape(clips * steps, y, x, channels).movedim(-1, 1)  # (clip·token_time, hidden, y, x)
    # Antialiasing lets every token count where the grid shrinks, and changes nothing where it grows. In float32, because not
    # every device has it in bfloat16.
    images = F.interpolate(images.float(), (height, width), mode="bilinear", align_corners=False, antialias=True)
    return images.movedim(1, -1).reshape(clips, steps, height, width, channels).to(hidden.dtype)


class PerceptionDecoder(nn.Module, ABC):
    """D4DP: resamples hidden states to the teacher's grid, then projects them to its channels; subclasses define `project`."""

    def __init__(self, hidden_size: int, f4d_shape: F4DShape) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.f4d_shape = f4d_shape

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states (clip, time, y, x, hidden) to F4D (clip, layer, token_time, token_y, token_x, channel), both float."""
        _, steps, height, width, _ = self.f4d_shape
        return self.project(resample(hidden.to(next(self.parameters()).dtype), (steps, height, width)))

    @abstractmethod
    def project(self, resampled: torch.Tensor) -> torch.Tensor:
        """(clip, token_time, token_y, token_x, hidden) to (clip, layer, token_time, token_y, token_x, channel)."""


class Mlp3Decoder(PerceptionDecoder):
    """The paper's decoder: a three-layer MLP with GELU between the layers, Xavier weights and zero biases.

    The paper writes F4D without a layer axis. Here the last linear layer gives the channels of all of the teacher's layers,
    side by side.
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
    """The released code's decoder: one linear layer per F4D layer (hook), weights from N(0, 0.1²), zero biases."""

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
    """A freshly initialised decoder, as ``config`` names it.

    It maps float (clip, time, y, x, ``hidden_size``) to F4D, float with the clips before the axes of ``f4d_shape``.
    """
    if config.kind == "linear":
        return LinearDecoder(hidden_size, f4d_shape)
    return Mlp3Decoder(hidden_size, f4d_shape, config.hidden)


class PatchHead(nn.Module):
    """A light head: each token's hidden state to the pixels of its patch, by a layer norm and one linear layer.

    ``shape``: one clip's map, (frame, y, x[, channel]). Raises `BadInput` if it does not divide into ``grid``.
    """

    def __init__(self, hidden_size: int, grid: Grid, shape: Shape) -> None:
        super().__init__()
        frames, height, width, *channels = shape
        if any(pixels % tokens for pixels, tokens in zip((frames, height, width), grid, strict=True)):
            raise BadInput(
                f"a map of {frames} × {height} × {width} (frame, y, x) cannot be cut into {' × '.join(map(str, grid))} tokens' "
                "patches; needed whole multiples. Use mode `heads`, or set that modality's weight to 0."
            )
        self.patch = (frames // grid[0], height // grid[1], width // grid[2])
        self.channels = tuple(channels)
        self.norm = nn.LayerNorm(hidden_size)
        self.pixels = nn.Linear(hidden_size, math.prod((*self.patch, *channels)))
        nn.init.xavier_uniform_(self.pixels.weight)
        nn.init.zeros_(self.pixels.bias)

    def forward(self, resampled: torch.Tensor) -> torch.Tensor:
        """Hidden states (clip, token_time, token_y, token_x, hidden) to one raw map, float32 (clip, frame, y, x[, channel])."""
        # In float32 even under autocast: bfloat16 would round a flow of 50 pixels to 0.25 pixels.
        with torch.autocast(resampled.device.type, enabled=False):
            normed = F.layer_norm(
                resampled.float(), self.norm.normalized_shape, self.norm.weight.float(), self.norm.bias.float()
            )
            values = F.linear(normed, self.pixels.weight.float(), self.pixels.bias.float())
        clips, *grid, _ = values.shape
        blocks = values.view(clips, *grid, *self.patch, *self.channels)  # (clip, t, y, x, patch_t, patch_y, patch_x[, channel])
        size = (n * p for n, p in zip(grid, self.patch, strict=True))
        side_by_side = blocks.permute(
            0, 1, 4, 2, 5, 3, 6, *range(7, blocks.dim())
        )  # (clip, t, patch_t, y, patch_y, x, patch_x, …)
        return side_by_side.reshape(clips, *size, *self.channels)


class Perception(nn.Module, ABC):
    """Turns a student's hidden states into the predictions that the losses compare with targets."""

    gives: tuple[SignalName, ...]
    """The signals that it can predict."""
    decoded: tuple[SignalName, ...] = ()
    """Those of them that frozen heads decode from F4D, a clip at a time: `decode`."""

    def decode(self, f4d: torch.Tensor, signal: SignalName) -> torch.Tensor:
        """One map of `decoded` from F4D, float (clip, layer, token_time, token_y, token_x, channel)."""
        raise NotImplementedError(f"{type(self).__name__} decodes no {signal}")

    @abstractmethod
    def forward(self, hidden: torch.Tensor, signals: Collection[SignalName]) -> dict[SignalName, torch.Tensor]:
        """Predict ``signals`` from ``hidden``, float (clip, time, y, x, hidden).

        Returns signal → float (clip, …): F4D, log depth, flow in pixels, motion logits, camera rays as the head gives them.
        """

    @property
    @abstractmethod
    def parts(self) -> dict[str, nn.Module]:
        """Modules by their names in reports and files; all are trained except `FROZEN`."""


DECODER, DIRECT, FROZEN = "perception_decoder", "direct_heads", "frozen_heads"


class NoPerception(Perception):
    """Mode `sft`: predicts nothing, since the student learns from conversations alone."""

    gives = ()

    def forward(self, hidden: torch.Tensor, signals: Collection[SignalName]) -> dict[SignalName, torch.Tensor]:  # noqa: ARG002  # the base class's signature
        return {}

    @property
    def parts(self) -> dict[str, nn.Module]:
        return {}


class LatentPerception(Perception):
    """Mode `latent`: F4D alone, with nothing of the teacher on the device."""

    gives = ("f4d",)

    def __init__(self, decoder: PerceptionDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, hidden: torch.Tensor, signals: Collection[SignalName]) -> dict[SignalName, torch.Tensor]:
        return {"f4d": self.decoder(hidden)} if "f4d" in signals else {}

    @property
    def parts(self) -> dict[str, nn.Module]:
        return {DECODER: self.decoder}


class FrozenPerception(Perception):
    """Mode `heads`, the paper's: F4D, and maps that the teacher's frozen heads decode from it."""

    def __init__(self, decoder: PerceptionDecoder, heads: Heads, gives: Collection[SignalName]) -> None:
        super().__init__()
        self.decoder, self.heads = decoder, heads
        self.gives, self.decoded = ("f4d", *gives), tuple(gives)

    def decode(self, f4d: torch.Tensor, signal: SignalName) -> torch.Tensor:
        return self.heads.raw(f4d, [signal])[signal]

    def forward(self, hidden: torch.Tensor, signals: Collection[SignalName]) -> dict[SignalName, torch.Tensor]:
        given: dict[SignalName, torch.Tensor] = {"f4d": self.decoder(hidden)}
        if maps := [signal for signal in signals if signal != "f4d"]:
            given |= self.heads.raw(given["f4d"], maps)
        return {signal: given[signal] for signal in signals}

    @property
    def parts(self) -> dict[str, nn.Module]:
        frozen = {FROZEN: self.heads} if isinstance(self.heads, nn.Module) else {}
        return {DECODER: self.decoder, **frozen}


class DirectPerception(Perception):
    """Mode `direct`: maps by light heads that are trained with the student, for devices where the frozen heads cost too much.

    With ``decoder`` it predicts F4D as well; decoder and heads share only the hidden states.
    """

    def __init__(
        self, hidden_size: int, grid: Grid, shapes: Mapping[SignalName, Shape], decoder: PerceptionDecoder | None
    ) -> None:
        super().__init__()
        self.grid = grid
        self.heads = nn.ModuleDict({signal: PatchHead(hidden_size, grid, shape) for signal, shape in shapes.items()})
        self.decoder = decoder
        self.gives = (*(("f4d",) if decoder is not None else ()), *shapes)

    def forward(self, hidden: torch.Tensor, signals: Collection[SignalName]) -> dict[SignalName, torch.Tensor]:
        resampled = resample(hidden.float(), self.grid)
        given: dict[SignalName, torch.Tensor] = {s: self.heads[s](resampled) for s in signals if s != "f4d"}
        if self.decoder is not None and "f4d" in signals:
            given["f4d"] = self.decoder(hidden)
        return given

    @property
    def parts(self) -> dict[str, nn.Module]:
        return {DIRECT: self.heads} | ({DECODER: self.decoder} if self.decoder is not None else {})
