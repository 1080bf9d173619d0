"""Measures the L4P forward against a plain one of the same weights, side by side: a table, and the same as JSON.

    python tests/benchmarks/teacher.py                                                   # a CPU, in two minutes
    python tests/benchmarks/teacher.py --preset giant --device cuda --dtype bfloat16     # a GPU, with every variant

Then batches go the whole way of a worker, to the GPU, through network and encodings, and back, with streams of their own and
on one stream: how fast, how much of the time the GPU teaches by a profiler's trace, and how much of the copies is hidden.

Without --weights they are random: speed and memory do not depend on them. Repetitions of the variants take turns, so that
a machine that slows down slows all of them; what is told is the median and the spread.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import functools
import gc
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from live_bytes import peak_live_bytes
from machine import processor
from overlap import overlap
from plain_l4p import plain_raw
from rich.console import Console
from rich.table import Table

import teacher_cache.teachers.heads.dpt
from schemas.recipe import Precision, TeacherIdentity
from schemas.signal import P4D_SIGNALS
from teacher_cache.teachers.heads.precision import TORCH_DTYPES, full_float32
from teacher_cache.teachers.l4p.config import L4PConfig
from teacher_cache.teachers.l4p.cost import clip_flops, forward_bytes, published_flops
from teacher_cache.teachers.l4p.network import L4P
from teacher_cache.teachers.l4p.teacher import PRESETS, L4PTeacher, normalise

RESULTS = Path(__file__).parent / "results"
CONFIGS = PRESETS | {
    # For measuring on a CPU: giant's proportions at a twentieth of the work of each clip, where tiny is all overhead.
    "small": L4PConfig(
        image_size=112,
        embed_dim=384,
        depth=12,
        num_heads=6,
        mlp_dim=1536,
        hooks=(4, 6, 8, 11),
        feature_dim=64,
        last_dim=32,
        layer_dims=(64, 128, 256, 256),
    )
}


@dataclass
class Forward:
    """A network and a way to run it on uint8 frames."""

    model: L4P
    run: Callable[[L4P, torch.Tensor], object]

    def __call__(self, frames: torch.Tensor) -> object:
        return self.run(self.model, frames)

    @property
    def weight_bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in [*self.model.parameters(), *self.model.buffers()])


@dataclass
class Variant:
    """One way to run the forward, and what was measured of it."""

    name: str
    batch: int
    make: Callable[[], Forward]
    flops: int
    """Of one clip."""
    predicted: int | None = None
    seconds: list[float] = field(default_factory=list)
    peak: int = 0
    failure: str | None = None

    def figures(self, matmul: float) -> dict[str, Any]:
        """What goes into the JSON. ``matmul``: the machine's measured operations a second."""
        if self.failure is not None:
            return {"name": self.name, "batch": self.batch, "failure": self.failure}
        rates = [self.batch / s for s in self.seconds]
        median = statistics.median(rates)
        return {
            "name": self.name,
            "batch": self.batch,
            "clips_per_second": {"median": median, "min": min(rates), "max": max(rates), "all": rates},
            "peak_bytes": self.peak,
            "peak_bytes_predicted": self.predicted,
            "flops_per_clip": self.flops,
            "share_of_matmul": median * self.flops / matmul,
        }


def measure(variants: list[Variant], frames: torch.Tensor, repetitions: int, dtype: torch.dtype) -> list[float]:
    """Time the variants in turns, a matmul in each turn too. Returns the matmul's operations a second, one a turn."""
    device = frames.device
    forwards = {}
    for variant in variants:
        forward = _prepared(variant, frames[: variant.batch])
        if forward is not None:
            forwards[variant.name] = forward
    rates = []
    for _ in range(repetitions):
        rates.append(matmul_rate(device, dtype))
        for variant in variants:
            if variant.name in forwards:
                seconds = timed(lambda v=variant: forwards[v.name](frames[: v.batch]), device)
                variant.seconds.append(seconds)
    return rates


def _prepared(variant: Variant, frames: torch.Tensor) -> Forward | None:
    """The forward, warmed up, its memory measured. None, with the reason kept, where it does not fit."""
    device = frames.device
    gc.collect()
    try:
        forward = variant.make()
        forward(frames)  # compiles, chooses kernels
        variant.peak = forward.weight_bytes + _peak_bytes(lambda: forward(frames), device)
    except torch.cuda.OutOfMemoryError as error:
        variant.failure = str(error).partition(".")[0]
        return None
    return forward


