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
from pydantic import ValidationError

from schemas.errors import BadInput
from schemas.job import Job
from schemas.log import ErrorFigure
from schemas.signal import P4D_SIGNALS, SIGNALS, SignalName
from teacher_cache.encodings import quantiser
from teacher_cache.encodings.base import Arrays, Encoding, StoredArray
from teacher_cache.encodings.registry import encoding, encodings, resolve
from teacher_cache.store.chunk import checksum, encode_chunk

SHAPES: dict[SignalName, tuple[int, ...]] = {
    "f4d": (2, 4, 3, 3, 5), "depth": (4, 6, 6), "flow": (4, 6, 6, 2), "motion": (4, 6, 6), "camray": (4, 3, 3, 6),
}  # fmt: skip
CASES = [(signal, name) for signal in P4D_SIGNALS for name in encodings(signal)]
FALLING_BACK = [
    (signal, name)
    for signal, name in CASES
    if "_exact" in encoding(signal, name).stored(SIGNALS[signal], SHAPES[signal])[-1].name
]
BOUNDS = {
    "channel-rms-1%-listed": 0.01, "channel-rms-4%-listed": 0.04, "log-step-1/512": 0.001, "log-step-1/64": 0.01,
    "step-1/16": 1 / 32, "step-1/4": 1 / 8, "step-1/8": 1 / 16, "step-1/2": 1 / 4,
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
    return float(np.abs(error / truth if signal == "depth" else error).max())


def as_tensors(arrays: Arrays) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(values) for key, values in arrays.items()}


def check_clip(signal: SignalName, encoder: Encoding, raw: torch.Tensor) -> None:
    """The promises of `Encoding` for one clip that it holds."""
    arrays, figure = encoder.encode(SIGNALS[signal], raw)
    decoded = encoder.decode(SIGNALS[signal], arrays)
    assert (decoded.dtype, decoded.shape) == (np.float32, tuple(raw.shape))
    assert np.isfinite(decoded).all()
    assert figure.measured <= figure.bound
    stored = {array.name: array for array in encoder.stored(SIGNALS[signal], tuple(raw.shape))}
    for name, values in arrays.items():
        assert (values.shape, values.dtype) == (stored[name].shape, stored[name].dtype)
    used = {array.name for array in stored.values() if array.optional} & arrays.keys()
    assert arrays.keys() == (used or {name for name, array in stored.items() if not array.optional})
    truth = physical(signal, raw, encoder.name)
    if used or encoder.name.startswith("float32"):
        (exact,) = arrays.values()
        assert exact.tobytes() == raw.numpy().tobytes()
        if signal == "depth":  # the exponential is not to the last bit
            assert decoded.min() >= np.finfo(np.float32).tiny
            np.testing.assert_allclose(decoded, truth, rtol=1e-6)
        else:
            assert decoded.tobytes() == raw.numpy().tobytes()
    else:
        error = error_of(encoder.name, signal, decoded, truth)
        assert error <= figure.bound * (1 + 1e-5)
        # What was measured is what a reader sees, up to float32's own rounding.
        assert error == pytest.approx(figure.measured, rel=1e-2, abs=1e-5)
    room = np.full_like(decoded, 7)
    assert encoder.decode(SIGNALS[signal], arrays, room) is room
    np.testing.assert_array_equal(room, decoded)
    tensor = encoder.decode(SIGNALS[signal], as_tensors(arrays))
    given = torch.full_like(tensor, 7)
    assert encoder.decode(SIGNALS[signal], as_tensors(arrays), given) is given
    torch.testing.assert_close(given, tensor, rtol=0, atol=0)
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


LEAST_LN, MOST_LN = (math.log(limit) for limit in (np.finfo(np.float32).tiny, np.finfo(np.float32).max))
MAGNITUDES = st.sampled_from([1e-45, 1e-38, 1e-20, 1.0, 1e3, 1e20, 2e38])
# Values about which an encoding's or float32's range ends: of ln depth, of flow, of features.
EDGES = [sign * edge for edge in (64.0, 87.33, 88.72, 104.0, 512.0, 2048.0, 8192.0, 1.8e38, 3.4e38) for sign in (1, -1)]
NEAR_EDGES = st.builds(lambda edge, share: edge * (1 + share), st.sampled_from(EDGES), st.floats(-2e-4, 5e-4)).map(np.float32)
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
TAME = st.floats(-4, 4, width=32)


