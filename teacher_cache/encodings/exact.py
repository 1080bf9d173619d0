"""A raw signal in, the same float32 values out: the lossless encoding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from schemas.log import ErrorFigure
from schemas.signal import Shape, Signal
from teacher_cache.encodings.base import AnyArray, Arrays, Compression, StoredArray, exp, to_float32

if TYPE_CHECKING:
    import torch  # encoding runs on the teacher's tensors; decoding, and so reading a store, must not load torch


@dataclass(frozen=True)
class Exact:
    """Encoding: the teacher's float32 output, unchanged. Depth is stored as its log, as the network outputs it."""

    name: str
    compression: Compression
    statement: str = "lossless"
    logarithm: bool = False

    def stored(self, signal: Signal, shape: Shape) -> tuple[StoredArray, ...]:
        """One float32 array of the signal's shape."""
        attributes = {
            "units": "ln(1)" if self.logarithm else signal.units,
            "long_name": f"natural log of: {signal.meaning}" if self.logarithm else signal.meaning,
            "encoding": self.name,
            "error_bound": self.statement,
        }
        return (StoredArray(signal.name, shape, np.dtype("<f4"), signal.dims, float("nan"), attributes, self.compression),)

    def signal_shape(self, stored: Shape) -> Shape:
        """The stored shape itself."""
        return stored

    def encode(self, signal: Signal, raw: torch.Tensor) -> tuple[Arrays, ErrorFigure]:
        """See `Encoding.encode`. The error is always 0."""
        stored = raw.float().cpu().contiguous().numpy().astype("<f4", copy=False)
        return {signal.name: stored}, ErrorFigure(measure="absolute error", measured=0.0, bound=0.0, relative_rms=0.0)

    def decode(self, signal: Signal, arrays: Mapping[str, AnyArray], out: AnyArray | None = None) -> AnyArray:
        """See `Encoding.decode`."""
        stored = arrays[signal.name]
        return exp(stored, out) if self.logarithm else to_float32(stored, out)
