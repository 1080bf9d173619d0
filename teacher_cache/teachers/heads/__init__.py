"""The frozen heads that decode F4D into maps, shared by the teacher and the student."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from schemas.signal import SignalName

if TYPE_CHECKING:
    import torch

RawSignals: TypeAlias = "dict[SignalName, torch.Tensor]"
"""Signals as the network's last linear layers give them: ``depth`` is the natural log of depth, ``motion`` a logit,
the others are in the units of `schemas.signal.SIGNALS`. Each has the batch as its first axis."""
