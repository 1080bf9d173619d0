"""A machine, or a job and the machines that it would use, in; what is there and what is wrong, out. Writes to no store."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from schemas.base import Frozen
from schemas.errors import CacheError, VideoError
from schemas.job import EngineJob, Job, TeacherJob
from schemas.report import Check, DoctorReport
from teacher_cache.io.patience import expect
from teacher_cache.io.stop import Stop
from teacher_cache.jobs.discovery import JobFacts, discover
from teacher_cache.jobs.engine import engine
from teacher_cache.jobs.memory import WorkerBytes, devices_of, gigabytes, machine_bytes, worker_bytes
from teacher_cache.jobs.ray_address import require_ray
from teacher_cache.jobs.self_test import decoded_by, self_tests
from teacher_cache.store.objects import Objects
from teacher_cache.store.store import find_store, require_recipe
from teacher_cache.teachers.registry import family

_SPARE_DISK = 10 * 10**9
"""Bytes of the temporary folder below which `doctor` says so: remote videos are kept there while they are decoded."""


class _Asked(Frozen):
    """What a node is to have for a job."""

    teacher: TeacherJob
    engine: EngineJob
    host: int
    """Bytes of memory that a teacher's process needs there, and ``device`` on each GPU."""
    device: int


@runtime_checkable
class ChecksNodes(Protocol):
    """An `Engine` with machines of its own."""

    def on_nodes(self, check: Callable[[], tuple[Check, ...]], settings: EngineJob) -> Iterator[tuple[Check, ...]]:
        """What ``check`` returns on each machine that the engine may use now. Raises `CouldNotRun` if there is no engine."""


def doctor(job: Job | None = None) -> DoctorReport:
    """Look at this machine, or at what ``job`` would use: its store, videos and weights, and each machine of its engine."""
    checks: list[Check] = []
    if job is None:
        checks += node_checks(None)
    else:
        expect(job.store, job.storage_options.endpoint_url)
        facts = _discovered(job)
        checks += _job_checks(job, facts)
        checks += _on_machines(job, _asked(job, facts))
    nodes = tuple(dict.fromkeys(check.node for check in checks))
    return DoctorReport(
        job=None if job is None else job.store,
        nodes=nodes,
        checks=tuple(checks),
        wrong=sum(check.status == "wrong" for check in checks),
    )


def _discovered(job: Job) -> JobFacts | CacheError:
    try:
        return discover(job)
    except CacheError as error:
        return error


def _asked(job: Job, facts: JobFacts | CacheError) -> _Asked:
    needed = WorkerBytes(host=0, device=0)
    if not isinstance(facts, CacheError):
        needed = worker_bytes(facts.recipe, facts.wanted_shapes, family(job.teacher.family), job.teacher, job.engine)
    return _Asked(teacher=job.teacher, engine=job.engine, host=needed.host, device=needed.device)


def _on_machines(job: Job, asked: _Asked) -> Iterator[Check]:
    try:
        workers: Any = engine(job.engine.kind)
        if not isinstance(workers, ChecksNodes):
            yield from node_checks(asked)
            return
        for found in workers.on_nodes(partial(node_checks, asked), job.engine):
            yield from found
    except CacheError as error:
        yield _check("engine", "wrong", str(error), needed=job.engine.kind)


def _job_checks(job: Job, facts: JobFacts | CacheError) -> Iterator[Check]:
    """The store, the videos and the weights, from here. The store is read; that it may be written is seen only by a run."""
    if isinstance(facts, CacheError):
        yield _check("videos and weights", "wrong", str(facts))
    else:
        yield _check("videos", "well", f"{facts.videos.num_rows:,} listed")
        yield _check("weights", "well", facts.recipe.teacher.weights)
    try:
        store = find_store(job.store, job.storage_options)
        if store is None:
            Objects(job.store, job.storage_options).require_bucket()
        elif not isinstance(facts, CacheError):
            require_recipe(store, facts.recipe)
        there = "none yet, and its place answers" if store is None else f"version {store.state.version}"
        yield _check("store", "well", f"{there}; read, nothing was written")
    except CacheError as error:
        yield _check("store", "wrong", str(error), needed=job.store)


def node_checks(asked: _Asked | None) -> tuple[Check, ...]:
    """What this machine has; with ``asked``, whether it is what a teacher needs. Takes a second or two."""
    return tuple(_node_checks(asked))


