"""F4D in, maps out: the frozen heads, shared by the teacher and the student."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from schemas.signal import SignalName

if TYPE_CHECKING:
    import torch

RawSignals: TypeAlias = "dict[SignalName, torch.Tensor]"
"""A teacher's tensors (batch, …), in the dtypes of `schemas.signal.SIGNALS`: ``depth`` is the natural log of depth,
``motion`` a logit; the others are in the units of `schemas.signal.SIGNALS`."""
