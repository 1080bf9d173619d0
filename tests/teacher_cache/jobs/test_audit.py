"""Teaching clips again: silent where nothing changed, loud where the teacher or a video did."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import Command, Jobs
from log_files import rewrite

from schemas.base import sha256_digest
from schemas.errors import BadInput
from schemas.job import Job
from teacher_cache.jobs.audit import reteach
from teacher_cache.jobs.run import run_job
from teacher_cache.store.chunk import encode_chunk
from teacher_cache.store.shard import pack_shard, unpack_shard
from teacher_cache.store.verify import verify


def test_a_good_store_drifts_by_nothing(tiny_store: Path, teacher_cache_command: Command) -> None:
    done = teacher_cache_command("verify", tiny_store, "--reteach", 3, "--videos", "/", "--json")
    assert done.status == 0, done.err
    assert [clip["clip_id"] for clip in done.json["retaught"]] == ["scene-0.mp4", "scene-2.mp4", "scene-3.mp4"]
    for clip in done.json["retaught"]:
        assert set(clip["drift"]) == {"f4d", "depth", "flow", "motion", "camray"}
        # The batch differs from the run's, and with it the order of some sums.
        assert max(clip["drift"].values()) < 1e-3


def test_targets_that_the_teacher_does_not_give_are_found(tiny_store: Path, tmp_path: Path) -> None:
    """Well-formed, wrong values: what another teacher or a bad node would have left."""
    shutil.copytree(tiny_store, tmp_path / "store")
    key = "flow/c/0/0/0/0/0"
    path = tmp_path / "store" / key
    chunks = unpack_shard(path.read_bytes(), 2 * 4)
    chunks |= dict.fromkeys(range(4, 8), encode_chunk(np.full((4, 112, 112, 2), 40, dtype="<i2")))  # the second clip's
    path.write_bytes(pack_shard(chunks, 2 * 4))
    stored = {"digest": sha256_digest(path.read_bytes()), "length": path.stat().st_size}
    rewrite(tmp_path / "store", lambda unit: unit["objects"].update({key: stored}), shard=0)
    assert not verify(str(tmp_path / "store")).findings
    _, findings = reteach(str(tmp_path / "store"), 4, videos=["/"])
    assert [(f.kind, f.clip_ids) for f in findings] == [("drift", ("scene-1.mp4",))]
    assert "flow by" in findings[0].detail
    assert "depth" not in findings[0].detail


def test_videos_that_are_gone_or_changed_are_found(tmp_path: Path, jobs: Jobs, videos: Path) -> None:
    folder = tmp_path / "some"
    folder.mkdir()
    for seed in range(3):
        shutil.copy(videos / f"scene-{seed}.mp4", folder)
    store = tmp_path / "store"
    run_job(Job.model_validate(jobs.value(store, videos={"glob": f"{folder}/*.mp4"}, signals=["depth"])))
    (folder / "scene-0.mp4").unlink()
    shutil.copy(videos / "scene-3.mp4", folder / "scene-1.mp4")
    retaught, findings = reteach(str(store), 9, videos=[str(tmp_path)])
    assert [clip.clip_id for clip in retaught] == ["scene-2.mp4"]
    assert [f.clip_ids[0] for f in findings] == ["scene-0.mp4", "scene-1.mp4"]
    assert "video_missing" in findings[0].detail
    assert "content changed" in findings[1].detail


def test_bad_input_is_named(tiny_store: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="it must be at least 1 clip"):
        reteach(str(tiny_store), 0)
    (tmp_path / "other.ckpt").write_bytes(b"not a checkpoint")
    with pytest.raises(BadInput, match="Give the file with those weights as --weights"):
        reteach(str(tiny_store), 1, weights=str(tmp_path / "other.ckpt"))
    with pytest.raises(BadInput, match=r"scene-0.mp4 is not under the folders .* not given \(--videos\)"):
        reteach(str(tiny_store), 1)
