"""Measures what each encoding costs and keeps, over inputs of several kinds: a table, and the same as JSON.

    PYTHONPATH=.:tests python tests/benchmarks/encoding_rates.py     # one core, two minutes

Bits a value are those of the stored chunks, checksums included. Beside them stand two bounds for the error that was measured:
the Gaussian rate-distortion function, ½ log2(power / error) averaged over the channels, which no code for independent Gaussian
values can beat; and the order-0 entropy of the stored integers, which no code that takes them one by one can. Codecs that were
not chosen are measured on the same arrays. Times are of the processor, on one core: the least of a few repetitions.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numcodecs.blosc
import numpy as np
import torch
from numcodecs.abc import Codec
from numcodecs.blosc import Blosc
from numcodecs.zstd import Zstd
from rich.console import Console
from rich.table import Table
from seeded_weights import seed_weights

from schemas.job import EncodingProfile, Job
from schemas.signal import P4D_SIGNALS, SIGNALS, SignalName
from teacher_cache.encodings.base import Arrays, Encoding, StoredArray
from teacher_cache.encodings.registry import encoding, resolve
from teacher_cache.scenes import frame_times, random_scene, render_scene
from teacher_cache.store.chunk import clip_buffer, decode_chunks, encode_chunks
from teacher_cache.teachers.l4p.network import L4P
from teacher_cache.teachers.l4p.teacher import PRESETS, normalise

RESULT = Path(__file__).parent / "results" / "encoding-rates.json"
PROFILES: tuple[EncodingProfile, ...] = ("fine", "compact", "exact")
F4D = (4, 8, 16, 16, 1408)
FRAMES, SIZE = 16, 224
FP16_BYTES = 2 * (math.prod(F4D) + FRAMES * (SIZE**2 * 4 + 16 * 16 * 6))
Inputs = dict[SignalName, torch.Tensor]


def features() -> Iterator[tuple[str, torch.Tensor]]:
    """Kinds of F4D, (layer, time, y, x, channel), at the published size, and what a small network with seeded weights gives."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    layers, times, height, width, channels = F4D
    spread = normal(layers, 1, 1, 1, channels).exp()
    yield "Gaussian", normal(*F4D) * spread
    yield "Gaussian about a mean", (normal(*F4D) + normal(layers, 1, 1, 1, channels)) * spread
    tails = torch.distributions.StudentT(torch.tensor(3.0))
    torch.manual_seed(0)
    heavy = tails.sample((layers, times, height, width, 1)) * normal(*F4D) * spread
    outliers = torch.rand(F4D[1:4], generator=generator) < 0.002
    heavy[:, outliers, :6] *= 500  # the massive activations of a raw residual stream
    yield "heavy-tailed", heavy
    for correlation in (0.7, 0.95):
        walk = normal(*F4D)
        for t in range(1, times):
            walk[:, t] = correlation * walk[:, t - 1] + (1 - correlation**2) ** 0.5 * walk[:, t]
        yield f"correlated in time, {correlation}", walk * spread
    few = normal(layers, times * height * width, 128) @ normal(layers, 128, channels) / 128**0.5
    yield "correlated over channels", (few.view(F4D) + 0.3 * normal(*F4D)) * spread
    yield "seeded tiny L4P", tiny_features()


def tiny_features() -> torch.Tensor:
    model = L4P(PRESETS["tiny"])
    seed_weights(model, seed=0)
    size = PRESETS["tiny"].image_size
    frames = render_scene(random_scene(3), frame_times(FRAMES, 24), height=size, width=size).rgb
    with torch.inference_mode():
        return model.raw(normalise(torch.from_numpy(frames)[None]), ["f4d"])["f4d"][0].clone()


