"""What a job comes to, by arithmetic: requests, hours, money, the size of a node. Plain numbers in and out."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from schemas.job import EngineJob, Prices
from schemas.ledger import PARTS
from schemas.report import Estimate, Hours, NodeSize, PilotReport, Requests, StageSeconds
from teacher_cache.store.layout import MARKERS
from teacher_cache.store.shard import index_length
from teacher_cache.store.store import volumes_to_bind

Stage = Literal["teach", "decode", "encode"]

_PAGE = 1000
"""Keys on a page of S3's listings."""


@dataclass(frozen=True)
class StoreWork:
    """What of a job decides how often its store is asked."""

    opened: Requests
    """What it took to look at the store."""
    exists: bool
    segments_before: int
    new_segments: int
    """Of the catalog; each takes at most `schemas.store.LONGEST_SEGMENT` rows."""
    arrays: int
    """That the job's parts are stored in, those for rare clips included."""
    signals: int
    """Of the store, once the job's are in it."""
    arrays_there: int
    """That the store has of those."""
    others_there: int
    """Arrays of other parts that it has: the length of each is kept up with the catalog."""
    units: int
    shards: int
    """Shard objects to create."""
    teachers: int
    has_heads: bool
    row_groups: int
    """Of the catalog, that hold the clips to do."""
    bound_volumes: int
    """Volumes of the ledger that are bound already."""
    open_entries: int


@dataclass(frozen=True)
class SignalWork:
    """What of a signal is to be made."""

    clips: int
    shards: int
    """Shard objects that hold them."""


def store_requests(work: StoreWork) -> Requests:
    """All that a run asks of its store, step by step as `teacher_cache.jobs.run` does it, if nothing is repeated.

    Shards of clips that the encoding cannot hold come on top; so do a few requests for clips that fail, of teachers that
    wait for a volume of the ledger to be bound, and for shards that have entries in the open one already.
    """
    bound, left_open = volumes_to_bind(work.open_entries, work.units)
    volumes = work.bound_volumes
    total = work.opened + _made_ready(work) + _worked(work)
    for entries in bound:
        total += _binding(entries, volumes)
        volumes += 1
    # A teacher that meets a closed volume opens its record and its table, and looks whether the next one is closed. None meets
    # one that is bound when the work is done.
    met = len(bound) - (left_open == 0) if bound and work.units else 0
    total += Requests(get=3) * met * work.teachers
    return total + _told(work, volumes, left_open)


_FOUND = Requests(get=1)
"""To create what is there already: S3 is asked whose it is."""


def _made_ready(work: StoreWork) -> Requests:
    root = Requests(put=1 + len(MARKERS)) + (_FOUND * (1 + len(MARKERS)) + Requests(get=1) if work.exists else Requests())
    declared = Requests(put=work.arrays) + (_FOUND + Requests(get=1)) * work.arrays_there
    longer = work.arrays_there + work.others_there if work.new_segments else 0
    lengthened = Requests(list=1, get=work.arrays + work.others_there, put=longer)
    # Rows are added in view of the videos that are known, and then looked up by the clips' keys in all segments, new and old.
    added = Requests(put=2 * work.new_segments, get=work.new_segments + (2 * work.segments_before if work.new_segments else 0))
    closed = Requests(get=1)  # whether the ledger's open volume was closed by a run that was killed
    return root + added + declared + lengthened + closed


def _worked(work: StoreWork) -> Requests:
    """A teacher opens the store and offers its heads, of which one's are taken.

    A unit looks who has committed it, and, before it is taught and once it is committed, whether its volume is closed.
    """
    if not work.units:
        return Requests()
    heads = Requests(put=2) * work.teachers + (_FOUND + Requests(get=1)) * 2 * (work.teachers - (0 if work.exists else 1))
    opened = Requests(get=1 + len(PARTS) + work.signals) * work.teachers + (heads if work.has_heads else Requests())
    return opened + Requests(get=work.row_groups) + Requests(get=3, put=1) * work.units + Requests(put=work.shards)


def _binding(entries: int, volumes_before: int) -> Requests:
    listed = 1 + _pages(entries + 1)
    return Requests(put=4, get=1 + volumes_before + entries, list=listed)


