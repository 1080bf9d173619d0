"""A small store in two steps: a first run, and one that grows it; and what the job of the runs under Ray makes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from conftest import Jobs, tree
from log_files import contents
from ray_runs import CLIPS, many
from seeded_weights import far_weights

from schemas.job import Job


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """In memory where the system has such a folder: each run waits for the disk some thirty times."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if memory.is_dir() else None) as made:
        yield Path(made)


@pytest.fixture(scope="module", autouse=True)
def _packages() -> Iterator[None]:
    """The families of teachers for tests are installed, here and in the processes that are started here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[1] / "packages"))
        yield


@pytest.fixture(scope="module")
def two_jobs(folder: Path, truth_masks: Path) -> tuple[Job, Job]:
    """Four videos, of which one is none, and two signals; then one more video and two more signals. Three shards.

    F4D is compressed with zstd; flow is beyond its integers in some of the clips, which are in the exact array. Regions and
    their objects are of the rows' masks and phrases.
    """
    (folder / "broken.mp4").write_bytes(b"not a video")
    named = ("masks", "phrases")
    rows = [json.loads(line) for line in (truth_masks / "list.jsonl").read_text().splitlines()]
    scenes = [{"uri": row["uri"], "id": Path(row["id"]).stem} | {name: row[name] for name in named} for row in rows]
    for scene in scenes:
        scene["masks"] = str(truth_masks / scene["masks"])
    first = [*scenes[:2], scenes[2] | {"uri": str(folder / "broken.mp4"), "id": "broken"}, scenes[2]]
    return job(folder, first, ["f4d", "objects"]), job(folder, [*first, scenes[3]], ["f4d", "flow", "regions", "objects"])


def job(folder: Path, rows: list[dict[str, Any]], signals: list[str]) -> Job:
    """A tiny teacher over a list of ``rows``, two clips a shard, into a store that is yet to be named."""
    manifest = folder / f"{len(rows)}-videos.jsonl"
    manifest.write_text("\n".join(map(json.dumps, rows)))
    weights = folder / "far.ckpt"
    if not weights.exists():
        far_weights(folder, "flow_2d_backward", 2046.42)
    teacher = {"family": "every-signal", "preset": "tiny", "weights": str(weights), "options": {"objects": 12}}
    changes = {"videos": {"manifest": str(manifest)}, "teacher": teacher, "signals": signals}
    return Job.model_validate(Jobs(folder, folder).value("unnamed", **changes))


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, videos: Path) -> dict[str, bytes]:
    """The store of `many`, as the local engine makes it."""
    from schemas.job import Job
    from teacher_cache.jobs.run import run_job

    folder = tmp_path_factory.mktemp("undisturbed")
    report = run_job(Job.model_validate(many(folder, videos, kind="local")))
    assert report.clips.committed == CLIPS
    return contents(tree(folder / "store"))
