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


class Requests(Frozen):
    """Requests to object stores, as they are billed: one that the server could not answer, and was sent again, counts once."""

    put: int = 0
    """Of objects created or written anew, those refused because the object was there included."""
    get: int = 0
    """Of objects, ranges of them and their lengths, those for an object that is not there included."""
    list: int = 0
    """Pages of listings."""

    def __add__(self, other: Requests) -> Requests:
        return Requests(put=self.put + other.put, get=self.get + other.get, list=self.list + other.list)

    def __mul__(self, times: int) -> Requests:
        return Requests(put=self.put * times, get=self.get * times, list=self.list * times)


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
    requests: Requests = Requests()
    """What the worker asked of the store since its last report."""
    video_requests: Requests = Requests()
    """What it and its decoders asked of the servers that hold the videos."""
    failures: tuple[FailedClip, ...] = ()
    """Those of its clips that failed, save those that had failed before."""
    already_done: bool = False
    """Another worker had committed the unit first; its entry stands."""


class JobRequests(Frozen):
    """Requests by what they are for. Videos on a disk take none; a store on a disk is counted as an object store would be."""

    store: Requests
    videos: Requests
    """To list, digest, probe and fetch the videos."""


class Hours(Frozen):
    """How long machines are held, idle time not included."""

    gpu: float
    """Of GPUs, while they teach."""
    core: float
    """Of CPU cores: decoding, encoding and, where no GPU teaches, teaching."""


class RunReport(StatusReport):
    """A run's end: the store's state, and what this run did and used, in the terms of `PlanReport`."""

    done_before: int
    """Clips that were committed or failed before this run began."""
    wall_seconds: float
    stage_seconds: StageSeconds
    bytes_added: dict[str, int]
    """Committed bytes of each signal of the job that the store has more than before."""
    requests: JobRequests
    hours: Hours


class Spread(Frozen):
    """A figure's spread over the units that it was measured on."""

    median: float
    least: float
    most: float


class PilotReport(Frozen):
    """Some of a job's clips taught for measure, with the job's own teacher, encodings and engine settings.

    Everything is per clip that was tried, failed ones included, so that it scales with the clips of the job. What was done
    before the teacher was warm is left out.
    """

    clips: int
    """Clips measured."""
    failed: dict[str, int]
    """Reason → how many of them failed."""
    units: int
    """Units of work that they were measured in."""
    bytes: dict[str, float]
    """Stored bytes of each signal, without the shards' indexes."""
    seconds: StageSeconds
    spread: dict[str, Spread]
    """Stage of `StageSeconds` → its seconds over the units; only the stages that took any time."""
    video_bytes: float
    """Length of the clip's video. A job reads a video once for all its clips: where it has several, it takes less than this."""
    memory_bytes: int
    """The most memory that the process with the teacher held; its decoders are others."""


class NodeSize(Frozen):
    """What keeps one GPU always busy; where the CPU teaches, what keeps one teacher busy."""

    clips_per_second: float
    """That it teaches."""
    decode_cores: float
    encode_cores: float
    video_bytes_per_second: float
    """From where the videos lie."""
    store_bytes_per_second: float
    """To the store."""


class Estimate(Frozen):
    """What a job would use, from a pilot."""

    bytes: dict[str, int]
    """Stored bytes of each signal for the clips to do."""
    video_bytes: int
    """To be read of videos."""
    failed_clips: int
    """How many would fail, if as large a share does as in the pilot."""
    stage_seconds: StageSeconds
    hours: Hours
    wall_hours: float
    """With the job's teachers and decoders, once all are at work."""
    limited_by: Literal["teach", "decode", "encode"]
    """The stage that the wall time goes by."""
    node: NodeSize


class TeacherMemory(Frozen):
    """The most bytes that a teacher's process will hold, predicted."""

    host: int
    device: int
    """On each GPU; 0 where the CPU teaches."""


class PlanReport(Frozen):
    """What a job would do. Made without writing anything."""

    store: str
    store_exists: bool
    fingerprint: str
    clips: ClipCounts
    """As they would stand once the job's new clips are in the catalog."""
    videos: int
    """Videos that the job lists."""
    new_clips: int
    clips_to_do: int
    """Clips to be taught, in any signal."""
    units: int
    """Units of work to do."""
    bytes_uncompressed: dict[str, int]
    """Stored bytes of each signal for the clips to do, before the lossless codec."""
    objects: int
    """Shards and ledger entries to create."""
    requests: JobRequests
    memory: TeacherMemory
    pilot: PilotReport | None = None
    estimate: Estimate | None = None
    """What only a pilot can tell."""
    cost: dict[str, float]
    """Item → what it costs by the job's prices, for those that have a price and can be told. ``storage_month`` is a month's."""
    currency: str | None = None


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


class ScenesReport(Frozen):
    """A data set of rendered scenes."""

    out: str
    """Its folder: ``videos/``, ``marks/``, ``conversations.json`` and ``questions.json``."""
    videos: int
    conversations: int
    questions: int


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
