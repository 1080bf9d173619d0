"""Events of a run and a clock in; figures to show out: rates, ETA, how busy the teachers are. No I/O.

Times are seconds of any one clock; it may stand still or go back without harm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TypeVar

from schemas.credentials import without_credentials
from schemas.event import (
    Event,
    NodeDraining,
    NodeSetAside,
    Note,
    RunFinished,
    RunStarted,
    Stopping,
    TeacherLost,
    TeacherStarted,
    Waiting,
)
from schemas.report import ClipCounts, UnitReport

RECENT_SECONDS = 60.0
"""Length of "the last minute"."""
# The ETA uses a longer window, since a slow teacher may not finish any unit in a minute.
_STEADY_SECONDS = 600.0
# Totals are sampled at most this often, so that thousands of units per minute cost no more than a few.
_SAMPLE_SECONDS = 1.0
_NEWS_KEPT = 4

_STATE_AFTER = {
    TeacherStarted: "teaching",
    UnitReport: "teaching",
    Waiting: "waiting",
    Stopping: "stopping",
    RunFinished: "done",
}

N = TypeVar("N", int, float)


@dataclass(frozen=True)
class Totals:
    """Sums over a run, up to some moment."""

    clips: int = 0
    bytes: float = 0.0
    teach: float = 0.0
    """Device seconds used for teaching."""
    devices: float = 0.0
    """Device seconds available: devices of the running teachers × time."""


@dataclass(frozen=True)
class Sample:
    """The totals at a time, and the number of devices from then on."""

    time: float
    totals: Totals
    devices: int

    def at(self, time: float) -> Totals:
        """The totals at a later time, if no event came in between."""
        return replace(self.totals, devices=self.totals.devices + self.devices * max(0.0, time - self.time))


@dataclass(frozen=True)
class News:
    """A notable event, as a line to show."""

    after_seconds: float
    """Time since the run's start."""
    text: str


@dataclass(frozen=True)
class Counts:
    """Numbers of clips."""

    clips: int
    """All clips to do."""
    done: int
    """Committed or failed clips."""
    failed: int
    failures: Mapping[str, int]
    """Reason → failed clips, most frequent first."""


@dataclass(frozen=True)
class Figures(Counts):
    """A run's figures at one moment. None if unknown."""

    elapsed_seconds: float
    clips_per_second: float | None
    """Since the first teacher started."""
    clips_per_second_recent: float | None
    """Over the last minute."""
    bytes_per_second: float | None
    """Bytes written, over the last minute."""
    eta_seconds: float | None
    teachers: int
    devices: int
    busy: float | None
    """Share of the teachers' device time spent teaching. A unit counts once it is done."""
    busy_recent: float | None
    stages: Mapping[str, float]
    """Stage → its share of the seconds of all stages, largest first."""
    state: str
    """``starting``, ``teaching``, ``waiting``, ``stopping`` or ``done``."""
    news: tuple[News, ...]
    """The latest few, oldest first."""