def maps() -> Iterator[tuple[str, Inputs]]:
    """Kinds of maps: sums of smooth noise at several scales, as a network's upsampled output is; and a scene's exact truth."""
    truth = render_scene(random_scene(3), frame_times(FRAMES, 24), height=SIZE, width=SIZE)
    camray = torch.from_numpy(truth.camray)
    smooth = smooth_noise(4)
    yield (
        "smooth",
        {
            "depth": 1 + smooth[0] / 2, "flow": 4 * smooth[1:3].movedim(0, -1).contiguous(),
            "motion": 4 * smooth[3], "camray": camray + 0.01 * torch.randn(camray.shape),
        },
    )  # fmt: skip
    logit = torch.where(torch.from_numpy(truth.motion), 6.0, -6.0)
    yield (
        "scene",
        {"depth": torch.from_numpy(truth.depth).log(), "flow": torch.from_numpy(truth.flow), "motion": logit, "camray": camray},
    )


def smooth_noise(channels: int) -> torch.Tensor:
    """float32 (channel, frame, y, x)."""
    generator = torch.Generator().manual_seed(1)
    total = torch.zeros(channels, FRAMES, SIZE, SIZE)
    for cells, amplitude in ((4, 1.0), (9, 0.5), (28, 0.15), (112, 0.004)):
        noise = torch.randn((channels, 1, 6, cells, cells), generator=generator)
        total += amplitude * torch.nn.functional.interpolate(noise, size=(FRAMES, SIZE, SIZE), mode="trilinear")[:, 0]
    return total


def timed(function: Callable[[], Any], repetitions: int) -> tuple[Any, float]:
    """(what it gives, the least milliseconds of processor time it took)."""
    least, result = math.inf, None
    for _ in range(repetitions):
        start = time.process_time()
        result = function()
        least = min(least, time.process_time() - start)
    return result, 1000 * least


@dataclass(frozen=True)
class Rate:
    """One encoding of one input."""

    signal: str
    profile: str
    encoding: str
    input: str
    bytes: int
    bits: float
    gaussian_bits: float | None
    entropy_bits: float | None
    measured: float
    bound: float
    encode_ms: float
    unpack_ms: float
    """From chunks to the stored integers, which is what a trainer's CPU does when its GPU scales them."""
    decode_ms: float
    """From the stored integers to float32 on the CPU."""


def rate(signal: SignalName, profile: EncodingProfile, kind: str, raw: torch.Tensor, repetitions: int) -> Rate:
    encoder = encoder_of(signal, profile)
    stored = {array.name: array for array in encoder.stored(SIGNALS[signal], tuple(raw.shape))}

    def encode() -> tuple[Arrays, Any, dict[str, list[bytes]]]:
        arrays, figure = encoder.encode(SIGNALS[signal], raw)
        return arrays, figure, {name: encode_chunks(values, stored[name]) for name, values in arrays.items()}

    (arrays, figure, chunks), encode_ms = timed(encode, repetitions)
    unpacked, unpack_ms = timed(lambda: {name: unpack(chunk, stored[name]) for name, chunk in chunks.items()}, repetitions)
    assert all(np.array_equal(unpacked[name], values, equal_nan=True) for name, values in arrays.items())
    _, decode_ms = timed(lambda: encoder.decode(SIGNALS[signal], unpacked), repetitions)
    size = sum(len(chunk) for clip in chunks.values() for chunk in clip)
    return Rate(
        signal, profile, encoder.name, kind, size, 8 * size / raw.numel(), gaussian_bits(signal, encoder, raw, arrays),
        entropy_bits(signal, arrays, raw.numel()),
        figure.measured, figure.bound, encode_ms, unpack_ms, decode_ms,
    )  # fmt: skip


def encoder_of(signal: SignalName, profile: EncodingProfile) -> Encoding:
    job = Job.model_validate({"videos": {"glob": "*"}, "store": "s", "teacher": {}, "encoding": profile})
    return encoding(signal, resolve(job)[signal])


def unpack(chunks: Sequence[bytes], array: StoredArray) -> np.ndarray:
    """The inverse of `encode_chunks`."""
    (out,) = clip_buffer(array, 1)
    decode_chunks(chunks, array, out)
    return out


