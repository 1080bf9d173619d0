"""A map in, integers with a fixed step out, and back, by the CF convention: value = integer × scale_factor."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from schemas.log import ErrorFigure
from schemas.signal import Shape, Signal
from teacher_cache.encodings.base import (
    LEAST_LOG,
    MOST_LOG,
    AnyArray,
    Compression,
    Encoded,
    EncodesForHost,
    StoredArray,
    exp,
    figure,
    mean_square,
    numbers,
    read_together,
    to_float32,
)

if TYPE_CHECKING:
    import torch  # encoding runs on the teacher's tensors; decoding, and so reading a store, must not load torch


@dataclass(frozen=True)
class UniformInteger(EncodesForHost):
    """Encoding: one fixed step for all values, so the error is at most half a step for every value in range."""

    name: str
    statement: str
    dtype: np.dtype[Any]
    step: float
    """A power of two, so that float32 divides, rounds, multiplies and subtracts without an error of its own."""
    bound: float
    compression: Compression
    clip: float | None = None
    """Values beyond ±clip are stored as ±clip, by the signal's definition, so this does not count as an error."""
    logarithm: bool = False
    """Whether the stored quantity is the natural log. `decode` returns its exponential, and the error is relative."""

    @property
    def missing(self) -> int:
        """The least integer, which stands for no clip."""
        return int(np.iinfo(self.dtype).min)

    def stored(self, signal: Signal, shape: Shape) -> tuple[StoredArray, ...]:
        """One integer array of the signal's shape, with CF attributes."""
        attributes = {
            "scale_factor": self.step,
            "add_offset": 0.0,
            "_FillValue": self.missing,
            "units": "ln(1)" if self.logarithm else signal.units,
            "long_name": f"natural log of: {signal.meaning}" if self.logarithm else signal.meaning,
            "encoding": self.name,
            "error_bound": self.statement,
        }
        return (
            StoredArray(
                signal.name,
                shape,
                self.dtype,
                signal.dims,
                self.missing,
                attributes,
                self.compression,
                together=read_together(signal, shape),
            ),
        )

    def on_device(self, signal: Signal, raw: torch.Tensor) -> Encoded:
        """See `Encoding.on_device`. The error is the largest absolute one, or relative one for a logarithm."""
        import torch  # noqa: PLC0415  # which decoding does not need

        values = raw.float()
        if self.clip is not None:
            values = values.clamp(-self.clip, self.clip)
        lowest, highest = self._range()
        integers = (values / self.step).round_().clamp_(lowest, highest)
        stored: dict[str, torch.Tensor] = {signal.name: integers.to(getattr(torch, self.dtype.name))}
        error = integers.mul_(self.step).sub_(values)
        least, largest = error.min(), error.max()
        if self.logarithm:
            values = (values - values.max()).exp_()  # up to a factor, which the relative RMS does not see; at most 1
            error = error.expm1_().mul_(values)
        found = numbers(least, largest, mean_square(error), mean_square(values))
        return Encoded(stored, found, lambda on_host: self._error(signal, on_host))

    def _error(self, signal: Signal, found: Sequence[float]) -> ErrorFigure:
        least, largest, noise, power = found
        if self.logarithm:
            return figure("relative error", noise, power, max(_expm1(largest), -_expm1(least)), self.bound)
        return figure(f"absolute error in {signal.units}", noise, power, max(largest, -least), self.bound)

    def decode(self, signal: Signal, arrays: Mapping[str, AnyArray], out: AnyArray | None = None) -> AnyArray:
        """See `Encoding.decode`."""
        values = to_float32(arrays[signal.name], out)
        values *= self.step
        return exp(values, values) if self.logarithm else values

    def _range(self) -> tuple[int, int]:
        """Least and largest integer to store: what the dtype holds, and of logarithms those whose exponential float32 holds."""
        limits = np.iinfo(self.dtype)
        lowest, highest = int(limits.min) + 1, int(limits.max)
        if not self.logarithm:
            return lowest, highest
        return max(lowest, math.ceil(LEAST_LOG / self.step)), min(highest, math.floor(MOST_LOG / self.step))


def _expm1(value: float) -> float:
    """Relative error from an error of the log; infinite for a log error of 1 or more, since math.expm1 might overflow."""
    return math.expm1(value) if value < 1 or math.isnan(value) else math.inf
