"""The reports of the commands, as `--json` prints them."""

from __future__ import annotations

from typing import Literal

from pydantic import AwareDatetime, Field

from schemas.base import Frozen, Timed
from schemas.log import UnitCommitted
from schemas.signal import SignalName
from schemas.storage import Requests


class ClipCounts(Frozen):
    """Clips of a store, by status."""

    planned: int
    """All clips of the catalog."""
    committed: int
    """Clips with targets."""
    failed: int
    """Clips whose targets could not be made."""
    pending: int
    """Clips that are planned, but neither committed nor failed."""


class FailedClip(Frozen):
    """A clip whose targets could not be made."""

    clip_id: str
    video: str
    """The video's uri."""
    reason: str
    """A code of `schemas.clip.FailureReason`."""
    detail: str
    """The reason in words."""


class StatusReport(Frozen):
    """The state of a store, read from the store alone."""

    store: str
    fingerprint: str
    """Fingerprint of the store's recipe."""
    format_version: int
    version: int
    """Number of the last record of the store's log."""
    signals: tuple[str, ...]
    clips: ClipCounts
    bytes: dict[str, int]
    """Signal → committed bytes."""
    failures: tuple[FailedClip, ...]
    undeleted: int = 0
    """Objects that a `gc` announced and has not deleted yet; another `gc` finishes it."""


class StageSeconds(Frozen):
    """Time that units spent in each stage. Stages overlap, so their sum is not the wall time."""

    decode: float = 0.0
    """CPU seconds of decoding."""
    decode_wait: float = 0.0
    """Seconds spent waiting for frames."""
    teach: float = 0.0
    """Seconds that the teacher held a device."""
    encode: float = 0.0
    """CPU seconds of encoding and compression."""
    put: float = 0.0
    """Seconds spent waiting for the store."""


class UnitReport(Timed):
    """One finished unit, as a worker reports it to the engine."""

    event: Literal["unit_done"] = "unit_done"
    unit: str
    """Name of the unit."""
    teacher: str = ""
    """Name of the teacher that did it, as in `schemas.event.TeacherStarted`."""
    committed: int
    """Clips of the unit that were committed."""
    failed: int
    """Clips of the unit that failed."""
    bytes: int
    """Bytes of the shards that it wrote."""
    seconds: StageSeconds
    requests: Requests = Requests()
    """The worker's requests to the store since its last report."""
    video_requests: Requests = Requests()
    """Its and its decoders' requests to the servers of the videos, since the last report."""
    memory_bytes: int = 0
    """Peak resident memory of the teacher's process so far."""
    failures: tuple[FailedClip, ...] = ()
    """Clips that failed, without those that had failed earlier."""
    already_done: bool = False
    """Whether another run committed the unit first; what that run said of it stays."""
    written: UnitCommitted | None = Field(None, exclude=True, repr=False)
    """What the log is to say of the unit, until it does."""


class JobRequests(Frozen):
    """Requests by purpose. Local videos need none; a local store is counted like an object store."""

    store: Requests
    """Requests to the store."""
    videos: Requests
    """Requests to list, digest, probe and fetch the videos."""


class Hours(Frozen):
    """How long hardware works, without idle time."""

    gpu: float
    """GPU hours of teaching."""
    core: float
    """CPU core hours of decoding, encoding and, without a GPU, teaching."""


class RunReport(StatusReport):
    """A finished run: the store's state, and what this run did and used, in the terms of `PlanReport`."""

    done_before: int
    """Clips that were committed or had failed before this run started."""
    committed: int
    """Clips that this run committed."""
    failed: int
    """Clips that failed in this run."""
    left: int
    """Clips of the job in units that are not this run's, by ``--shard`` or ``--limit``, and were not done when it started."""
    ok: bool
    """Whether at most ``engine.ok_failed_share`` of the clips that this run tried failed. If not, its exit status is 1."""
    wall_seconds: float
    stage_seconds: StageSeconds
    bytes_added: dict[str, int]
    """Signal of the job → committed bytes that this run added."""
    requests: JobRequests
    hours: Hours
    notes: tuple[str, ...] = ()
    """As in `PlanReport`."""


