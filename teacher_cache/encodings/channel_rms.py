"""F4D in, a byte for each value out, and back; with a bound on each channel's relative RMS error."""

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
    Values,
    bytes_to_float32,
    finite,
    numbers,
    read_together,
    to_float32,
)

if TYPE_CHECKING:
    import torch  # encoding runs on the teacher's tensors; decoding, and so reading a store, must not load torch

_SCALE = slice(0, 4)
_CENTRE, _DELTA, _LIST = 4, 5, 6
_MISSING = -128
_BLOCK = 256  # channels quantised at once on a CPU, so that they fit in its cache
_MOST_VALUES = 2**24
"""Of a layer, so that a place among them takes three bytes."""


@dataclass(frozen=True)
class ChannelRMS(EncodesForHost):
    """Encoding: value = (low + 256 × high + centre) × scale, a uniform quantiser whose step (scale) follows from the bound.

    For each layer and channel of each clip, centre is the mean in steps. low and high are the two bytes of the remainder, low
    being signed, so high is 0 for values within 127 steps: 4.4 times the RMS at 1%, beyond which are some ten values in a
    million. If delta is 1, successive time steps are similar, and low is stored as the difference from the previous one, modulo
    256.

    A clip is one int8 array (layer, time, row, token_x, channel), so its parts cannot come from different runs, and one request
    reads it; a layer is decoded from what is its own. Its rows but the last are low. Of the last ones, over all times, the
    first six tokens hold each channel's scale (four bytes of a little-endian float32), centre and delta; the bytes of the other
    tokens, in order, are the list of the values whose high is not 0: each a little-endian uint32, with high in its top byte and
    the value's place among the layer's (time, y, x, channel) in the others, by place. What is left is 0. A list holds 1.5% of
    the values of L4P's 16 × 16 tokens; a clip with more does not fit.
    """

    name: str
    bound: float
    """Largest allowed RMS error of a channel, relative to the channel's RMS in the clip."""
    compression: Compression

    @property
    def statement(self) -> str:
        """The bound in words."""
        return f"RMS error within {self.bound:.0%} of the RMS, for each layer and channel of each clip"

    def stored(self, signal: Signal, shape: Shape) -> tuple[StoredArray, ...]:
        """One int8 array (layer, time, row, token_x, channel)."""
        layers, times, height, width, channels = shape
        # Scale, centre and delta take six tokens. A value is within sqrt(tokens) × RMS of the mean, and a step at least
        # sqrt(12) × 0.57 × bound × RMS: it fits 16 bits.
        if times * width <= _DELTA or math.sqrt(times * height * width) > 2**15 * 1.9 * self.bound:
            raise BadInput(
                f"the encoding {self.name} is for more than {_DELTA} tokens in a row over all times, and at most "
                f"{(2**15 * 1.9 * self.bound) ** 2:.0f} in all, and one has {times}×{height}×{width}; use the profile `exact`"
            )
        if math.prod(shape[1:]) > _MOST_VALUES:
            raise BadInput(
                f"the encoding {self.name} is for at most {_MOST_VALUES} values a layer, and one has {math.prod(shape[1:])}; "
                "use the profile `exact`"
            )
        attributes = {
            "units": signal.units,
            "long_name": signal.meaning,
            "encoding": self.name,
            "error_bound": self.statement,
            "formula": "(low + 256 high + centre) scale, low summed over time modulo 256 where delta is 1; high is 0 but where "
            "the list has it: uint32, place in the layer + 2^24 (high modulo 256)",
            "rows": {"low": [0, height], "scale (4 tokens), centre, delta, list": [height, height + 1]},
        }
        layer, time, _, token_x, channel = signal.dims
        dims = (layer, time, "row", token_x, channel)
        rows = (layers, times, height + 1, width, channels)
        return (
            StoredArray(
                signal.name,
                rows,
                np.dtype("i1"),
                dims,
                _MISSING,
                attributes,
                self.compression,
                together=read_together(signal, rows),
            ),
        )

    def on_device(self, signal: Signal, raw: torch.Tensor) -> Encoded:
        """See `Encoding.on_device`. ``raw``: (layer, time, y, x, channel). The error is that of the worst layer and channel."""
        import torch  # noqa: PLC0415  # which decoding does not need

        from teacher_cache.encodings.quantiser import listed, quantise, relative_rms  # noqa: PLC0415  # torch

        at_once = _BLOCK if raw.device.type == "cpu" else raw.shape[-1]
        blocks = [block for layer in raw.float() for block in layer.split(at_once, dim=-1)]
        quantised = [quantise(block, self.bound) for block in blocks]
        (stored,) = self.stored(signal, tuple(raw.shape))
        rows = quantised[0].low.new_zeros(stored.shape)
        beyond = []
        parts = len(quantised) // len(raw)
        for layer, first in zip(rows, range(0, len(quantised), parts), strict=True):
            found = quantised[first : first + parts]
            low, side = torch.cat([q.low for q in found], -1), layer[:, -1].flatten(0, 1)  # (token, channel)
            layer[:, :-1] = low
            layer[1:, :-1] -= low[:-1] * torch.cat([q.delta for q in found])
            side[_SCALE] = torch.cat([q.scale for q in found]).view(side.dtype).view(-1, 4).T
            side[_CENTRE], side[_DELTA] = torch.cat([q.centre for q in found]), torch.cat([q.delta for q in found])
            room = side[_LIST:].view(-1)
            entries, left = listed([q.high for q in found], len(room) // 4)
            room[: 4 * len(entries)] = entries.view(room.dtype)
            layer[:, -1] = side.view_as(layer[:, -1])
            beyond.append(left)
        return Encoded({signal.name: rows}, numbers(*relative_rms(quantised), torch.stack(beyond).sum()), self._error)

    def _error(self, found: Sequence[float]) -> ErrorFigure:
        worst, overall, unlisted = found
        measure = "RMS error over RMS, of the worst layer and channel"
        measured = math.inf if unlisted else worst
        return ErrorFigure(measure=measure, measured=finite(measured), bound=self.bound, relative_rms=finite(overall))

    def decode(self, signal: Signal, arrays: Mapping[str, AnyArray], out: AnyArray | None = None) -> AnyArray:
        """See `Encoding.decode`."""
        rows = arrays[signal.name]  # (..., layer, time, row, x, channel)
        if isinstance(rows, np.ndarray):
            return _decoded_by_layer(rows, out)
        return _decoded_together(rows, out)


def _decoded_by_layer(rows: Values, out: Values | None) -> Values:
    if out is None:
        out = np.empty((*rows.shape[:-3], rows.shape[-3] - 1, *rows.shape[-2:]), np.float32)
    for layer in np.ndindex(rows.shape[:-4]):
        _decode_layer(rows[layer], out[layer])
    return out


def _decode_layer(rows: Values, out: Values) -> None:
    """int8 (time, row, x, channel) → float32 (time, y, x, channel), a time step at a time, which stays in the cache."""
    lows, side = rows[:, :-1], rows[:, -1].reshape(-1, rows.shape[-1])  # (time, y, x, channel), (token, channel)
    scale, centre, chosen = bytes_to_float32(side[_SCALE]), to_float32(side[_CENTRE]), -side[_DELTA]
    room = np.ascontiguousarray(side[_LIST:]).reshape(-1)
    entries = room[: room.size // 4 * 4].view("<u4")
    entries = entries[entries != 0]
    # A list that no encoder wrote may have any places: they must not lead elsewhere.
    places = np.minimum(np.maximum.accumulate(entries & (_MOST_VALUES - 1)), lows.size - 1)
    highs = (entries.view("<i4") >> 24) * np.float32(256)
    ends = np.searchsorted(places, np.arange(1, len(lows) + 1) * lows[0].size)
    step, first, is_chained = lows[0], 0, chosen.any()
    for time, (low, end) in enumerate(zip(lows, ends, strict=True)):
        if is_chained and time:
            step = (step & chosen) + low  # all bits chosen where delta is 1, none where it is 0
        values = out[time]
        values[...] = step if is_chained else low
        at = np.unravel_index(places[first:end] - time * low.size, low.shape)
        values[at] += highs[first:end]
        values += centre
        values *= scale
        first = end


def _decoded_together(rows: torch.Tensor, out: torch.Tensor | None) -> torch.Tensor:
    """The same of tensors (..., layer, time, row, x, channel). On a GPU it waits for nothing: no list's length is asked for."""
    low, side = rows[..., :-1, :, :], rows[..., -1, :, :].flatten(-3, -2)  # (..., layer, token, channel)
    values = to_float32(low.contiguous(), out)
    step, chosen = low[..., 0, :, :, :], -side[..., None, None, _DELTA, :]
    for time in range(1, low.shape[-4]):
        step = (step & chosen) + low[..., time, :, :, :]
        values[..., time, :, :, :] = step
    room = side[..., _LIST:, :].flatten(-2)
    entries = room[..., : room.shape[-1] // 4 * 4].contiguous().view(_int32(rows))
    high = entries >> 24
    unused = high.new_ones(entries.shape[-1]).cumsum(-1) - 1  # a place each, so that adding nothing there meets nobody
    places = (entries & (_MOST_VALUES - 1)).where(high != 0, unused.to(entries.dtype)).long()
    flat = values.flatten(-4)
    places.clamp_(max=flat.shape[-1] - 1)  # a list that no encoder wrote may have any, and one beyond stops a GPU
    flat.scatter_add_(-1, places, high.to(values.dtype) * 256)
    values += side[..., None, None, None, _CENTRE, :]
    values *= bytes_to_float32(side[..., _SCALE, :])[..., None, None, None, :]
    return values


def _int32(like: torch.Tensor) -> torch.dtype:
    return like.new_zeros(0).int().dtype
