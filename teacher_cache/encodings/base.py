"""The encoding interface: raw signal → stored arrays → physical signal. The error is measured on write, against a bound."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import numpy as np

from schemas.log import ErrorFigure
from schemas.signal import Shape, Signal

if TYPE_CHECKING:
    import torch  # encoding runs on the teacher's tensors; decoding, and so reading a store, must not load torch

Values = np.ndarray[Any, Any]
AnyArray = TypeVar("AnyArray", Values, "torch.Tensor")
"""A numpy array, or a tensor on any device. Decoding computes the same on both."""


@dataclass(frozen=True)
class Compression:
    """The lossless codec of one array. All are in the Zarr v3 registry, so any Zarr reader supports them."""

    codec: Literal["blosc", "zstd", "none"] = "blosc"
    """``blosc``: Blosc's byte shuffle, for numbers wider than a byte, then zstd. ``zstd``: zstd alone."""
    level: int = 3
    order: tuple[int, ...] | None = None
    """The axis order of a chunk's memory layout before compression, outermost first; None keeps the array's order.

    Of an array with several chunks a clip, the first axis stays first, so that they lie one after another in a batch as well.
    """


SHUFFLED = Compression()
"""The default."""
RAW = Compression("none")
"""For numbers that are mostly noise, where saving a few per cent is not worth the time."""

LEAST_LOG, MOST_LOG = (math.log(np.finfo(np.float32).tiny), math.log(np.finfo(np.float32).max))
"""Between them, -87.34 and 88.72, a logarithm's exponential is a normal float32 number: neither 0, subnormal nor infinite."""


@dataclass(frozen=True)
class StoredArray:
    """One Zarr array of the store, seen per clip."""

    name: str
    shape: Shape
    """Shape of one clip; the store prepends the clip axis."""
    dtype: np.dtype[Any]
    dims: tuple[str, ...]
    missing: float | int
    """The array's fill value, for rows without a clip. No encoding writes a clip that consists of it alone."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    compression: Compression = SHUFFLED
    optional: bool = False
    """Whether the array holds only the clips that the signal's other arrays cannot represent. The log names those clips."""
    together: int | None = None
    """How many entries of a clip's first axis lie in one chunk, a divisor of all; None puts all in one. See `read_together`."""

    @property
    def nbytes(self) -> int:
        """Bytes of one clip's values, uncompressed."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def chunk_shape(self) -> Shape:
        """Shape of one chunk: all of a clip, or some entries of its first axis."""
        return self.shape if self.together is None else (self.together, *self.shape[1:])

    @property
    def chunks(self) -> int:
        """Chunks of one clip, one after another along its first axis."""
        return 1 if self.together is None else self.shape[0] // self.together

    @property
    def chunk_nbytes(self) -> int:
        """Bytes of one chunk's values, uncompressed."""
        return self.nbytes // self.chunks


_FRAMES_TOGETHER = 4


def read_together(signal: Signal, shape: Shape) -> int:
    """How many entries of a signal's first axis lie in one chunk, so that a reader of some fetches and decodes no more.

    One layer; or the fewest frames, from 4 on, that divide the clip's. Chunks of 4 frames take 0.3% more bytes than one of 16;
    of a single frame, 2 to 13%. Of another axis, all.
    """
    length = shape[0]
    if signal.dims[0] == "layer":
        return 1
    if signal.dims[0] != "frame":
        return length
    return next(frames for frames in range(min(_FRAMES_TOGETHER, length), length + 1) if length % frames == 0)


Arrays = dict[str, Values]
"""Stored array's name → values: (*shape) of one clip, or (clip, *shape)."""


@dataclass(frozen=True)
class Encoded:
    """One clip's signal, encoded where the teacher left it: nothing of it has been waited for."""

    arrays: dict[str, torch.Tensor]
    """Stored array's name → one clip's values, on the teacher's device."""
    numbers: torch.Tensor
    """float64 (k,), on the same device: what ``error`` computes the measured error from."""
    error: Callable[[Sequence[float]], ErrorFigure]
    """The measured error, from ``numbers`` on the host."""
    instead: Callable[[], Encoded] | None = None
    """Encodes the clip in another way, for where the error exceeds its bound; None if there is none."""

    def settled(self, numbers: Sequence[float]) -> tuple[Encoded, ErrorFigure]:
        """What to store, and its error; ``numbers`` are this one's, on the host."""
        figure = self.error(numbers)
        if self.instead is None or figure.measured <= figure.bound:
            return self, figure
        other = self.instead()
        return other.settled(other.numbers.tolist())