class Spread(Frozen):
    """The spread of a figure over the measured units."""

    median: float
    least: float
    most: float


class PilotReport(Frozen):
    """Measurements on some of a job's clips, with the job's own teacher, encodings and engine settings.

    All figures are per clip that was tried, including failed ones, so that they scale with the job's clips. Work before the
    teacher was warm is left out.
    """

    clips: int
    """Clips measured."""
    failed: dict[str, int]
    """Reason → how many clips failed for it."""
    units: int
    """Units of work that the clips were in."""
    bytes: dict[str, float]
    """Signal → stored bytes per clip, without the shards' indexes."""
    seconds: StageSeconds
    spread: dict[str, Spread]
    """Stage of `StageSeconds` → spread of its seconds over the units; only stages that took time."""
    video_bytes: float
    """Bytes of the clip's video. A job reads a video once for all its clips, so with several per video it needs fewer."""
    memory_bytes: int
    """Peak memory of the teacher's process, without its decoders, which are other processes."""


class NodeSize(Frozen):
    """What keeps one GPU busy all the time or, when the CPU teaches, one teacher."""

    clips_per_second: float
    """Clips that it teaches."""
    decode_cores: float
    """CPU cores to decode for it."""
    encode_cores: float
    """CPU cores to encode for it."""
    video_bytes_per_second: float
    """Bandwidth from the videos' storage."""
    store_bytes_per_second: float
    """Bandwidth to the store."""


class Estimate(Frozen):
    """What a job would use, estimated from a pilot."""

    bytes: dict[str, int]
    """Signal → stored bytes of the clips to do."""
    video_bytes: int
    """Bytes of videos to read."""
    failed_clips: int
    """Clips that would fail at the pilot's rate."""
    stage_seconds: StageSeconds
    hours: Hours
    wall_hours: float
    """Duration with the job's teachers and decoders, once all are at work."""
    limited_by: Literal["teach", "decode", "encode"]
    """The stage that determines the wall time."""
    node: NodeSize


class TeacherMemory(Frozen):
    """Predicted peak memory of a teacher's process."""

    host: int
    """Bytes of main memory."""
    device: int
    """Bytes on each GPU; 0 when the CPU teaches."""


class PlanReport(Frozen):
    """What a job would do. Planning writes nothing."""

    store: str
    store_exists: bool
    fingerprint: str
    clips: ClipCounts
    """Counts of the store once the job's new clips are in its catalog."""
    videos: int
    """Videos that the job lists."""
    new_clips: int
    """Clips that are not in the catalog yet."""
    clips_to_do: int
    """Clips to teach, in at least one signal."""
    units: int
    """Units of work to do."""
    bytes_uncompressed: dict[str, int]
    """Signal → stored bytes of the clips to do, before lossless compression."""
    objects: int
    """Shard objects to create."""
    requests: JobRequests
    memory: TeacherMemory
    pilot: PilotReport | None = None
    estimate: Estimate | None = None
    """Null without a pilot."""
    cost: dict[str, float]
    """Item → cost by the job's prices, for items with a price and a known amount. ``storage_month`` is for one month."""
    currency: str | None = None
    notes: tuple[str, ...] = ()
    """What the user should know: columns that are not kept, videos with the same content, settings without effect."""


class DiffReport(Frozen):
    """A job compared with a store."""

    store: str
    differences: dict[str, tuple[object, object]]
    """Dotted path of a recipe field → (the store's value, the job's). A single one makes every clip of the store stale."""
    new_clips: int
    """Clips of the job that are not in the catalog yet."""
    units: int
    """Units of work that the job would do; 0 if the recipes differ."""


FindingKind = Literal[
    "missing", "truncated", "digest", "chunk_missing", "orphan", "log", "catalog", "video", "checkpoint", "heads", "metadata",
    "drift",
]  # fmt: skip