def _peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """The most that ``run`` takes on the device beyond what is there before it."""
    if device.type != "cuda":
        return peak_live_bytes(run)
    gc.collect()
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(run: Callable[[], object], device: torch.device) -> float:
    _synchronise(device)
    start = time.perf_counter()
    run()
    _synchronise(device)
    return time.perf_counter() - start


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a large matrix product, the best of three."""
    n = 8192 if device.type == "cuda" else 1536
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    torch.mm(a, b)
    times = 10 if device.type == "cuda" else 1
    return max(times * 2 * n**3 / timed(lambda: [torch.mm(a, b) for _ in range(times)], device) for _ in range(3))


def random_model(config: L4PConfig, device: str, weights: Path | None = None) -> L4P:
    """Made where it runs: five gigabytes are not copied there."""
    torch.manual_seed(0)
    if weights is not None:
        with torch.device("meta"):
            model = L4P(config)
        return model.load_checkpoint(weights).to(device).eval()
    with torch.device(device):
        return L4P(config).to(device).eval()


def ours(model: L4P, dtype: Precision, device: str, *, compile_model: bool = False, channels_last: bool = True) -> Forward:
    """`L4PTeacher.raw` of every signal. Takes the model over."""
    identity = TeacherIdentity(family="l4p", config={}, weights="random", dtype=dtype)
    teacher = L4PTeacher(model, identity, device, compile_model=compile_model)
    if channels_last:
        return Forward(model, lambda _, frames: teacher.raw(frames, P4D_SIGNALS))
    for module in model.modules():
        if isinstance(module, torch.nn.Conv3d):
            module.weight.data = module.weight.data.contiguous()

    def run(_: L4P, frames: torch.Tensor) -> object:
        with _channels_first():
            return teacher.raw(frames, P4D_SIGNALS)

    return Forward(model, run)


@contextlib.contextmanager
def _channels_first() -> Iterator[None]:
    """The heads in PyTorch's default layout, which nothing but this measurement wants."""
    dpt: Any = teacher_cache.teachers.heads.dpt
    before = dpt._channels_first
    dpt._channels_first = lambda layer: layer.permute(0, 4, 1, 2, 3).contiguous()
    try:
        yield
    finally:
        dpt._channels_first = before


def plain(model: L4P, autocast: torch.dtype | None = None) -> Forward:
    """The plain forward in float32, or under autocast alone."""

    def run(model: L4P, frames: torch.Tensor) -> object:
        with torch.autocast(frames.device.type, dtype=autocast, enabled=autocast is not None):
            return plain_raw(model, normalise(frames))

    return Forward(model, run)


def variants_for(
    config: L4PConfig, device: str, dtype: Precision, batch: int, weights: Path | None, *, compiled: bool
) -> list[Variant]:
    """Ours and the plain one; on a GPU also each choice by itself, and other batch sizes."""
    source = random_model(config, device, weights)

    @functools.cache  # other batch sizes run the same network
    def make_ours(*, compile_model: bool = False, channels_last: bool = True) -> Forward:
        return ours(copy.deepcopy(source), dtype, device, compile_model=compile_model, channels_last=channels_last)

    def ours_at(name: str, batch: int, **how: bool) -> Variant:
        predicted = forward_bytes(config, dtype, batch).peak
        return Variant(name, batch, lambda: make_ours(**how), clip_flops(config), predicted)

    found = [
        ours_at(f"ours, {dtype}", batch),
        Variant("plain, float32", batch, lambda: plain(copy.deepcopy(source)), published_flops(config)),
    ]
    if dtype != "float32":
        low = TORCH_DTYPES[dtype]
        found.append(
            Variant(f"plain, autocast {dtype}", batch, lambda: plain(copy.deepcopy(source), low), published_flops(config))
        )
    if compiled or device.startswith("cuda"):
        found.append(ours_at("ours, compiled", batch, compile_model=True))
    if device.startswith("cuda"):
        found.append(ours_at("ours, channels first", batch, channels_last=False))
        found += [ours_at(f"ours, batch {n}", n) for n in (1, 2, 4, 8, 16, 32) if n != batch]
    return found


