"""Encodings by signal and name, and the profiles a job asks for."""

from __future__ import annotations

import numpy as np

from schemas.errors import BadInput
from schemas.job import EncodingProfile, Job
from schemas.signal import SIGNAL_NAMES, SignalName
from teacher_cache.encodings.base import Encoding
from teacher_cache.encodings.channel_int8 import ChannelInt8
from teacher_cache.encodings.exact import Exact
from teacher_cache.encodings.uniform import UniformInteger

# Half a step of 0.001 in the log is 0.05% of the depth; the range is exp(±32.7).
_DEPTH = UniformInteger(
    "log-uint16", "depth within 0.1% of its value", np.dtype("<u2"), 0.001, -32.768, missing=0, logarithm=True, bound=0.001
)
# ±2047 pixels.
_FLOW = UniformInteger("step16-int16", "flow within 1/32 pixel", np.dtype("<i2"), 1 / 16, 0.0, missing=-(2**15), bound=1 / 32)
# A logit of 8 is a probability of 0.9997; beyond it there is nothing to learn.
_MOTION = UniformInteger(
    "step8-int8", "logit, clipped to ±8, within 1/16", np.dtype("i1"), 1 / 8, 0.0, missing=-128, clip=8.0, bound=1 / 16
)

_FINE: dict[SignalName, Encoding] = {"f4d": ChannelInt8(), "depth": _DEPTH, "flow": _FLOW, "motion": _MOTION, "camray": Exact()}
_EXACT: dict[SignalName, Encoding] = {name: Exact(logarithm=name == "depth") for name in SIGNAL_NAMES}
_PROFILES: dict[EncodingProfile, dict[SignalName, Encoding]] = {"fine": _FINE, "exact": _EXACT}


def resolve(job: Job) -> dict[SignalName, str]:
    """The name of the encoding of every signal under the job's profile."""
    return {signal: _PROFILES[job.encoding_profile(signal)][signal].name for signal in SIGNAL_NAMES}


def encoding(signal: SignalName, name: str) -> Encoding:
    """The encoding that a recipe names. Raises `BadInput` if this version does not know it."""
    known = {profile[signal].name: profile[signal] for profile in _PROFILES.values()}
    if name not in known:
        raise BadInput(f"the store keeps {signal} in the encoding {name!r}; this version reads {', '.join(sorted(known))}")
    return known[name]
