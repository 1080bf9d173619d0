"""Every encoding keeps its stated bound on any input, measures its error truly, and decodes alike in numpy and torch."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from schemas.errors import BadInput
from schemas.job import Job
from schemas.signal import SIGNAL_NAMES, SIGNALS, SignalName
from teacher_cache.encodings.base import Arrays, Encoding, StoredArray
from teacher_cache.encodings.registry import encoding, encodings, resolve
from teacher_cache.store.chunk import checksum, encode_chunk

SHAPES: dict[SignalName, tuple[int, ...]] = {
    "f4d": (2, 4, 3, 3, 5), "depth": (4, 6, 6), "flow": (4, 6, 6, 2), "motion": (4, 6, 6), "camray": (4, 3, 3, 6),
}  # fmt: skip
CASES = [(signal, name) for signal in SIGNAL_NAMES for name in encodings(signal)]
BOUNDED = [
    (signal, name)
    for signal, name in CASES
    if "_exact" in encoding(signal, name).stored(SIGNALS[signal], SHAPES[signal])[-1].name
]
BOUNDS = {
    "channel-rms-1%": 0.01, "channel-rms-4%": 0.04, "log-step-1/512": 0.001, "log-step-1/64": 0.01, "step-1/16": 1 / 32,
    "step-1/4": 1 / 8, "step-1/8": 1 / 16, "step-1/2": 1 / 4,
}  # fmt: skip


def raw_values(signal: SignalName, seed: int, spread: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(SHAPES[signal], generator=generator) * spread


def physical(signal: SignalName, raw: torch.Tensor, name: str) -> np.ndarray:
    if signal == "motion" and not name.startswith("float32"):
        raw = raw.clamp(-8, 8)
    return (raw.double().exp() if signal == "depth" else raw.double()).numpy()


def error_of(name: str, signal: SignalName, decoded: np.ndarray, truth: np.ndarray) -> float:
    """The error as the encoding's bound defines it."""
    error = decoded.astype(np.float64) - truth
    if name.startswith("channel-rms"):
        noise, power = (np.square(x).mean(axis=(1, 2, 3)) for x in (error, truth))
        return float(np.sqrt(noise / np.maximum(power, 1e-300)).max())
    if name == "int8-channel":
        return float((np.abs(error) / np.maximum(np.abs(truth).max(axis=(1, 2, 3), keepdims=True), 1e-30)).max())
    return float(np.abs(error / truth if signal == "depth" else error).max())


def as_tensors(arrays: Arrays) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(values) for key, values in arrays.items()}


def check_clip(signal: SignalName, encoder: Encoding, raw: torch.Tensor) -> None:
    """The promises of `Encoding` for one clip."""
    arrays, figure = encoder.encode(SIGNALS[signal], raw)
    decoded = encoder.decode(SIGNALS[signal], arrays)
    assert (decoded.dtype, decoded.shape) == (np.float32, tuple(raw.shape))
    assert figure.measured <= figure.bound
    stored = {array.name: array for array in encoder.stored(SIGNALS[signal], tuple(raw.shape))}
    for name, values in arrays.items():
        assert (values.shape, values.dtype) == (stored[name].shape, stored[name].dtype)
    used = {array.name for array in stored.values() if array.optional} & arrays.keys()
    if used:
        assert arrays.keys() == used
        exact = raw.exp() if signal == "depth" else raw
        np.testing.assert_allclose(decoded, exact.numpy(), rtol=1e-6)  # NaN and infinities included; exp is not to the last bit
    else:
        assert arrays.keys() == {name for name, array in stored.items() if not array.optional}
        truth = physical(signal, raw, encoder.name)
        error = error_of(encoder.name, signal, decoded, truth)
        assert error <= figure.bound * (1 + 1e-4) + (1e-5 if figure.bound == 0 else 0)
        # What was measured is what a reader sees, up to float32's own rounding.
        assert error == pytest.approx(figure.measured, rel=1e-2, abs=1e-5)
    room = np.full_like(decoded, 7)
    assert encoder.decode(SIGNALS[signal], arrays, room) is room
    np.testing.assert_array_equal(room, decoded)
    tensor = encoder.decode(SIGNALS[signal], as_tensors(arrays))
    given = torch.full_like(tensor, 7)
    assert encoder.decode(SIGNALS[signal], as_tensors(arrays), given) is given
    torch.testing.assert_close(given, tensor, rtol=0, atol=0, equal_nan=True)
    assert tensor.dtype == torch.float32
    if signal == "depth":
        np.testing.assert_allclose(tensor.numpy(), decoded, rtol=1e-6)
    else:
        np.testing.assert_array_equal(tensor.numpy(), decoded)


