"""F4D in, one raw map out: L4P's DPT head with 3-D convolutions.

DPT is arXiv 2103.13413; the video variant is L4P, arXiv 2502.13078. Parameters have the names of L4P's checkpoint.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from schemas.heads import DPTHeadConfig, HeadGrid

PATCH_SIZE = 14
"""Height and width of one token's patch, in pixels."""
TUBELET_FRAMES = 2
"""Frames that one token spans."""

Factors = tuple[int, int, int]
"""One factor per axis: (time, y, x)."""


class Pyramid(NamedTuple):
    """How a head changes resolution, finest layer first."""

    resample: tuple[Factors, Factors, Factors, Factors]
    """Base-2 logarithm of each layer's initial resampling: 1 doubles the axis, -1 halves it."""
    fuse: tuple[Factors, Factors, Factors, Factors]
    """Upsampling factors at the end of each fusion block."""


PYRAMIDS: dict[HeadGrid, Pyramid] = {
    "pixels": Pyramid(
        resample=((1, 2, 2), (1, 1, 1), (0, 0, 0), (-1, -1, -1)),
        fuse=((1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2)),
    ),
    "tokens": Pyramid(
        resample=((1, 0, 0), (1, 0, 0), (0, 0, 0), (-1, -1, -1)),
        fuse=((1, 1, 1), (1, 1, 1), (2, 1, 1), (2, 2, 2)),
    ),
}


def canonical_name(name: str) -> str:
    """The canonical name of a parameter that checkpoints store under two names: ``layer_rn.0`` is ``layer1_rn``."""
    return re.sub(r"\bscratch\.layer_rn\.(\d+)\.", lambda m: f"scratch.layer{int(m[1]) + 1}_rn.", name)


class Conv3d(nn.Conv3d):
    """A convolution that is as fast, per clip, for one clip on a CPU as for several.

    For a single small clip, PyTorch uses its own kernel instead of oneDNN's, which takes 4 to 10 times as long; calling
    oneDNN explicitly avoids that. That call has no gradients, so it is used only if none are needed.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channel, t, y, x) → (batch, channel, t, y, x)."""
        if _left_to_slow_kernel(x):
            p, s, d = (cast("Factors", v) for v in (self.padding, self.stride, self.dilation))
            return torch.mkldnn_convolution(x, self.weight, self.bias, p, s, d, self.groups)
        return super().forward(x)