def gaussian_bits(signal: SignalName, encoder: Encoding, raw: torch.Tensor, arrays: Mapping[str, np.ndarray]) -> float | None:
    """½ log2(power / error), over F4D's channels, averaged; over a map, about its mean. None without error."""
    if encoder.statement == "lossless":
        return None
    decoded = torch.from_numpy(encoder.decode(SIGNALS[signal], arrays))
    if signal == "depth":
        decoded = decoded.log()
    values = (raw.clamp(-8, 8) if signal == "motion" else raw).double()
    error = (decoded - values).square()
    if signal == "f4d":
        return float((values.square().mean((1, 2, 3)) / error.mean((1, 2, 3))).log2().mean() / 2)
    return float((values.var() / error.mean()).log2() / 2) if error.any() else None


def entropy_bits(signal: SignalName, arrays: Mapping[str, np.ndarray], count: int) -> float | None:
    """Bits a value of ``count`` values, of order 0; of F4D's, those of the low bytes. None for floats."""
    bits = 0.0
    for stored in arrays.values():
        values = low_bytes(stored) if signal == "f4d" else stored
        if values.dtype.kind == "f":
            return None
        shares = np.bincount(values.ravel().astype(np.int32) - int(values.min())) / values.size
        bits -= values.size * float((shares[shares > 0] * np.log2(shares[shares > 0])).sum())
    return bits / count


def low_bytes(rows: np.ndarray) -> np.ndarray:
    """Of F4D as it is stored at a bound, what holds a byte a value: the last row is of scales, and of the few high bytes."""
    return rows[:, :, :-1] if rows.dtype.kind == "i" else rows


@dataclass(frozen=True)
class Alternative:
    """One codec over one stored array."""

    array: str
    input: str
    codec: str
    bits: float
    """Of the codec alone, without what the encoding needs beside it."""
    encode_ms: float
    decode_ms: float


