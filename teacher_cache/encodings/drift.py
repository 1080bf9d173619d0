"""Values taught now and stored ones in; how far they are apart out.

Two runs of one teacher differ by the arithmetic of their devices.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from schemas.log import ErrorFigure
from schemas.signal import SIGNALS, SignalName
from teacher_cache.encodings.registry import encoding, exact_encoding

if TYPE_CHECKING:
    import torch

DRIFT_ALLOWED = 0.02
"""Relative RMS. Another device or order of summation changes values by far less; another teacher or frame by far more."""


def relative_rms(now: np.ndarray[Any, Any], then: np.ndarray[Any, Any]) -> float:
    """RMS of the difference of two arrays of physical values, divided by that of ``then``; 0 if they are equal."""
    difference = float(np.square(now - then, dtype=np.float64).mean())
    power = float(np.square(then, dtype=np.float64).mean())
    return (difference / power) ** 0.5 if power > 0 else float(difference > 0)


def taken_over(
    signal: SignalName, name: str, raw: torch.Tensor, stored: Mapping[str, np.ndarray[Any, Any]]
) -> ErrorFigure | None:
    """The error of one clip's ``stored`` arrays, which another run wrote, against this run's raw signal.

    None if that is more than this run's own encoding ``name`` gives and `DRIFT_ALLOWED`: the arrays hold something else.
    """
    about, encoder, exact = SIGNALS[signal], encoding(signal, name), exact_encoding(signal)
    truth = exact.decode(about, exact.encode(about, raw)[0])
    _, own = encoder.encode(about, raw)
    error, bound = relative_rms(encoder.decode(about, stored), truth), own.relative_rms + DRIFT_ALLOWED
    if not error <= bound:
        return None
    return ErrorFigure(measure="relative RMS error, of another run's values", measured=error, bound=bound, relative_rms=error)
