"""A lossy encoding in, one for clips beyond its bound too out: those are stored losslessly, in an optional array."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from schemas.log import ErrorFigure
from schemas.signal import Shape, Signal, exact_array
from teacher_cache.encodings.base import AnyArray, Arrays, Encoding, StoredArray
from teacher_cache.encodings.exact import Exact

if TYPE_CHECKING:
    import torch  # encoding runs on the teacher's tensors; decoding, and so reading a store, must not load torch


@dataclass(frozen=True)
class ExactFallback:
    """Encoding: ``lossy`` for clips whose measured error is within its bound; the raw float32 values for the others.

    The others are clips with values beyond the integers' range, or too small or too large for a float32 step.
    """

    lossy: Encoding
    exact: Exact

    @property
    def name(self) -> str:
        """The lossy encoding's name."""
        return self.lossy.name

    @property
    def statement(self) -> str:
        """The lossy encoding's bound, in words."""
        return self.lossy.statement

    def stored(self, signal: Signal, shape: Shape) -> tuple[StoredArray, ...]:
        """The lossy encoding's arrays, and an optional one for exact clips."""
        (exact,) = self.exact.stored(signal, shape)
        return (*self.lossy.stored(signal, shape), replace(exact, name=exact_array(signal.name), optional=True))

    def encode(self, signal: Signal, raw: torch.Tensor) -> tuple[Arrays, ErrorFigure]:
        """See `Encoding.encode`. Returns either the lossy arrays or the exact one."""
        arrays, error = self.lossy.encode(signal, raw)
        if error.measured <= error.bound:
            return arrays, error
        arrays, error = self.exact.encode(signal, raw)
        return {exact_array(signal.name): arrays[signal.name]}, error

    def decode(self, signal: Signal, arrays: Mapping[str, AnyArray], out: AnyArray | None = None) -> AnyArray:
        """See `Encoding.decode`. Decodes whichever arrays are there."""
        exact = arrays.get(exact_array(signal.name))
        if exact is None:
            return self.lossy.decode(signal, arrays, out)
        return self.exact.decode(signal, {signal.name: exact}, out)