class EncodesForHost:
    """An `Encoding`'s way to encode a clip at once and by itself."""

    def encode(self, signal: Signal, raw: torch.Tensor) -> tuple[Arrays, ErrorFigure]:
        """`Encoding.on_device`, waited for: one clip's arrays, little-endian, on the host, and its measured error."""
        encoded = self.on_device(signal, raw)  # type: ignore[attr-defined]
        stored, error = encoded.settled(encoded.numbers.tolist())
        return {name: values.cpu().numpy() for name, values in stored.arrays.items()}, error


class Encoding(Protocol):
    """A named way to store one signal. The recipe records the name, so what it computes may never change under that name."""

    @property
    def name(self) -> str:
        """The name in the recipe."""

    @property
    def statement(self) -> str:
        """The error bound in words, stored in the array's attributes."""

    @property
    def bound(self) -> float:
        """The largest error, in the measure of its `ErrorFigure`: of depth relative, of other maps in their unit."""

    def stored(self, signal: Signal, shape: Shape) -> tuple[StoredArray, ...]:
        """The array that stores the signal, named after it, and perhaps an optional one. ``shape`` is one clip's.

        A clip lies in one of them. Their first axis is the signal's, frame or layer.
        """

    def on_device(self, signal: Signal, raw: torch.Tensor) -> Encoded:
        """Encode one clip's raw signal, a finite tensor of its dtype on any device. Computes on that device, and on a GPU waits
        for nothing, so that a whole batch is brought to the host at once.

        If the error exceeds its bound, the encoding cannot represent the clip. If not, what `decode` gives is finite, and
        within the bound of ``raw``.
        """

    def encode(self, signal: Signal, raw: torch.Tensor) -> tuple[Arrays, ErrorFigure]:
        """See `EncodesForHost.encode`."""

    def decode(self, signal: Signal, arrays: Mapping[str, AnyArray], out: AnyArray | None = None) -> AnyArray:
        """Physical values in the signal's dtype, from the arrays of `encode`. From tensors, computes a tensor on their device.

        Arrays may have a leading clip axis. Of the first axis they may have some entries only, since each is decoded by itself.
        Depth is positive, not its log. The result is ``out`` if given; otherwise it may share memory with ``arrays``.
        """


def to_float32(values: AnyArray, out: AnyArray | None = None) -> AnyArray:
    """The values as float32, in ``out`` if given. Without it, float32 values are returned as they are, others as a copy."""
    if out is not None:
        # NumPy goes in the order of what it copies to, two values at a time if u and v lie in planes. By planes: a quarter.
        if isinstance(values, np.ndarray) and values.ndim > 1 and values.strides[-1] > values.strides[-2]:
            for plane in range(values.shape[-1]):
                out[..., plane] = values[..., plane]
        else:
            out[...] = values
        return out
    return values.astype(np.float32, copy=False) if isinstance(values, np.ndarray) else values.float()


def bytes_to_float32(values: AnyArray) -> AnyArray:
    """Reinterpret int8 (..., 4, n), the bytes of little-endian float32 numbers, as float32 (..., n)."""
    if isinstance(values, np.ndarray):
        return np.ascontiguousarray(values.swapaxes(-1, -2)).view("<f4")[..., 0]
    return values.transpose(-1, -2).contiguous().view(values.float().dtype)[..., 0]


def exp(values: AnyArray, out: AnyArray | None = None) -> AnyArray:
    """The exponential of float32 values, in ``out`` if given."""
    if isinstance(values, np.ndarray):
        return np.exp(values, out=out)
    return values.exp() if out is None else out.copy_(values).exp_()


def numbers(*of: torch.Tensor) -> torch.Tensor:
    """float64 (k,): these k scalars on their device."""
    import torch  # noqa: PLC0415  # which decoding does not need

    return torch.stack([one.double() for one in of])


def mean_square(values: torch.Tensor) -> torch.Tensor:
    """float64 (): the mean square of all values."""
    return values.double().square().mean()


def figure(measure: str, noise: float, power: float, measured: float, bound: float) -> ErrorFigure:
    """An `ErrorFigure`, with the RMS error relative to the values' from their mean squares, ``noise`` and ``power``."""
    relative = (noise / power) ** 0.5 if power > 0 else 0.0
    return ErrorFigure(measure=measure, measured=finite(measured), bound=bound, relative_rms=finite(relative))


def finite(error: float) -> float:
    """The error; or the largest float, which is beyond any bound, for one that is infinite or NaN. JSON has neither."""
    return error if math.isfinite(error) else sys.float_info.max
