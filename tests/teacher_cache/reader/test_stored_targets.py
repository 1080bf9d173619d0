"""Targets as they are stored: what a trainer moves to its device, and clips that an encoding could not hold."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray
from conftest import Jobs
from decoding import decode_clip
from seeded_weights import far_weights
from torch.utils.data import DataLoader

from schemas.errors import UnknownClip
from schemas.job import Job, TeacherJob
from schemas.signal import P4D_SIGNALS
from schemas.view import View
from teacher_cache import DiskTier, join_caches, open_cache
from teacher_cache.jobs.run import run_job
from teacher_cache.reader.cache import Cache
from teacher_cache.store.verify import verify
from teacher_cache.teachers.registry import family

NAMES = [*P4D_SIGNALS, "timestamps"]


def test_stored_targets_decode_on_a_device_to_what_is_read(tiny_store: Path) -> None:
    cache = open_cache(str(tiny_store))
    ids = ["scene-2.mp4", "scene-0.mp4"]
    stored, read = cache.read_stored(NAMES, ids), cache.read(NAMES, ids)
    dtypes = {name: clips.arrays[name].dtype for name in NAMES for clips in stored.parts[name]}
    assert dtypes == {
        "f4d": np.int8,
        "depth": np.int16,
        "flow": np.int16,
        "motion": np.int8,
        "camray": "f4",
        "timestamps": "f8",
    }
    assert (stored.clip_ids, stored.names, len(stored)) == (tuple(ids), tuple(NAMES), 2)
    assert stored.nbytes < sum(values.nbytes for values in read.values()) * 0.55
    decoded = pickle.loads(pickle.dumps(stored)).decode("cuda" if torch.cuda.is_available() else "cpu")
    assert list(decoded) == NAMES
    for name, tensor in decoded.items():
        assert tensor.dtype == (torch.float64 if name == "timestamps" else torch.float32)
        torch.testing.assert_close(tensor.cpu(), torch.from_numpy(read[name]), rtol=1e-6, atol=0)
    nothing = cache.read_stored(NAMES, []).decode()
    assert {name: tensor.shape[1:] for name, tensor in nothing.items()} == {name: t.shape[1:] for name, t in decoded.items()}


def test_no_signals_are_no_answer_of_clips_that_are_there(tiny_store: Path) -> None:
    cache = open_cache(str(tiny_store))
    assert cache.read([], cache.committed_ids()) == cache.read([], []) == {}
    assert cache.read_stored([], cache.committed_ids()).decode() == {}
    assert cache.dataset([])[0] == {"clip_id": "scene-0.mp4"}
    with pytest.raises(UnknownClip):
        cache.read([], ["scene-9.mp4"])


def with_far_flow(folder: Path, pixels: float) -> TeacherJob:
    """A teacher whose flow is some pixels either side of ``pixels``; 16 bits hold 2048 at 1/16 pixel."""
    return with_far("flow_2d_backward", folder, pixels)


def with_far(head: str, folder: Path, by: float) -> TeacherJob:
    """A teacher one of whose heads gives so much more."""
    return TeacherJob(preset="tiny", weights=str(far_weights(folder, head, by)))


@pytest.fixture
def wild(tmp_path: Path) -> TeacherJob:
    """A teacher whose flow is beyond what 16 bits hold at 1/16 pixel."""
    return with_far_flow(tmp_path, 5000)


def test_a_clip_beyond_its_encoding_is_kept_and_read_exactly(
    jobs: Jobs, videos: Path, wild: TeacherJob, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    job = jobs.value(store, teacher=wild.model_dump(), signals=["depth", "flow"], videos={"glob": f"{videos}/scene-[01].mp4"})
    job["engine"]["batch"] = 1
    assert run_job(Job.model_validate(job)).clips.committed == 2
    assert not verify(str(store)).findings

    cache = open_cache(str(store))
    read = cache.read(["flow", "depth"], ["scene-1.mp4"])
    frames = torch.from_numpy(decode_clip(str(videos / "scene-1.mp4"), cache.recipe.clips).frames)[None]
    raw = family("l4p").load(wild, "cpu").raw(frames, ["flow"])
    np.testing.assert_array_equal(read["flow"], raw["flow"].numpy())
    stored = cache.read_stored(["flow", "depth"], ["scene-1.mp4"])
    assert [list(clips.arrays) for name in ("flow", "depth") for clips in stored.parts[name]] == [["flow_exact"], ["depth"]]
    torch.testing.assert_close(stored.decode()["flow"], raw["flow"], rtol=0, atol=0)

    shown = xarray.open_zarr(str(store), consolidated=False)
    assert np.isnan(shown["flow"].values).all()  # never a value that is not so
    np.testing.assert_array_equal(shown["flow_exact"].values[1], read["flow"][0])

    (store / "flow_exact/c/0/0/0/0/0").unlink()
    assert [(f.kind, f.key.split("/")[0], f.clip_ids) for f in verify(str(store)).findings] == [
        ("missing", "flow_exact", ("scene-0.mp4", "scene-1.mp4"))
    ]


@pytest.mark.parametrize("encoding", ["fine", "compact", "exact"])
@pytest.mark.parametrize("by", [200, -200])
def test_a_clip_whose_depth_would_read_as_infinity_or_zero_fails(
    jobs: Jobs, videos: Path, tmp_path: Path, encoding: str, by: float
) -> None:
    """Its logarithm fits what is stored in each of them, and no reader could give it."""
    teacher = with_far("depth", tmp_path, by).model_dump()
    changes = {"signals": ["depth"], "videos": {"glob": f"{videos}/scene-0.mp4"}, "encoding": encoding}
    store = str(tmp_path / "store")
    report = run_job(Job.model_validate(jobs.value(store, teacher=teacher, **changes)))
    assert (report.clips.committed, report.clips.failed) == (0, 1)
    (row,) = open_cache(store).clips.to_pylist()
    assert row["reason"] == "encoding_bound"
    name = {"fine": "log-step-1/512", "compact": "log-step-1/64", "exact": "float32-raw"}[encoding]
    told = r"depth: distance of its natural log from what float32 can give back, -87.34 to 88.72, 1\d\d\.?\d* exceeds 0"
    assert re.fullmatch(f"{told} under {name}", row["detail"])
    assert not verify(store).findings


@dataclass(frozen=True)
class Mixed:
    """A store whose flow holds some clips in steps and some exactly, and what its teacher gave."""

    cache: Cache
    flow: dict[str, np.ndarray]
    """By clip, as the teacher gave it."""
    frame_index: dict[str, tuple[int, ...]]


LOSSY, EXACT = ("scene-0.mp4", "scene-2.mp4"), ("scene-1.mp4", "scene-3.mp4")
ORDERS = {
    "mixed": ["scene-2.mp4", "scene-3.mp4", "scene-0.mp4", "scene-1.mp4"],
    "with repeats": ["scene-1.mp4", "scene-0.mp4", "scene-1.mp4", "scene-3.mp4", "scene-0.mp4", "scene-2.mp4"],
    "exact before": ["scene-3.mp4", "scene-1.mp4", "scene-2.mp4"],
    "one of each": ["scene-1.mp4", "scene-2.mp4"],
}


@pytest.fixture(scope="module")
def mixed(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Mixed:
    folder = tmp_path_factory.mktemp("mixed")
    teacher = with_far_flow(folder, 2046.42)  # of two clips, some pixels are beyond 2048 with that
    job = Jobs(folder, videos).value(folder / "store", teacher=teacher.model_dump(), signals=["depth", "flow"])
    assert run_job(Job.model_validate(job)).clips.committed == 4
    cache = open_cache(str(folder / "store"))
    clips = {name: decode_clip(str(videos / name), cache.recipe.clips) for name in (*LOSSY, *EXACT)}
    frames = torch.from_numpy(np.stack([clip.frames for clip in clips.values()]))
    flow = family("l4p").load(teacher, "cpu").raw(frames, ["flow"])["flow"].numpy()
    return Mixed(cache, dict(zip(clips, flow, strict=True)), {name: clip.clock.frame_index for name, clip in clips.items()})


def is_in_order(mixed: Mixed, ids: Sequence[str], found: Mapping[str, Any]) -> None:
    """Each clip's own values, in the order of ``ids``."""
    assert {len(values) for values in found.values()} == {len(ids)}
    for place, name in enumerate(ids):
        np.testing.assert_allclose(found["flow"][place], mixed.flow[name], rtol=0, atol=1 / 32 + 1e-3)
        assert tuple(found["frame_index"][place].tolist()) == mixed.frame_index[name]
        alone = mixed.cache.read(["depth"], [name])["depth"][0]
        np.testing.assert_allclose(found["depth"][place], alone, rtol=1e-6)


