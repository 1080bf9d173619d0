"""A catalog of ten million clips: how long it takes to open, and to plan a run that finds all done, and in how much memory.

    python tests/benchmarks/scale.py [--clips 10000000] [--folder DIR] [--out tests/benchmarks/results/scale.json]

Makes a store on the local disk that is real in its log and metadata and has no shard objects (neither opening nor planning
looks at one), with each hundredth clip in a second row, and the manifest of its videos. That takes ten minutes at ten
millions; ``--folder`` keeps them, and finds them there the next time. Then each step runs in a process of its own, as a
user's would.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml
from machine import processor

from schemas.job import Job
from schemas.log import ErrorFigures, StoredObject, UnitCommitted
from teacher_cache.clips.tables import CLIPS, SEGMENT
from teacher_cache.jobs.discovery import JobFacts, discover
from teacher_cache.store.catalog import Catalog, numbered_rows
from teacher_cache.store.layout import shard_key, stored_arrays
from teacher_cache.store.log import MOST_RECORDS, checkpoint_file
from teacher_cache.store.store import Store, add_clips, add_parts, create_store

_UNITS_A_RECORD, _UNITS_A_SECOND = 1024, 46
_ROWS_AT_ONCE = 2**20
_STEPS = {
    "open, and find the rows of eight clips": """