def finite_values(data: st.DataObject, signal: SignalName) -> np.ndarray:
    """Any finite floats at all, subnormals included, or those about an edge, or tame ones that alone would be held."""
    elements = data.draw(st.sampled_from([TAME, st.one_of(TAME, NEAR_EDGES), st.one_of(FINITE, TAME)]))
    raw = data.draw(hnp.arrays(np.float32, SHAPES[signal], elements=elements, fill=st.sampled_from([0.0, 1.0, -2.5])))
    with np.errstate(over="ignore"):
        return (raw * np.float32(data.draw(MAGNITUDES))).clip(np.finfo(np.float32).min, np.finfo(np.float32).max)


@pytest.mark.parametrize(("signal", "name"), CASES)
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_any_finite_floats_are_held_within_the_bound_or_refused(signal: SignalName, name: str, data: st.DataObject) -> None:
    """Only a depth that float32 has not is refused: all others are kept within the bound, or bit for bit."""
    raw = finite_values(data, signal)
    _, figure = encoding(signal, name).encode(SIGNALS[signal], torch.from_numpy(raw))
    if signal == "depth" and (raw.min() < LEAST_LN or raw.max() > MOST_LN) and figure.measured > figure.bound:
        assert "natural log from what float32 can give back, -87.34 to 88.72" in figure.measure
        beyond = max(LEAST_LN - float(raw.min()), float(raw.max()) - MOST_LN)
        assert figure.measured == pytest.approx(beyond)
    else:
        check_clip(signal, encoding(signal, name), torch.from_numpy(raw))


@pytest.mark.parametrize("name", encodings("depth"))
@pytest.mark.parametrize("ln", [88.73, 89.0, 100.0, 200.0, 511.9, 1e6, -87.345, -90.0, -104.0, -511.9, -1e6])
def test_a_depth_that_reads_as_zero_or_infinity_is_refused(name: str, ln: float) -> None:
    """Whose logarithm 16 bits hold, and float32 too."""
    raw = raw_values("depth", 0, 1.0)
    raw.view(-1)[7] = ln
    _, figure = encoding("depth", name).encode(SIGNALS["depth"], raw)
    assert figure.measured > figure.bound == 0
    assert figure.measured == pytest.approx(max(LEAST_LN - ln, ln - MOST_LN), abs=1e-5 * abs(ln))


@pytest.mark.parametrize("name", encodings("depth"))
@pytest.mark.parametrize("ln", [88.72, 64.5, -64.5, -87.33])
def test_the_largest_and_least_depths_are_held(name: str, ln: float) -> None:
    raw = raw_values("depth", 0, 1.0)
    raw.view(-1)[7] = ln
    check_clip("depth", encoding("depth", name), raw)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("signal", "name"), CASES)
def test_no_figure_is_infinite_or_nan(signal: SignalName, name: str, value: float) -> None:
    """Even for what no teacher may give: the writer's own check comes first, and a figure goes into JSON."""
    for places in (slice(7, 8), slice(None)):
        raw = raw_values(signal, 0, 1.0)
        raw.view(-1)[places] = value
        _, figure = encoding(signal, name).encode(SIGNALS[signal], raw)
        assert all(map(math.isfinite, (figure.measured, figure.bound, figure.relative_rms)))
        assert signal != "depth" or figure.measured > figure.bound


