"""Run a teacher over a folder of videos and commit what it saw to a store, from Python.

    python examples/precompute_folder.py VIDEOS STORE
    python examples/precompute_folder.py VIDEOS OTHER_STORE --family classical --preset px112 --signals flow motion

VIDEOS is a folder of .mp4 files, STORE a local path or a URL such as s3://bucket/name. The default teacher is the small L4P
that comes with this package: no GPU, no weights to fetch. Run it again after a stop, or after adding videos: it does what is
left. Needs `pip install '.[teach]'`, and `'.[classical]'` for the second line. `teacher-cache run JOB.yaml` does the same.
"""

from __future__ import annotations

import argparse
import sys

from schemas.errors import CacheError
from schemas.job import EngineJob, Job, TeacherJob, VideoSource
from schemas.recipe import Layout
from schemas.signal import P4D_SIGNALS
from teacher_cache.jobs.run import run_job


def main() -> int:
    parser = argparse.ArgumentParser(description="Run a teacher over a folder of videos.")
    parser.add_argument("videos", help="a folder of .mp4 files, or a URL of one")
    parser.add_argument("store", help="where to write: a local path or a URL")
    parser.add_argument("--family", default="l4p", help="the kind of teacher: l4p, classical, or one that you installed")
    parser.add_argument("--preset", default="tiny", help="its size")
    parser.add_argument("--signals", nargs="+", default=P4D_SIGNALS, help="what to keep: f4d, depth, flow, motion, camray")
    options = parser.parse_args()

    # A job says what to compute, where to put it, and with what machines. Each field is one of JOB.yaml.
    job = Job(
        videos=VideoSource(glob=f"{options.videos}/*.mp4"),
        store=options.store,
        teacher=TeacherJob(family=options.family, preset=options.preset),
        signals=tuple(options.signals),
        encoding="fine",
        layout=Layout(clips_per_shard=4),
        engine=EngineJob(kind="local", batch=4),
    )
    try:
        report = run_job(job)
    except CacheError as error:  # says what was found, what was needed, and what to do
        print(error, file=sys.stderr)
        return error.exit_status

    print(f"{report.store}: {report.clips.committed} of {report.clips.planned} clips committed in {report.wall_seconds:.1f} s")
    for signal, size in report.bytes.items():
        print(f"  {signal:<8} {size / max(1, report.clips.committed) / 1e6:8.3f} MB a clip")
    for failed in report.failures:
        print(f"  failed: {failed.clip_id!r}: {failed.reason} ({failed.detail!r})")
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