def _told(work: StoreWork, volumes: int, open_entries: int) -> Requests:
    """The store's state at the end: the catalog's records, the ledger's, and each entry of the open volume."""
    lists = 2 + (_pages(open_entries) if open_entries else 0)
    records = work.segments_before + work.new_segments + 2 * volumes + open_entries
    return Requests(list=lists, get=records + len(PARTS))


def _pages(keys: int) -> int:
    return max(1, math.ceil(keys / _PAGE))


def hours(seconds: StageSeconds, engine: EngineJob) -> Hours:
    """How long GPUs and CPU cores are held. A teacher on the CPU holds its threads' cores, all of a machine's by default."""
    threads = engine.threads_per_teacher or os.cpu_count() or 1
    teaching = 0.0 if engine.gpus_per_teacher else seconds.teach * threads
    core_seconds = seconds.decode + seconds.encode + teaching
    return Hours(gpu=seconds.teach * engine.gpus_per_teacher / 3600, core=core_seconds / 3600)


def estimate(
    pilot: PilotReport, clips: int, by_signal: Mapping[str, SignalWork], clips_per_shard: int, engine: EngineJob
) -> Estimate:
    """What ``clips`` clips come to."""
    seconds = StageSeconds(**{stage: value * clips for stage, value in pilot.seconds.model_dump().items()})
    walls = _walls(seconds, engine)
    index = index_length(clips_per_shard)
    return Estimate(
        bytes={s: round(pilot.bytes.get(s, 0) * work.clips) + work.shards * index for s, work in by_signal.items()},
        video_bytes=round(pilot.video_bytes * clips),
        failed_clips=round(sum(pilot.failed.values()) / pilot.clips * clips),
        stage_seconds=seconds,
        hours=hours(seconds, engine),
        wall_hours=max(walls.values()) / 3600,
        limited_by=max(walls, key=lambda stage: walls[stage]),
        node=node_size(pilot, engine),
    )


def teachers_of(engine: EngineJob, units: int) -> int:
    """How many teachers work at once, at the most. The ``local`` engine has one."""
    return min(1 if engine.kind == "local" else engine.teachers, max(1, units))


def _walls(seconds: StageSeconds, engine: EngineJob) -> dict[Stage, float]:
    """Wall seconds of each stage if it alone had to be waited for: stages run beside one another."""
    teachers = 1 if engine.kind == "local" else engine.teachers
    return {
        "teach": seconds.teach / teachers,
        "decode": seconds.decode / (teachers * engine.decoders),
        "encode": seconds.encode / (teachers * engine.cpus_per_teacher),
    }


def node_size(pilot: PilotReport, engine: EngineJob) -> NodeSize:
    """What keeps one GPU busy: it teaches a clip in ``teach`` seconds of the share of it that a teacher has."""
    held = pilot.seconds.teach * (engine.gpus_per_teacher or 1)
    rate = 1 / held if held else 0.0
    return NodeSize(
        clips_per_second=rate,
        decode_cores=pilot.seconds.decode * rate,
        encode_cores=pilot.seconds.encode * rate,
        video_bytes_per_second=pilot.video_bytes * rate,
        store_bytes_per_second=sum(pilot.bytes.values()) * rate,
    )


def cost(prices: Prices, billed: Requests, is_egress: bool, used: Estimate | None) -> dict[str, float]:
    """Item → what it costs, for every item that has a price and is known.

    ``billed`` are the requests to servers that bill them, and ``is_egress`` says whether the videos lie on one.
    """
    priced = {"put": (prices.put_per_1000, billed.put / 1000), "get": (prices.get_per_1000, billed.get / 1000)}
    priced |= {"list": (prices.list_per_1000, billed.list / 1000)}
    if used is not None:
        priced |= {
            "gpu": (prices.gpu_hour, used.hours.gpu),
            "core": (prices.core_hour, used.hours.core),
            "egress": (prices.egress_gb, used.video_bytes / 1e9 if is_egress else 0.0),
            "storage_month": (prices.storage_gb_month, sum(used.bytes.values()) / 1e9),
        }
    return {item: price * amount for item, (price, amount) in priced.items() if price is not None}