from teacher_cache import open_cache
import teacher_cache.reader.cache
# ready
cache = open_cache(STORE)
for number in range(0, CLIPS, CLIPS // 8 or 1):
    cache.clip(f"s3://bucket/raw/{number // 1000:06d}/clip-{number:09d}.mp4")
""",
    "status": """
from teacher_cache.store.store import open_store, status
# ready
assert status(open_store(STORE)).clips.committed == CLIPS
""",
    "look once more, as `status --watch` does": """
from teacher_cache.store.store import open_store
from teacher_cache.monitor.follow import StoreFollower
watch = StoreFollower(open_store(STORE))
watch.look()
# ready
assert watch.look().clips.committed == CLIPS
""",
    "plan a run that finds all done": """
from pathlib import Path
from schemas.job import Job
from teacher_cache.io.config import load_yaml
from teacher_cache.jobs.plan import plan_report
# ready
report = plan_report(load_yaml(Path(JOB), Job))
assert (report.clips.committed, report.new_clips, report.units) == (CLIPS, 0, 0), report
""",
}


def video(number: int) -> str:
    return f"s3://bucket/raw/{number // 1000:06d}/clip-{number:09d}.mp4"


def make_store(folder: Path, clips: int, figures: Callable[[range], tuple[ErrorFigures, ...]] = lambda _: ()) -> Path:
    """Make the store and its manifest; the path of its job, under a name that says that it is not finished.

    ``figures`` gives the errors of a unit's rows, which the log has from a run.
    """
    with (folder / "videos.jsonl").open("w") as manifest:
        manifest.writelines(f'{{"uri": "{video(n)}"}}\n' for n in range(clips))
    job = {
        "videos": {"manifest": f"{folder}/videos.jsonl", "check": "new"},
        "store": f"{folder}/store",
        "teacher": {"preset": "tiny"},
    }
    path = folder / "unfinished.yaml"
    path.write_text(yaml.safe_dump(job))
    small = folder / "one.jsonl"
    small.write_text('{"uri": "s3://bucket/one.mp4"}\n')
    facts = discover(Job.model_validate(job | {"videos": {"manifest": str(small)}}))
    store = create_store(str(folder / "store"), facts.recipe, "benchmark")
    catalog, per_shard = Catalog(), facts.recipe.layout.clips_per_shard
    for first in range(0, clips, _ROWS_AT_ONCE):
        rows = numbered_rows(clips_table(first, min(clips, first + _ROWS_AT_ONCE)), first)
        catalog = add_clips(store, catalog, lambda _, rows=rows: rows, "benchmark")
    # Each hundredth clip has failed once and is tried again in a new row.
    again = clips_table(0, clips).take(pa.array(np.arange(0, clips, 100))) if clips >= 100 else clips_table(0, 0)
    if again.num_rows:
        rows = numbered_rows(again, catalog.next_row(per_shard))
        catalog = add_clips(store, catalog, lambda _: rows, "benchmark")
    add_parts(store, facts.parts, facts.shapes, catalog.rows, "benchmark")
    _commit_all(store, facts, catalog, figures)
    return path


def clips_table(first: int, stop: int) -> pa.Table:
    ids = [video(number) for number in range(first, stop)]
    digests = np.random.default_rng(first).bytes(32 * len(ids)).hex()
    columns = {
        "clip_id": ids,
        "video": ids,
        "video_id": ids,
        "content_digest": [f"sampled-sha256:{digests[64 * n : 64 * n + 64]}" for n in range(len(ids))],
        "window_start": pa.nulls(len(ids), pa.int64()),
        "window_stop": pa.nulls(len(ids), pa.int64()),
        **{name: pa.nulls(len(ids), CLIPS.field(name).type) for name in (*SEGMENT, "prompt", "extra")},
        "flipped": pa.repeat(pa.scalar(value=False), len(ids)),
    }
    return pa.table([columns[name] for name in CLIPS.names], schema=CLIPS)


def _commit_all(store: Store, facts: JobFacts, catalog: Catalog, figures: Callable[[range], tuple[ErrorFigures, ...]]) -> None:
    """In records of many units, and at the end in as many of a second's units as a reader ever finds after a checkpoint."""
    per_shard = facts.recipe.layout.clips_per_shard
    shards = np.unique(catalog.rows_between(0, catalog.rows) // per_shard).tolist()
    tail = min(len(shards) // 2, (MOST_RECORDS - 1) * _UNITS_A_SECOND)
    arrays = [array for part in facts.parts for array in stored_arrays(facts.recipe, part, facts.shapes) if not array.optional]

    def unit(shard: int) -> UnitCommitted:
        rows = len(catalog.rows_between(shard * per_shard, (shard + 1) * per_shard))
        stored = StoredObject.model_construct(digest=f"sha256:{shard:064x}", length=10_000_000 + shard)
        objects = {shard_key(array, shard): stored for array in arrays}
        errors = figures(range(shard * per_shard, shard * per_shard + rows))
        return UnitCommitted.model_construct(shard=shard, parts=facts.parts, rows=rows, objects=objects, figures=errors)

    batches = [shards[n : min(n + _UNITS_A_RECORD, len(shards) - tail)] for n in range(0, len(shards) - tail, _UNITS_A_RECORD)]
    late = shards[len(shards) - tail :]
    last = [late[n : n + _UNITS_A_SECOND] for n in range(0, len(late), _UNITS_A_SECOND)]
    for batch in batches:
        store.log.append(lambda _, batch=batch: [unit(shard) for shard in batch], "benchmark")
    key, data = checkpoint_file(store.state)
    store.objects.create(key, data)
    for batch in last:
        store.log.append(lambda _, batch=batch: [unit(shard) for shard in batch], "benchmark")


def measured(code: str, names: dict[str, Any]) -> dict[str, Any]:
    """Of a Python process that runs ``code``: seconds in all and after its imports, peak memory, numbers it printed."""
    program = "\n".join(f"{name} = {value!r}" for name, value in names.items())
    program += code.replace("# ready", "import time; ready = time.perf_counter()")
    program += "\nprint(time.perf_counter() - ready)"
    # The kernel's own mark; getrusage would give this process's, which a child inherits.
    program += "\nprint(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(done.stderr)
    *printed, own, _, peak_kib, _ = done.stdout.split()
    return {
        "seconds": round(seconds, 2),
        "seconds_after_imports": round(float(own), 2),
        "peak_gb": round(int(peak_kib) * 1024 / 1e9, 2),
        "printed": [float(number) for number in printed],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=10_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/scale.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = arguments.folder or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        job = folder / "job.yaml"
        if not job.exists():
            make_store(folder, arguments.clips).rename(job)
        names = {"STORE": f"{folder}/store", "JOB": str(job), "CLIPS": arguments.clips}
        runs = {step: [measured(code, names) for _ in range(arguments.repeats)] for step, code in _STEPS.items()}
        objects = [path for path in (folder / "store").rglob("*") if path.is_file()]
        result = {
            "machine": processor(),
            "clips": arguments.clips,
            "objects": len(objects),
            "rows_revised": arguments.clips // 100,
            "table_bytes": sum(path.stat().st_size for path in objects if path.name.startswith(("rows-", "superseded-"))),
            "record_bytes": sum(path.stat().st_size for path in objects if path.name.startswith("0")),
            "checkpoint_bytes": sum(path.stat().st_size for path in objects if path.name.startswith("checkpoint-")),
            "steps": {
                step: {name: float(np.median([run[name] for run in found])) for name in found[0] if name != "printed"}
                | {"runs": found}
                for step, found in runs.items()
            },
        }
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    sys.stdout.write(arguments.out.read_text())


if __name__ == "__main__":
    main()
