"""A bound that always holds: clips that a lossy encoding cannot hold within it are kept exactly, in an array of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from schemas.ledger import ErrorFigure
from schemas.signal import Shape, Signal, exact_array
from teacher_cache.encodings.base import AnyArray, Arrays, Encoding, StoredArray
from teacher_cache.encodings.exact import Exact

if TYPE_CHECKING:
    import torch  # encoding runs on the teacher's tensors; decoding, and so reading a store, must not load torch


@dataclass(frozen=True)
class ExactFallback:
    """``lossy`` where its measured error is within its bound, and the raw float32 values where it is not.

    The latter are clips with NaN or infinities, beyond an integer's range, or too small for float32 to hold a step of them.
    """

    lossy: Encoding
    exact: Exact

    @property
    def name(self) -> str:
        return self.lossy.name

    @property
    def statement(self) -> str:
        return self.lossy.statement

    def stored(self, signal: Signal, shape: Shape) -> tuple[StoredArray, ...]:
        (exact,) = self.exact.stored(signal, shape)
        return (*self.lossy.stored(signal, shape), replace(exact, name=exact_array(signal.name), optional=True))

    def signal_shape(self, stored: Shape) -> Shape:
        return self.lossy.signal_shape(stored)

    def encode(self, signal: Signal, raw: torch.Tensor) -> tuple[Arrays, ErrorFigure]:
        arrays, error = self.lossy.encode(signal, raw)
        if error.measured <= error.bound:
            return arrays, error
        arrays, error = self.exact.encode(signal, raw)
        return {exact_array(signal.name): arrays[signal.name]}, error

    def decode(self, signal: Signal, arrays: Mapping[str, AnyArray], out: AnyArray | None = None) -> AnyArray:
        exact = arrays.get(exact_array(signal.name))
        if exact is None:
            return self.lossy.decode(signal, arrays, out)
        return self.exact.decode(signal, {signal.name: exact}, out)