def _left_to_slow_kernel(x: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.shape[0] == 1
        and x.dtype == torch.float32
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and not (torch.is_grad_enabled() and x.requires_grad)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def _conv3(channels_in: int, channels_out: int, *, bias: bool = True) -> Conv3d:
    return Conv3d(channels_in, channels_out, kernel_size=3, padding=1, bias=bias)


def _each(function: Callable[[int], int], factors: Factors) -> Factors:
    t, y, x = factors
    return (function(t), function(y), function(x))


def _resample(channels: int, log_factors: Factors) -> nn.Module:
    if any(s > 0 for s in log_factors):
        factors = _each(lambda s: 2**s, log_factors)
        return nn.ConvTranspose3d(channels, channels, kernel_size=factors, stride=factors)
    if any(s < 0 for s in log_factors):
        stride = _each(lambda s: 2**-s, log_factors)
        return Conv3d(channels, channels, _each(lambda s: 2 * (s // 2) + 1, stride), stride, _each(lambda s: s // 2, stride))
    return nn.Identity()


def _channels_first(layer: Tensor) -> Tensor:
    """(batch, t, y, x, channel) → (batch, channel, t, y, x), kept in the channels-last memory layout.

    Convolutions keep their input's layout, and tensor cores are fastest with this one.
    """
    return layer.permute(0, 4, 1, 2, 3).contiguous(memory_format=torch.channels_last_3d)


def _channels_behind(raw: Tensor) -> Tensor:
    """(batch, channel, frame, y, x) → (batch, frame, y, x, channel), or (batch, frame, y, x) for a single channel."""
    return (raw[:, 0] if raw.shape[1] == 1 else raw.permute(0, 2, 3, 4, 1)).contiguous()


def _interpolate(x: Tensor, size: Factors) -> Tensor:
    """Trilinear interpolation with aligned corners."""
    return x if x.shape[2:] == size else F.interpolate(x, size=size, mode="trilinear", align_corners=True)


class _ResidualConvUnit(nn.Module):
    """``x + conv(relu(conv(relu(x))))``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = _conv3(channels, channels)
        self.conv2 = _conv3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv2(F.relu(self.conv1(F.relu(x))))
        return out + x


class _FusionBlock(nn.Module):
    """Adds a finer layer to the coarser path, refines the sum and upsamples it."""

    def __init__(self, channels: int, factors: Factors) -> None:
        super().__init__()
        self.factors = factors
        self.out_conv = nn.Conv3d(channels, channels, kernel_size=1)
        self.resConfUnit1 = _ResidualConvUnit(channels)  # refinenet4 has it in the checkpoint too, but never runs it
        self.resConfUnit2 = _ResidualConvUnit(channels)

    def forward(self, path: Tensor, skip: Tensor | None = None) -> Tensor:
        if skip is not None:
            t, h, w = skip.shape[2:]
            # An odd axis, halved and doubled again, is one longer than the skip layer, and is cropped.
            path = path[:, :, :t, :h, :w] + self.resConfUnit1(skip)
        # L4P upsamples and then applies the 1×1×1 convolution. The convolution mixes channels and the interpolation
        # mixes voxels, so the two commute; the interpolation's weights sum to one at every voxel (align_corners
        # needs no padding), so the bias passes through it unchanged. This order costs 4 to 8 times less.
        path = self.out_conv(self.resConfUnit2(path))
        t, h, w = (n * f for n, f in zip(path.shape[2:], self.factors, strict=True))
        return _interpolate(path, (t, h, w))


class _Scratch(nn.Module):
    """The fusion pyramid: four layers, projected to one width and fused from coarsest to finest."""

    def __init__(self, channels: int, layer_dims: tuple[int, int, int, int], fuse: tuple[Factors, ...]) -> None:
        super().__init__()
        self.layer1_rn, self.layer2_rn, self.layer3_rn, self.layer4_rn = (_conv3(d, channels, bias=False) for d in layer_dims)
        self.layer_rn = nn.ModuleList([self.layer1_rn, self.layer2_rn, self.layer3_rn, self.layer4_rn])
        self.refinenet1, self.refinenet2, self.refinenet3, self.refinenet4 = (_FusionBlock(channels, f) for f in fuse)

    def forward(self, layers: list[Tensor]) -> Tensor:
        l1, l2, l3, l4 = (conv(x) for conv, x in zip(self.layer_rn, layers, strict=True))
        path = self.refinenet4(l4)
        path = self.refinenet3(path, l3)
        path = self.refinenet2(path, l2)
        fused: Tensor = self.refinenet1(path, l1)
        return fused


class Float32Conv3d(nn.Conv3d):
    """A convolution that stays in float32 under autocast: bfloat16 would round a flow of 50 pixels to 0.25 pixels."""

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channel, t, y, x) → float32 (batch, channel, t, y, x)."""
        bias = None if self.bias is None else self.bias.float()
        with torch.autocast(x.device.type, enabled=False):
            out: Tensor = self._conv_forward(x.float(), self.weight.float(), bias)
        return out


_ALL = slice(None)


class DPTHead(nn.Module):
    """One signal's head: four layers of F4D → a raw map, with no activation after the last linear layer."""

    def __init__(self, config: DPTHeadConfig) -> None:
        super().__init__()
        self.config = config
        pyramid = PYRAMIDS[config.grid]
        self.act_postprocess = nn.ModuleList(
            nn.Sequential(nn.Conv3d(config.embed_dim, dim, kernel_size=1), _resample(dim, log_factors))
            for dim, log_factors in zip(config.layer_dims, pyramid.resample, strict=True)
        )
        self.scratch = _Scratch(config.feature_dim, config.layer_dims, pyramid.fuse)
        self.head1 = nn.Sequential(_conv3(config.feature_dim, config.last_dim))
        self.head2 = nn.Sequential(
            _conv3(config.last_dim, config.last_dim),
            nn.ReLU(),
            Float32Conv3d(config.last_dim, len(config.outputs), kernel_size=1),
        )

    def forward(self, f4d: Tensor, frames: slice = _ALL) -> Tensor:
        """Decode features.

        ``f4d``: (batch, layer 4, token_time, token_y, token_x, channel). Returns float32 (batch, frame, y, x), or
        (batch, frame, y, x, channel) if the head has several channels. ``frames`` selects consecutive frames; the others are
        not decoded at full resolution, which is most of a head's work.
        """
        layers = [act(_channels_first(layer)) for act, layer in zip(self.act_postprocess, f4d.unbind(1), strict=True)]
        x = self.head1(self.scratch(layers))
        if frames != _ALL:
            return self._decode_frames(x, frames, self._output_size(f4d))
        # The full-resolution layers take most of the memory, and one clip is enough to keep any device busy. Clip by clip,
        # their peak does not grow with the batch. With gradients, all activations are kept, so this would save nothing.
        size = self._output_size(f4d)
        parts = (x,) if torch.is_grad_enabled() and x.requires_grad else x.split(1)
        raw = torch.cat([self.head2(_interpolate(part, size)) for part in parts])
        return _channels_behind(raw)

    def _decode_frames(self, x: Tensor, frames: slice, size: Factors) -> Tensor:
        """Decode only ``frames``. Time is at full resolution here already, and the convolution needs one frame on each side."""
        start, stop, _ = frames.indices(x.shape[2])
        first = max(0, start - 1)
        x = x[:, :, first : stop + 1]
        raw: Tensor = self.head2(_interpolate(x, (x.shape[2], *size[1:])))
        return _channels_behind(raw[:, :, start - first : stop - first])

    def _output_size(self, f4d: Tensor) -> Factors:
        t, h, w = f4d.shape[2:5]
        scale = PATCH_SIZE if self.config.grid == "pixels" else 1
        return (t * TUBELET_FRAMES, h * scale, w * scale)
