"""Ten million videos in a bucket: how long it takes from `run` to the first unit in work, and in how much memory.

    PYTHONPATH=.:tests python tests/benchmarks/planning.py [--videos 10000000] [--out tests/benchmarks/results/planning.json]

A stand-in of S3's API (`tests/listing_server.py`) lists objects that nobody stores, each page after 100 ms, as S3 takes. The
store is on the local disk. An engine that teaches nothing notes when it is given the first unit. Each step runs in a process
of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from machine import processor
from scale import measured

_PAGE_SECONDS = 0.1
_PRELUDE = """
import time
from pathlib import Path
from schemas.job import Job
from teacher_cache.io.config import load_yaml
from teacher_cache.io.request_counts import VIDEO_REQUESTS
from teacher_cache.jobs import discovery, run
from teacher_cache.jobs.plan import plan_report
class Begun(Exception): ...
class First:
    def run(self, spec, items, stop):
        assert items[0].clips[0].content_digest.startswith("etag:")
        global first
        first = time.perf_counter() - ready
        raise Begun
        yield
run.engine = lambda kind: First()
first = 0
def begin():
    try:
        run.run_job(job)
    except Begun:
        pass
job = load_yaml(Path(JOB), Job)
# ready
"""
_END = """
print(first, time.process_time(), VIDEO_REQUESTS.take().list)
"""
_STEPS = {
    "list": "assert discovery.discover(job).videos.num_rows == VIDEOS",
    "plan": "assert plan_report(job).new_clips == VIDEOS",
    "run, to the first unit": "begin()",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=10_000_000)
    parser.add_argument("--steps", nargs="*", default=[*_STEPS])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/planning.json")
    arguments = parser.parse_args()
    command = [sys.executable, "tests/listing_server.py", str(arguments.videos), str(_PAGE_SECONDS)]
    with tempfile.TemporaryDirectory() as made, subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            os.environ |= {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.stdout.readline().strip()}"}
            os.environ |= dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "any") | {
                "AWS_DEFAULT_REGION": "us-east-1"
            }
            job = {"videos": {"glob": "s3://bucket/raw/**/*.mp4"}, "store": f"{made}/store", "teacher": {"preset": "tiny"}}
            (Path(made) / "job.yaml").write_text(yaml.safe_dump(job))
            names: dict[str, Any] = {"JOB": f"{made}/job.yaml", "VIDEOS": arguments.videos}
            steps = {}
            for step in arguments.steps:
                found = measured(_PRELUDE + _STEPS[step] + _END, names)
                first, cpu_seconds, pages = found.pop("printed")
                found |= {"first_unit_seconds": round(first, 1)} if first else {}
                steps[step] = found | {"cpu_seconds": round(cpu_seconds, 1)} | ({"pages": int(pages)} if pages else {})
        finally:
            server.kill()
    result = {"machine": processor(), "videos": arguments.videos, "page_seconds": _PAGE_SECONDS, "steps": steps}
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    sys.stdout.write(arguments.out.read_text())


if __name__ == "__main__":
    main()