@pytest.mark.parametrize("field", ["measured", "bound", "relative_rms"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_figure_that_json_has_not_is_refused(field: str, value: float) -> None:
    with pytest.raises(ValidationError, match="finite"):
        ErrorFigure.model_validate({"measure": "", "measured": 0.0, "bound": 0.0, "relative_rms": 0.0} | {field: value})


BEYOND: dict[SignalName, float] = {"f4d": 3e38, "depth": 80.0, "flow": 1e6}


@pytest.mark.parametrize("bound", [0.01, 0.04])
def test_a_gpu_finds_the_same_steps_as_a_cpu(bound: float) -> None:
    """It tries each on all channels, since it may not wait to learn which are left."""
    tokens = torch.randn((512, 300), generator=torch.Generator().manual_seed(0))
    tokens[:, ::3] = (tokens[:, ::3] > 0.3).float()  # of few values, for which the first steps are too large
    tokens[:, 1::50] = 0
    rms = tokens.square().mean(0).sqrt()
    alone, together = (find(tokens, bound, rms) for find in (quantiser._within, quantiser.within_without_waiting))
    assert len(set((alone[1] / rms.clamp_min(1e-9) / bound).round(decimals=1).tolist())) > 1  # not all take the first step
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one, other)
    assert torch.equal(alone[0], together[0])
    assert torch.equal(alone[1], together[1])


@pytest.mark.parametrize(("signal", "name"), FALLING_BACK)
def test_a_clip_that_does_not_fit_is_kept_exactly(signal: SignalName, name: str) -> None:
    """One such value is enough; its clip is in the array `…_exact` alone, and the figure says lossless."""
    fits = name == "log-step-1/64"  # up to where float32 ends
    raw = raw_values(signal, 0, 1.0)
    raw.view(-1)[7] = BEYOND[signal]
    arrays, figure = encoding(signal, name).encode(SIGNALS[signal], raw)
    assert arrays.keys() == {signal if fits else f"{signal}_exact"}
    assert fits or (figure.measured, figure.bound) == (0.0, 0.0)
    check_clip(signal, encoding(signal, name), raw)


@pytest.mark.parametrize("name", ["channel-rms-1%-listed", "channel-rms-4%-listed"])
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


def test_a_clip_whose_list_is_full_is_kept_exactly_and_one_more_place_would_do() -> None:
    encoder = encoding("f4d", "channel-rms-1%-listed")
    room = (8 * 6 - 6) * 8 // 4
    for channels, is_exact in ((7, False), (8, True)):
        many = torch.randn((2, 8, 6, 6, 8), generator=torch.Generator().manual_seed(0)) * 0.01
        many[1].view(-1, 8)[::24, :channels] += 100  # 12 of a channel's 288 values: 4.9 times its RMS, beyond 127 steps
        listed = int((quantiser.quantise(many[1], 0.01).high != 0).sum())
        arrays, _ = encoder.encode(SIGNALS["f4d"], many)
        assert (listed > room, arrays.keys()) == (is_exact, {"f4d_exact"} if is_exact else {"f4d"})
        check_clip("f4d", encoder, many)


@given(seed=st.integers(0, 999), share=st.sampled_from([0.0, 0.01, 0.2]), room=st.integers(1, 60))
def test_values_are_listed_on_a_gpu_as_on_a_cpu(seed: int, share: float, room: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    flat = torch.randint(-128, 128, (300,), generator=generator, dtype=torch.int8) * (
        torch.rand(300, generator=generator) < share
    )
    alone, together = quantiser._listed(flat, room), quantiser.listed_without_waiting(flat, room)
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one, other)
    assert int(alone[1]) == max(0, int((flat != 0).sum()) - room)


@given(seed=st.integers(0, 999))
def test_bytes_that_no_encoder_wrote_decode_to_something(seed: int) -> None:
    """A store is anyone's: its lists may name places that there are not, which on a GPU would end the process."""
    encoder, shape = encoding("f4d", "channel-rms-1%-listed"), (2, 4, 3, 5, 6)
    rows = np.random.default_rng(seed).integers(-128, 128, (2, 4, 4, 5, 6), dtype=np.int8)
    with np.errstate(all="ignore"):
        assert encoder.decode(SIGNALS["f4d"], {"f4d": rows}).shape == shape
    assert encoder.decode(SIGNALS["f4d"], {"f4d": torch.from_numpy(rows)}).shape == shape


def test_still_features_are_kept_as_differences() -> None:
    """Time steps that are alike leave nothing to store but the first."""
    frame = torch.randn((2, 1, 16, 16, 8), generator=torch.Generator().manual_seed(0))
    encoder = encoding("f4d", "channel-rms-1%-listed")
    still, _ = encoder.encode(SIGNALS["f4d"], frame.repeat(1, 8, 1, 1, 1))
    assert np.abs(still["f4d"][:, 0, :16]).max() > 10
    assert not still["f4d"][:, 1:8, :16].any()


@pytest.mark.parametrize("signal", ["f4d", "depth", "flow", "motion"])
def test_constant_planes_are_kept(signal: SignalName) -> None:
    for value in (0.0, 3.0, -2.9):
        for name in encodings(signal):
            check_clip(signal, encoding(signal, name), torch.full(SHAPES[signal], value))


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
    lossless = {"camray": "float32", "objects": "float32", "regions": "uint8", "frames": "uint8"}
    assert resolve(Job.model_validate(job)) == lossless | {
        "f4d": "channel-rms-1%-listed", "depth": "log-step-1/512", "flow": "step-1/16", "motion": "step-1/8",
    }  # fmt: skip
    assert resolve(Job.model_validate(job | {"encoding": "compact"})) == lossless | {
        "f4d": "channel-rms-4%-listed", "depth": "log-step-1/64", "flow": "step-1/4", "motion": "step-1/2",
    }  # fmt: skip
    mixed = resolve(Job.model_validate(job | {"encoding": {"f4d": "compact", "depth": "exact"}}))
    assert (mixed["f4d"], mixed["depth"], mixed["flow"]) == ("channel-rms-4%-listed", "float32-raw", "step-1/16")


def test_an_unknown_encoding_is_refused_with_those_known() -> None:
    with pytest.raises(BadInput, match=r"'wavelet'; this version reads float32-raw, log-step-1/512, log-step-1/64$"):
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
    ("f4d", "channel-rms-1%-listed"): {
        "f4d": ("a25ad05cfee8636f56ac259c8106dc9b", "740b23720259ffd055d589b9e61cde7c"),
    },
    ("f4d", "channel-rms-4%-listed"): {
        "f4d": ("58488eb8e94859c702d9426990802f67", "49d41502618b7114b0e9c1f925204bcf"),
    },
    ("f4d", "float32-raw"): {
        "f4d": ("048a5165002ccf9b7a1391515111f3a5", "a9e93ce13b731901f7a9ea1141d64d75"),
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
    ("flow", "step-1/16"): {
        "flow": ("2d9415a2b457c9cecdcf74e0b90c1f65", "086af390fecc21169ee7780174f7a784"),
    },
    ("flow", "step-1/4"): {
        "flow": ("319af6b55b8b0ce09a4f0e48c3454538", "6210c8d076984f844512c2a6f5b5a2e8"),
    },
    ("flow", "float32-raw"): {
        "flow": ("adf4aeff4c1077c7f05cf99a26442795", "85bc98355e46f0d87af3aadbe3d95618"),
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


@pytest.mark.parametrize(("signal", "name"), FALLING_BACK)
def test_exact_copies_have_the_same_bytes_too(signal: SignalName, name: str) -> None:
    raw = whole_numbers(signal)
    raw.view(-1)[5] = 3e38 if signal == "f4d" else -1e30
    encoder = encoding(signal, name)
    arrays, _ = encoder.encode(SIGNALS[signal], raw)
    (exact,) = arrays.items()
    array = encoder.stored(SIGNALS[signal], tuple(raw.shape))[-1]
    assert (exact[0], array.optional) == (array.name, True)
    plain = np.ascontiguousarray(raw.numpy(), "<f4").tobytes()
    assert exact[1].tobytes() == plain
    assert encode_chunk(exact[1], array.compression) == plain + checksum(plain)


@pytest.mark.parametrize("name", ["channel-rms-1%-listed", "channel-rms-4%-listed"])
def test_rows_of_features_are_what_their_attributes_say(name: str) -> None:
    """By the formula and the rows that any reader finds there, value by value, in Python's whole numbers."""
    encoder, raw = encoding("f4d", name), whole_numbers("f4d")
    arrays, _ = encoder.encode(SIGNALS["f4d"], raw)
    array, _ = encoder.stored(SIGNALS["f4d"], tuple(raw.shape))
    assert array.attributes["rows"] == {"low": [0, 12], "scale (4 tokens), centre, delta, list": [12, 13]}
    low, beside = np.split(arrays["f4d"].astype(int), [12], axis=2)
    beside = beside.reshape(2, 4 * 12, 5)  # (layer, token, channel)
    high = np.zeros(low.shape, int)
    for layer in range(2):
        room = bytes((beside[layer, 6:] % 256).astype(np.uint8).flat)
        entries = [int.from_bytes(room[at : at + 4], "little") for at in range(0, len(room) // 4 * 4, 4)]
        places = [entry % 2**24 for entry in entries if entry]
        assert places == sorted(set(places))
        assert not any(entries[len(places) :])
        for entry in entries[: len(places)]:
            high[layer].flat[entry % 2**24] = (entry // 2**24 + 128) % 256 - 128
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
    at_fill = array.missing * array.attributes["scale_factor"]
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


@pytest.mark.parametrize("profile", ["fine", "compact", "exact"])
@pytest.mark.parametrize("signal", ["regions", "frames"])
def test_bytes_are_kept_as_they_are_under_every_profile(signal: SignalName, profile: str) -> None:
    job = Job.model_validate({"videos": {"glob": "*"}, "store": "s", "teacher": {"family": "l4p"}, "encoding": profile})
    shape = {"regions": (4, 6, 6), "frames": (4, 8, 8, 3)}[signal]
    raw = torch.randint(0, 256, shape, dtype=torch.uint8)
    encoder = encoding(signal, resolve(job)[signal])
    arrays, figure = encoder.encode(SIGNALS[signal], raw)
    (stored,) = encoder.stored(SIGNALS[signal], shape)
    assert figure.measured == figure.bound == 0
    assert arrays[signal].dtype == stored.dtype == np.uint8
    np.testing.assert_array_equal(encoder.decode(SIGNALS[signal], arrays), raw.numpy())
    room = np.empty(shape, np.uint8)
    assert encoder.decode(SIGNALS[signal], arrays, room) is room
    np.testing.assert_array_equal(room, raw.numpy())
    assert torch.equal(encoder.decode(SIGNALS[signal], as_tensors(arrays)), raw)