def alternatives(kind: str, signal: SignalName, raw: torch.Tensor, repetitions: int) -> Iterator[Alternative]:
    """What other codecs make of the integers of `fine`, a stored chunk at a time."""
    encoder = encoder_of(signal, "fine")
    (array,) = (a for a in encoder.stored(SIGNALS[signal], tuple(raw.shape)) if a.name == signal)
    values = encoder.encode(SIGNALS[signal], raw)[0][signal]
    layouts = {"": low_bytes(values) if signal == "f4d" else values}
    if signal == "f4d":
        layouts["channel-major, "] = np.moveaxis(layouts[""], -1, 1)
    else:
        last = values
        if signal == "flow":
            last = layouts["planar, "] = np.moveaxis(values, -1, 1)
        layouts["differences along x, "] = np.diff(last, axis=-1, prepend=last.dtype.type(0))
        steps = np.diff(last, axis=0, prepend=last[:1])
        first = slice(None, None, len(values) // array.chunks)
        steps[first] = last[first]  # a chunk is decoded from itself alone
        layouts["differences along time, "] = steps
    for layout, laid_out in layouts.items():
        parts = [np.ascontiguousarray(part) for part in np.split(laid_out, array.chunks)]
        for name, codec in codecs(laid_out.dtype).items():
            packed, encode_ms = timed(lambda c=codec, p=parts: [c.encode(part) for part in p], repetitions)
            _, decode_ms = timed(lambda c=codec, p=packed: [c.decode(part) for part in p], repetitions)
            bits = 8 * sum(map(len, packed)) / raw.numel()
            yield Alternative(signal, kind, layout + name, bits, encode_ms, decode_ms)


def codecs(dtype: np.dtype) -> dict[str, Codec]:
    known: dict[str, Codec] = {"zstd 1": Zstd(1), "zstd 3": Zstd(3)}
    shuffles = {"": Blosc.NOSHUFFLE, "bitshuffle, ": Blosc.BITSHUFFLE}
    if dtype.itemsize > 1:
        shuffles["shuffle, "] = Blosc.SHUFFLE
    known |= {f"blosc({how}zstd {level})": Blosc("zstd", level, s) for how, s in shuffles.items() for level in (1, 3, 4, 5)}
    known["blosc(bitshuffle, lz4 5)"] = Blosc("lz4", 5, Blosc.BITSHUFFLE)
    if dtype.itemsize > 1:
        try:
            from numcodecs.pcodec import PCodec
        except ImportError:  # its package is no dependency, and the codec not one that every Zarr reader has
            return known
        known["numcodecs.pcodec 8"] = PCodec(level=8)
    return known


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    numcodecs.blosc.use_threads = False
    rates, others = [], []
    inputs: list[tuple[str, Inputs]] = [(kind, {"f4d": raw}) for kind, raw in features()] + list(maps())
    for kind, signals in inputs:
        for signal, raw in signals.items():
            rates += [rate(signal, profile, kind, raw, arguments.repetitions) for profile in PROFILES]
            if signal != "camray" and kind in ("Gaussian", "heavy-tailed", "correlated in time, 0.95", "smooth", "scene"):
                others += alternatives(kind, signal, raw, arguments.repetitions)
    clips = {profile: whole_clip(rates, profile) for profile in PROFILES}
    show(rates, others, clips)
    machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count(), "torch": torch.__version__}
    report = {
        "machine": machine, "fp16_bytes": FP16_BYTES, "clips": clips,
        "rates": [asdict(r) for r in rates], "alternatives": [asdict(a) for a in others],
    }  # fmt: skip
    arguments.out.write_text(json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def whole_clip(rates: list[Rate], profile: EncodingProfile) -> dict[str, float]:
    """Gaussian features and smooth maps of one clip."""
    chosen = [r for r in rates if r.profile == profile and r.input == ("Gaussian" if r.signal == "f4d" else "smooth")]
    assert len(chosen) == len(P4D_SIGNALS)
    return {key: sum(getattr(r, key) for r in chosen) for key in ("bytes", "encode_ms", "unpack_ms", "decode_ms")}


def show(rates: list[Rate], others: list[Alternative], clips: Mapping[str, Mapping[str, float]]) -> None:
    console = Console(width=160)
    columns = (
        "signal",
        "input",
        "profile",
        "kB",
        "bits",
        "Gaussian",
        "entropy",
        "measured",
        "bound",
        "encode",
        "unpack",
        "decode",
    )
    table = Table(*columns, title="bits a value and their bounds; milliseconds a clip on one core")
    for r in rates:
        gaussian, entropy = ("" if bits is None else f"{bits:.3f}" for bits in (r.gaussian_bits, r.entropy_bits))
        table.add_row(
            r.signal, r.input, r.profile, f"{r.bytes / 1e3:.0f}", f"{r.bits:.3f}", gaussian, entropy,
            f"{r.measured:.3g}", f"{r.bound:.3g}", f"{r.encode_ms:.0f}", f"{r.unpack_ms:.1f}", f"{r.decode_ms:.1f}",
        )  # fmt: skip
    console.print(table)
    table = Table("array", "input", "codec", "bits", "encode", "decode", title="other codecs over the integers of `fine`")
    for a in others:
        table.add_row(a.array, a.input, a.codec, f"{a.bits:.3f}", f"{a.encode_ms:.0f}", f"{a.decode_ms:.1f}")
    console.print(table)
    table = Table("clip", "MB", "of fp16", "encode", "unpack", "decode", title="Gaussian features and smooth maps of one clip")
    for profile, clip in clips.items():
        size = clip["bytes"]
        times = (f"{clip[key]:.0f}" for key in ("encode_ms", "unpack_ms", "decode_ms"))
        table.add_row(profile, f"{size / 1e6:.2f}", f"{size / FP16_BYTES:.0%}", *times)
    console.print(table)


if __name__ == "__main__":
    main()
