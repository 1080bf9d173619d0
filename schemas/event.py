"""What happens in a run, one value an event: engines yield them, `run` passes them to whoever listens."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from schemas.base import Timed
from schemas.report import ClipCounts, UnitReport


class RunStarted(Timed):
    """A run knows its work."""

    event: Literal["run_started"] = "run_started"
    store: str
    fingerprint: str
    clips: int
    """Clips of the job in units that are to be done."""
    units: int
    done_before: int
    """Clips of the job that were committed or had failed before."""


class TeacherStarted(Timed):
    """A teacher is loaded, and takes units from now on."""

    event: Literal["teacher_started"] = "teacher_started"
    teacher: str
    """A name that no other teacher of the run has."""
    node: str
    """The machine it is on."""
    devices: tuple[str, ...]
    """``cpu``, ``cuda:0``, …: it has a copy of the network on each."""


class TeacherLost(Timed):
    """A teacher's process ended, or its machine is gone. Its units are done by others."""

    event: Literal["teacher_lost"] = "teacher_lost"
    teacher: str
    node: str
    reason: str
    units: int
    """Units that it had in work."""


class Waiting(Timed):
    """The run has work, and too few teachers for it."""

    event: Literal["waiting"] = "waiting"
    teachers: int
    """Those at work now."""
    detail: str
    """What it waits for."""


class Stopping(Timed):
    """The run was told to stop: what is in work is finished, nothing new begins."""

    event: Literal["stopping"] = "stopping"
    reason: str
    grace_seconds: float


class RunFinished(Timed):
    """All units are committed."""

    event: Literal["run_finished"] = "run_finished"
    clips: ClipCounts
    """Of the whole store."""
    wall_seconds: float


EngineEvent = UnitReport | TeacherStarted | TeacherLost | Waiting | Stopping
"""What an engine yields."""

Event = Annotated[RunStarted | EngineEvent | RunFinished, Field(discriminator="event")]
