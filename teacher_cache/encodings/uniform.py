"""A map in, integers with a fixed step out, and back, by the CF convention: value = integer × scale_factor + add_offset."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from schemas.log import ErrorFigure
from schemas.signal import Shape, Signal
from teacher_cache.encodings.base import SHUFFLED, AnyArray, Arrays, Compression, StoredArray, exp, figure, to_float32

if TYPE_CHECKING:
    import torch  # encoding runs on the teacher's tensors; decoding, and so reading a store, must not load torch


@dataclass(frozen=True)
class UniformInteger:
    """Encoding: one fixed step for all values, so the error is at most half a step for every value in range."""

    name: str
    statement: str
    dtype: np.dtype[Any]
    step: float
    offset: float
    missing: int
    clip: float | None = None
    """Values beyond ±clip are stored as ±clip, by the signal's definition, so this does not count as an error."""
    logarithm: bool = False
    """Whether the stored quantity is the natural log. `decode` returns its exponential, and the error is relative."""
    bound: float = 0.0
    compression: Compression = SHUFFLED

    def stored(self, signal: Signal, shape: Shape) -> tuple[StoredArray, ...]:
        """One integer array of the signal's shape, with CF attributes."""
        attributes = {
            "scale_factor": self.step,
            "add_offset": self.offset,
            "_FillValue": self.missing,
            "units": "ln(1)" if self.logarithm else signal.units,
            "long_name": f"natural log of: {signal.meaning}" if self.logarithm else signal.meaning,
            "encoding": self.name,
            "error_bound": self.statement,
        }
        return (StoredArray(signal.name, shape, self.dtype, signal.dims, self.missing, attributes, self.compression),)

    def signal_shape(self, stored: Shape) -> Shape:
        """The stored shape itself."""
        return stored

    def encode(self, signal: Signal, raw: torch.Tensor) -> tuple[Arrays, ErrorFigure]:
        """See `Encoding.encode`. The error is the largest absolute one, or relative one for a logarithm."""
        # With a power of two as step, float32 divides, rounds and subtracts exactly. With another step, at 2^16 steps, it would
        # be off by a noticeable part of a step, so float64 is used.
        is_exact = math.frexp(self.step)[0] == 0.5 and self.offset == 0
        values = raw.float() if is_exact else raw.double()
        if self.clip is not None:
            values = values.clamp(-self.clip, self.clip)
        limits = np.iinfo(self.dtype)
        lowest = limits.min + 1 if self.missing == limits.min else limits.min
        integers = ((values - self.offset) / self.step).round_().clamp_(lowest, limits.max)
        stored: Arrays = {signal.name: integers.int().cpu().numpy().astype(self.dtype)}
        error = integers.mul_(self.step).add_(self.offset).sub_(values)
        least, largest = float(error.min()), float(error.max())
        if self.logarithm:
            measured = max(_expm1(largest), -_expm1(least))
            physical = values.exp()
            return stored, figure("relative error", error.expm1_().mul_(physical), physical, measured, self.bound)
        return stored, figure(f"absolute error in {signal.units}", error, values, max(largest, -least), self.bound)

    def decode(self, signal: Signal, arrays: Mapping[str, AnyArray], out: AnyArray | None = None) -> AnyArray:
        """See `Encoding.decode`."""
        values = to_float32(arrays[signal.name], out)
        values *= self.step
        if self.offset:
            values += self.offset
        return exp(values, values) if self.logarithm else values


def _expm1(value: float) -> float:
    """Relative error from an error of the log; infinite for a log error of 1 or more, since math.expm1 might overflow."""
    return math.expm1(value) if value < 1 or math.isnan(value) else math.inf
