"""What an encoding is: raw signal → stored arrays → physical signal, with a bound that is measured at write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import numpy as np

from schemas.ledger import ErrorFigure
from schemas.signal import Shape, Signal

if TYPE_CHECKING:
    import torch  # encoding runs on the teacher's tensors; decoding, and so reading a store, must not load torch

Values = np.ndarray[Any, Any]
AnyArray = TypeVar("AnyArray", Values, "torch.Tensor")
"""A numpy array or a tensor on any device: decoding is the same arithmetic on either."""


@dataclass(frozen=True)
class Compression:
    """The lossless codecs of one array, all of the Zarr v3 registry, so that any Zarr reader has them."""

    codec: Literal["blosc", "zstd", "none"] = "blosc"
    """``blosc``: zstd behind Blosc's byte shuffle, for numbers wider than a byte. ``zstd``: zstd alone."""
    level: int = 3
    order: tuple[int, ...] | None = None
    """The order in which a clip's axes are laid out before compression, outermost first; None keeps theirs."""


SHUFFLED = Compression()
"""What an array has that states no other; earlier stores know it alone."""
RAW = Compression("none")
"""For numbers that are mostly noise, whose few per cent are not worth the time."""


@dataclass(frozen=True)
class StoredArray:
    """One Zarr array of the store, seen per clip."""

    name: str
    shape: Shape
    """Of one clip; the store puts the clip axis before it."""
    dtype: np.dtype[Any]
    dims: tuple[str, ...]
    missing: float | int
    """What the array holds throughout where there is no clip. No encoding writes a clip of nothing else."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    compression: Compression = SHUFFLED
    optional: bool = False
    """It holds only the clips that its signal's other arrays cannot hold, and in their place; the ledger names those clips."""


Arrays = dict[str, Values]
"""Stored array's name → one clip's values."""


class Encoding(Protocol):
    """A named way to store one signal. Its name is in the recipe, so its arithmetic may never change under that name."""

    @property
    def name(self) -> str: ...

    @property
    def statement(self) -> str:
        """The bound in words, kept in the array's attributes."""

    def stored(self, signal: Signal, shape: Shape) -> tuple[StoredArray, ...]:
        """The arrays that may hold the signal; the first is named after the signal."""

    def signal_shape(self, stored: Shape) -> Shape:
        """One clip's shape of the signal, given that of the first stored array."""

    def encode(self, signal: Signal, raw: torch.Tensor) -> tuple[Arrays, ErrorFigure]:
        """Encode one clip's raw signal, a float32 tensor on any device; the arithmetic runs on that device.

        Returns the arrays that hold this clip, little-endian on the host, and the measured error. A figure that is not
        within its bound, NaN included, says that the arrays do not hold the clip.
        """

    def decode(self, signal: Signal, arrays: Mapping[str, AnyArray], out: AnyArray | None = None) -> AnyArray:
        """Physical values as float32, of the arrays that `encode` gave; of tensors, a tensor on their device.

        Arrays may have a leading clip axis. Depth is positive, not its log. The values are in ``out`` if it is given, and
        else may be those of ``arrays`` themselves, where these are physical.
        """


def to_float32(values: AnyArray, out: AnyArray | None = None) -> AnyArray:
    """The values as float32, in ``out`` if it is given; without it, integers become a new array."""
    if out is not None:
        out[...] = values
        return out
    return values.astype(np.float32, copy=False) if isinstance(values, np.ndarray) else values.float()


def bytes_to_float32(values: AnyArray) -> AnyArray:
    """int8 (..., 4, n), the bytes of little-endian float32 numbers, as float32 (..., n)."""
    if isinstance(values, np.ndarray):
        return np.ascontiguousarray(values.swapaxes(-1, -2)).view("<f4")[..., 0]
    return values.transpose(-1, -2).contiguous().view(values.float().dtype)[..., 0]


def exp(values: AnyArray, out: AnyArray | None = None) -> AnyArray:
    """The exponential of float32 values, in ``out`` if it is given."""
    if isinstance(values, np.ndarray):
        return np.exp(values, out=out)
    return values.exp() if out is None else out.copy_(values).exp_()


def figure(measure: str, error: torch.Tensor, values: torch.Tensor, measured: float, bound: float) -> ErrorFigure:
    """An `ErrorFigure` with the relative RMS of ``error`` over ``values``, both of one shape."""
    power = float(values.double().square().mean())
    noise = float(error.double().square().mean())
    relative = (noise / power) ** 0.5 if power > 0 else 0.0
    return ErrorFigure(measure=measure, measured=measured, bound=bound, relative_rms=relative)
