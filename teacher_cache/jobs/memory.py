"""What a teacher's process will need of memory, by plain arithmetic, and a refusal where the machine has less."""

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
from schemas.ledger import PARTS
from schemas.recipe import Recipe
from schemas.signal import Shape, SignalName
from teacher_cache.store.layout import stored_arrays
from teacher_cache.teachers.protocol import TeacherFamily

_LIBRARIES = 900 * 2**20
"""Of PyTorch, Ray and the rest, as measured; CUDA's own host memory comes on top of it, and is its driver's."""
_FLOAT = 4

COMPRESSORS = 4
"""Threads of a worker that compress."""
ENCODED_CLIPS = 2 * COMPRESSORS
"""Clips of a worker that may lie between teaching and compression."""


@dataclass(frozen=True)
class WorkerBytes:
    """The most that a worker will hold at once, in bytes."""

    host: int
    device: int
    """On each GPU; 0 where the teacher is on the CPU, and its memory the host's."""


def worker_bytes(
    recipe: Recipe, shapes: Mapping[SignalName, Shape], family: TeacherFamily, teacher: TeacherJob, engine: EngineJob
) -> WorkerBytes:
    """Predict a worker's memory: the network, clips on their way through it, and units on their way to the store.

    Units count as if the codec saved nothing.
    """
    cost = family.forward_bytes(teacher, engine.batch, tuple(shapes))
    clips, per_shard = recipe.clips, recipe.layout.clips_per_shard
    arrays = [a for part in PARTS if part == "clock" or part in shapes for a in stored_arrays(recipe, part, shapes)]
    stored = [a.dtype.itemsize * math.prod(a.shape) for a in arrays if not a.optional]
    teaching = devices_of(engine) + 1
    decoded = (teaching + engine.decoders + 1) * per_shard * clips.frames * clips.size**2 * 3
    encoded = ENCODED_CLIPS * sum(stored)
    units = (teaching + engine.writers) * per_shard * sum(stored)
    packed = engine.writers * per_shard * max(stored)
    raw = teaching * engine.batch * _FLOAT * sum(math.prod(shape) for shape in shapes.values())
    flow = _LIBRARIES + decoded + encoded + units + packed
    network = cost.weights + cost.working
    if engine.gpus_per_teacher:
        return WorkerBytes(host=flow + sum(stored) * engine.batch, device=network + raw)
    return WorkerBytes(host=flow + network + raw, device=0)


def devices_of(engine: EngineJob) -> int:
    """How many copies of the network a teacher's process has."""
    return max(1, int(engine.gpus_per_teacher))


def peak_bytes() -> int:
    """The most memory that this process has held since it began. `getrusage` also knows what it was forked from."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def machine_bytes() -> int:
    """Memory that this machine, or the container around this process, has."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = Path(limit).read_text().strip() if Path(limit).is_file() else ""
        if text.isdigit():
            found = min(found, int(text))
    return found


def require_host_memory(needed: WorkerBytes, found: int, where: str) -> None:
    """Raises `CouldNotRun` where a worker's process will not fit."""
    if needed.host > found:
        raise CouldNotRun(
            f"a teacher's process will need up to {_gigabytes(needed.host)} of memory, and {where} has {_gigabytes(found)}. "
            "Lower engine.batch, engine.writers or layout.clips_per_shard, or use a larger machine."
        )


def require_device_memory(needed: WorkerBytes, found: int, device: str) -> None:
    """Raises `CouldNotRun` where the network and a batch will not fit on a GPU, of which ``found`` bytes are the teacher's."""
    if needed.device > found:
        raise CouldNotRun(
            f"the teacher and a batch will need {_gigabytes(needed.device)} on {device}, and its share there is "
            f"{_gigabytes(found)}. Lower engine.batch, use teacher.dtype bfloat16, or give it more of a GPU."
        )


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
