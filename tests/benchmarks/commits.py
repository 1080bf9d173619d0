"""A thousand teachers' commits against one store, one ledger, one driver: what each part sustains, and which gives out first.

    PYTHONPATH=.:tests python tests/benchmarks/commits.py            # some three minutes

The code is the real one (`Journal`, `Objects`, `WorkLeft`, `close_volume`); the teaching is simulated. Each teacher does
unit after unit, with entries of their real size and a kilobyte in place of each shard, as fast as this machine and its server
let it, so that the figures are costs: CPU seconds of client and server and requests a unit. A thousand teachers of 23 clips a
second need 719 units of 32 clips a second; what is told of each part is how many it sustains.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import s3_server
from machine import processor
from measuring import server_cpu
from scale import clips_table, measured, video

from schemas.job import Job
from schemas.log import ErrorFigure, LedgerEntry, RowOutcome, StoredObject, Unit
from teacher_cache.jobs.discovery import JobFacts, discover
from teacher_cache.store.catalog import Catalog, append_rows, numbered_rows
from teacher_cache.store.layout import shard_key, stored_arrays
from teacher_cache.store.ledger import Journal, close_volume, entry_keys, read_ledger
from teacher_cache.store.objects import Objects
from teacher_cache.store.store import add_parts, create_store

RESULTS = Path(__file__).parent / "results"
TEACHERS, CLIPS_PER_SECOND, CLIPS_PER_SHARD = 1000, 23, 32
ENTRIES_PER_VOLUME = 4096
S3_PUTS_PER_SECOND, S3_GETS_PER_SECOND = 3500, 5500
"""Of each prefix: https://docs.aws.amazon.com/AmazonS3/latest/userguide/optimizing-performance.html."""

_STAND_IN = 1024


@dataclass(frozen=True)
class Units:
    """Makes the units of a job's recipe."""

    facts: JobFacts

    def entry(self, shard: int) -> LedgerEntry:
        rows = range(shard * CLIPS_PER_SHARD, (shard + 1) * CLIPS_PER_SHARD)
        stored = StoredObject(digest=f"sha256:{shard:064x}", length=10_000_000 + shard)
        return LedgerEntry(
            unit=Unit(shard=shard, parts=self.facts.parts),
            fingerprint=self.facts.recipe.fingerprint,
            objects=dict.fromkeys(self.keys(shard), stored),
            rows=tuple(self._row(row) for row in rows),
        )

    def keys(self, shard: int) -> list[str]:
        arrays = [a for part in self.facts.parts for a in stored_arrays(self.facts.recipe, part, self.facts.shapes)]
        return [shard_key(array, shard) for array in arrays if not array.optional]

    def _row(self, row: int) -> RowOutcome:
        chance = np.random.default_rng(row)
        figures = {
            part: ErrorFigure(
                measure="largest error over the root mean square of its channel",
                measured=float(chance.random()),
                bound=1 / 3,
                relative_rms=float(chance.random()),
            )
            for part in self.facts.parts
            if part != "clock"
        }
        return RowOutcome(row=row, clip_id=video(row), status="committed", decoder="decord 3.4.0", errors=figures)


def facts_of(folder: Path) -> JobFacts:
    manifest = folder / "one.jsonl"
    manifest.write_text('{"uri": "s3://bucket/one.mp4"}\n')
    job = {"videos": {"manifest": str(manifest)}, "store": "unnamed", "teacher": {"preset": "tiny"}}
    return discover(Job.model_validate(job | {"layout": {"clips_per_shard": CLIPS_PER_SHARD}}))


