"""F4D within a relative RMS error for each layer and channel of each clip, as bytes that compress close to their entropy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from schemas.ledger import ErrorFigure
from schemas.signal import Shape, Signal
from teacher_cache.encodings.base import AnyArray, Arrays, Compression, StoredArray, bytes_to_float32, to_float32

if TYPE_CHECKING:
    import torch  # encoding runs on the teacher's tensors; decoding, and so reading a store, must not load torch

_SCALE = slice(0, 4)
_CENTRE, _DELTA = 4, 5
_MISSING = -128
_BLOCK = 256  # channels that are quantised at once, so that a processor's cache holds them


@dataclass(frozen=True)
class ChannelRMS:
    """value = (low + 256 × high + centre) × scale: a uniform quantiser whose step, scale, is set by the bound.

    For each layer and channel of each clip, centre is the mean in steps. low and high are the bytes of the rest, the low one
    signed, so high is 0 for values within 127 steps (4.4 times the RMS at 1%). Where delta is 1, time steps are alike, and
    low is kept as its difference from the time step before, modulo 256.

    All of a clip is in one int8 array (layer, plane, token_y, token_x, channel), so that no part of it can come from another
    run than the rest, and one request reads it. Planes 0 to T-1 are low; T to 2T-1 are high; the first six tokens of plane 2T
    hold each channel's scale as a little-endian float32, its centre and its delta, and the others 0.
    """

    name: str
    bound: float
    """Largest RMS of a channel's error, relative to the channel's RMS in the clip."""

    @property
    def statement(self) -> str:
        return f"RMS error within {self.bound:.0%} of the RMS, for each layer and channel of each clip"

    def stored(self, signal: Signal, shape: Shape) -> tuple[StoredArray, ...]:
        layers, times, height, width, channels = shape
        assert height * width > _DELTA  # tokens enough for what stands beside the integers
        attributes = {
            "units": signal.units,
            "long_name": signal.meaning,
            "encoding": self.name,
            "error_bound": self.statement,
            "formula": "(low + 256 high + centre) scale, low summed over time modulo 256 where delta is 1",
            "planes": {
                "low": [0, times],
                "high": [times, 2 * times],
                "scale (4 tokens), centre, delta": [2 * times, 2 * times + 1],
            },
        }
        layer, _, token_y, token_x, channel = signal.dims
        dims = (layer, "plane", token_y, token_x, channel)
        planes = (layers, 2 * times + 1, height, width, channels)
        compression = Compression("zstd", level=1)  # literals are all there is: its higher levels find no matches
        return (StoredArray(signal.name, planes, np.dtype("i1"), dims, _MISSING, attributes, compression),)

    def signal_shape(self, stored: Shape) -> Shape:
        return (stored[0], stored[1] // 2, *stored[2:])

    def encode(self, signal: Signal, raw: torch.Tensor) -> tuple[Arrays, ErrorFigure]:
        from teacher_cache.encodings.quantiser import quantise, relative_rms  # noqa: PLC0415  # torch, which decoding does not need

        blocks = [block for layer in raw.float() for block in layer.split(_BLOCK, dim=-1)]
        quantised = [quantise(block, self.bound) for block in blocks]
        times = raw.shape[1]
        (stored,) = self.stored(signal, tuple(raw.shape))
        planes = quantised[0].low.new_zeros(stored.shape)
        for block, q in zip((b for layer in planes for b in layer.split(_BLOCK, dim=-1)), quantised, strict=True):
            block[:times] = q.low
            block[1:times] -= q.low[:-1] * q.delta
            block[times : 2 * times] = q.high
            side = block[2 * times].flatten(0, 1)  # (token, channel)
            side[_SCALE] = q.scale.view(side.dtype).view(-1, 4).T
            side[_CENTRE], side[_DELTA] = q.centre, q.delta
        worst, overall = relative_rms(quantised)
        measure = "RMS error over RMS, of the worst layer and channel"
        figure = ErrorFigure(measure=measure, measured=worst, bound=self.bound, relative_rms=overall)
        return {signal.name: planes.cpu().numpy()}, figure

    def decode(self, signal: Signal, arrays: Mapping[str, AnyArray], out: AnyArray | None = None) -> AnyArray:
        planes = arrays[signal.name]  # (..., layer, plane, y, x, channel)
        times = planes.shape[-4] // 2
        low, high = planes[..., :times, :, :, :], planes[..., times : 2 * times, :, :, :]
        side = planes[..., 2 * times :, :, :, :]
        side = side.reshape(*side.shape[:-4], 1, 1, -1, side.shape[-1])  # (..., layer, 1, 1, token, channel)
        centre, delta = side[..., _CENTRE, :], side[..., _DELTA, :]  # (..., layer, 1, 1, channel)
        values = to_float32(low, out)
        if delta.any():
            step, chosen = low[..., 0, :, :, :], -delta  # all bits where delta is 1
            for time in range(1, times):
                step = (step & chosen) + low[..., time, :, :, :]
                values[..., time, :, :, :] = step
        for time in range(times):
            if high[..., time, :, :, :].any():
                values[..., time, :, :, :] += to_float32(high[..., time, :, :, :]) * 256
        values += to_float32(centre)[..., None, :, :, :]
        values *= bytes_to_float32(side[..., _SCALE, :])[..., None, :, :, :]
        return values
