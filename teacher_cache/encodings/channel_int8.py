"""F4D in, int8 with one scale for each layer and channel of each clip out, and back. Read only: new stores use `ChannelRMS`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from schemas.log import ErrorFigure
from schemas.signal import Shape, Signal
from teacher_cache.encodings.base import AnyArray, Arrays, StoredArray, figure, to_float32

if TYPE_CHECKING:
    import torch  # encoding runs on the teacher's tensors; decoding, and so reading a store, must not load torch

_LEVELS = 127
# Half a step, and float32's rounding of quotient and product.
_BOUND = 0.5 / _LEVELS + 2**-22
_MISSING = -128


@dataclass(frozen=True)
class ChannelInt8:
    """Encoding: value = int8 × scale[layer, channel], with scale = (largest magnitude of the channel in the clip) / 127."""

    name: str = "int8-channel"
    statement: str = "error of at most 1/254 of the channel's largest magnitude in the clip"

    def stored(self, signal: Signal, shape: Shape) -> tuple[StoredArray, ...]:
        """An int8 array of the signal's shape, and its scales, float32 (layer, channel)."""
        attributes = {"units": signal.units, "long_name": signal.meaning, "encoding": self.name, "error_bound": self.statement}
        scale = f"{signal.name}_scale"
        return (
            StoredArray(
                signal.name, shape, np.dtype("int8"), signal.dims, _MISSING,
                attributes | {"_FillValue": _MISSING, "scale_array": scale},
            ),
            StoredArray(
                scale, (shape[0], shape[-1]), np.dtype("<f4"), (signal.dims[0], signal.dims[-1]), float("nan"),
                {"long_name": f"what one step of {signal.name} is worth"},
            ),
        )  # fmt: skip

    def signal_shape(self, stored: Shape) -> Shape:
        """The stored shape itself."""
        return stored

    def encode(self, signal: Signal, raw: torch.Tensor) -> tuple[Arrays, ErrorFigure]:
        """See `Encoding.encode`. ``raw``: (layer, …, channel)."""
        values = raw.float()
        largest = values.abs().amax(dim=tuple(range(1, values.ndim - 1)))  # (layer, channel)
        scale = largest / _LEVELS
        # An all-zero channel has scale 0, which cannot divide; any positive scale stores its zeros.
        safe = scale + (scale == 0).float()
        over = safe.view(scale.shape[0], *(1,) * (values.ndim - 2), scale.shape[1])
        integers = (values / over).round().clamp(-_LEVELS, _LEVELS)
        error = integers * over - values
        measured = float((error.abs() / (over * _LEVELS)).max())
        arrays = {
            signal.name: integers.char().cpu().numpy(),
            f"{signal.name}_scale": scale.cpu().numpy().astype("<f4"),
        }
        return arrays, figure("error over the channel's largest magnitude", error, values, measured, _BOUND)

    def decode(self, signal: Signal, arrays: Mapping[str, AnyArray], out: AnyArray | None = None) -> AnyArray:
        """See `Encoding.decode`."""
        values = to_float32(arrays[signal.name], out)
        scale = arrays[f"{signal.name}_scale"]  # (..., layer, channel)
        values *= scale.reshape(*scale.shape[:-1], *(1,) * (len(signal.dims) - 2), scale.shape[-1])
        return values
