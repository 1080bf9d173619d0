"""What commands report, as `--json` prints it."""

from __future__ import annotations

from typing import Literal

from schemas.base import Frozen, Timed
from schemas.signal import SignalName


class ClipCounts(Frozen):
    planned: int
    committed: int
    failed: int
    pending: int


class FailedClip(Frozen):
    clip_id: str
    video: str
    reason: str
    detail: str


class StatusReport(Frozen):
    """A store's state, from the store alone."""

    store: str
    fingerprint: str
    format_version: int
    signals: tuple[str, ...]
    clips: ClipCounts
    bytes: dict[str, int]
    """Committed bytes of each signal."""
    failures: tuple[FailedClip, ...]


class StageSeconds(Frozen):
    """Where a unit's time went. Stages overlap, so they need not sum to the wall time."""

    decode: float = 0.0
    """CPU seconds of the decoders."""
    decode_wait: float = 0.0
    """Seconds that the unit waited for frames."""
    teach: float = 0.0
    """Seconds that a device was held."""
    encode: float = 0.0
    """CPU seconds of encoding and compression."""
    put: float = 0.0
    """Seconds that the unit waited for the store."""


class UnitReport(Timed):
    """What a worker tells the engine about one finished unit."""

    event: Literal["unit_done"] = "unit_done"
    unit: str
    teacher: str = ""
    """Which teacher did it; as in `schemas.event.TeacherStarted`."""
    committed: int
    failed: int
    bytes: int
    seconds: StageSeconds
    failures: tuple[FailedClip, ...] = ()
    """Those of its clips that failed, save those that had failed before."""
    already_done: bool = False
    """Another worker had committed the unit first; its entry stands."""


class RunReport(StatusReport):
    """A run's end: the store's state, and what this run did."""

    done_before: int
    """Clips that were committed or failed before this run began."""
    wall_seconds: float
    stage_seconds: StageSeconds


class PlanReport(Frozen):
    """What a job would do. Made without writing anything."""

    store: str
    store_exists: bool
    fingerprint: str
    clips: ClipCounts
    """As they would stand once the job's new clips are in the catalog."""
    new_clips: int
    units: int
    """Units of work to do."""
    bytes_uncompressed: dict[str, int]
    """Stored bytes of each signal for the clips to do, before the lossless codec."""
    put_requests: int
    """Objects to create."""


class DiffReport(Frozen):
    """A job held against a store."""

    store: str
    differences: dict[str, tuple[object, object]]
    """Dotted path of a recipe field → (the store's value, the job's). Any one makes every clip of the store stale."""
    new_clips: int
    units: int
    """Units of work the job would do; 0 where the recipes differ."""


FindingKind = Literal[
    "missing", "truncated", "digest", "chunk_missing", "orphan", "ledger", "catalog", "heads", "metadata", "drift"
]


class Finding(Frozen):
    """Something wrong with a store."""

    kind: FindingKind
    key: str
    detail: str
    clip_ids: tuple[str, ...] = ()


class Retaught(Frozen):
    """A clip whose targets were made again."""

    clip_id: str
    drift: dict[SignalName, float]
    """Relative RMS difference from what the store holds."""


class VerifyReport(Frozen):
    store: str
    fingerprint: str
    clips: ClipCounts
    objects_checked: int
    bytes_checked: int
    findings: tuple[Finding, ...]
    retaught: tuple[Retaught, ...] = ()
    """Clips that the teacher was run over again, where that was asked for."""


class MigrationReport(Frozen):
    """What was done to bring a store to this version."""

    store: str
    from_version: int
    to_version: int
    steps: tuple[str, ...]
    """Names of the steps, in order; empty where the store was of this version already."""


class GarbageReport(Frozen):
    """What `gc` removed, or would remove."""

    store: str
    dry_run: bool
    removed: tuple[str, ...]
    bytes: int
    kept_younger: tuple[str, ...]
    """Garbage left alone because a run at work might be about to commit it."""


class ViewReport(Frozen):
    """What `view` wrote."""

    out: str
    """The HTML page."""
    clips: tuple[str, ...]
    """Ids of the clips on it."""


class DemoReport(Frozen):
    """What the demo made."""

    out: str
    report: str
    """The HTML page."""
    clips: ClipCounts
    fingerprint: str
    first_losses: dict[str, float]
    """Mean over the first steps, by the part's name."""
    last_losses: dict[str, float]
    seconds: float


class ErrorMessage(Frozen):
    kind: str
    """Name of the class in `schemas.errors`."""
    message: str


class ErrorReport(Frozen):
    """What any command prints in place of its report where it stops with an error."""

    error: ErrorMessage
