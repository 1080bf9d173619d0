"""What the benchmarks of reading and writing share: the server's CPU time, and peers that may be absent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import psutil
import s3_server


class Measured(Protocol):
    failure: str | None


def cpu_seconds(pid: int) -> float:
    """CPU seconds that a process has taken since it started."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def server_cpu(server: s3_server.S3Server) -> float:
    """The same of a server."""
    return cpu_seconds(server.process.pid)


def guarded(measured: Measured, step: Callable[[], object]) -> None:
    """Do a step. A peer that is not installed, or that fails, is a line of the table and not the end of the run."""
    if measured.failure is None:
        try:
            step()
        except ModuleNotFoundError as error:
            measured.failure = f"not installed: {error.name}"
        except Exception as error:  # noqa: BLE001  # a peer's own
            measured.failure = f"{type(error).__name__}: {str(error).partition(chr(10))[0][:80]}"
