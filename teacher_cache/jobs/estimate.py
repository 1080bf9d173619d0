"""Counts and a pilot's measurements in; a job's requests, hours, cost and node size out. Pure arithmetic."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from schemas.job import EngineJob, Prices
from schemas.report import Estimate, Hours, NodeSize, PilotReport, StageSeconds
from schemas.storage import Requests
from teacher_cache.store.layout import MARKERS
from teacher_cache.store.log import FEWEST_AHEAD, MOST_RECORDS, WORTH_A_CHECKPOINT

Stage = Literal["teach", "decode", "encode"]


@dataclass(frozen=True)
class StoreWork:
    """The figures of a job that determine its requests to the store."""

    opened: Requests
    """Requests that reading the store's state took."""
    exists: bool
    grows: int
    """Tables of rows to add, each of at most `schemas.log.LONGEST_SEGMENT` rows."""
    revises: int
    """How many of them come with a table of the rows that they supersede."""
    known_tables: int
    """Tables of rows that the store has."""
    arrays: int
    """Arrays that store the job's parts, including optional arrays."""
    arrays_there: int
    """How many of ``arrays`` the store has already."""
    others_there: int
    """Arrays of other parts in the store, which are also resized when the catalog grows."""
    new_parts: int
    """Parts of the job that the store lacks."""
    units: int
    shards: int
    """Shard objects to create."""
    teachers: int
    has_heads: bool


@dataclass(frozen=True)
class SignalWork:
    """How much of a signal is to be written."""

    clips: int
    index_bytes: int
    """Bytes of the indexes of the shard objects that will hold them."""


def store_requests(work: StoreWork) -> Requests:
    """All requests of a run to its store, following `teacher_cache.jobs.run` step by step, without retries.

    Units are counted as one record each, as where they come more than a second apart; in a faster run, several share a record.
    Not counted: shards of optional arrays, and what a run meets that goes on beside another.
    """
    return work.opened + _made_ready(work) + _worked(work)


_FOUND = Requests(get=1)
"""What finding an existing object costs besides the PUT that was refused: one request for it."""
_NEW_STORE = Requests(put=3 + len(MARKERS), list=1, get=2 + FEWEST_AHEAD)
"""Root, markers, one of them twice to probe the place, and the first record, after a look at its log, which is empty."""


def _made_ready(work: StoreWork) -> Requests:
    made = Requests() if work.exists else _NEW_STORE
    tables = work.grows + work.revises
    added = Requests(put=tables + int(tables > 0), get=(work.known_tables + tables) if tables else 0)
    declared = Requests(put=work.arrays - work.arrays_there + int(work.new_parts > 0))
    lengthened = Requests(get=work.arrays + work.others_there, put=work.arrays_there + work.others_there if work.grows else 0)
    return made + added + declared + lengthened


def _worked(work: StoreWork) -> Requests:
    """Each teacher opens the store and tries to create the heads; one succeeds. Each unit creates its shards."""
    if not work.units:
        return Requests()
    heads = Requests(put=2) * work.teachers + _FOUND * 2 * (work.teachers - (0 if work.exists else 1))
    opened = Requests(get=1) * work.teachers + (heads if work.has_heads else Requests())
    records = work.units + int(work.grows > 0) + int(work.new_parts > 0) + int(not work.exists)
    checkpoints = int(records >= WORTH_A_CHECKPOINT) + work.units // MOST_RECORDS
    checkpoint = Requests(put=1, get=FEWEST_AHEAD) * checkpoints
    return opened + Requests(put=work.shards + work.units) + checkpoint


def hours(seconds: StageSeconds, engine: EngineJob) -> Hours:
    """GPU hours and core hours. A teacher on the CPU occupies one core per thread: all of the machine's by default."""
    threads = engine.threads_per_teacher or os.cpu_count() or 1
    teaching = 0.0 if engine.gpus_per_teacher else seconds.teach * threads
    core_seconds = seconds.decode + seconds.encode + teaching
    return Hours(gpu=seconds.teach * engine.gpus_per_teacher / 3600, core=core_seconds / 3600)


def estimate(pilot: PilotReport, clips: int, by_signal: Mapping[str, SignalWork], engine: EngineJob) -> Estimate:
    """Extrapolate the pilot to ``clips`` clips: bytes, failures, stage seconds, hours and wall time."""
    seconds = StageSeconds(**{stage: value * clips for stage, value in pilot.seconds.model_dump().items()})
    walls = _walls(seconds, engine)
    return Estimate(
        bytes={s: round(pilot.bytes.get(s, 0) * work.clips) + work.index_bytes for s, work in by_signal.items()},
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
