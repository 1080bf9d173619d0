"""A signal and an encoding's name in, the encoding out. A job's profile in, names out."""

from __future__ import annotations

import numpy as np

from schemas.errors import BadInput
from schemas.job import EncodingProfile, Job
from schemas.signal import P4D_SIGNALS, SIGNAL_NAMES, SignalName
from teacher_cache.encodings.base import RAW, SHUFFLED, Compression, Encoding
from teacher_cache.encodings.channel_rms import ChannelRMS
from teacher_cache.encodings.exact import Exact
from teacher_cache.encodings.exact_fallback import ExactFallback
from teacher_cache.encodings.uniform import UniformInteger

# Level 5 gives the same size in one and a half times the time; level 3, a tenth more in two thirds of it.
_MAP = Compression("blosc", level=4)
# u and v in separate planes: each is smooth, and they are hardly correlated.
_PLANAR = Compression("blosc", level=4, order=(3, 0, 1, 2))

# At 1%, bytes of features hold 7 of 8 bits, and to unpack them costs as much as to fetch them. Nor have they any matches for
# higher levels to find.
_BYTES = Compression("zstd", level=1)

# The low float32 bits of a network's output are noise: compression saves only a tenth of the features' bytes.
_RAW: dict[SignalName, Exact] = {n: Exact("float32-raw", RAW, logarithm=n == "depth") for n in P4D_SIGNALS}
_COMPRESSED = Exact("float32", SHUFFLED)

# Lossless in every profile: labels are names, not amounts, and a student is to see the frames that it would decode itself.
# Pixels are neither split into planes nor predicted from their neighbours, so that any Zarr reader shows the picture.
_LOSSLESS: dict[SignalName, Encoding] = {
    "regions": Exact("uint8", Compression("zstd", level=3)),
    "objects": _COMPRESSED,
    "frames": Exact("uint8", Compression("zstd", level=3)),
}


def _depth(step: float, name: str, bound: float) -> ExactFallback:
    # Half a step of the log is the relative error of the depth. The range is at least exp(±64).
    statement = f"depth within {bound:.1%} of its value"
    lossy = UniformInteger(name, statement, np.dtype("<i2"), step, bound, _MAP, logarithm=True)
    return ExactFallback(lossy, _RAW["depth"])


def _flow(step: float, name: str) -> ExactFallback:
    # The range is at least ±2047 pixels.
    lossy = UniformInteger(name, f"flow within {step / 2:g} pixel", np.dtype("<i2"), step, step / 2, _PLANAR)
    return ExactFallback(lossy, _RAW["flow"])


def _motion(step: float, name: str) -> UniformInteger:
    # A logit of 8 is a probability of 0.9997; there is nothing to learn beyond that. Once clipped, every value is in range.
    statement = f"logit, clipped to ±8, within {step / 2:g}"
    return UniformInteger(name, statement, np.dtype("i1"), step, step / 2, _MAP, clip=8.0)


# For depth, the largest steps within the bounds would save another 0.03 (fine) and 0.35 (compact) bits per value, and they are
# no powers of two.
_PROFILES: dict[EncodingProfile, dict[SignalName, Encoding]] = {
    "fine": {
        "f4d": ExactFallback(ChannelRMS("channel-rms-1%-listed", 0.01, RAW), _RAW["f4d"]),
        "depth": _depth(1 / 512, "log-step-1/512", 0.001),
        "flow": _flow(1 / 16, "step-1/16"),
        "motion": _motion(1 / 8, "step-1/8"),
        "camray": _COMPRESSED,
        **_LOSSLESS,
    },
    "compact": {
        "f4d": ExactFallback(ChannelRMS("channel-rms-4%-listed", 0.04, _BYTES), _RAW["f4d"]),
        "depth": _depth(1 / 64, "log-step-1/64", 0.01),
        "flow": _flow(1 / 4, "step-1/4"),
        "motion": _motion(1 / 2, "step-1/2"),
        "camray": _COMPRESSED,
        **_LOSSLESS,
    },
    "exact": {**_RAW, **_LOSSLESS},
}


def resolve(job: Job) -> dict[SignalName, str]:
    """Signal → name of its encoding under the job's profile, for every signal."""
    return {signal: _PROFILES[job.encoding_profile(signal)][signal].name for signal in SIGNAL_NAMES}


def encodings(signal: SignalName) -> dict[str, Encoding]:
    """Name → encoding, for every encoding of the signal that this version reads."""
    return {profile[signal].name: profile[signal] for profile in _PROFILES.values()}


def encoding(signal: SignalName, name: str) -> Encoding:
    """The encoding of that name. Raises `BadInput` if this version does not know it."""
    known = encodings(signal)
    if name not in known:
        raise BadInput(f"the store keeps {signal} in the encoding {name!r}; this version reads {', '.join(sorted(known))}")
    return known[name]