@pytest.mark.parametrize("order", ORDERS)
def test_lossy_and_exact_clips_of_one_request_keep_their_places(mixed: Mixed, order: str) -> None:
    ids, names = ORDERS[order], ["flow", "depth", "frame_index"]
    stored = mixed.cache.read_stored(names, ids)
    assert [list(clips.arrays) for clips in stored.parts["flow"]] == [["flow"], ["flow_exact"]]
    assert [[ids[index] for index in clips.indices] for clips in stored.parts["flow"]] == [
        [name for name in ids if name in kept] for kept in (LOSSY, EXACT)
    ]
    is_in_order(mixed, ids, mixed.cache.read(names, ids))
    is_in_order(mixed, ids, stored.decode())


def test_lossy_and_exact_clips_keep_their_places_in_a_view_a_join_and_a_loader(mixed: Mixed, tmp_path: Path) -> None:
    ids, names = ORDERS["with repeats"], ["flow", "depth", "frame_index"]
    joined = join_caches({"far": mixed.cache})
    is_in_order(mixed, ids, joined.read(names, ids))
    tiered = open_cache(mixed.cache.url, DiskTier(tmp_path / "tier", 2**30))
    for _ in range(2):  # fetched, and then from the disk
        is_in_order(mixed, ids, tiered.read(names, ids))

    mirrored = mixed.cache.read(["flow"], ids, view=View(flip=True))["flow"]
    for place, name in enumerate(ids):
        np.testing.assert_allclose(mirrored[place], mixed.flow[name][:, :, ::-1] * [-1, 1], rtol=0, atol=1 / 32 + 1e-3)

    whole = mixed.cache.dataset(names, seed=None, clip_ids=ids)
    (batch,) = DataLoader(whole, batch_size=len(ids))
    assert batch["clip_id"] == ids
    is_in_order(mixed, ids, batch)
    (stored,) = DataLoader(mixed.cache.stored_dataset(names), sampler=[ids], batch_size=None)
    assert list(stored.clip_ids) == ids
    is_in_order(mixed, ids, stored.decode())
