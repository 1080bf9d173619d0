"""Encodings by signal and name, and the profiles a job asks for."""

from __future__ import annotations

import numpy as np

from schemas.errors import BadInput
from schemas.job import EncodingProfile, Job
from schemas.signal import SIGNAL_NAMES, SignalName
from teacher_cache.encodings.base import RAW, SHUFFLED, Compression, Encoding
from teacher_cache.encodings.channel_int8 import ChannelInt8
from teacher_cache.encodings.channel_rms import ChannelRMS
from teacher_cache.encodings.exact import Exact
from teacher_cache.encodings.exact_fallback import ExactFallback
from teacher_cache.encodings.uniform import UniformInteger

# Level 5 gives the same bytes in a half more time, level 3 a tenth more bytes in two thirds of it.
_MAP = Compression("blosc", level=4)
# u and v apart: each is smooth, and the one says little of the other.
_PLANAR = Compression("blosc", level=4, order=(3, 0, 1, 2))

# In float32 the low bits of a network's output are noise: compressed, features keep nine tenths of their bytes.
_RAW: dict[SignalName, Exact] = {n: Exact("float32-raw", RAW, logarithm=n == "depth") for n in SIGNAL_NAMES}
_COMPRESSED: dict[SignalName, Exact] = {n: Exact("float32", SHUFFLED, logarithm=n == "depth") for n in SIGNAL_NAMES}


def _depth(step: float, name: str, bound: float) -> ExactFallback:
    # Half a step of the log is this error of the depth; the range is exp(±64) and more.
    lossy = UniformInteger(
        name, f"depth within {bound:.1%} of its value", np.dtype("<i2"), step, 0.0,
        missing=-(2**15), logarithm=True, bound=bound, compression=_MAP,
    )  # fmt: skip
    return ExactFallback(lossy, _RAW["depth"])


def _flow(step: float, name: str) -> ExactFallback:
    # ±2047 pixels and more.
    lossy = UniformInteger(
        name, f"flow within {step / 2:g} pixel", np.dtype("<i2"), step, 0.0,
        missing=-(2**15), bound=step / 2, compression=_PLANAR,
    )  # fmt: skip
    return ExactFallback(lossy, _RAW["flow"])


def _motion(step: float, name: str) -> ExactFallback:
    # A logit of 8 is a probability of 0.9997; beyond it there is nothing to learn.
    lossy = UniformInteger(
        name, f"logit, clipped to ±8, within {step / 2:g}", np.dtype("i1"), step, 0.0,
        missing=-128, clip=8.0, bound=step / 2, compression=_MAP,
    )  # fmt: skip
    return ExactFallback(lossy, _RAW["motion"])


# Steps are powers of two, so that integer × step is exact in float32. A step of the log that just kept depth's bound would
# save 0.03 and 0.35 bits a value.
_PROFILES: dict[EncodingProfile, dict[SignalName, Encoding]] = {
    "fine": {
        "f4d": ExactFallback(ChannelRMS("channel-rms-1%", 0.01), _RAW["f4d"]),
        "depth": _depth(1 / 512, "log-step-1/512", 0.001),
        "flow": _flow(1 / 16, "step-1/16"),
        "motion": _motion(1 / 8, "step-1/8"),
        "camray": _COMPRESSED["camray"],
    },
    "compact": {
        "f4d": ExactFallback(ChannelRMS("channel-rms-4%", 0.04), _RAW["f4d"]),
        "depth": _depth(1 / 64, "log-step-1/64", 0.01),
        "flow": _flow(1 / 4, "step-1/4"),
        "motion": _motion(1 / 2, "step-1/2"),
        "camray": _COMPRESSED["camray"],
    },
    "exact": {**_RAW},
}

# What stores were written in before; no job asks for them.
_EARLIER: dict[SignalName, tuple[Encoding, ...]] = {
    "f4d": (ChannelInt8(),),
    "depth": (
        UniformInteger(
            "log-uint16",
            "depth within 0.1% of its value",
            np.dtype("<u2"),
            0.001,
            -32.768,
            missing=0,
            logarithm=True,
            bound=0.001,
        ),
    ),
    "flow": (
        UniformInteger("step16-int16", "flow within 1/32 pixel", np.dtype("<i2"), 1 / 16, 0.0, missing=-(2**15), bound=1 / 32),
    ),
    "motion": (
        UniformInteger(
            "step8-int8", "logit, clipped to ±8, within 1/16", np.dtype("i1"), 1 / 8, 0.0, missing=-128, clip=8.0, bound=1 / 16
        ),
    ),
    "camray": (),
}


def resolve(job: Job) -> dict[SignalName, str]:
    """The name of the encoding of every signal under the job's profile."""
    return {signal: _PROFILES[job.encoding_profile(signal)][signal].name for signal in SIGNAL_NAMES}


def encodings(signal: SignalName) -> dict[str, Encoding]:
    """Every encoding of a signal that this version reads, by name."""
    return {e.name: e for e in (*(profile[signal] for profile in _PROFILES.values()), _COMPRESSED[signal], *_EARLIER[signal])}


def encoding(signal: SignalName, name: str) -> Encoding:
    """The encoding that a recipe names. Raises `BadInput` if this version does not know it."""
    known = encodings(signal)
    if name not in known:
        raise BadInput(f"the store keeps {signal} in the encoding {name!r}; this version reads {', '.join(sorted(known))}")
    return known[name]
