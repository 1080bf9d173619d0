"""F4D in, bytes that compress close to their entropy out, and back; with a bound on each channel's relative RMS error."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from schemas.errors import BadInput
from schemas.log import ErrorFigure
from schemas.signal import Shape, Signal
from teacher_cache.encodings.base import (
    AnyArray,
    Compression,
    Encoded,
    EncodesForHost,
    StoredArray,
    bytes_to_float32,
    finite,
    nonzero,
    numbers,
    to_float32,
)

if TYPE_CHECKING:
    import torch  # encoding runs on the teacher's tensors; decoding, and so reading a store, must not load torch

_SCALE = slice(0, 4)
_CENTRE, _DELTA = 4, 5
_MISSING = -128
_BLOCK = 256  # channels quantised at once on a CPU, so that they fit in its cache


@dataclass(frozen=True)
class ChannelRMS(EncodesForHost):
    """Encoding: value = (low + 256 × high + centre) × scale, a uniform quantiser whose step (scale) follows from the bound.

    For each layer and channel of each clip, centre is the mean in steps. low and high are the two bytes of the remainder, low
    being signed, so high is 0 for values within 127 steps (4.4 times the RMS at 1%). If delta is 1, successive time steps are
    similar, and low is stored as the difference from the previous time step, modulo 256.

    A clip is one int8 array (layer, plane, token_y, token_x, channel), so its parts cannot come from different runs, and one
    request reads it. Planes 0 to T-1 are low; planes T to 2T-1 are high; the first six tokens of plane 2T hold each channel's
    scale (four bytes of a little-endian float32), centre and delta; the other tokens are 0.
    """

    name: str
    bound: float
    """Largest allowed RMS error of a channel, relative to the channel's RMS in the clip."""

    @property
    def statement(self) -> str:
        """The bound in words."""
        return f"RMS error within {self.bound:.0%} of the RMS, for each layer and channel of each clip"

    def stored(self, signal: Signal, shape: Shape) -> tuple[StoredArray, ...]:
        """One int8 array (layer, plane, token_y, token_x, channel)."""
        layers, times, height, width, channels = shape
        # Scale, centre and delta take six tokens. A value is within sqrt(tokens) × RMS of the mean, and a step at least
        # sqrt(12) × 0.57 × bound × RMS: it fits 16 bits.
        if height * width <= _DELTA or math.sqrt(times * height * width) > 2**15 * 1.9 * self.bound:
            raise BadInput(
                f"the encoding {self.name} is for more than {_DELTA} tokens a time step and at most "
                f"{(2**15 * 1.9 * self.bound) ** 2:.0f} in all, and one has {times}×{height}×{width}; use the profile `exact`"
            )
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
        compression = Compression("zstd", level=1)  # the bytes have no matches for higher levels to find
        return (StoredArray(signal.name, planes, np.dtype("i1"), dims, _MISSING, attributes, compression),)

    def on_device(self, signal: Signal, raw: torch.Tensor) -> Encoded:
        """See `Encoding.on_device`. ``raw``: (layer, time, y, x, channel). The error is that of the worst layer and channel."""
        from teacher_cache.encodings.quantiser import quantise, relative_rms  # noqa: PLC0415  # torch, which decoding does not need

        at_once = _BLOCK if raw.device.type == "cpu" else raw.shape[-1]
        blocks = [block for layer in raw.float() for block in layer.split(at_once, dim=-1)]
        quantised = [quantise(block, self.bound) for block in blocks]
        times = raw.shape[1]
        (stored,) = self.stored(signal, tuple(raw.shape))
        planes = quantised[0].low.new_zeros(stored.shape)
        for block, q in zip((b for layer in planes for b in layer.split(at_once, dim=-1)), quantised, strict=True):
            block[:times] = q.low
            block[1:times] -= q.low[:-1] * q.delta
            block[times : 2 * times] = q.high
            side = block[2 * times].flatten(0, 1)  # (token, channel)
            side[_SCALE] = q.scale.view(side.dtype).view(-1, 4).T
            side[_CENTRE], side[_DELTA] = q.centre, q.delta
        return Encoded({signal.name: planes}, numbers(*relative_rms(quantised)), self._error)

    def _error(self, found: Sequence[float]) -> ErrorFigure:
        worst, overall = found
        measure = "RMS error over RMS, of the worst layer and channel"
        return ErrorFigure(measure=measure, measured=finite(worst), bound=self.bound, relative_rms=finite(overall))

    def decode(self, signal: Signal, arrays: Mapping[str, AnyArray], out: AnyArray | None = None) -> AnyArray:
        """See `Encoding.decode`."""
        planes = arrays[signal.name]  # (..., layer, plane, y, x, channel)
        times = planes.shape[-4] // 2
        low, high = planes[..., :times, :, :, :], planes[..., times : 2 * times, :, :, :]
        side = planes[..., 2 * times :, :, :, :]
        side = side.reshape(*side.shape[:-4], 1, 1, -1, side.shape[-1])  # (..., layer, 1, 1, token, channel)
        centre, delta = side[..., _CENTRE, :], side[..., _DELTA, :]  # (..., layer, 1, 1, channel)
        values = to_float32(low, out)
        if delta.any():
            step, chosen = low[..., 0, :, :, :], -delta  # all bits set if delta is 1, none if it is 0
            for time in range(1, times):
                step = (step & chosen) + low[..., time, :, :, :]
                values[..., time, :, :, :] = step
        for time in range(times):
            step = high[..., time, :, :, :]
            at = nonzero(step)  # few: beyond 127 steps, which at 1% are 4.4 times the RMS
            values[..., time, :, :, :][at] += to_float32(step[at]) * 256
        values += to_float32(centre)[..., None, :, :, :]
        values *= bytes_to_float32(side[..., _SCALE, :])[..., None, :, :, :]
        return values
