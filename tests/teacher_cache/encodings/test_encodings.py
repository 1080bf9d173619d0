"""Every encoding keeps its stated bound on any input, measures its error truly, and decodes alike in numpy and torch."""

from __future__ import annotations

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
from teacher_cache.encodings.base import Arrays, Encoding
from teacher_cache.encodings.registry import encoding, encodings, resolve

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
