"""A job and a teacher's description in; the recipe, or what is wrong with them, out."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest

from schemas.errors import BadInput
from schemas.job import Job
from schemas.log import LARGEST_OBJECT
from schemas.recipe import TeacherIdentity
from teacher_cache.encodings.base import Compression, StoredArray
from teacher_cache.jobs.discovery import resolve_recipe
from teacher_cache.store.chunk import encode_chunk
from teacher_cache.store.shard import index_length, most_clips, pack_shard
from teacher_cache.teachers.l4p.config import PRESETS
from teacher_cache.teachers.protocol import TeacherDescription


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


@pytest.mark.parametrize("length", [1, 1000, 2**17, 2**17 + 1, 3_000_000])
@pytest.mark.parametrize("codec", ["zstd", "blosc", "none"])
def test_no_shard_is_longer_than_was_allowed_for(codec: Literal["zstd", "blosc", "none"], length: int) -> None:
    """Of noise, which every codec makes longer. Shards of a few clips stand for those of 5000 MiB."""
    array = StoredArray("a", (length,), np.dtype("i1"), ("x",), 0, compression=Compression(codec, level=3))
    values = np.random.default_rng(0).integers(-128, 128, length, dtype=np.int8)
    chunk = encode_chunk(values, array.compression)
    assert len(chunk) > length
    clips = most_clips(array)
    two = len(pack_shard({0: chunk, 1: chunk}, 2)) - index_length(2)
    assert clips * two // 2 + index_length(clips) <= LARGEST_OBJECT
    assert (clips + 1) * (length * 1.001 + 90) > LARGEST_OBJECT  # and no fewer than need be
