"""A run's events go in; Prometheus metrics come out, through the agent that Ray runs on each node.

Ray prefixes the names with ``ray_`` and adds its own metrics: GPU and CPU use, memory, the object store. Rates and shares are
left to the dashboard, `cluster/grafana/p4d-cache.json`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ray.util.metrics import Counter, Gauge

from schemas.base import Frozen
from schemas.credentials import without_credentials
from schemas.event import Event, NodeDraining, NodeSetAside, RunFinished, RunStarted, TeacherLost, TeacherStarted
from schemas.report import UnitReport
from teacher_cache.io.console import printable, stderr, styled


class _Metric(Frozen):
    kind: type[Counter | Gauge]
    description: str
    labels: tuple[str, ...] = ()
    """In addition to the labels of the run."""


METRICS: Mapping[str, _Metric] = {
    "p4d_clips_total": _Metric(kind=Counter, description="Clips done, by status: committed or failed.", labels=("status",)),
    "p4d_failures_total": _Metric(kind=Counter, description="Clips that failed, by reason.", labels=("reason",)),
    "p4d_units_total": _Metric(kind=Counter, description="Units of work done."),
    "p4d_written_bytes_total": _Metric(kind=Counter, description="Bytes of the shards written."),
    "p4d_stage_seconds_total": _Metric(
        kind=Counter, description="Seconds spent in each stage, as schemas.report.StageSeconds has them.", labels=("stage",)
    ),
    # What is rare is counted by gauges, from 0 on. Ray exports no counter before its first increment, so neither `increase` nor
    # `rate` sees that one.
    "p4d_teachers_lost": _Metric(kind=Gauge, description="Teachers of this run whose process ended, or whose machine is gone."),
    "p4d_nodes_drained": _Metric(kind=Gauge, description="Nodes that were told to go in this run, such as spot machines."),
    "p4d_nodes_set_aside": _Metric(kind=Gauge, description="Nodes that get no more teachers in this run, as they lost theirs."),
    "p4d_units_left": _Metric(kind=Gauge, description="Units of work not done yet."),
    "p4d_teachers": _Metric(kind=Gauge, description="Teachers at work."),
    "p4d_min_teachers": _Metric(kind=Gauge, description="Teachers without which the run waits: engine.min_teachers."),
    "p4d_devices": _Metric(kind=Gauge, description="Devices that the teachers at work have."),
}
"""Every exported metric, by name."""


class Metrics:
    """One run's metrics. Pass every event to `record`. A failure here is printed once and never disturbs the run.

    ``labels``: labels on every metric, such as ``{"store": …}``. ``units``: how many units there are to do; a `RunStarted`
    event sets it too. ``min_teachers``: of the job's engine.
    """

    def __init__(self, labels: Mapping[str, str], units: int = 0, min_teachers: int = 1) -> None:
        self._labels = _shown(labels)
        self._devices: dict[str, int] = {}
        self._units_left, self._min_teachers = units, min_teachers
        self._lost = self._drained = self._set_aside = 0
        self._metrics: dict[str, Any] = {}
        self._complained = False
        self._safely(self._begin)

    def record(self, event: Event) -> None:
        """Update the metrics with one event."""
        self._safely(lambda: self._record(event))

    def close(self) -> None:
        """Report that no teacher works any more, however the run ended."""
        self._devices = {}
        self._safely(self._set_gauges)

    def _begin(self) -> None:
        self._metrics = {
            name: metric.kind(name, metric.description, (*self._labels, *metric.labels)) for name, metric in METRICS.items()
        }
        self._set_gauges()

    def _record(self, event: Event) -> None:
        match event:
            case RunStarted():
                self._units_left = event.units
            case TeacherStarted():
                self._devices[event.teacher] = len(event.devices)
            case TeacherLost():
                self._devices.pop(event.teacher, None)
                self._lost += 1
            case NodeDraining():
                self._drained += 1
            case NodeSetAside():
                self._set_aside += 1
            case UnitReport():
                self._units_left = max(0, self._units_left - 1)
                self._record_unit(event)
            case RunFinished():
                self._devices = {}
            case _:
                pass
        self._set_gauges()

    def _record_unit(self, report: UnitReport) -> None:
        self._add("p4d_units_total", 1)
        self._add("p4d_clips_total", report.committed, status="committed")
        self._add("p4d_clips_total", report.failed, status="failed")
        self._add("p4d_written_bytes_total", 0 if report.already_done else report.bytes)
        for failure in report.failures:
            self._add("p4d_failures_total", 1, reason=failure.reason)
        for stage, seconds in report.seconds.model_dump().items():
            self._add("p4d_stage_seconds_total", seconds, stage=stage)

    def _set_gauges(self) -> None:
        values = {
            "p4d_units_left": self._units_left,
            "p4d_teachers": len(self._devices),
            "p4d_min_teachers": self._min_teachers,
            "p4d_devices": sum(self._devices.values()),
            "p4d_teachers_lost": self._lost,
            "p4d_nodes_drained": self._drained,
            "p4d_nodes_set_aside": self._set_aside,
        }
        for name, value in values.items():
            self._metrics[name].set(value, tags=self._labels)

    def _add(self, name: str, value: float, **labels: str) -> None:
        if value > 0:  # Ray raises for an increment of 0
            self._metrics[name].inc(value, tags=self._labels | _shown(labels))

    def _safely(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # noqa: BLE001  # metrics must not end a run, whatever Ray does
            if not self._complained:
                self._complained = True
                said = f"cannot export metrics: {type(error).__name__}: {error}; the run continues without them"
                stderr.print(styled(("warning:", "yellow"), f" {said}"), soft_wrap=True)


def _shown(labels: Mapping[str, str]) -> dict[str, str]:
    """The labels' values without credentials, on one line each: Ray escapes only what Prometheus' text format needs."""
    return {name: printable(without_credentials(value)) for name, value in labels.items()}
