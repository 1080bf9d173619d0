"""Every encoding keeps its stated bound, measures its error truly, and never writes the value that means missing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import BadInput
from schemas.signal import SIGNALS, SignalName
from teacher_cache.encodings.base import Encoding
from teacher_cache.encodings.registry import encoding

SHAPES: dict[SignalName, tuple[int, ...]] = {
    "f4d": (4, 2, 3, 3, 5), "depth": (4, 6, 6), "flow": (4, 6, 6, 2), "motion": (4, 6, 6), "camray": (4, 3, 3, 6),
}  # fmt: skip
CASES: list[tuple[SignalName, str]] = [
    ("f4d", "int8-channel"), ("depth", "log-uint16"), ("flow", "step16-int16"), ("motion", "step8-int8"), ("camray", "float32"),
    ("f4d", "float32"), ("depth", "float32"), ("flow", "float32"), ("motion", "float32"),
]  # fmt: skip


def raw_values(signal: SignalName, seed: int, spread: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(SHAPES[signal], generator=generator) * spread


def physical(signal: SignalName, raw: torch.Tensor, encoder: Encoding) -> np.ndarray:
    if signal == "motion" and encoder.name != "float32":
        raw = raw.clamp(-8, 8)
    return (raw.double().exp() if signal == "depth" else raw.double()).numpy()


@pytest.mark.parametrize(("signal", "name"), CASES)
@given(seed=st.integers(0, 2**32 - 1), spread=st.floats(1e-6, 8))
@settings(max_examples=30, deadline=None)
def test_the_bound_holds_and_the_figure_is_true(signal: SignalName, name: str, seed: int, spread: float) -> None:
    encoder, raw = encoding(signal, name), raw_values(signal, seed, spread)
    arrays, figure = encoder.encode(SIGNALS[signal], raw)
    decoded, truth = encoder.decode(SIGNALS[signal], arrays), physical(signal, raw, encoder)
    assert figure.measured <= figure.bound
    assert decoded.dtype == np.float32
    error = np.abs(decoded - truth)
    if signal == "depth":
        error = error / truth
    if name == "int8-channel":
        error = error / np.maximum(np.abs(truth).max(axis=(1, 2, 3), keepdims=True), 1e-30)
    # What was measured is what a reader sees, up to float32's own rounding.
    assert error.max() == pytest.approx(figure.measured, rel=1e-2, abs=1e-5)
    for stored in encoder.stored(SIGNALS[signal], SHAPES[signal]):
        values = arrays[stored.name]
        assert values.shape == stored.shape
        assert values.dtype == stored.dtype
        assert not (np.isnan(values).any() if np.isnan(stored.missing) else (values == stored.missing).any())


@pytest.mark.parametrize("signal", ["f4d", "depth", "flow", "motion"])
def test_constant_planes_are_kept(signal: SignalName) -> None:
    for value in (0.0, 3.0):
        for name in (n for s, n in CASES if s == signal):
            encoder = encoding(signal, name)
            raw = torch.full(SHAPES[signal], value)
            arrays, figure = encoder.encode(SIGNALS[signal], raw)
            assert figure.measured <= figure.bound
            np.testing.assert_allclose(
                encoder.decode(SIGNALS[signal], arrays), physical(signal, raw, encoder), rtol=1e-3, atol=1e-6
            )


def test_values_out_of_range_are_measured_as_such() -> None:
    """A flow of a million pixels does not fit; the figure says so, and the worker then fails the row."""
    _, figure = encoding("flow", "step16-int16").encode(SIGNALS["flow"], torch.full(SHAPES["flow"], 1e6))
    assert figure.measured > figure.bound


def test_decoding_takes_a_leading_clip_axis() -> None:
    for signal, name in CASES:
        encoder = encoding(signal, name)
        clips = [encoder.encode(SIGNALS[signal], raw_values(signal, seed, 1.0))[0] for seed in range(2)]
        together = encoder.decode(SIGNALS[signal], {key: np.stack([c[key] for c in clips]) for key in clips[0]})
        np.testing.assert_array_equal(together, np.stack([encoder.decode(SIGNALS[signal], c) for c in clips]))


def test_an_unknown_encoding_is_refused_with_those_known() -> None:
    with pytest.raises(BadInput, match="'wavelet'; this version reads float32, log-uint16"):
        encoding("depth", "wavelet")
