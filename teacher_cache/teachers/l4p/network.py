"""L4P's network: normalised frames in, raw signals out.

L4P is arXiv 2502.13078. This is an independent implementation that uses the parameter names of its published checkpoint; users
supply the weights.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Self, cast

import torch
from torch import Tensor, nn

from schemas.signal import P4D_SIGNALS, Shape, SignalName
from teacher_cache.teachers.heads import RawSignals
from teacher_cache.teachers.heads.dpt import DPTHead, canonical_name
from teacher_cache.teachers.heads.frozen import decode_raw, to_physical
from teacher_cache.teachers.l4p.checkpoint import check_finite, read_checkpoint
from teacher_cache.teachers.l4p.config import MAPS, TASKS, L4PConfig
from teacher_cache.teachers.l4p.encoder import VideoEncoder


class L4P(nn.Module):
    """The network: a video encoder and one dense head per map. Frozen: gradients flow through it, but not to its weights."""

    def __init__(self, config: L4PConfig) -> None:
        super().__init__()
        self.config = config
        _, t, h, w, dim = config.f4d
        self.video_encoder = VideoEncoder(
            tokens=t * h * w, dim=dim, depth=config.depth, num_heads=config.num_heads, mlp_dim=config.mlp_dim
        )
        self.task_heads = nn.ModuleDict(
            {
                task: nn.ModuleDict({"task_head": nn.ModuleDict({"dpt": DPTHead(config.head(signal))})})
                for signal, task in TASKS.items()
            }
        )
        self.requires_grad_(requires_grad=False)

    def load_checkpoint(self, path: str | Path) -> Self:
        """Load the weights of L4P's Lightning ``.ckpt``, or of a safetensors file with the same names, as float32.

        The weights stay memory-mapped until they are moved or converted, so loading copies nothing. Works on a model on the
        "meta" device too. Raises `BadInput`, naming tensors that are missing, unexpected, of the wrong shape or not finite;
        the model is then unchanged.
        """
        file = Path(path).expanduser()
        tensors = read_checkpoint(file, parameter_shapes(self))
        check_finite(file, tensors)
        placed = {name: _like(tensors[canonical_name(name)], parameter) for name, parameter in self.state_dict().items()}
        self.load_state_dict(placed, assign=True)
        return self

    @property
    def heads(self) -> dict[SignalName, DPTHead]:
        """Signal → its head, for each map."""
        tasks = cast("Mapping[str, Mapping[str, Mapping[str, DPTHead]]]", self.task_heads)
        return {signal: tasks[task]["task_head"]["dpt"] for signal, task in TASKS.items()}

    def encode(self, frames: Tensor) -> Tensor:
        """F4D of normalised frames (batch, 3, 16, size, size).

        Returns float32 (batch, layer, token_time, token_y, token_x, channel). Does not run blocks after the last hook.
        """
        features = self.video_encoder(frames, self.config.hooks)
        return torch.stack([features[hook] for hook in self.config.hooks], dim=1).reshape(-1, *self.config.f4d)

    def raw(self, frames: Tensor, signals: Collection[SignalName] = P4D_SIGNALS) -> RawSignals:
        """Raw signals (log depth) of normalised frames. Runs only the heads of ``signals``."""
        f4d = self.encode(frames)
        features: RawSignals = {"f4d": f4d} if "f4d" in signals else {}
        return features | self.decode_raw(f4d, [s for s in signals if s != "f4d"])

    def decode_raw(self, f4d: Tensor, signals: Collection[SignalName] = MAPS) -> RawSignals:
        """Raw maps (log depth) of features. Runs only the heads."""
        return decode_raw(self.heads, f4d, signals)

    def decode(self, f4d: Tensor) -> RawSignals:
        """The maps of features in physical units, as `forward` returns them."""
        return to_physical(self.decode_raw(f4d))

    def forward(self, frames: Tensor) -> RawSignals:
        """Every signal of a batch, in the units of `schemas.signal.SIGNALS`.

        ``frames``: (batch, 3, frame 16, size, size), RGB normalised with ImageNet's mean and standard deviation.
        Returns float32 ``f4d`` (batch, layer, token_time, token_y, token_x, channel); ``depth`` (batch, frame, y, x),
        positive; ``flow`` (batch, frame, y, x, uv) in pixels, backward; ``motion`` (batch, frame, y, x), logits;
        ``camray`` (batch, frame, token_y, token_x, plucker).
        """
        return to_physical(self.raw(frames))


def parameter_shapes(model: L4P) -> dict[str, Shape]:
    """Name → shape of every parameter."""
    return {name: tuple(t.shape) for name, t in model.state_dict().items()}


def _like(tensor: Tensor, parameter: Tensor) -> Tensor:
    return tensor.to(device="cpu" if parameter.is_meta else parameter.device, dtype=torch.float32)
