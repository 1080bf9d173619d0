"""Commits of many teachers to one store: what the driver's one thread sustains, and whether a teacher ever waits for it.

    PYTHONPATH=.:tests python tests/benchmarks/commits.py            # some two minutes

The code is the real one (`Committer`, `commit`, `Log`, `WorkLeft`); the teaching is simulated: units come with all that a unit
of 32 clips and five signals says, and no shard is written. 64 teachers of 23 clips a second make 46 units a second, a thousand
make 719. What is told: units a second when they come as fast as they are taken, and how long the thread that hands them over
waits, at most and in all, when they come at the pace of 64 and of a thousand teachers. It shows no server across a network.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import s3_server
from machine import processor
from measuring import server_cpu
from scale import clips_table, measured

from schemas.job import Job
from schemas.log import ErrorFigures, StoredObject, UnitCommitted
from schemas.report import StageSeconds, UnitReport
from teacher_cache.jobs.commit import Committer, commit
from teacher_cache.jobs.discovery import JobFacts, discover
from teacher_cache.store.catalog import Catalog, numbered_rows
from teacher_cache.store.layout import record_key, shard_key, stored_arrays
from teacher_cache.store.log import checkpoint_file
from teacher_cache.store.store import Store, add_clips, add_parts, create_store, open_store

RESULTS = Path(__file__).parent / "results"
TEACHERS, MANY_TEACHERS, CLIPS_PER_SECOND, CLIPS_PER_SHARD = 64, 1000, 23, 32


@dataclass(frozen=True)
class Units:
    """Makes the units of a job's recipe, as their workers report them."""

    facts: JobFacts

    def report(self, shard: int) -> UnitReport:
        unit = self.unit(shard)
        return UnitReport(unit=unit.unit.name, committed=unit.rows, failed=0, bytes=0, seconds=StageSeconds(), written=unit)

    def unit(self, shard: int) -> UnitCommitted:
        rows, chance = tuple(range(shard * CLIPS_PER_SHARD, (shard + 1) * CLIPS_PER_SHARD)), np.random.default_rng(shard)
        stored = StoredObject(digest=f"sha256:{shard:064x}", length=10_000_000 + shard)
        figures = [
            ErrorFigures(
                signal=part,
                measure="largest error over the root mean square of its channel",
                bound=1 / 3,
                rows=rows,
                measured=tuple(float(f"{value:.4g}") for value in chance.random(len(rows))),
                relative_rms=tuple(float(f"{value:.4g}") for value in chance.random(len(rows))),
            )
            for part in self.facts.parts
            if part != "clock"
        ]
        return UnitCommitted(
            shard=shard,
            parts=self.facts.parts,
            rows=len(rows),
            objects=dict.fromkeys(self.keys(shard), stored),
            figures=tuple(figures),
            decoders={"PyAV 18.1.0 (libavcodec 62.28.101)": rows},
        )

    def keys(self, shard: int) -> list[str]:
        arrays = [a for part in self.facts.parts for a in stored_arrays(self.facts.recipe, part, self.facts.shapes)]
        return [shard_key(array, shard) for array in arrays if not array.optional]


def facts_of(folder: Path) -> JobFacts:
    manifest = folder / "one.jsonl"
    manifest.write_text('{"uri": "s3://bucket/one.mp4"}\n')
    job = {"videos": {"manifest": str(manifest)}, "store": "unnamed", "teacher": {"preset": "tiny"}}
    return discover(Job.model_validate(job | {"layout": {"clips_per_shard": CLIPS_PER_SHARD}}))


def store_of(url: str, facts: JobFacts, clips: int) -> Store:
    """A store with that many clips, of which none is committed."""
    store = create_store(url, facts.recipe, "benchmark")
    catalog = Catalog()
    for first in range(0, clips, 2**20):
        rows = numbered_rows(clips_table(first, min(clips, first + 2**20)), first)
        catalog = add_clips(store, catalog, lambda _, rows=rows: rows, "benchmark")
    add_parts(store, facts.parts, facts.shapes, catalog.rows, "benchmark")
    return store


def at_full_speed(url: str, facts: JobFacts, units: int, server: s3_server.S3Server | None) -> dict[str, Any]:
    """Units committed in batches of a second's at the pace of 64 teachers, one batch after the other."""
    store, make = store_of(url, facts, units * CLIPS_PER_SHARD), Units(facts)
    reports = [make.report(shard) for shard in range(units)]
    batch = round(TEACHERS * CLIPS_PER_SECOND / CLIPS_PER_SHARD)
    store.objects.take_requests()
    before, start, cpu = server_cpu(server) if server else 0.0, time.perf_counter(), time.process_time()
    for first in range(0, units, batch):
        commit(store, reports[first : first + batch], len(store.state.rows_added))
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    asked = store.objects.take_requests()
    record = store.objects.get(record_key(store.version)) or b""
    opened = time.perf_counter()
    again = open_store(url)
    assert again.state.is_done("clock", np.arange(units)).all()
    opened = time.perf_counter() - opened
    return {
        "units": units,
        "units_per_record": batch,
        "units_per_second": units / seconds,
        "driver_cpu_ms_per_unit": 1e3 * cpu / units,
        "server_cpu_ms_per_unit": 1e3 * ((server_cpu(server) if server else 0.0) - before) / units,
        "requests_per_unit": {kind: round(count / units, 3) for kind, count in asked.model_dump().items()},
        "record_bytes_per_unit": len(record) / min(batch, units % batch or batch),
        "open_seconds": opened,
    }


