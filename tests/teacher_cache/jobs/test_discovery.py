"""A job and a teacher's description in; the recipe, or what is wrong with them, out."""

from __future__ import annotations

from typing import Literal

import fsspec
import numpy as np
import pytest
from conftest import Jobs

from schemas.errors import BadInput
from schemas.job import Job
from schemas.log import LARGEST_OBJECT
from schemas.recipe import TeacherIdentity
from teacher_cache import open_cache
from teacher_cache.encodings.base import Compression, StoredArray
from teacher_cache.jobs.discovery import resolve_recipe
from teacher_cache.jobs.plan import plan_report
from teacher_cache.jobs.run import run_job
from teacher_cache.store.chunk import encode_chunks
from teacher_cache.store.shard import most_clips, pack_clips, shard_index_length
from teacher_cache.teachers.l4p.config import PRESETS
from teacher_cache.teachers.protocol import TeacherDescription


def test_videos_on_s3_are_known_by_how_they_are_listed(s3: str, jobs: Jobs) -> None:
    """One that is replaced under its name is new content; another kind of identity, or of list, is not; a copy is told."""
    fs = fsspec.filesystem("s3")
    for name, scene in {"a.mp4": 0, "b.mp4": 1, "copy.mp4": 1}.items():
        fs.put_file(str(jobs.videos / f"scene-{scene}.mp4"), f"bucket/raw/{name}")
    names = ["a.mp4", "b.mp4", "copy.mp4"]
    fs.pipe("bucket/list.jsonl", "".join(f'{{"uri": "raw/{name}", "id": "{name}"}}\n' for name in names).encode())

    def asked(**videos: object) -> Job:
        return Job.model_validate(jobs.value(f"{s3}/store", videos=videos, signals=["camray"]))

    glob, manifest = {"glob": f"{s3}/raw/*.mp4"}, {"manifest": f"{s3}/list.jsonl"}
    report = run_job(asked(**glob))
    assert report.clips.committed == 3
    (note,) = report.notes
    assert note.startswith("1 clips have the content of others, and each is taught: 'copy.mp4' like 'b.mp4'")
    clips = open_cache(f"{s3}/store").clips
    listed = {name: fs.info(f"bucket/raw/{name}") for name in names}
    assert dict(zip(clips["clip_id"].to_pylist(), clips["content_digest"].to_pylist(), strict=True)) == {
        name: f"etag:{about['size']}:{about['ETag'].strip(chr(34))}" for name, about in listed.items()
    }
    for same in (manifest, glob | {"identity": "sampled"}):
        assert plan_report(asked(**same)).new_clips == 0
    fs.put_file(str(jobs.videos / "scene-2.mp4"), "bucket/raw/a.mp4")
    for changed in (glob, manifest | {"identity": "sampled"}):
        assert plan_report(asked(**changed)).new_clips == 1


def giant() -> TeacherDescription:
    """The published size, of which nothing is loaded."""
    identity = TeacherIdentity(family="l4p", config={}, weights="none", dtype="bfloat16")
    return TeacherDescription(identity=identity, image_size=224, frames=16, shapes=PRESETS["giant"].shapes)


def job(clips_per_shard: int, **changes: object) -> Job:
    base = {"videos": {"glob": "*"}, "store": "s", "teacher": {}, "layout": {"clips_per_shard": clips_per_shard}}
    return Job.model_validate(base | changes)


@pytest.mark.parametrize("encoding", ["fine", "compact", "exact"])
def test_a_shard_that_might_not_fit_one_request_is_refused_as_the_job_is_read(encoding: str) -> None:
    """Of F4D a clip can take 46 MB whatever its encoding: it may be kept exactly. A shard that compresses is no promise."""
    assert resolve_recipe(job(113, encoding=encoding), giant()).layout.clips_per_shard == 113
    name = "f4d" if encoding == "exact" else "f4d_exact"
    told = f"clips_per_shard is 114; a clip of {name} can take 46.1 MB, so a shard could have 4.9 GiB, .* Set it to 113 or less"
    with pytest.raises(BadInput, match=told):
        resolve_recipe(job(114, encoding=encoding), giant())


def test_only_signals_that_the_job_writes_count() -> None:
    assert resolve_recipe(job(417, signals=["depth", "flow"]), giant())
    assert resolve_recipe(job(4096, signals=["camray"]), giant())
    with pytest.raises(
        BadInput, match=r"a clip of flow_exact can take 6.4 MB, so a shard could have 24.5 GiB, .* Set it to 816 or"
    ):
        resolve_recipe(job(4096, signals=["depth", "flow"]), giant())


@pytest.mark.parametrize("chunks", [1, 4])
@pytest.mark.parametrize("length", [4, 1000, 2**17, 2**17 + 4, 3_000_000])
@pytest.mark.parametrize("codec", ["zstd", "blosc", "none"])
def test_no_shard_is_longer_than_was_allowed_for(codec: Literal["zstd", "blosc", "none"], length: int, chunks: int) -> None:
    """Of noise, which every codec makes longer. Shards of a few clips stand for those of 5000 MiB."""
    compression, together = Compression(codec, level=3), length // chunks
    array = StoredArray("a", (length,), np.dtype("i1"), ("x",), 0, compression=compression, together=together)
    values = np.random.default_rng(0).integers(-128, 128, length, dtype=np.int8)
    clip = encode_chunks(values, array)
    assert sum(map(len, clip)) > length
    clips = most_clips(array)
    two = len(pack_clips({0: clip, 1: clip}, array, 2)) - shard_index_length(array, 2)
    assert clips * two // 2 + shard_index_length(array, clips) <= LARGEST_OBJECT
    assert (clips + 1) * (length * 1.001 + 90 * chunks) > LARGEST_OBJECT  # and no fewer than need be