@dataclass(frozen=True)
class RunProgress:
    """A run's state, folded from its events: ``progress = progress.after(event, now)``. At most a few hundred numbers."""

    began: float
    clips: int = 0
    committed: int = 0
    failed: int = 0
    failures: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    stages: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    teachers: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Running teacher → its number of devices."""
    teaching_since: float | None = None
    state: str = "starting"
    news: tuple[News, ...] = ()
    samples: tuple[Sample, ...] = ()
    """Oldest first; the first is from before all windows."""

    @property
    def done(self) -> int:
        """Committed or failed clips."""
        return self.committed + self.failed

    def after(self, event: Event, now: float) -> RunProgress:
        """The progress after ``event``, received at ``now``."""
        latest = self._samples[-1]
        now = max(now, latest.time)
        news = tuple(News(now - self.began, text) for text in self.notable(event))
        told = replace(self._told(event, now), news=(*self.news, *news)[-_NEWS_KEPT:])
        sample = Sample(now, _added(latest.at(now), event), sum(told.teachers.values()))
        return replace(told, samples=_kept(self._samples, sample))

    @property
    def _samples(self) -> tuple[Sample, ...]:
        return self.samples or (Sample(self.began, Totals(), 0),)

    def _told(self, event: Event, now: float) -> RunProgress:
        match event:
            case RunStarted():
                return replace(self, clips=self.done + event.clips)  # a run may have several rounds
            case TeacherStarted():
                teachers = MappingProxyType({**self.teachers, event.teacher: len(event.devices)})
                since = now if self.teaching_since is None else self.teaching_since
                return replace(self, teachers=teachers, teaching_since=since, state=self._state_after(event))
            case TeacherLost():
                left = {name: devices for name, devices in self.teachers.items() if name != event.teacher}
                return replace(self, teachers=MappingProxyType(left))
            case NodeSetAside() | NodeDraining() | Note():
                return self
            case UnitReport():
                return replace(
                    self,
                    committed=self.committed + event.committed,
                    failed=self.failed + event.failed,
                    failures=_sum(self.failures, _reasons(event)),
                    stages=_sum(self.stages, event.seconds.model_dump()),
                    teaching_since=self.began if self.teaching_since is None else self.teaching_since,
                    state=self._state_after(event),
                )
            case _:
                return replace(self, state=self._state_after(event))

    def _state_after(self, event: TeacherStarted | UnitReport | Waiting | Stopping | RunFinished) -> str:
        """The state after an event. A finished run stays finished, and a stopping one does not return to teaching."""
        to = _STATE_AFTER[type(event)]
        return self.state if self.state in {"stopping", "done"} and to != "done" else to

    def notable(self, event: Event) -> tuple[str, ...]:
        """Lines to show about an event, before `after` is called with it. Most events have none."""
        match event:
            case TeacherStarted():
                said = [f"{event.teacher} started on {event.node} ({', '.join(event.devices)})"]
            case TeacherLost():
                back = f"; {event.units} units go to others" if event.units else ""
                said = [f"{event.teacher} on {event.node} is lost: {event.reason}{back}"]
            case NodeSetAside():
                said = [f"{event.node} gets no more teachers: it lost them again and again, the last by {event.reason}"]
            case Note():
                said = [event.text]
            case NodeDraining():
                time = "" if event.seconds is None else f", in {event.seconds:.0f} s"
                said = [f"{event.node} is told to go{time}; its units go to others"]
            case Waiting():
                said = [f"waiting with {event.teachers} teachers: {event.detail}"]
            case Stopping():
                said = [f"stopping: {event.reason}; {event.grace_seconds:g} s to commit what is in work"]
            case UnitReport():
                # The first of each reason, in the order of the clips.
                new = {f.reason: f for f in reversed(event.failures) if f.reason not in self.failures}
                said = [f"first {f.reason}: {f.clip_id}: {f.detail}" for f in event.failures if new.get(f.reason) is f]
            case _:
                said = []
        return tuple(" ".join(without_credentials(text).split()) for text in said)

    def figures(self, now: float) -> Figures:
        """What to show at ``now``."""
        latest = self._samples[-1]
        now = max(now, latest.time)
        began = self.began if self.teaching_since is None else self.teaching_since
        at_work = _between(Sample(began, Totals(), 0), latest, now)
        recent, steady = (self._window(now, began, seconds) for seconds in (RECENT_SECONDS, _STEADY_SECONDS))
        all_stages = sum(self.stages.values())
        return Figures(
            clips=self.clips,
            done=self.done,
            failed=self.failed,
            elapsed_seconds=now - self.began,
            clips_per_second=at_work.clips_per_second,
            clips_per_second_recent=recent.clips_per_second,
            bytes_per_second=recent.bytes_per_second,
            eta_seconds=_eta(self.clips - self.done, steady.clips_per_second or at_work.clips_per_second),
            teachers=len(self.teachers),
            devices=sum(self.teachers.values()),
            busy=at_work.busy,
            busy_recent=recent.busy,
            stages={stage: seconds / all_stages for stage, seconds in _largest_first(self.stages).items() if seconds > 0},
            failures=_largest_first(self.failures),
            state=self.state,
            news=self.news,
        )

    def _window(self, now: float, began: float, seconds: float) -> Rates:
        """The rates over the last ``seconds``, or since the run's ``began`` if that is later."""
        start = max(began, now - seconds)
        before = [sample for sample in self._samples if sample.time <= start]
        first = Sample(start, before[-1].at(start) if before else Totals(), 0)
        return _between(first, self._samples[-1], now)


