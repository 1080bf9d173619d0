"""A job in; what in it has no effect, or is probably not meant, out. What can never work is refused when the job is read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from schemas.job import EngineJob, Job

_RAY_ALONE = (
    "teachers",
    "min_teachers",
    "start_timeout_seconds",
    "cpus_per_teacher",
    "teacher_resources",
    "decoder_resources",
)
"""Fields of the engine that ``local`` does not read."""
DECODER_GPUS = 0.05
"""Share of a GPU that a decode task reserves when it decodes on the GPU."""


def advice(job: Job) -> tuple[str, ...]:
    """One sentence or two for each thing, for people; none for most jobs. Looks at this machine's cores and GPUs."""
    engine = job.engine
    found = [*_of_batches(job), *_of_values(job)]
    if engine.kind == "local":
        found += _of_this_machine(engine)
    if engine.kind == "ray":
        found += _of_a_cluster(engine)
    return tuple(found)


def _of_this_machine(engine: EngineJob) -> Iterator[str]:
    given = [
        name
        for name, field in EngineJob.model_fields.items()
        if name in _RAY_ALONE and getattr(engine, name) != field.get_default(call_default_factory=True)
    ]
    if given:
        names = ", ".join(f"engine.{name}" for name in given)
        yield f"engine.kind is local, which runs one teacher, so {names} has no effect; `kind: ray` has several"
    if engine.gpus_per_teacher == 0 and Path("/dev/nvidia0").exists():
        yield "engine.gpus_per_teacher is 0, so the teacher runs on the CPU, and this machine has a GPU; 1 teaches there"
    cores = os.process_cpu_count() if hasattr(os, "process_cpu_count") else len(os.sched_getaffinity(0))
    if engine.threads_per_teacher is not None and engine.threads_per_teacher > cores:
        yield f"engine.threads_per_teacher is {engine.threads_per_teacher}, and this machine has {cores} cores"
    if engine.decoders > cores:
        yield f"engine.decoders is {engine.decoders}, and this machine has {cores} cores; more decoders only cost memory"


def _of_a_cluster(engine: EngineJob) -> Iterator[str]:
    if engine.decode_device != "cuda" or engine.decoder_resources or engine.gpus_per_teacher == 0:
        return
    taken = engine.gpus_per_teacher % 1 or 1.0
    wanted = engine.decoders * DECODER_GPUS
    if taken + wanted > 1:
        room = f"{1 - wanted:g} or less" if wanted < 1 else "less, with fewer decoders"
        yield (
            f"engine.decode_device is cuda, and {engine.decoders} decoders take {wanted:g} of a GPU, beside a teacher with "
            f"{engine.gpus_per_teacher:g}: on GPUs that all have a teacher they cannot all be placed, or none can. Set "
            f"engine.gpus_per_teacher to {room}, or engine.decoder_resources to nodes whose GPUs have no teacher."
        )


def _of_batches(job: Job) -> Iterator[str]:
    if job.engine.batch > job.layout.clips_per_shard:
        yield (
            f"engine.batch is {job.engine.batch}, and a batch is of one shard, of {job.layout.clips_per_shard} clips "
            "(layout.clips_per_shard): no batch is larger"
        )
    if job.teacher.compile and job.engine.gpus_per_teacher == 0:
        yield "teacher.compile is true for a teacher on the CPU (engine.gpus_per_teacher is 0): compiling takes minutes there"


def _of_values(job: Job) -> Iterator[str]:
    if isinstance(job.encoding, dict) and (absent := [name for name in job.encoding if name not in job.signals]):
        yield f"encoding names {', '.join(absent)}, which signals does not: it has no effect"
    uses_student_size = job.clips.preprocessing == "student" or "frames" in job.signals
    if "student_size" in job.clips.model_fields_set and not uses_student_size:
        yield "clips.student_size has no effect without `preprocessing: student` or the signal frames"
    if job.prices.currency is None and job.prices.model_fields_set:
        yield "prices has no currency, so the cost has none either"