def _node_checks(asked: _Asked | None) -> Iterator[Check]:
    yield _check(
        "software", "well", f"Python {platform.python_version()}, PyTorch {torch.__version__}, Ray {_installed('ray')}"
    )
    yield from _memory(asked)
    yield from _disks()
    yield _decoder()
    devices = _devices(asked)
    yield _gpus(asked)
    for device in devices:
        yield from _tested(asked, device)
    if asked is None and os.environ.get("RAY_ADDRESS"):
        yield _ray_address()


def _memory(asked: _Asked | None) -> Iterator[Check]:
    found, needed = machine_bytes(), asked.host if asked else 0
    advice = "Lower engine.batch, engine.writers or layout.clips_per_shard, or use a larger machine."
    yield _enough("memory", found, needed, advice)


def _disks() -> Iterator[Check]:
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    few = free < _SPARE_DISK
    advice = "Free some space, or set TMPDIR to another disk: remote videos are kept there while they are decoded."
    yield _check(f"disk of {folder}", "notice" if few else "well", f"{gigabytes(free)} free", advice=advice if few else "")
    shared = Path("/dev/shm")  # noqa: S108  # Linux's own name
    if shared.is_dir():
        yield _check("shared memory", "well", f"{gigabytes(shutil.disk_usage(shared).free)} free")


def _decoder() -> Check:
    try:
        found = decoded_by("cpu")
    except ModuleNotFoundError as error:
        found = VideoError("decode_error", str(error))
    if isinstance(found, VideoError):
        return _check("video decoder", "wrong", str(found), advice="Install this package again, with the extra `teach`.")
    lacks = "without" in found
    advice = "Untrusted videos are decoded with less protection; use a newer kernel, or a container that allows these calls."
    return _check("video decoder", "notice" if lacks else "well", found, advice=advice if lacks else "")


def _devices(asked: _Asked | None) -> tuple[str, ...]:
    """The devices to try: those that the job uses, or all."""
    found = tuple(f"cuda:{number}" for number in range(torch.cuda.device_count()))
    if asked is None:
        return ("cpu", *found)
    return found if asked.engine.gpus_per_teacher else ("cpu",)


def _gpus(asked: _Asked | None) -> Check:
    count, wanted = torch.cuda.device_count(), 0
    if asked is not None and asked.engine.gpus_per_teacher:
        wanted = devices_of(asked.engine)
    found = f"PyTorch for CUDA {torch.version.cuda or 'none'} finds {count}"
    if count < wanted:
        advice = "Check the driver, PyTorch's build and NVIDIA's container toolkit, or set engine.gpus_per_teacher to 0."
        return _check("GPUs", "wrong", found, needed=f"{wanted}", advice=advice)
    return _check("GPUs", "well", found)


def _tested(asked: _Asked | None, device: str) -> Iterator[Check]:
    """What the device is, whether it has the memory, and its self-tests."""
    teacher, settings = (asked.teacher, asked.engine) if asked else (TeacherJob(), EngineJob())
    if device != "cpu":
        about = torch.cuda.get_device_properties(device)
        share = min(1.0, settings.gpus_per_teacher or 1.0)
        advice = "Lower engine.batch, use teacher.dtype bfloat16, or give the teacher more of a GPU."
        yield _enough(f"{device}, {about.name}", int(about.total_memory * share), asked.device if asked else 0, advice)
    for name, test in self_tests(teacher, settings, device):
        try:
            test()
        except CacheError as error:
            yield _check(f"{device} {name}", "wrong", str(error))
        else:
            yield _check(f"{device} {name}", "well", "as it should be")


def _ray_address() -> Check:
    try:
        require_ray(Stop(), seconds=0)
    except CacheError as error:
        return _check("Ray", "wrong", str(error))
    return _check("Ray", "well", f"RAY_ADDRESS is {os.environ['RAY_ADDRESS']}")


def _enough(subject: str, found: int, needed: int, advice: str) -> Check:
    if found < needed:
        return _check(subject, "wrong", gigabytes(found), needed=gigabytes(needed), advice=advice)
    return _check(subject, "well", gigabytes(found), needed=gigabytes(needed) if needed else "")


def _check(subject: str, status: Any, found: str, needed: str = "", advice: str = "") -> Check:
    return Check(node=platform.node(), subject=subject, status=status, found=found, needed=needed, advice=advice)


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