class Counted(Objects):
    """Counts requests by method; each of these is one, as `tests/faults/test_s3_outages.py` sees at a proxy."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.requests: Counter[str] = Counter()

    def get(self, key: str) -> bytes | None:
        self.requests["GET"] += 1
        return super().get(key)

    def create(self, key: str, data: bytes) -> bool:
        self.requests["PUT"] += 1
        return super().create(key, data)

    def level(self, prefix: str = "") -> dict[str, bool]:
        self.requests["LIST"] += 1
        return super().level(prefix)


def work(url: str, facts: JobFacts, process: int, processes: int, seconds: float, *, with_shards: bool) -> dict[str, Any]:
    """What one process does of the teachers' units, in eight threads: how many, in how much of its CPU time."""
    units, objects = Units(facts), Counted(url)
    mine = range(process, TEACHERS, processes)
    journals = [Journal(objects, 0) for _ in mine]
    next_unit = iter(range(process, 10**9, processes))
    lock, latencies = threading.Lock(), list[float]()
    ready = [(shard, units.entry(shard)) for shard, _ in zip(next_unit, range(int(400 * seconds)), strict=False)]
    objects.get("zarr.json")  # connections are open
    objects.requests.clear()
    start, cpu = time.perf_counter(), time.process_time()

    def one_thread() -> None:
        while time.perf_counter() - start < seconds:
            with lock:
                if not ready:
                    return
                shard, entry = ready.pop(0)
            begun = time.perf_counter()
            journal = journals[shard // processes % len(journals)]
            assert journal.standing(shard) == []
            if with_shards:
                for key in units.keys(shard):
                    objects.create(key, bytes(_STAND_IN))
            assert journal.commit(entry)
            latencies.append(time.perf_counter() - begun)

    with ThreadPoolExecutor(8) as threads:
        for done in [threads.submit(one_thread) for _ in range(8)]:
            done.result()
    return {
        "units": len(latencies),
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu,
        "latencies": latencies,
        "requests": dict(objects.requests),
    }


def committed(
    url: str, facts: JobFacts, seconds: float, server: s3_server.S3Server | None, *, with_shards: bool
) -> dict[str, Any]:
    """Costs a unit, and how many units a second this machine does, its server on the same cores."""
    before = server_cpu(server) if server else 0.0
    processes = 2
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        runs = [
            pool.submit(work, url, facts, number, processes, seconds, with_shards=with_shards) for number in range(processes)
        ]
        done = [run.result() for run in runs]
    units = sum(run["units"] for run in done)
    latencies = np.concatenate([run["latencies"] for run in done])
    requests = sum((Counter(run["requests"]) for run in done), Counter())
    return {
        "units": units,
        "units_per_second": units / max(run["seconds"] for run in done),
        "client_cpu_ms_per_unit": 1e3 * sum(run["cpu_seconds"] for run in done) / units,
        "server_cpu_ms_per_unit": 1e3 * ((server_cpu(server) if server else 0.0) - before) / units,
        "latency_ms_median": 1e3 * float(np.median(latencies)),
        "latency_ms_p99": 1e3 * float(np.percentile(latencies, 99)),
        "requests_per_unit": {method: round(count / units, 2) for method, count in sorted(requests.items())},
    }


def folded(url: str, facts: JobFacts, entries: int) -> dict[str, Any]:
    """Filling an open volume up, listing it, opening it, closing it, and opening it closed."""
    objects, units = Objects(url), Units(facts)
    volume = read_ledger(objects).open_volume
    present = {int(key.rpartition("/")[2].partition(".")[0]) for key in entry_keys(objects, volume)}
    journal = Journal(objects, volume)
    missing = [shard for shard in range(entries + len(present)) if shard not in present][: max(0, entries - len(present))]
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda shard: journal.commit(units.entry(shard)), missing))
    entry_bytes = len(objects.get(entry_keys(objects, volume)[0]) or b"")
    found = {"entries": entries, "entry_bytes": entry_bytes}
    found["list_open_seconds"] = _seconds(lambda: entry_keys(objects, volume))[0]
    found["open_seconds"] = _seconds(lambda: read_ledger(objects))[0]
    found["fold_seconds"], found["fold_cpu_seconds"] = _seconds(lambda: close_volume(objects, volume))
    found["open_folded_seconds"] = _seconds(lambda: read_ledger(objects))[0]
    waiting = [Journal(objects, volume) for _ in range(20)]
    found["pass_folded_seconds"] = _seconds(lambda: [journal.standing(0) for journal in waiting])[0] / len(waiting)
    return found


def _seconds(step: Callable[[], object]) -> tuple[float, float]:
    """Wall-clock and CPU."""
    start, cpu = time.perf_counter(), time.process_time()
    step()
    return time.perf_counter() - start, time.process_time() - cpu


_DRIVER = """
from pathlib import Path
import pickle
import numpy as np
from schemas.log import PARTS
from teacher_cache.jobs.plan import WorkLeft
from teacher_cache.store.store import open_store
# ready
store = open_store(STORE)
catalog, ledger = store.catalog(), store.ledger()
left = WorkLeft(store.recipe, catalog, ledger, PARTS, catalog.current)
assert len(left) == UNITS
opened = time.perf_counter() - ready
begun = time.perf_counter()
assert left.rows == CLIPS
counted = time.perf_counter() - begun
begun, size = time.process_time(), 0
for index in range(ITEMS):
    size += len(pickle.dumps(left[index]))
items = time.process_time() - begun
print(opened, counted, items / ITEMS, size / ITEMS)
"""


