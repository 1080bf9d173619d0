"""A job's engine settings in; a connection to its Ray cluster, or a Ray of its own on this machine, out."""

from __future__ import annotations

import atexit
import math
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import ray

from cluster.ray_head import Head
from schemas.errors import CouldNotRun, first_line
from schemas.job import EngineJob
from teacher_cache.io.stop import Stop
from teacher_cache.jobs.memory import WorkerBytes, require_host_memory
from teacher_cache.jobs.ray_address import require_ray

_head: Head | None = None
"""Of the connection that `connected` made."""


@contextmanager
def connected(engine: EngineJob, stop: Stop | None = None) -> Iterator[Head]:
    """Ray, for as long as this lasts, and what its head tells. Raises `CouldNotRun` if it cannot be had."""
    global _head  # noqa: PLW0603  # as Ray's own connection, one a process
    if ray.is_initialized():
        with nullcontext(_head) if _head else Head() as head:
            yield head
        return
    require_ray(stop or Stop())
    local: dict[str, Any] = {}
    if "RAY_ADDRESS" not in os.environ:
        # On one machine a job may have more processes than cores, as with the local engine. The dashboard would open a port;
        # anyone who wants it can start Ray by hand.
        cores = math.ceil(engine.teachers * (engine.cpus_per_teacher + engine.decoders))
        local = {"address": "local", "include_dashboard": False, "num_cpus": max(os.cpu_count() or 1, cores)}
    try:
        # Ray prints messages about dead workers to standard output, whatever its logging settings. The run's events report
        # those, and standard output must hold one JSON object.
        ray._private.worker._worker_logs_enabled = False  # noqa: SLF001  # Ray's own debugger does the same
        with _own_sigterm(), _on_loopback() if local else nullcontext():
            ray.init(log_to_driver=False, logging_level="ERROR", **local)
    except (OSError, RuntimeError, ValueError) as error:
        address = os.environ.get("RAY_ADDRESS", "this machine")
        if "AF_UNIX path" in str(error):
            raise CouldNotRun(
                f"the temporary folder {tempfile.gettempdir()} (TMPDIR) has too long a path for Ray's sockets, "
                "whose paths have at most 107 bytes. Set RAY_TMPDIR to a folder with a short path."
            ) from None
        raise CouldNotRun(f"cannot use Ray at {address}: {first_line(error)}") from None
    head = _head = Head()
    try:
        with head:
            yield head
    finally:
        _head = None
        if head.is_lost:
            atexit.register(_end_without_ray)
        else:
            ray.shutdown()


def _end_without_ray() -> None:
    """Ray's own end of a process waits for the head, until Ray ends the process with another status; without it, it crashes."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(CouldNotRun.exit_status)


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Make a Ray started here listen on the loopback address only, as it does where clusters are not supported.

    Ray's processes read this setting from the environment; this process has it in a constant, set when Ray was imported.
    """
    constants = ray._private.ray_constants  # noqa: SLF001  # there is no public setting
    name, before = constants.ENABLE_RAY_CLUSTERS_ENV_VAR, constants.ENABLE_RAY_CLUSTER
    in_environment = os.environ.get(name)
    os.environ[name], constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before
        del os.environ[name]
        if in_environment is not None:
            os.environ[name] = in_environment


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep the current SIGTERM handler: `ray.init` installs its own, which ends the driver at once."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def require_resources(engine: EngineJob, needed: WorkerBytes) -> None:
    """Raise `CouldNotRun` if this machine lacks GPUs or memory, as Ray would wait silently. A cluster may still grow."""
    if "RAY_ADDRESS" in os.environ:
        return
    found = ray.cluster_resources()
    if found.get("GPU", 0.0) < engine.gpus_per_teacher:
        raise CouldNotRun(
            f"engine.gpus_per_teacher is {engine.gpus_per_teacher:g}, and Ray finds {found.get('GPU', 0.0):g} GPUs on this "
            "machine; set it to 0 to teach on the CPU, or RAY_ADDRESS to a cluster that has them"
        )
    require_host_memory(needed, int(found.get("memory", 0.0)), "Ray on this machine")
