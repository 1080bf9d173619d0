"""Values taught now and stored ones in; how far they are apart out.

Two runs of one teacher differ by the arithmetic of their devices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from schemas.log import ErrorFigure
from schemas.signal import SIGNALS, SignalName
from teacher_cache.encodings.registry import encoding

if TYPE_CHECKING:
    import torch

DRIFT_ALLOWED = 0.02
"""Relative RMS, or share of labelled pixels. Another device or order of summation changes values by far less; another teacher
or frame by far more."""


def relative_rms(now: np.ndarray[Any, Any], then: np.ndarray[Any, Any]) -> float:
    """RMS of the difference of two arrays of physical values, divided by that of ``then``; 0 if they are equal."""
    difference = float(np.square(np.subtract(now, then, dtype=np.float64)).mean())
    power = float(np.square(then, dtype=np.float64).mean())
    return (difference / power) ** 0.5 if power > 0 else float(difference > 0)


_Measure = tuple[str, Callable[[Any, Any], float]]
_AMOUNTS: _Measure = ("relative RMS difference", relative_rms)


def differing_share(now: np.ndarray[Any, Any], then: np.ndarray[Any, Any]) -> float:
    """Share of the pixels that show an object in either label map, and not the same in both; 0 if none shows any.

    Labels are names: object 7 is not nearer to 8 than to 1. A share of all pixels would hide that a small object was lost.
    """
    shown = int(np.count_nonzero((now != 0) | (then != 0)))
    return int(np.count_nonzero(now != then)) / shown if shown else 0.0


_MEASURES: dict[SignalName, _Measure] = {
    "regions": ("share of the pixels that show an object in either, and differ", differing_share)
}


def drift_of(signal: SignalName, now: np.ndarray[Any, Any], then: np.ndarray[Any, Any]) -> float:
    """How far a signal's values ``now`` are from those of ``then``: `relative_rms`, of labels `differing_share`."""
    return _MEASURES.get(signal, _AMOUNTS)[1](now, then)


def taken_over(
    signal: SignalName, name: str, raw: torch.Tensor, stored: Mapping[str, np.ndarray[Any, Any]]
) -> ErrorFigure | None:
    """How far one clip's ``stored`` arrays, which another run wrote, are from what this run would store of its raw signal.

    None if that is more than `DRIFT_ALLOWED` and this run's own encoding error: the arrays hold something else.
    """
    about, encoder = SIGNALS[signal], encoding(signal, name)
    arrays, own = encoder.encode(about, raw)
    drift, bound = (
        drift_of(signal, encoder.decode(about, arrays), encoder.decode(about, stored)),
        own.relative_rms + DRIFT_ALLOWED,
    )
    if not drift <= bound:
        return None
    measure = f"{_MEASURES.get(signal, _AMOUNTS)[0]} of another run's values, which were taken over"
    return ErrorFigure(measure=measure, measured=drift, bound=bound, relative_rms=own.relative_rms + drift)