def beside_teachers(url: str, facts: JobFacts, teachers: int, seconds: float) -> dict[str, Any]:
    """Units that come at the pace of so many teachers: what handing them over costs, and when they are committed."""
    pace = teachers * CLIPS_PER_SECOND / CLIPS_PER_SHARD
    units = round(pace * seconds)
    store, make = store_of(url, facts, units * CLIPS_PER_SHARD), Units(facts)
    reports = [make.report(shard) for shard in range(units)]
    waits, lags, came = [], [], {}
    start = time.perf_counter()
    with Committer(store, len(store.state.rows_added)) as committer:
        for number, report in enumerate(reports):
            time.sleep(max(0.0, start + number / pace - time.perf_counter()))
            begun = came[report.unit] = time.perf_counter()
            committer.add(report)
            done = committer.done()
            waits.append(time.perf_counter() - begun)
            lags += [time.perf_counter() - came[unit.unit] for unit in done]
        committer.close()
        lags += [time.perf_counter() - came[unit.unit] for unit in committer.done()]
    assert len(lags) == units
    return {
        "teachers": teachers,
        "units": units,
        "records": store.version,
        "hand_over_ms_median": 1e3 * float(np.median(waits)),
        "hand_over_ms_most": 1e3 * max(waits),
        "share_of_time_handing_over": sum(waits) / seconds,
        "committed_after_seconds_median": float(np.median(lags)),
        "committed_after_seconds_most": max(lags),
    }


_DRIVER = """
import pickle
from schemas.log import PARTS
from teacher_cache.jobs.plan import WorkLeft
from teacher_cache.store.store import open_store
# ready
store = open_store(STORE)
catalog = store.catalog()
left = WorkLeft(store.recipe, catalog, store.state, PARTS, catalog.current)
assert len(left) == UNITS
opened = time.perf_counter() - ready
begun, size = time.process_time(), 0
for index in range(ITEMS):
    size += len(pickle.dumps(left[index]))
items = time.process_time() - begun
print(opened, items / ITEMS, size / ITEMS)
"""


def driven(folder: Path, units: int) -> dict[str, Any]:
    """The driver's memory and time with that many units of 32 clips left: in a process of its own, as a run's."""
    facts = facts_of(folder)
    store_of(str(folder / "driver"), facts, units * CLIPS_PER_SHARD)
    items = min(units, 5000)
    found = measured(_DRIVER, {"STORE": str(folder / "driver"), "UNITS": units, "ITEMS": items})
    opened, per_item, item_bytes = found.pop("printed")
    return {
        "units_left": units,
        "clips_left": units * CLIPS_PER_SHARD,
        "peak_gb": found["peak_gb"],
        "open_seconds": opened,
        "item_cpu_ms": 1e3 * per_item,
        "item_bytes": item_bytes,
    }


def stored_at_random(keys: Sequence[str], chance: np.random.Generator) -> dict[str, StoredObject]:
    """Digests and lengths as those of real shards: of no pattern."""
    digests, lengths = chance.bytes(32 * len(keys)).hex(), chance.integers(9_000_000, 11_000_000, len(keys)).tolist()
    return {
        key: StoredObject(digest=f"sha256:{digests[64 * n : 64 * n + 64]}", length=lengths[n]) for n, key in enumerate(keys)
    }


def checkpointed(folder: Path, units: int) -> dict[str, Any]:
    """What a checkpoint of that many committed units takes, in the thread that commits."""
    facts = facts_of(folder)
    store, make = store_of(str(folder / "checkpoint"), facts, units * CLIPS_PER_SHARD), Units(facts)
    like = make.unit(0).model_copy(update={"figures": (), "decoders": {}})
    chance = np.random.default_rng(0)
    for first in range(0, units, 1024):
        some = [
            like.model_copy(update={"shard": shard, "objects": stored_at_random(make.keys(shard), chance)})
            for shard in range(first, min(units, first + 1024))
        ]
        store.state.apply(store.version + 1, some)
    store.state.is_done("clock", np.arange(1))
    start = time.perf_counter()
    _, data = checkpoint_file(store.state)
    return {"units": units, "seconds": time.perf_counter() - start, "bytes": len(data)}


def measure(units: int, seconds: float, units_left: int) -> dict[str, Any]:
    result: dict[str, Any] = {
        "machine": processor() | {"load_average": os.getloadavg()[0]},
        "clips_per_shard": CLIPS_PER_SHARD,
        "units_per_second_wanted": {n: n * CLIPS_PER_SECOND / CLIPS_PER_SHARD for n in (TEACHERS, MANY_TEACHERS)},
    }
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        facts = facts_of(folder)
        weed = Path(sys.executable).parent / "weed"
        server = s3_server.start(folder / "s3", str(weed) if weed.is_file() else "weed")
        try:
            os.environ.update(server.environment)
            server.filesystem.mkdir("bucket")
            for name, root, at in (("disk", str(folder / "disk"), None), ("s3", "s3://bucket", server)):
                result[name] = {
                    "at full speed": at_full_speed(f"{root}/fast", facts, units, at),
                    "beside 64 teachers": beside_teachers(f"{root}/64", facts, TEACHERS, seconds),
                    "beside 1000 teachers": beside_teachers(f"{root}/1000", facts, MANY_TEACHERS, seconds / 3),
                }
        finally:
            s3_server.stop(server)
        result["driver"] = driven(folder, units_left)
        result["checkpoint"] = checkpointed(folder, units_left)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=4600, help="to commit as fast as they are taken, at each place")
    parser.add_argument("--seconds", type=float, default=15, help="of teaching, for each number of teachers at each place")
    parser.add_argument("--units-left", type=int, default=125_000, help="in the driver's plan and in the checkpoint")
    parser.add_argument("--out", type=Path, default=RESULTS / "commits.json")
    options = parser.parse_args()
    result = measure(options.units, options.seconds, options.units_left)
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    sys.stdout.write(options.out.read_text())


if __name__ == "__main__":
    main()