@pytest.mark.parametrize(("signal", "name"), CASES)
@given(seed=st.integers(0, 2**32 - 1), spread=st.floats(1e-6, 8))
@settings(max_examples=30, deadline=None)
def test_the_bound_holds_and_the_figure_is_true(signal: SignalName, name: str, seed: int, spread: float) -> None:
    raw = raw_values(signal, seed, spread)
    check_clip(signal, encoding(signal, name), raw)
    arrays, figure = encoding(signal, name).encode(SIGNALS[signal], raw)
    assert signal in arrays  # such values need no exact copy
    assert figure.bound == BOUNDS.get(name, figure.bound)
    for stored in encoding(signal, name).stored(SIGNALS[signal], SHAPES[signal]):
        if stored.name in arrays:
            values = arrays[stored.name]
            assert not (np.isnan(values).all() if np.isnan(stored.missing) else (values == stored.missing).all())


MAGNITUDES = st.sampled_from([0.0, 1e-45, 1e-38, 1e-20, 1.0, 1e3, 1e20, 3e38])
# Any float at all, NaN, infinities and subnormals included, beside tame ones that alone would be held.
ELEMENTS = st.one_of(st.floats(width=32), st.floats(-4, 4, width=32))


@pytest.mark.parametrize(("signal", "name"), BOUNDED)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_the_bound_holds_on_any_floats(signal: SignalName, name: str, data: st.DataObject) -> None:
    elements = data.draw(st.sampled_from([ELEMENTS, st.floats(-4, 4, width=32)]))
    raw = data.draw(hnp.arrays(np.float32, SHAPES[signal], elements=elements, fill=st.sampled_from([0.0, 1.0, -2.5])))
    with np.errstate(over="ignore", invalid="ignore"):
        raw = raw * np.float32(data.draw(MAGNITUDES))
        check_clip(signal, encoding(signal, name), torch.from_numpy(raw))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e6])
@pytest.mark.parametrize(("signal", "name"), BOUNDED)
def test_a_clip_that_does_not_fit_is_kept_exactly(signal: SignalName, name: str, value: float) -> None:
    """One such value is enough; its clip is in the array `…_exact` alone, and the figure says lossless."""
    raw = raw_values(signal, 0, 1.0)
    raw.view(-1)[7] = value
    arrays, figure = encoding(signal, name).encode(SIGNALS[signal], raw)
    fits = (signal == "motion" and not math.isnan(value)) or (signal == "f4d" and value == 1e6)
    assert arrays.keys() == {signal if fits else f"{signal}_exact"}
    assert fits or (figure.measured, figure.bound) == (0.0, 0.0)
    with np.errstate(over="ignore"):
        check_clip(signal, encoding(signal, name), raw)


@pytest.mark.parametrize("name", ["channel-rms-1%", "channel-rms-4%"])
def test_features_with_a_few_huge_values_stay_in_bytes(name: str) -> None:
    """As raw residual streams have them: the bound of every other channel holds, and so does theirs, without an exact copy."""
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn((2, 8, 16, 16, 24), generator=generator) * torch.logspace(-9, 9, 24)
    raw[0, 3, 2, 1, 4] *= 3000  # two outlier channels,
    raw[1, :, 5, 5, 7] *= 900
    raw[:, :, :, :, 9] = 2.5  # one of a constant,
    raw[:, :, :, :, 10] = (torch.rand((2, 8, 16, 16), generator=generator) > 0.5) * 7.0  # one of two values,
    raw[:, :, :, :, 11] = 0  # and one of nothing
    raw[:, 1:, :, :, 12] = raw[:, :1, :, :, 12]  # and one that stands still
    check_clip("f4d", encoding("f4d", name), raw)
    arrays, _ = encoding("f4d", name).encode(SIGNALS["f4d"], raw)
    assert arrays.keys() == {"f4d"}


def test_still_features_are_kept_as_differences() -> None:
    """Time steps that are alike leave nothing to store but the first."""
    frame = torch.randn((2, 1, 16, 16, 8), generator=torch.Generator().manual_seed(0))
    encoder = encoding("f4d", "channel-rms-1%")
    still, _ = encoder.encode(SIGNALS["f4d"], frame.repeat(1, 8, 1, 1, 1))
    assert np.abs(still["f4d"][:, 0]).max() > 10
    assert not still["f4d"][:, 1:8].any()