class Finding(Frozen):
    """One defect of a store."""

    kind: FindingKind
    key: str
    """Key of the object in the store; the video's URI, if the finding is about that."""
    detail: str
    """The defect in words."""
    clip_ids: tuple[str, ...] = ()
    """Clips that it affects."""


class Retaught(Frozen):
    """A clip whose targets were computed again, to compare them with the store's."""

    clip_id: str
    drift: dict[SignalName, float]
    """Signal → relative RMS difference from the stored values."""


class VerifyReport(Frozen):
    """What `verify` checked and found."""

    store: str
    fingerprint: str
    clips: ClipCounts
    objects_checked: int
    bytes_checked: int
    findings: tuple[Finding, ...]
    retaught: tuple[Retaught, ...] = ()
    """Clips that were taught again, with `--reteach`."""


class GarbageReport(Frozen):
    """What `gc` removed, or would remove."""

    store: str
    dry_run: bool
    """Whether nothing was removed."""
    removed: tuple[str, ...]
    """Keys of the garbage."""
    bytes: int
    """Bytes of the garbage."""
    unfinished: tuple[str, ...]
    """Keys of what stopped runs left of units that are not committed. A run takes it over, so it stays unless asked for."""
    foreign: int = 0
    """Objects under the store's URL whose keys no store has, such as another store's or videos. They stay."""
    foreign_example: str = ""
    """Key of one of them; empty if there is none."""


STATS_CLIPS = 32
"""Clips whose values are looked at unless told otherwise: at L4P's size about 0.6 GB to fetch."""


class ErrorStats(Frozen):
    """The encoding error of all committed clips of a signal that were measured in one way, as the log has it."""

    measure: str
    """The quantity that is measured, in words."""
    bound: float
    """The largest error that the encoding allows."""
    clips: int
    worst: float
    worst_clip: str
    """Id of the clip with the worst error."""
    median: float
    """Within a two-thousandth of the bound."""
    near_bound: float
    """Share of the clips whose error is at least nine tenths of the bound."""
    relative_rms: float
    """Mean over the clips of the RMS error divided by that of the values."""


class ValueStats(Frozen):
    """The values of one channel, or of one layer, over the clips that were looked at."""

    name: str
    """``u``, ``direction x``, ``layer 14``; empty where the signal is of one channel."""
    mean: float
    std: float
    """Standard deviation."""
    least: float
    most: float


class OutlierChannel(Frozen):
    """A channel whose values are far larger than those of its layer's others."""

    channel: int
    """Index on the channel axis."""
    rms: float


class ChannelSpread(Frozen):
    """How the channels of one layer differ, over the clips that were looked at."""

    name: str
    """``layer 14``."""
    channels: int
    means: Spread
    """Of the channels' means."""
    rms: Spread
    """Of the channels' root mean squares."""
    outliers: int
    """Channels whose RMS is more than ten times the median one."""
    largest: tuple[OutlierChannel, ...]
    """The largest of them, at most eight."""


class SignalStats(Frozen):
    """One signal of a store."""

    units: str
    dims: tuple[str, ...]
    """Axes of one clip."""
    shape: tuple[int, ...]
    """Shape of one clip."""
    encoding: str
    bytes: int
    """Committed bytes."""
    stored_exactly: int
    """Committed clips that are stored as float32, since the encoding's error would be beyond its bound."""
    errors: tuple[ErrorStats, ...]
    """Of all committed clips."""
    values: tuple[ValueStats, ...]
    """In the signal's units, without the invalid first frame of flow; of the sample."""
    channels: tuple[ChannelSpread, ...]
    """Of the sample; only of a signal with layers."""


class RepeatedContent(Frozen):
    """Videos that are one file under several ids, by what the catalog keeps of a video's content."""

    contents: int
    """Contents that more than one video has."""
    videos: int
    """Videos that could be left out without losing a content."""
    examples: tuple[tuple[str, ...], ...]
    """Ids of videos of one content, for a few contents."""


class ValueSample(Frozen):
    """The clips whose values were looked at."""

    clips: int
    of: int
    """All committed clips."""
    seed: int