_SHORTEST_SECONDS = 1e-9
"""The shortest time over which a rate is computed."""


@dataclass(frozen=True)
class Rates:
    """What was done in a span of time. A rate is None if unknown."""

    seconds: float
    done: Totals

    @property
    def clips_per_second(self) -> float | None:
        """Clips done per second."""
        return self.done.clips / self.seconds if self.seconds > _SHORTEST_SECONDS else None

    @property
    def bytes_per_second(self) -> float | None:
        """Bytes written per second."""
        return self.done.bytes / self.seconds if self.seconds > _SHORTEST_SECONDS else None

    @property
    def busy(self) -> float | None:
        """Share of the available device time spent teaching."""
        # Unknown until the first unit reports its teaching time.
        return min(1.0, self.done.teach / self.done.devices) if self.done.teach > 0 and self.done.devices > 0 else None


@dataclass(frozen=True)
class StoreCounts:
    """A store's counts at one moment, as `teacher_cache.monitor.follow` reads them."""

    clips: ClipCounts
    bytes: int
    failures: Mapping[str, int]


@dataclass(frozen=True)
class StoreFigures(Counts):
    """Figures of a watched store."""

    watched_seconds: float
    clips_per_second: float | None
    """Since watching began, as all rates here."""
    bytes_per_second: float | None
    eta_seconds: float | None


def store_figures(first: StoreCounts, now: StoreCounts, seconds: float) -> StoreFigures:
    """Figures of a store, ``seconds`` after the ``first`` counts. Rows that become pending again do not make rates negative."""
    done = now.clips.committed + now.clips.failed
    more = Totals(clips=max(0, done - first.clips.committed - first.clips.failed), bytes=max(0, now.bytes - first.bytes))
    rates = Rates(seconds, more)
    return StoreFigures(
        clips=now.clips.planned,
        done=done,
        failed=now.clips.failed,
        failures=_largest_first(now.failures),
        watched_seconds=seconds,
        clips_per_second=rates.clips_per_second,
        bytes_per_second=rates.bytes_per_second,
        eta_seconds=_eta(now.clips.pending, rates.clips_per_second),
    )


def _between(first: Sample, latest: Sample, now: float) -> Rates:
    end, start = latest.at(now), first.totals
    done = Totals(
        clips=end.clips - start.clips,
        bytes=end.bytes - start.bytes,
        teach=end.teach - start.teach,
        devices=end.devices - start.devices,
    )
    return Rates(now - first.time, done)


def _kept(samples: tuple[Sample, ...], new: Sample) -> tuple[Sample, ...]:
    """The samples plus a new one, without those older than all windows."""
    if len(samples) >= 2 and new.time - samples[-2].time < _SAMPLE_SECONDS:
        samples = samples[:-1]
    oldest = new.time - _STEADY_SECONDS
    reached = next((index for index, sample in enumerate(samples[1:]) if sample.time > oldest), max(0, len(samples) - 1))
    return (*samples[reached:], new)


def _added(totals: Totals, event: Event) -> Totals:
    if not isinstance(event, UnitReport):
        return totals
    return replace(
        totals,
        clips=totals.clips + event.committed + event.failed,
        # Another worker's bytes are in the store, but this run did not write them.
        bytes=totals.bytes + (0 if event.already_done else event.bytes),
        teach=totals.teach + event.seconds.teach,
    )


def _reasons(report: UnitReport) -> dict[str, int]:
    found: dict[str, int] = {}
    for failure in report.failures:
        found[failure.reason] = found.get(failure.reason, 0) + 1
    return found


def _sum(total: Mapping[str, N], more: Mapping[str, N]) -> Mapping[str, N]:
    return MappingProxyType({name: total.get(name, 0) + more.get(name, 0) for name in {**total, **more}})


def _largest_first(counts: Mapping[str, N]) -> dict[str, N]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _eta(left: int, clips_per_second: float | None) -> float | None:
    if left <= 0:
        return 0.0
    return left / clips_per_second if clips_per_second else None