@pytest.mark.parametrize("signal", ["f4d", "depth", "flow", "motion"])
def test_constant_planes_are_kept(signal: SignalName) -> None:
    for value in (0.0, 3.0, -2.9):
        for name in encodings(signal):
            check_clip(signal, encoding(signal, name), torch.full(SHAPES[signal], value))


def test_values_out_of_range_are_measured_as_such() -> None:
    """A flow of a million pixels does not fit an encoding without an exact array; the figure says so."""
    _, figure = encoding("flow", "step16-int16").encode(SIGNALS["flow"], torch.full(SHAPES["flow"], 1e6))
    assert figure.measured > figure.bound


@pytest.mark.parametrize(("signal", "name"), CASES)
def test_decoding_takes_a_leading_clip_axis(signal: SignalName, name: str) -> None:
    encoder = encoding(signal, name)
    clips = [encoder.encode(SIGNALS[signal], raw_values(signal, seed, 1.0))[0] for seed in range(2)]
    together = {key: np.stack([c[key] for c in clips]) for key in clips[0]}
    apart = np.stack([encoder.decode(SIGNALS[signal], c) for c in clips])
    np.testing.assert_array_equal(encoder.decode(SIGNALS[signal], together), apart)
    torch.testing.assert_close(encoder.decode(SIGNALS[signal], as_tensors(together)), torch.from_numpy(apart))


def test_decoding_leaves_what_it_is_given_alone() -> None:
    for signal, name in CASES:
        encoder = encoding(signal, name)
        arrays, _ = encoder.encode(SIGNALS[signal], raw_values(signal, 3, 2.0))
        before = {key: values.copy() for key, values in arrays.items()}
        encoder.decode(SIGNALS[signal], as_tensors(arrays))
        encoder.decode(SIGNALS[signal], arrays)
        for key, values in arrays.items():
            np.testing.assert_array_equal(values, before[key])


def test_a_job_names_profiles_for_all_signals_or_for_each() -> None:
    job = {"videos": {"glob": "*"}, "store": "s", "teacher": {}}
    assert resolve(Job.model_validate(job)) == {
        "f4d": "channel-rms-1%", "depth": "log-step-1/512", "flow": "step-1/16", "motion": "step-1/8", "camray": "float32",
    }  # fmt: skip
    assert resolve(Job.model_validate(job | {"encoding": "compact"})) == {
        "f4d": "channel-rms-4%", "depth": "log-step-1/64", "flow": "step-1/4", "motion": "step-1/2", "camray": "float32",
    }  # fmt: skip
    mixed = resolve(Job.model_validate(job | {"encoding": {"f4d": "compact", "depth": "exact"}}))
    assert (mixed["f4d"], mixed["depth"], mixed["flow"]) == ("channel-rms-4%", "float32-raw", "step-1/16")


def test_an_unknown_encoding_is_refused_with_those_known() -> None:
    with pytest.raises(
        BadInput, match="'wavelet'; this version reads float32, float32-raw, log-step-1/512, log-step-1/64, log-uint16"
    ):
        encoding("depth", "wavelet")


def whole_numbers(signal: SignalName) -> torch.Tensor:
    """A raw signal that is the same on every machine: whole numbers of 1/64 within ±4, by integer arithmetic alone.

    Among the features' channels are some that stand still, drift, lie off zero, or have one value far from all others.
    """
    shape = (2, 4, 12, 12, 5) if signal == "f4d" else SHAPES[signal]
    number = np.arange(math.prod(shape), dtype=np.int64).reshape(shape)
    values = (number * 7919 + number**2 * 104729) % 509 - 254
    if signal == "f4d":
        values[..., 1] = values[:, :1, :, :, 1]
        values[..., 2] += 700
        values[..., 4] = values[:, :1, :, :, 4] + np.arange(4)[:, None, None]
        values[0, ..., 0] %= 3
        values[0, 2, 1, 1, 0] = 9001
        values[1, ..., 3] %= 5
        values[1, 3, 0, 2, 3] = -7005
    return torch.from_numpy(values.astype(np.float32) / 64)


