"""A batch's raw signals on a device in; each clip's encoded arrays and their errors, on the host, out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from schemas.log import ErrorFigure
from schemas.signal import SIGNALS, SignalName
from teacher_cache.encodings.base import Arrays, Encoded
from teacher_cache.encodings.registry import encoding
from teacher_cache.teachers.heads import RawSignals
from teacher_cache.teachers.lane import Bring


@dataclass
class EncodedClip:
    """What one clip's raw signals became."""

    arrays: Arrays = field(default_factory=dict)
    errors: dict[str, ErrorFigure] = field(default_factory=dict)
    """Signal → its measured error, which may be beyond the bound."""
    nonfinite: tuple[SignalName, ...] = ()
    """Signals with a value that is NaN or infinite; if there are any, nothing else is here."""


def encode_batch(encodings: Mapping[SignalName, str], raw: RawSignals, bring: Bring) -> list[EncodedClip]:
    """Encode raw signals (clip, …) on their device, and ``bring`` all to the host at once.

    Each clip is encoded by itself, so that its bytes do not depend on the others. The few that are beyond a bound and kept in
    another way are brought one by one after that. ``encodings`` names each signal's.
    """
    encoders = {signal: encoding(signal, encodings[signal]) for signal in raw}
    finite = {signal: torch.isfinite(values).flatten(1).all(1) for signal, values in raw.items()}
    count = len(next(iter(raw.values())))
    clips = [{s: encoders[s].on_device(SIGNALS[s], values[clip]) for s, values in raw.items()} for clip in range(count)]
    encoded = [one for clip in clips for one in clip.values()]
    tensors = [one.numbers for one in encoded] + [values for one in encoded for values in one.arrays.values()]
    brought = iter(bring([*finite.values(), *tensors]))
    is_finite = {signal: next(brought) for signal in finite}
    numbers = [next(brought).tolist() for _ in encoded]
    on_host = zip(encoded, numbers, [{name: next(brought) for name in one.arrays} for one in encoded], strict=True)
    found = []
    for index, clip in enumerate(clips):
        own = EncodedClip(nonfinite=tuple(signal for signal in clip if not is_finite[signal][index]))
        for signal in clip:
            one, its, arrays = next(on_host)
            if not own.nonfinite:
                settled, own.errors[signal] = one.settled(its)
                own.arrays |= arrays if settled is one else _brought(settled, bring)
        found.append(own)
    return found


def _brought(encoded: Encoded, bring: Bring) -> Arrays:
    return dict(zip(encoded.arrays, bring(list(encoded.arrays.values())), strict=True))
