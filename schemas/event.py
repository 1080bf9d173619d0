"""The events of a run: engines yield them, and `run` passes them to every listener."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from schemas.base import Timed
from schemas.report import ClipCounts, UnitReport


class RunStarted(Timed):
    """The run has found its work and starts."""

    event: Literal["run_started"] = "run_started"
    store: str
    fingerprint: str
    clips: int
    """Clips in the units to do."""
    units: int
    """Units of work to do."""
    done_before: int
    """Clips of the job that were committed or had failed earlier."""


class TeacherStarted(Timed):
    """A teacher is loaded and takes units."""

    event: Literal["teacher_started"] = "teacher_started"
    teacher: str
    """Name of the teacher, unique in the run."""
    node: str
    """Host name of its machine."""
    devices: tuple[str, ...]
    """``cpu``, ``cuda:0``, …: the devices that hold a copy of the network."""


class TeacherLost(Timed):
    """A teacher's process or machine is lost. Its units go to other teachers."""

    event: Literal["teacher_lost"] = "teacher_lost"
    teacher: str
    node: str
    reason: str
    units: int
    """Units that it had in work."""


class NodeSetAside(Timed):
    """A node lost its teachers again and again while others worked. It gets no more of them in this run."""

    event: Literal["node_set_aside"] = "node_set_aside"
    node: str
    reason: str
    """Of the last loss."""


class Note(Timed):
    """Something that has no effect, or is probably not meant; the run goes on."""

    event: Literal["note"] = "note"
    text: str


class NodeDraining(Timed):
    """A node is told to go, as a spot machine is. Its teachers get no new unit, and what they have not begun goes to others."""

    event: Literal["node_draining"] = "node_draining"
    node: str
    """Host name."""
    seconds: float | None
    """How long units in work there may take to finish; None if the notice has no deadline."""


class Waiting(Timed):
    """The run waits, for teachers or for any progress."""

    event: Literal["waiting"] = "waiting"
    teachers: int
    """Teachers at work now."""
    detail: str
    """What it waits for."""


class Stopping(Timed):
    """The run was asked to stop: units in work are finished, and no new one begins."""

    event: Literal["stopping"] = "stopping"
    reason: str
    grace_seconds: float
    """How long units in work may take to finish."""


class RunFinished(Timed):
    """All units are committed."""

    event: Literal["run_finished"] = "run_finished"
    clips: ClipCounts
    """Counts of the whole store."""
    wall_seconds: float


EngineEvent = UnitReport | TeacherStarted | TeacherLost | NodeSetAside | NodeDraining | Note | Waiting | Stopping
"""The events that an engine yields."""

Event = Annotated[RunStarted | EngineEvent | RunFinished, Field(discriminator="event")]
