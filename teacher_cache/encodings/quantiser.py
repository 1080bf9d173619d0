"""Feature values in, integers out, with each channel's step set by a bound on its RMS error. The torch part of `ChannelRMS`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

# Steps to try, as shares of sqrt(12) × bound × RMS. That is the step whose expected RMS error equals the bound for values
# spread over many steps: about half of the channels satisfy the bound with it, and most others with the next one. With the last
# one, the bound holds even if every value is half a step off: sqrt(12) × 0.57 / 2 < 1.
_SHARES = (1.0, 0.99, 0.98, 0.96, 0.93, 0.85, 0.57)


class Quantised(NamedTuple):
    """Quantised channels of one layer. The values are (low + 256 × high + centre) × scale."""

    low: torch.Tensor
    """int8 (time, y, x, channel)."""
    high: torch.Tensor
    """int8 (time, y, x, channel)."""
    scale: torch.Tensor
    """float32 (channel,)."""
    centre: torch.Tensor
    """int8 (channel,): the mean in steps."""
    delta: torch.Tensor
    """bool (channel,): whether differences between time steps are smaller than the values' spread."""
    error: torch.Tensor
    """float64 (channel,): mean square of the error; infinite or NaN if float32 cannot represent the channel this way."""
    power: torch.Tensor
    """float64 (channel,): mean square of the values."""


def quantise(values: torch.Tensor, bound: float) -> Quantised:
    """Quantise channels of one layer, float32 (time, y, x, channel), each with an RMS error of at most ``bound`` × its RMS."""
    tokens = values.reshape(-1, values.shape[-1])
    # Scale each channel by a power of two, which is exact, to a largest magnitude in [1, 2), so that squares neither overflow
    # nor underflow.
    unit = torch.ldexp(torch.ones_like(tokens[0]), torch.frexp(tokens.abs().amax(0)).exponent - 1)
    tokens = tokens / unit
    rms = tokens.square().mean(0).sqrt()
    find = _within if tokens.device.type == "cpu" else within_without_waiting
    integers, scale, error = find(tokens, bound, rms)
    holds = (scale * unit / unit == scale) & torch.isfinite((2 + scale) * unit)
    error = torch.where(holds, error, math.inf)

    centre = (tokens.mean(0) / scale).round()
    frames = tokens.view(values.shape[0], -1, values.shape[-1])
    delta = _mean_square(frames[1:] - frames[:-1]) < _mean_square(frames[1:] - centre * scale)
    centred = integers.sub_(centre).short().view_as(values)
    low = centred.to(torch.int8)  # its low byte
    high = ((centred - low) >> 8).to(torch.int8)
    square = unit.double().square()
    return Quantised(
        low, high, scale * unit, centre.to(torch.int8), delta, error.double().square() * square, rms.double().square() * square
    )


def listed(highs: Sequence[torch.Tensor], room: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The values of a layer whose high byte is not 0, as `ChannelRMS` lists them, from int8 (time, y, x, channel) blocks.

    Returns (int32 (room,), the entries and then zeros; int64 (), how many more there are than room).
    """
    flat = torch.cat(list(highs), -1).flatten()
    return _listed(flat, room) if flat.device.type == "cpu" else listed_without_waiting(flat, room)


def _listed(flat: torch.Tensor, room: int) -> tuple[torch.Tensor, torch.Tensor]:
    at = flat.nonzero().squeeze(1)
    kept = at[:room]
    entries = torch.zeros(room, dtype=torch.int32)
    entries[: len(kept)] = _entries(flat[kept], kept)
    return entries, torch.tensor(max(0, len(at) - room))


def listed_without_waiting(flat: torch.Tensor, room: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`_listed` for a GPU, which is not asked how many: each entry goes to its place, and all that is none beyond the last."""
    is_entry = flat != 0
    order = is_entry.cumsum(0)
    place = torch.where(is_entry & (order <= room), order - 1, room)
    entries = _entries(flat, torch.arange(len(flat), device=flat.device))
    found = entries.new_zeros(room + 1).scatter_(0, place, entries)[:room]
    return found, (order[-1] - room).clamp_min(0)


def _entries(highs: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    return highs.int() * 2**24 + places.int()


def relative_rms(blocks: Sequence[Quantised]) -> tuple[torch.Tensor, torch.Tensor]:
    """Relative RMS error, float64 (): (of the worst layer and channel, of all values together). NaN if any channel's is."""
    error, power = torch.cat([q.error for q in blocks]), torch.cat([q.power for q in blocks])
    least = torch.finfo(power.dtype).tiny  # an all-zero channel has zero error and zero power
    worst, overall = (error / power.clamp_min(least)).max(), error.sum() / power.sum().clamp_min(least)
    return worst.sqrt(), overall.sqrt()


def _within(tokens: torch.Tensor, bound: float, rms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Find each channel's step. Returns (tokens (token, channel) in steps, as integral float32; steps; RMS errors)."""
    nominal = torch.where(rms > 0, math.sqrt(12) * bound * rms, torch.ones_like(rms))
    scale = _short(nominal)
    integers, error = _rounded(tokens, scale)
    for share in _SHARES[1:]:
        beyond = (error > bound * rms).nonzero().squeeze(1)
        if not len(beyond):
            break
        scale[beyond] = _short(nominal[beyond] * share)
        integers[:, beyond], error[beyond] = _rounded(tokens[:, beyond], scale[beyond])
    return integers, scale, error


def within_without_waiting(
    tokens: torch.Tensor, bound: float, rms: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`_within` for a GPU: tries every step on every channel, since the question which channels are left would wait for it."""
    nominal = torch.where(rms > 0, math.sqrt(12) * bound * rms, torch.ones_like(rms))
    scale = _short(nominal)
    for share in _SHARES[1:]:
        _, error = _rounded(tokens, scale)
        scale = torch.where(error > bound * rms, _short(nominal * share), scale)
    integers, error = _rounded(tokens, scale)
    return integers, scale, error


def _short(steps: torch.Tensor) -> torch.Tensor:
    """Round steps to eight significant bits, which are precise enough and compress better than 24."""
    return steps.bfloat16().float()


def _rounded(tokens: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(tokens in steps, rounded; RMS error of each channel)."""
    integers = (tokens / scale).round_()
    return integers, _mean_square(integers * scale - tokens).sqrt()


def _mean_square(values: torch.Tensor) -> torch.Tensor:
    """Mean square over all axes but the last."""
    return values.square().mean(tuple(range(values.dim() - 1)))
