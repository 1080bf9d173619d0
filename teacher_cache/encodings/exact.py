"""A raw signal in, the same values out: the lossless encoding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
    finite,
    numbers,
    read_together,
    to_float32,
)

if TYPE_CHECKING:
    import torch  # encoding runs on the teacher's tensors; decoding, and so reading a store, must not load torch


@dataclass(frozen=True)
class Exact(EncodesForHost):
    """Encoding: the values as they were given, unchanged. Depth is stored as its log, as the network outputs it.

    A depth that is no normal float32 number could be stored, but reads as 0 or infinity; a clip with one is not represented.
    """

    name: str
    compression: Compression
    statement: str = "lossless"
    logarithm: bool = False

    @property
    def bound(self) -> float:
        """0: what is kept is what was given."""
        return 0.0

    def stored(self, signal: Signal, shape: Shape) -> tuple[StoredArray, ...]:
        """One array of the signal's shape and dtype."""
        attributes = {
            "units": "ln(1)" if self.logarithm else signal.units,
            "long_name": f"natural log of: {signal.meaning}" if self.logarithm else signal.meaning,
            "encoding": self.name,
            "error_bound": self.statement,
        }
        dtype = np.dtype(signal.dtype).newbyteorder("<")
        missing = float("nan") if dtype.kind == "f" else 0
        together = read_together(signal, shape)
        return (StoredArray(signal.name, shape, dtype, signal.dims, missing, attributes, self.compression, together=together),)

    def on_device(self, signal: Signal, raw: torch.Tensor) -> Encoded:
        """See `Encoding.on_device`. The error is 0, or how far a logarithm is from those whose exponential float32 holds."""
        values = (raw.float() if signal.dtype == "float32" else raw).contiguous()
        least, most = (values.min(), values.max()) if self.logarithm else (values.new_zeros(()),) * 2
        return Encoded({signal.name: values}, numbers(least, most), self._error)

    def _error(self, found: Sequence[float]) -> ErrorFigure:
        least, most = found
        measure, error = "absolute error", 0.0
        if self.logarithm and not LEAST_LOG <= least <= most <= MOST_LOG:
            measure = f"distance of its natural log from what float32 can give back, {LEAST_LOG:.2f} to {MOST_LOG:.2f},"
            error = max(LEAST_LOG - least, most - MOST_LOG)
        return ErrorFigure(measure=measure, measured=finite(error), bound=0.0, relative_rms=0.0)

    def decode(self, signal: Signal, arrays: Mapping[str, AnyArray], out: AnyArray | None = None) -> AnyArray:
        """See `Encoding.decode`."""
        stored = arrays[signal.name]
        if signal.dtype == "float32":
            return exp(stored, out) if self.logarithm else to_float32(stored, out)
        if out is None:
            return stored
        out[...] = stored
        return out