class StatsReport(Frozen):
    """What is in a store. All but ``values`` and ``channels`` is of every clip."""

    store: str
    fingerprint: str
    format_version: int
    version: int
    """The store's version that this describes."""
    clips: ClipCounts
    bytes: dict[str, int]
    """Signal → committed bytes."""
    failed: dict[str, int]
    """Reason → clips that failed for it, most first."""
    videos: int
    repeated: RepeatedContent
    sample: ValueSample
    signals: dict[SignalName, SignalStats]


class LogEntry(Frozen):
    """One record of a store's log, in short."""

    version: int
    time: AwareDatetime
    """When it was written, by its writer's clock."""
    writer: str
    """Command, process and host."""
    rows_added: int = 0
    parts_added: tuple[str, ...] = ()
    units: int = 0
    """Units committed."""
    committed: int = 0
    """Clips committed in these units, each counted once for each unit that holds it."""
    failed: int = 0
    """Clips that failed in these units."""
    bytes: int = 0
    """Bytes of these units' objects."""
    retired: int = 0
    """Rows retired, since their objects are damaged."""
    announced: int = 0
    """Objects that `gc` announced to delete."""
    deleted: int = 0
    """Objects that `gc` has deleted."""
    lost: bool = False
    """Whether the record's own content was damaged and is lost."""
    replaced: int = 0
    """Damaged records that a repair had replaced before this one."""


class LogReport(Frozen):
    """The history of a store, oldest first."""

    store: str
    fingerprint: str
    version: int
    entries: tuple[LogEntry, ...]


class ViewReport(Frozen):
    """What `view` wrote."""

    out: str
    """The HTML page."""
    clips: tuple[str, ...]
    """Ids of the clips on it."""


MarkStyle = Literal["box", "contour"]
"""How an object is outlined in a Set-of-Mark picture."""


class UndrawnClip(Frozen):
    """A clip without a picture."""

    clip_id: str
    reason: str
    """A code of `schemas.clip.FailureReason`, ``pending``, or ``not_shown``: its video may not be read, or lacks the frame."""
    detail: str
    """The reason in words."""


class MarksReport(Frozen):
    """What `marks` wrote."""

    out: str
    """The folder."""
    files: tuple[str, ...]
    """The pictures, one for each clip."""
    undrawn: tuple[UndrawnClip, ...]
    """Clips that have none."""


class ScenesReport(Frozen):
    """A data set of rendered scenes, as `scenes` wrote it."""

    out: str
    """Its folder: ``videos/``, ``marks/``, ``conversations.json`` and ``questions.json``, and ``benchmarks/`` if asked for."""
    videos: int
    conversations: int
    questions: int
    benchmarks: dict[str, int] = Field(default_factory=dict)
    """Published benchmark → the records that are written in its layout."""


class DemoReport(Frozen):
    """What the demo made."""

    out: str
    report: str
    """The HTML page."""
    clips: ClipCounts
    fingerprint: str
    first_losses: dict[str, float]
    """Part of the loss → mean over the first steps."""
    last_losses: dict[str, float]
    """Part of the loss → mean over the last steps."""
    seconds: float


class Check(Frozen):
    """One thing that `doctor` looked at."""

    node: str
    """Host name of the machine."""
    subject: str
    """What was looked at."""
    status: Literal["well", "notice", "wrong"]
    """``notice``: a job that needs this will not find it; the job given, if any, does not."""
    found: str
    needed: str = ""
    """Empty if nothing in particular is."""
    advice: str = ""
    """What to do; empty if all is well."""


class DoctorReport(Frozen):
    """What a machine or a cluster offers, and whether a job can run there."""

    job: str | None
    """The job's store; None if no job was given."""
    nodes: tuple[str, ...]
    """Host names of the machines that were looked at."""
    checks: tuple[Check, ...]
    wrong: int
    """Checks whose status is ``wrong``."""


class ErrorMessage(Frozen):
    """An error, for programs."""

    kind: str
    """Name of the class in `schemas.errors`."""
    message: str


class ErrorReport(Frozen):
    """What a command prints instead of its report if it stops with an error."""

    error: ErrorMessage