# Signal and encoding → of each array, half of the sha256 of its bytes, and of its chunk's. Only a compressor's own release may
# change the latter: any release reads them, but runs before and after it no longer write equal shards.
GOLDEN: dict[tuple[str, str], dict[str, tuple[str, str]]] = {
    ("f4d", "channel-rms-1%"): {
        "f4d": ("d718ea5c0d96cd58e531c18e597c9af9", "21032bea4975e5a279ededcf302ac4c2"),
    },
    ("f4d", "channel-rms-4%"): {
        "f4d": ("bd3938ecc149007e01093ad806158c5f", "d6a3aa8bfa4a50c0c3ffcbd034e9ba36"),
    },
    ("f4d", "float32-raw"): {
        "f4d": ("048a5165002ccf9b7a1391515111f3a5", "a9e93ce13b731901f7a9ea1141d64d75"),
    },
    ("f4d", "float32"): {
        "f4d": ("048a5165002ccf9b7a1391515111f3a5", "38a17fe809fc807c466979ece3103ae8"),
    },
    ("f4d", "int8-channel"): {
        "f4d": ("b4922476c09d945e1f9b67e730e12195", "f16739fb0c2319d661bbad99830b327e"),
        "f4d_scale": ("48bb9cada47056f2e59ca8ef99c38bc1", "41de32832d740decd55032b6c0ab824e"),
    },
    ("depth", "log-step-1/512"): {
        "depth": ("73214aaa75dac49a78168769f05723af", "01925ff5e1b25dc7b9d70d0417cb6f98"),
    },
    ("depth", "log-step-1/64"): {
        "depth": ("bd0662c1cb8cd26e66ff0308dce42092", "4baa69f099c04aac8eb7d4b6e1418043"),
    },
    ("depth", "float32-raw"): {
        "depth": ("2fa59964f8df74bd874fec40d84a94df", "1d176dc6d18511d2e9d756dd0ce44f86"),
    },
    ("depth", "float32"): {
        "depth": ("2fa59964f8df74bd874fec40d84a94df", "141fb763879c59290ce60bfb8368b9f1"),
    },
    ("depth", "log-uint16"): {
        "depth": ("6dad9c799431d554f322173a8a2aa8b3", "3e1221cdc25b1679b3103390fef365e5"),
    },
    ("flow", "step-1/16"): {
        "flow": ("2d9415a2b457c9cecdcf74e0b90c1f65", "086af390fecc21169ee7780174f7a784"),
    },
    ("flow", "step-1/4"): {
        "flow": ("319af6b55b8b0ce09a4f0e48c3454538", "6210c8d076984f844512c2a6f5b5a2e8"),
    },
    ("flow", "float32-raw"): {
        "flow": ("adf4aeff4c1077c7f05cf99a26442795", "85bc98355e46f0d87af3aadbe3d95618"),
    },
    ("flow", "float32"): {
        "flow": ("adf4aeff4c1077c7f05cf99a26442795", "c2f4cdb85e86d722a8dd9fd4c3287cbd"),
    },
    ("flow", "step16-int16"): {
        "flow": ("2d9415a2b457c9cecdcf74e0b90c1f65", "46906d733c81b710069ef2c3e5149c82"),
    },
    ("motion", "step-1/8"): {
        "motion": ("471615dda632f7e5663d1a31ab2d2ef4", "75da5bdead9f7ae55b5a026585809f39"),
    },
    ("motion", "step-1/2"): {
        "motion": ("76b5a317ab682fb90dd773a54ef46085", "f8254085d631ac3d3e4a250a85c2d48c"),
    },
    ("motion", "float32-raw"): {
        "motion": ("2fa59964f8df74bd874fec40d84a94df", "1d176dc6d18511d2e9d756dd0ce44f86"),
    },
    ("motion", "float32"): {
        "motion": ("2fa59964f8df74bd874fec40d84a94df", "141fb763879c59290ce60bfb8368b9f1"),
    },
    ("motion", "step8-int8"): {
        "motion": ("471615dda632f7e5663d1a31ab2d2ef4", "75da5bdead9f7ae55b5a026585809f39"),
    },
    ("camray", "float32"): {
        "camray": ("c0f6688f40cefc95c96642e6ce94b78c", "8842fd5c34320be697298318127400d1"),
    },
    ("camray", "float32-raw"): {
        "camray": ("c0f6688f40cefc95c96642e6ce94b78c", "3b6af149ef306be861e1410248d0eb92"),
    },
}


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


@pytest.mark.parametrize(("signal", "name"), CASES)
def test_equal_values_have_the_same_bytes_on_every_machine_and_in_every_release(signal: SignalName, name: str) -> None:
    """What stores hold is found again by these bytes. Where they change, it is an encoding of another name."""
    encoder = encoding(signal, name)
    raw = whole_numbers(signal)
    arrays, _ = encoder.encode(SIGNALS[signal], raw)
    stored = {array.name: array for array in encoder.stored(SIGNALS[signal], tuple(raw.shape))}
    found = {
        key: (digest(values.tobytes()), digest(encode_chunk(values, stored[key].compression))) for key, values in arrays.items()
    }
    assert found == GOLDEN[signal, name]


