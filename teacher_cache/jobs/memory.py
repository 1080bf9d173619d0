"""A recipe and engine settings in; the memory that a teacher's process will need out, and an error if the machine has less."""

from __future__ import annotations

import math
import os
import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import CouldNotRun
from schemas.job import EngineJob, TeacherJob
from schemas.log import PARTS
from schemas.recipe import Recipe
from schemas.signal import SIGNALS, Shape, SignalName
from teacher_cache.store.layout import stored_arrays
from teacher_cache.teachers.protocol import ForwardBytes, TeacherFamily

_LIBRARIES = 900 * 2**20
"""Measured host memory of PyTorch, Ray and the other libraries, without the CUDA driver's own host memory."""
_FLOAT = 4
_ENCODING = 6
"""Arrays of a signal's size that encoding one clip holds beside it: steps, errors, squares."""

BATCHES_AT_ONCE = 2
"""Batches on their way through one device: one is taught while another is copied or encoded."""
COMPRESSORS = 4
"""Compression threads per worker."""
ENCODED_CLIPS = 2 * COMPRESSORS
"""Clips per worker that may wait between teaching and compression: back-pressure."""


@dataclass(frozen=True)
class WorkerBytes:
    """Peak memory of a worker, in bytes."""

    host: int
    device: int
    """On each GPU; 0 if the teacher runs on the CPU, whose memory is the host's."""


def worker_bytes(
    recipe: Recipe, shapes: Mapping[SignalName, Shape], family: TeacherFamily, teacher: TeacherJob, engine: EngineJob
) -> WorkerBytes:
    """Predict a worker's peak memory: the network, decoded and encoded clips, and units waiting to be written.

    Units are counted at their uncompressed size.
    """
    taught = {signal: shape for signal, shape in shapes.items() if SIGNALS[signal].source == "teacher"}
    cost = family.forward_bytes(teacher, engine.batch, tuple(taught)) if taught else ForwardBytes(weights=0, working=0)
    clips, per_shard = recipe.clips, recipe.layout.clips_per_shard
    arrays = [a for part in PARTS if part == "clock" or part in shapes for a in stored_arrays(recipe, part, shapes)]
    stored = [a.nbytes for a in arrays if not a.optional]
    teaching = units_at_once(engine)
    decoded = (teaching + engine.decoders + 1) * per_shard * decoded_bytes(recipe, shapes)
    encoded = (ENCODED_CLIPS + teaching * engine.batch) * sum(stored)
    units = (teaching + engine.writers) * per_shard * sum(stored)
    packed = engine.writers * per_shard * max(stored)
    frames = clips.frames * clips.size**2 * 3
    flow = _LIBRARIES + decoded + encoded + units + packed
    network = cost.weights + cost.working
    if engine.gpus_per_teacher and taught:
        pinned = teaching * engine.batch * (frames + sum(stored))
        return WorkerBytes(host=flow + pinned, device=network + waiting_bytes(engine.batch, taught, frames + 2 * sum(stored)))
    return WorkerBytes(host=flow + network + waiting_bytes(engine.batch, taught, 0), device=0)


def decoded_bytes(recipe: Recipe, shapes: Mapping[SignalName, Shape]) -> int:
    """Bytes of one clip's frames, as decoders hand them over: in the teacher's size, and the student's if it is wanted."""
    return 3 * recipe.clips.frames * recipe.clips.size**2 + math.prod(shapes.get("frames", (0,)))


def waiting_bytes(batch: int, shapes: Mapping[SignalName, Shape], others: int) -> int:
    """Bytes of the batches on their way through a device, besides the network and its work: raw signals, one clip's encoding.

    ``others`` are what else a clip has there. On a GPU: its frames, its arrays, and the same packed for one copy.
    """
    raw = [_FLOAT * math.prod(shape) for shape in shapes.values()]
    return BATCHES_AT_ONCE * (batch * (sum(raw) + others) + _ENCODING * max(raw, default=0))


def devices_of(engine: EngineJob) -> int:
    """Number of copies of the network in a teacher's process: one per GPU, or one on the CPU."""
    return max(1, int(engine.gpus_per_teacher))


def units_at_once(engine: EngineJob) -> int:
    """Number of units that keep a teacher's devices busy."""
    return BATCHES_AT_ONCE * devices_of(engine)


def peak_bytes() -> int:
    """Peak resident memory of this process, in bytes. `getrusage` would include the process that it was forked from."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def machine_bytes() -> int:
    """Memory of this machine in bytes, or of the container around this process if that has less."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = Path(limit).read_text().strip() if Path(limit).is_file() else ""
        if text.isdigit():
            found = min(found, int(text))
    return found


def require_host_memory(needed: WorkerBytes, found: int, where: str) -> None:
    """Raises `CouldNotRun` if a worker's process needs more than the ``found`` bytes of memory."""
    if needed.host > found:
        raise CouldNotRun(
            f"a teacher's process will need up to {gigabytes(needed.host)} of memory, and {where} has {gigabytes(found)}. "
            "Lower engine.batch, engine.writers or layout.clips_per_shard, or use a larger machine."
        )


def require_device_memory(needed: WorkerBytes, found: int, device: str) -> None:
    """Raises `CouldNotRun` if the network and a batch need more than the ``found`` bytes of a GPU that the teacher may use."""
    if needed.device > found:
        raise CouldNotRun(
            f"the teacher and a batch will need {gigabytes(needed.device)} on {device}, and its share there is "
            f"{gigabytes(found)}. Lower engine.batch, use teacher.dtype bfloat16, or give it more of a GPU."
        )


def gigabytes(count: int) -> str:
    """So many bytes, as messages show them."""
    return f"{count / 1e9:.1f} GB"
