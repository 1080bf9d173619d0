"""What an encoding is: raw signal → stored arrays → physical signal, with a bound that is measured at write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from schemas.ledger import ErrorFigure
from schemas.signal import Shape, Signal

if TYPE_CHECKING:
    import torch  # encoding runs on the teacher's tensors; decoding, and so reading a store, must not load torch


@dataclass(frozen=True)
class StoredArray:
    """One Zarr array of the store, seen per clip."""

    name: str
    shape: Shape
    """Of one clip; the store puts the clip axis before it."""
    dtype: np.dtype[Any]
    dims: tuple[str, ...]
    missing: float | int
    """The value that stands where there is no clip. Never a value that an encoding writes."""
    attributes: Mapping[str, Any] = field(default_factory=dict)


Arrays = dict[str, np.ndarray[Any, Any]]
"""Stored array's name → one clip's values."""


class Encoding(Protocol):
    """A named way to store one signal. Its name is in the recipe, so its arithmetic may never change under that name."""

    @property
    def name(self) -> str: ...

    @property
    def statement(self) -> str:
        """The bound in words, kept in the array's attributes."""

    def stored(self, signal: Signal, shape: Shape) -> tuple[StoredArray, ...]:
        """The arrays that hold the signal; the first is named after the signal."""

    def encode(self, signal: Signal, raw: torch.Tensor) -> tuple[Arrays, ErrorFigure]:
        """Encode one clip's raw signal, a float32 tensor on any device; the arithmetic runs on that device.

        Returns little-endian arrays on the host and the measured error. The values must be finite.
        """

    def decode(self, signal: Signal, arrays: Mapping[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
        """Physical values as float32. Arrays may have a leading clip axis. Depth is positive, not its log."""


def figure(measure: str, error: torch.Tensor, values: torch.Tensor, measured: float, bound: float) -> ErrorFigure:
    """An `ErrorFigure` with the relative RMS of ``error`` over ``values``, both of one shape."""
    power = float(values.double().square().mean())
    noise = float(error.double().square().mean())
    relative = (noise / power) ** 0.5 if power > 0 else 0.0
    return ErrorFigure(measure=measure, measured=measured, bound=bound, relative_rms=relative)