def driven(folder: Path, units: int) -> dict[str, Any]:
    """The driver's memory and time with that many units of 32 clips left: in a process of its own, as a run's."""
    facts = facts_of(folder)
    store = create_store(str(folder / "driver"), facts.recipe)
    catalog, clips = Catalog(), units * CLIPS_PER_SHARD
    for first in range(0, clips, 2**20):
        rows = numbered_rows(clips_table(first, min(clips, first + 2**20)), first)
        catalog = append_rows(store.objects, catalog, rows, CLIPS_PER_SHARD) or catalog
    add_parts(store, facts.parts, facts.shapes, catalog.rows)
    items = min(units, 5000)
    found = measured(_DRIVER, {"STORE": str(folder / "driver"), "UNITS": units, "CLIPS": clips, "ITEMS": items})
    opened, counted, per_item, item_bytes = found.pop("printed")
    return {
        "units_left": units,
        "clips_left": clips,
        "peak_gb": found["peak_gb"],
        "open_seconds": opened,
        "count_rows_seconds": counted,
        "item_cpu_ms": 1e3 * per_item,
        "item_bytes": item_bytes,
    }


def sustained(result: dict[str, Any]) -> dict[str, float]:
    """Units a second that each part can do, least first: the driver's by CPU time, of which its one thread has one core."""
    ledger = result["s3"]["ledger alone"]["requests_per_unit"]
    fold_seconds = result["s3"]["fold"]["fold_cpu_seconds"] / result["s3"]["fold"]["entries"]
    item_seconds = result["driver"]["item_cpu_ms"] / 1e3
    parts = {
        "driver: folding volumes and making items, in one thread": 1 / (fold_seconds + item_seconds),
        "driver: folding volumes alone": 1 / fold_seconds,
        "driver: making items alone": 1 / item_seconds,
        "S3: PUT under ledger/": S3_PUTS_PER_SECOND / ledger["PUT"],
        "S3: GET under ledger/, one more for the fold": S3_GETS_PER_SECOND / (ledger["GET"] + 1),
        "S3: PUT under each array": float(S3_PUTS_PER_SECOND),
        "teachers: one core each": TEACHERS * 1e3 / result["s3"]["with shards"]["client_cpu_ms_per_unit"],
    }
    return dict(sorted(parts.items(), key=lambda part: part[1]))


def measure(seconds: float, entries: int, units_left: int) -> dict[str, Any]:
    result: dict[str, Any] = {
        "machine": processor() | {"load_average": os.getloadavg()[0]},
        "teachers": TEACHERS,
        "clips_per_shard": CLIPS_PER_SHARD,
        "wanted_units_per_second": TEACHERS * CLIPS_PER_SECOND / CLIPS_PER_SHARD,
    }
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        facts = facts_of(folder)
        weed = Path(sys.executable).parent / "weed"
        server = s3_server.start(folder / "s3", str(weed) if weed.is_file() else "weed")
        try:
            os.environ.update(server.environment)
            server.filesystem.mkdir("bucket")
            result["arrays"] = len(Units(facts).keys(0))
            for place, root, at in (("disk", str(folder / "disk"), None), ("s3", "s3://bucket", server)):
                found = result[place] = {}
                for name, with_shards in (("ledger alone", False), ("with shards", True)):
                    url = f"{root}/{name.replace(' ', '-')}"
                    create_store(url, facts.recipe)
                    found[name] = committed(url, facts, seconds, at, with_shards=with_shards)
                found["fold"] = folded(f"{root}/ledger-alone", facts, entries)
        finally:
            s3_server.stop(server)
        result["driver"] = driven(folder, units_left)
    return result | {"units_per_second_sustained": sustained(result)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15, help="of committing, at each place in each way")
    parser.add_argument("--entries", type=int, default=ENTRIES_PER_VOLUME, help="in the volume that is folded")
    parser.add_argument("--units-left", type=int, default=125_000, help="in the driver's plan, of 32 clips each")
    parser.add_argument("--out", type=Path, default=RESULTS / "commits.json")
    options = parser.parse_args()
    result = measure(options.seconds, options.entries, options.units_left)
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    sys.stdout.write(options.out.read_text())


if __name__ == "__main__":
    main()
