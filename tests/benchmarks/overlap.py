"""Batches through a teacher's lane with streams and without in; clips a second, and what a profiler's trace shows, out."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from schemas.job import Job
from schemas.signal import P4D_SIGNALS, SIGNALS
from teacher_cache.encodings.registry import encoding, resolve
from teacher_cache.jobs.encode_batch import encode_batch
from teacher_cache.jobs.memory import BATCHES_AT_ONCE, waiting_bytes
from teacher_cache.teachers.heads import RawSignals
from teacher_cache.teachers.l4p.teacher import L4PTeacher
from teacher_cache.teachers.lane import lane_for

_ENCODINGS = resolve(Job.model_validate({"videos": {"glob": "*"}, "store": "none", "teacher": {}}))
NOT_SHOWN = "a CPU has no streams: no overlap, no copy and no pinned memory is measured here, only that the way through works"


class OneStream:
    """A lane as there was before: the default stream, memory that is not pinned, a wait and a copy for each tensor."""

    def __init__(self, device: str) -> None:
        self._device, self._teaching = device, threading.Lock()

    def through(self, frames: torch.Tensor, teach: Callable[..., RawSignals], encode: Callable[..., Any]) -> Any:
        with self._teaching:
            raw = teach(frames.to(self._device))
            torch.cuda.synchronize(self._device)
        return encode(raw, lambda tensors: [values.cpu().numpy() for values in tensors]), 0.0


def overlap(
    teacher: L4PTeacher, device: str, *, batch: int, batches: int, network_bytes: int, turns: int = 3
) -> dict[str, Any]:
    """Clips a second with streams and without, in turns; then a traced turn of each. ``network_bytes``: its predicted peak."""
    is_cpu = device == "cpu"
    # What was measured before may still be on the device.
    own_bytes = sum(t.numel() * t.element_size() for t in teacher.model.parameters())
    beside = 0 if is_cpu else torch.cuda.memory_allocated(device) - own_bytes
    frames = torch.randint(0, 256, (batch, 16, teacher.image_size, teacher.image_size, 3), dtype=torch.uint8)
    own = lane_for(device, BATCHES_AT_ONCE)
    lanes: dict[str, Any] = {"the host's": own} if is_cpu else {"streams": own, "one stream": OneStream(device)}
    rates: dict[str, list[float]] = {name: [] for name in lanes}
    for lane in lanes.values():
        _run(lane, teacher, frames, BATCHES_AT_ONCE)  # chooses kernels, makes buffers
    if not is_cpu:
        torch.cuda.reset_peak_memory_stats(device)
    for _ in range(turns):
        for name, lane in lanes.items():
            rates[name].append(batches * batch / _run(lane, teacher, frames, batches))
    peak = None if is_cpu else torch.cuda.max_memory_allocated(device) - beside
    stored = [array for s in P4D_SIGNALS for array in encoding(s, _ENCODINGS[s]).stored(SIGNALS[s], teacher.shapes[s])]
    others = frames[0].nbytes + 2 * sum(array.nbytes for array in stored if not array.optional)
    return {
        "batch": batch,
        "batches": batches,
        "clips_per_second": rates,
        "trace": None if is_cpu else {name: _traced(lane, teacher, frames, batches) for name, lane in lanes.items()},
        "peak_bytes": peak,
        "peak_bytes_predicted": network_bytes + waiting_bytes(batch, teacher.shapes, others),
        "not_shown": NOT_SHOWN if is_cpu else None,
    }


def _run(lane: Any, teacher: L4PTeacher, frames: torch.Tensor, batches: int) -> float:
    """Seconds for so many batches, from as many threads as a worker has."""
    teach, encode = partial(teacher.raw, signals=P4D_SIGNALS), partial(encode_batch, _ENCODINGS)
    begun = time.perf_counter()
    with ThreadPoolExecutor(BATCHES_AT_ONCE) as threads:
        for done in [threads.submit(lane.through, frames, teach, encode) for _ in range(batches)]:
            done.result()
    return time.perf_counter() - begun


def _traced(lane: Any, teacher: L4PTeacher, frames: torch.Tensor, batches: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
            _run(lane, teacher, frames, batches)
        profiler.export_chrome_trace(str(path))
        return shares(json.loads(path.read_text())["traceEvents"])


def shares(events: Iterable[dict[str, Any]]) -> dict[str, float]:
    """What a trace in Chrome's format says of a GPU: shares of the time from its first work to its last.

    ``teaching``: the stream with the most kernel time is busy. ``computing``: any kernel runs. ``copies_hidden``: share of the
    copies' time in which a kernel runs as well.
    """
    kernels: dict[Any, list[tuple[float, float]]] = {}
    copies: list[tuple[float, float]] = []
    for event in events:
        if event.get("cat") in {"kernel", "gpu_memcpy"}:
            span = (event["ts"], event["ts"] + event["dur"])
            (kernels.setdefault(event["args"]["stream"], []) if event["cat"] == "kernel" else copies).append(span)
    streams = [_union(spans) for spans in kernels.values()]
    computing, copying = _union([span for spans in streams for span in spans]), _union(copies)
    every = _union(computing + copying)
    wall = every[-1][1] - every[0][0]
    together = _length(computing) + _length(copying) - _length(every)
    return {
        "wall_seconds": wall / 1e6,
        "teaching": max(map(_length, streams)) / wall,
        "computing": _length(computing) / wall,
        "copies_hidden": together / _length(copying) if copying else 1.0,
    }


def _union(spans: list[tuple[float, float]]) -> list[tuple[float, float]]:
    found: list[tuple[float, float]] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found


def _length(union: list[tuple[float, float]]) -> float:
    return sum(end - start for start, end in union)