@pytest.mark.parametrize(("signal", "name"), BOUNDED)
def test_exact_copies_have_the_same_bytes_too(signal: SignalName, name: str) -> None:
    raw = whole_numbers(signal)
    raw.view(-1)[5] = math.nan
    encoder = encoding(signal, name)
    arrays, _ = encoder.encode(SIGNALS[signal], raw)
    (exact,) = arrays.items()
    array = encoder.stored(SIGNALS[signal], tuple(raw.shape))[-1]
    assert (exact[0], array.optional) == (array.name, True)
    plain = np.ascontiguousarray(raw.numpy(), "<f4").tobytes()
    assert exact[1].tobytes() == plain
    assert encode_chunk(exact[1], array.compression) == plain + checksum(plain)


@pytest.mark.parametrize("name", ["channel-rms-1%", "channel-rms-4%"])
def test_planes_of_features_are_what_their_attributes_say(name: str) -> None:
    """By the formula and the planes that any reader finds there, value by value, in Python's whole numbers."""
    encoder, raw = encoding("f4d", name), whole_numbers("f4d")
    arrays, _ = encoder.encode(SIGNALS["f4d"], raw)
    array, _ = encoder.stored(SIGNALS["f4d"], tuple(raw.shape))
    assert array.attributes["planes"] == {"low": [0, 4], "high": [4, 8], "scale (4 tokens), centre, delta": [8, 9]}
    low, high, beside = np.split(arrays["f4d"].astype(int), [4, 8], axis=1)
    beside = beside.reshape(2, 144, 5)  # (layer, token, channel)
    assert not beside[:, 6:].any()
    # All that the formula says is needed here.
    assert set(beside[:, 5].flat) == {0, 1}
    assert beside[:, 4].any()
    assert high.any()
    decoded = encoder.decode(SIGNALS["f4d"], arrays)
    for layer, y, x, channel in np.ndindex(2, 12, 12, 5):
        *scale, centre, delta = beside[layer, :6, channel].tolist()
        lows = low[layer, :, y, x, channel].tolist()
        if delta:
            lows = [(sum(lows[: time + 1]) + 128) % 256 - 128 for time in range(4)]
        steps = [one + 256 * two + centre for one, two in zip(lows, high[layer, :, y, x, channel].tolist(), strict=True)]
        step = np.frombuffer(bytes(byte % 256 for byte in scale), "<f4")[0]
        np.testing.assert_array_equal(decoded[layer, :, y, x, channel], np.array(steps, np.float32) * step)
        assert np.abs(decoded[layer, :, y, x, channel] - raw[layer, :, y, x, channel].numpy()).max() <= step / 2 * (1 + 1e-5)


FILLED = [
    (signal, name, array)
    for signal, name in CASES
    for array in encoding(signal, name).stored(SIGNALS[signal], SHAPES[signal])
    if "_FillValue" in array.attributes
]


@pytest.mark.parametrize(("signal", "name", "array"), FILLED, ids=[f"{name}-{array.name}" for _, name, array in FILLED])
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_no_value_is_kept_as_the_one_that_says_missing(
    signal: SignalName, name: str, array: StoredArray, data: st.DataObject
) -> None:
    """Neither one whose step it would be, nor any beyond the range; where the clip is lossy at all."""
    at_fill = array.missing * array.attributes.get("scale_factor", 1 / 127) + array.attributes.get("add_offset", 0.0)
    near = [at_fill * (1 + share / 4096) for share in (-9, -1, 0, 1, 9)]
    values = st.one_of(st.sampled_from([*near, -1e30, 1e30, 0.0, -0.0, 1.0]), st.floats(-4, 4, width=32))
    filled = np.float32(data.draw(st.sampled_from([at_fill, 0.0])))
    raw = data.draw(hnp.arrays(np.float32, SHAPES[signal], elements=values.map(np.float32), fill=st.just(filled)))
    with np.errstate(over="ignore", invalid="ignore"):
        arrays, _ = encoding(signal, name).encode(SIGNALS[signal], torch.from_numpy(raw))
    assert array.missing not in arrays.get(array.name, ())


def test_arrays_with_whole_numbers_say_which_is_missing() -> None:
    """So that the above looks at all of them; features in planes are no numbers by themselves."""
    assert {(signal, name) for signal, name, _ in FILLED} == {
        (signal, name)
        for signal, name in CASES
        if encoding(signal, name).stored(SIGNALS[signal], SHAPES[signal])[0].dtype.kind in "iu"
        and not name.startswith("channel-rms")
    }
