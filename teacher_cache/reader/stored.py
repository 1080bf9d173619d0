"""Clips as they are stored, between reading and decoding: read once, moved anywhere, dequantised there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from schemas.signal import SIGNALS, Shape, SignalName
from teacher_cache.encodings.base import AnyArray
from teacher_cache.encodings.registry import encoding

if TYPE_CHECKING:
    import torch


class StoredClips(NamedTuple):
    """Clips of a batch that share the same stored arrays."""

    indices: list[int]
    """Their positions in the batch."""
    arrays: Mapping[str, Any]
    """Stored array's name → (clip, …), in the stored dtype: integers, as a rule. NumPy arrays as read, tensors once moved."""


@dataclass(frozen=True)
class DecodedForm:
    """What a name's values come to."""

    shape: Shape
    """Of one clip."""
    dtype: np.dtype[Any]
    signal: SignalName | None
    """None for an array of the clock, which is stored as it is."""
    encoding: str | None

    def of(self, entries: Sequence[int] | None) -> DecodedForm:
        """The form of so many entries of the first axis; of all, for None."""
        return self if entries is None else replace(self, shape=(len(entries), *self.shape[1:]))

    def decode(self, arrays: Mapping[str, AnyArray], out: AnyArray | None = None) -> AnyArray:
        """Values of one clip, or (clip, …), from its stored arrays; written to ``out`` if given."""
        if self.signal is not None and self.encoding is not None:
            return encoding(self.signal, self.encoding).decode(SIGNALS[self.signal], arrays, out)
        (values,) = arrays.values()
        if out is None:
            return values
        out[...] = values
        return out


@dataclass(frozen=True)
class StoredBatch:
    """Targets of some clips as they are stored: half of float32's bytes or less. Picklable, and decodes itself.

    A DataLoader passes it on whole, through its workers' shared memory, and pins it with ``pin_memory=True``.
    """

    clip_ids: tuple[str, ...]
    """The clips, in the order in which they were asked for."""
    parts: Mapping[str, tuple[StoredClips, ...]]
    """Name → its clips, grouped by the arrays that store them. Nearly always one group of all clips."""
    forms: Mapping[str, DecodedForm]
    """Name → what `decode` makes of it."""

    def __len__(self) -> int:
        return len(self.clip_ids)

    @property
    def names(self) -> tuple[str, ...]:
        """The signals, and arrays of the clock, as they were asked for."""
        return tuple(self.forms)

    @property
    def nbytes(self) -> int:
        """Bytes of all stored arrays: what goes to a device."""
        return sum(values.nbytes for groups in self.parts.values() for clips in groups for values in clips.arrays.values())

    def to(self, device: torch.device | str) -> StoredBatch:
        """The same as tensors on ``device``. Copies from pinned memory run beside the host."""
        import torch  # noqa: PLC0415  # `status` does not need it

        return self._each(lambda values: torch.as_tensor(values).to(device, non_blocking=True))

    def pin_memory(self) -> StoredBatch:
        """The same as tensors in pinned memory, from which a GPU copies while the host goes on."""
        import torch  # noqa: PLC0415

        return self._each(lambda values: torch.as_tensor(values).pin_memory())

    def decode(self, device: torch.device | str = "cpu") -> dict[str, torch.Tensor]:
        """What `Cache.read` returns, as tensors on ``device``: stored arrays are moved there first, and dequantised there."""
        import torch  # noqa: PLC0415

        decoded = {}
        for name, groups in self.to(device).parts.items():
            form = self.forms[name]
            values = [form.decode(clips.arrays) for clips in groups]
            if len(values) == 1:
                decoded[name] = values[0]
                continue
            whole = torch.empty((len(self), *form.shape), dtype=getattr(torch, form.dtype.name), device=device)
            for clips, some in zip(groups, values, strict=True):
                whole.index_copy_(0, torch.tensor(clips.indices).to(device, non_blocking=True), some)
            decoded[name] = whole
        return decoded

    def _each(self, moved: Callable[[Any], torch.Tensor]) -> StoredBatch:
        parts = {
            name: tuple(
                StoredClips(clips.indices, {key: moved(values) for key, values in clips.arrays.items()}) for clips in groups
            )
            for name, groups in self.parts.items()
        }
        return replace(self, parts=parts)
