"""Counts and a pilot's measurements in; a job's requests, hours, cost and node size out. Pure arithmetic."""

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
"""Keys per page of an S3 listing."""


@dataclass(frozen=True)
class StoreWork:
    """The figures of a job that determine its requests to the store."""

    opened: Requests
    """Requests that reading the store's state took."""
    exists: bool
    segments_before: int
    new_segments: int
    """Catalog segments to add, each of at most `schemas.store.LONGEST_SEGMENT` rows."""
    arrays: int
    """Arrays that store the job's parts, including optional arrays."""
    signals: int
    """Signals in the store once the job's are added."""
    arrays_there: int
    """How many of ``arrays`` the store has already."""
    others_there: int
    """Arrays of other parts in the store, which are also resized when the catalog grows."""
    units: int
    shards: int
    """Shard objects to create."""
    teachers: int
    has_heads: bool
    row_groups: int
    """Row groups of the catalog that the clips to teach are in."""
    bound_volumes: int
    """Ledger volumes that are already bound."""
    open_entries: int


@dataclass(frozen=True)
class SignalWork:
    """How much of a signal is to be written."""

    clips: int
    shards: int
    """Shard objects that hold them."""


def store_requests(work: StoreWork) -> Requests:
    """All requests of a run to its store, following `teacher_cache.jobs.run` step by step, without retries.

    Not counted: shards of optional arrays, and a few requests for failed clips, for teachers that wait until a ledger volume
    is bound, and for shards that already have entries in the open volume.
    """
    bound, left_open = volumes_to_bind(work.open_entries, work.units)
    volumes = work.bound_volumes
    total = work.opened + _made_ready(work) + _worked(work)
    for entries in bound:
        total += _binding(entries, volumes)
        volumes += 1
    # A teacher that finds a volume closed reads its record and its table, and checks whether the next one is closed. No teacher
    # finds the volume that is bound after the last unit.
    met = len(bound) - (left_open == 0) if bound and work.units else 0
    total += Requests(get=3) * met * work.teachers
    return total + _told(work, volumes, left_open)


def _made_ready(work: StoreWork) -> Requests:
    # A new store's place is probed with one object more.
    root = Requests(get=1) + (Requests() if work.exists else Requests(put=2 + len(MARKERS)))
    declared = Requests(put=work.arrays, get=work.arrays_there)
    longer = work.arrays_there + work.others_there if work.new_segments else 0
    lengthened = Requests(list=1, get=work.arrays + work.others_there, put=longer)
    # Adding rows reads the known videos' keys; looking the clips up then reads the clip keys of all segments, new and old.
    added = Requests(put=2 * work.new_segments, get=work.new_segments + (2 * work.segments_before if work.new_segments else 0))
    closed = Requests(get=1)  # checks whether a killed run left the ledger's open volume closed but not bound
    return root + added + declared + lengthened + closed


def _worked(work: StoreWork) -> Requests:
    """Each teacher opens the store and tries to create the heads; one succeeds.

    Each unit checks who has committed it, and, before teaching and after committing, whether its volume is closed.
    """
    if not work.units:
        return Requests()
    heads = Requests(put=2) * work.teachers + Requests(get=2) * (work.teachers - (0 if work.exists else 1))
    opened = Requests(get=1 + len(PARTS) + work.signals) * work.teachers + (heads if work.has_heads else Requests())
    return opened + Requests(get=work.row_groups) + Requests(get=3, put=1) * work.units + Requests(put=work.shards)


def _binding(entries: int, volumes_before: int) -> Requests:
    listed = 1 + _pages(entries + 1)
    return Requests(put=4, get=1 + volumes_before + entries, list=listed)


def _told(work: StoreWork, volumes: int, open_entries: int) -> Requests:
    """Requests for the final status: the catalog's records, the ledger's records, and each entry of the open volume."""
    lists = 2 + (_pages(open_entries) if open_entries else 0)
    records = work.segments_before + work.new_segments + 2 * volumes + open_entries
    return Requests(list=lists, get=records + len(PARTS))


def _pages(keys: int) -> int:
    return max(1, math.ceil(keys / _PAGE))


def hours(seconds: StageSeconds, engine: EngineJob) -> Hours:
    """GPU hours and core hours. A teacher on the CPU occupies one core per thread: all of the machine's by default."""
    threads = engine.threads_per_teacher or os.cpu_count() or 1
    teaching = 0.0 if engine.gpus_per_teacher else seconds.teach * threads
    core_seconds = seconds.decode + seconds.encode + teaching
    return Hours(gpu=seconds.teach * engine.gpus_per_teacher / 3600, core=core_seconds / 3600)


def estimate(
    pilot: PilotReport, clips: int, by_signal: Mapping[str, SignalWork], clips_per_shard: int, engine: EngineJob
) -> Estimate:
    """Extrapolate the pilot to ``clips`` clips: bytes, failures, stage seconds, hours and wall time."""
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
    """The largest number of teachers at work at once. The ``local`` engine has one."""
    return min(1 if engine.kind == "local" else engine.teachers, max(1, units))


def _walls(seconds: StageSeconds, engine: EngineJob) -> dict[Stage, float]:
    """Wall seconds of each stage if it were the only bottleneck. Stages run concurrently."""
    teachers = 1 if engine.kind == "local" else engine.teachers
    return {
        "teach": seconds.teach / teachers,
        "decode": seconds.decode / (teachers * engine.decoders),
        "encode": seconds.encode / (teachers * engine.cpus_per_teacher),
    }


def node_size(pilot: PilotReport, engine: EngineJob) -> NodeSize:
    """Cores and bandwidth that keep one GPU busy. A clip takes ``teach`` seconds of the GPU share that a teacher has."""
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
    """Item → cost, for every item with a price and a known amount, in the currency of the prices.

    ``billed`` are the requests to servers that charge for them; ``is_egress`` says whether the videos are on such a server.
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
