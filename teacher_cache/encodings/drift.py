"""Values taught now and stored ones in; how far they are apart out.

Two runs of one teacher differ by the arithmetic of their devices.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from schemas.log import ErrorFigure
from schemas.signal import SIGNALS, SignalName
from teacher_cache.encodings.registry import encoding

if TYPE_CHECKING:
    import torch

DRIFT_ALLOWED = 0.02
"""Relative RMS. Another device or order of summation changes values by far less; another teacher or frame by far more."""


def relative_rms(now: np.ndarray[Any, Any], then: np.ndarray[Any, Any]) -> float:
    """RMS of the difference of two arrays of physical values, divided by that of ``then``; 0 if they are equal."""
    difference = float(np.square(np.subtract(now, then, dtype=np.float64)).mean())
    power = float(np.square(then, dtype=np.float64).mean())
    return (difference / power) ** 0.5 if power > 0 else float(difference > 0)


def taken_over(
    signal: SignalName, name: str, raw: torch.Tensor, stored: Mapping[str, np.ndarray[Any, Any]]
) -> ErrorFigure | None:
    """How far one clip's ``stored`` arrays, which another run wrote, are from what this run would store of its raw signal.

    None if that is more than `DRIFT_ALLOWED` and this run's own encoding error: the arrays hold something else.
    """
    about, encoder = SIGNALS[signal], encoding(signal, name)
    arrays, own = encoder.encode(about, raw)
    drift, bound = relative_rms(encoder.decode(about, arrays), encoder.decode(about, stored)), own.relative_rms + DRIFT_ALLOWED
    if not drift <= bound:
        return None
    measure = "relative RMS difference of another run's values, which were taken over"
    return ErrorFigure(measure=measure, measured=drift, bound=bound, relative_rms=own.relative_rms + drift)
