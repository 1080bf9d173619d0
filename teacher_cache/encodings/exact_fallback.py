"""A lossy encoding in, one for clips beyond its bound too out: those are stored losslessly, in an optional array."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from schemas.signal import Shape, Signal, exact_array
from teacher_cache.encodings.base import AnyArray, Encoded, EncodesForHost, Encoding, StoredArray
from teacher_cache.encodings.exact import Exact

if TYPE_CHECKING:
    import torch  # encoding runs on the teacher's tensors; decoding, and so reading a store, must not load torch


@dataclass(frozen=True)
class ExactFallback(EncodesForHost):
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

    @property
    def bound(self) -> float:
        """The lossy encoding's bound."""
        return self.lossy.bound

    def stored(self, signal: Signal, shape: Shape) -> tuple[StoredArray, ...]:
        """The lossy encoding's arrays, and an optional one for exact clips."""
        (exact,) = self.exact.stored(signal, shape)
        return (*self.lossy.stored(signal, shape), replace(exact, name=exact_array(signal.name), optional=True))

    def on_device(self, signal: Signal, raw: torch.Tensor) -> Encoded:
        """See `Encoding.on_device`. Either the lossy arrays or, instead, the exact one."""

        def exact() -> Encoded:
            found = self.exact.on_device(signal, raw)
            return replace(found, arrays={exact_array(signal.name): found.arrays[signal.name]})

        return replace(self.lossy.on_device(signal, raw), instead=exact)

    def decode(self, signal: Signal, arrays: Mapping[str, AnyArray], out: AnyArray | None = None) -> AnyArray:
        """See `Encoding.decode`. Decodes whichever arrays are there."""
        exact = arrays.get(exact_array(signal.name))
        if exact is None:
            return self.lossy.decode(signal, arrays, out)
        return self.exact.decode(signal, {signal.name: exact}, out)