def machine(device: str) -> dict[str, Any]:
    """What was measured on."""
    about = processor() | {"threads": torch.get_num_threads(), "torch": torch.__version__}
    if device.startswith("cuda"):
        about |= {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    return about


def run_benchmark(options: argparse.Namespace) -> dict[str, Any]:
    """Measure everything that ``options`` ask for."""
    config, device = CONFIGS[options.preset], options.device
    full_float32()
    if options.threads:
        torch.set_num_threads(options.threads)
    variants = variants_for(config, device, options.dtype, options.batch, options.weights, compiled=options.compile)
    most = max(v.batch for v in variants)
    shape = (most, 16, config.image_size, config.image_size, 3)
    frames = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).to(device)
    rates = measure(variants, frames, options.repetitions, TORCH_DTYPES[options.dtype])
    matmul = statistics.median(rates)
    figures = [v.figures(matmul) for v in variants]
    gc.collect()
    predicted = forward_bytes(config, options.dtype, options.batch).peak
    identity = TeacherIdentity(family="l4p", config={}, weights="random", dtype=options.dtype)
    teacher = L4PTeacher(random_model(config, device, options.weights), identity, device)
    batches = 16 if device.startswith("cuda") else 2
    medians = {f["name"]: f["clips_per_second"]["median"] for f in figures if "failure" not in f}
    fast, slow = (medians.get(v.name) for v in variants[:2])
    return {
        "benchmark": "teacher",
        "machine": machine(device),
        "preset": options.preset,
        "config": config.model_dump(mode="json"),
        "device": device,
        "dtype": options.dtype,
        "repetitions": options.repetitions,
        "weights": "random" if options.weights is None else "given",
        "matmul_flops_per_second": {"median": matmul, "min": min(rates), "max": max(rates)},
        "flops_per_clip": {"ours": clip_flops(config), "published order": published_flops(config)},
        "memory": "torch.cuda.max_memory_allocated" if device.startswith("cuda") else "tensors alive at once, weights included",
        "speedup_over_plain": fast / slow if fast and slow else None,
        "variants": figures,
        "overlap": overlap(teacher, device, batch=options.batch, batches=batches, network_bytes=predicted),
    }


def table(result: dict[str, Any]) -> Table:
    about = result["machine"]
    matmul = result["matmul_flops_per_second"]["median"]
    shown = Table(
        title=f"L4P {result['preset']}, {result['dtype']}, on {about.get('gpu', about['cpu'])} ({about['threads']} threads); "
        f"matmul {matmul / 1e12:.3g} TFLOP/s"
    )
    for name in ("forward", "batch", "clips/s", "min – max", "peak GiB", "predicted", "TFLOP/clip", "of matmul"):
        shown.add_column(name, justify="left" if name == "forward" else "right")
    for v in result["variants"]:
        if "failure" in v:
            shown.add_row(v["name"], str(v["batch"]), v["failure"])
            continue
        rate = v["clips_per_second"]
        predicted = v["peak_bytes_predicted"]
        shown.add_row(
            v["name"],
            str(v["batch"]),
            f"{rate['median']:.3g}",
            f"{rate['min']:.3g} – {rate['max']:.3g}",
            f"{v['peak_bytes'] / 2**30:.3g}",
            "" if predicted is None else f"{predicted / 2**30:.3g}",
            f"{v['flops_per_clip'] / 1e12:.3g}",
            f"{v['share_of_matmul']:.0%}",
        )
    return shown


def overlap_table(found: dict[str, Any]) -> Table:
    shown = Table(title=f"the whole way of {found['batches']} batches of {found['batch']}", caption=found["not_shown"])
    for name in ("lane", "clips/s", "GPU teaching", "GPU computing", "copies hidden"):
        shown.add_column(name, justify="left" if name == "lane" else "right")
    for name, rates in found["clips_per_second"].items():
        traced = (found["trace"] or {}).get(name)
        of = [f"{traced[share]:.0%}" for share in ("teaching", "computing", "copies_hidden")] if traced else ["", "", ""]
        shown.add_row(name, f"{statistics.median(rates):.3g} ({min(rates):.3g} – {max(rates):.3g})", *of)
    if found["peak_bytes"] is not None:
        shown.add_row("peak GiB", f"{found['peak_bytes'] / 2**30:.3g} of {found['peak_bytes_predicted'] / 2**30:.3g} predicted")
    return shown


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=sorted(CONFIGS), default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=sorted(TORCH_DTYPES), default="float32")
    parser.add_argument("--batch", type=int, default=None, help="clips in one forward; 8 on a GPU, 1 on a CPU")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--compile", action="store_true", help="measure torch.compile on a CPU too")
    parser.add_argument("--weights", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args(arguments)
    gpu = options.device.startswith("cuda")
    options.batch = options.batch or (8 if gpu else 1)
    options.out = options.out or RESULTS / f"teacher-{'cuda' if gpu else 'cpu'}.json"
    return options


def main() -> None:
    options = parse()
    result = run_benchmark(options)
    console = Console(width=None if os.isatty(1) else 140)
    console.print(table(result))
    if result["speedup_over_plain"] is not None:
        console.print(f"ours over plain: {result['speedup_over_plain']:.2f} times")
    console.print(overlap_table(result["overlap"]))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    console.print(f"written to {options.out}")


if __name__ == "__main__":
    main()
