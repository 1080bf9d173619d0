"""SAM 3 as a teacher: transformers' own class, tiny and random, so what is held is how it is used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Jobs
from tiny_grounding import write_sam3
from transformers.models.sam3_video import modeling_sam3_video

from schemas.errors import BadInput
from schemas.job import Job, TeacherJob
from teacher_cache import open_cache
from teacher_cache.encodings.objects import unpacked_objects
from teacher_cache.jobs.run import run_job
from teacher_cache.store.verify import verify
from teacher_cache.teachers.sam3 import FAMILY, Sam3Teacher, _overlap

PHRASES = ("a red cup", "a blue ball?", "unicorn")
OPTIONS = {"objects": 5, "frames": 4, "detection_threshold": 0.0, "new_object_threshold": 0.0}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sam3(tmp_path_factory.mktemp("sam3") / "weights")


def job_of(weights: Path, **options: Any) -> TeacherJob:
    return TeacherJob(family="sam3", preset="px112", weights=str(weights), options=OPTIONS | options)


@pytest.fixture(scope="module")
def teacher(weights: Path) -> Sam3Teacher:
    loaded = FAMILY.load(job_of(weights), "cpu")
    assert isinstance(loaded, Sam3Teacher)
    return loaded


def test_a_job_finds_and_follows_what_its_rows_name(weights: Path, videos: Path, tmp_path: Path) -> None:
    rows = [
        {"uri": str(videos / f"scene-{n}.mp4"), "id": f"scene-{n}", "phrases": phrases}
        for n, phrases in enumerate([list(PHRASES), []])
    ]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    value = Jobs(tmp_path, tmp_path).value(
        tmp_path / "store",
        videos={"manifest": str(tmp_path / "list.jsonl")},
        teacher=job_of(weights).model_dump(),
        signals=["regions", "objects"],
        clips={"frames": 4},
    )
    assert run_job(Job.model_validate(value)).failures == ()
    cache = open_cache(str(tmp_path / "store"))
    found, none = cache.objects(["scene-0", "scene-1"])
    labels = cache.read(["regions"], ["scene-0", "scene-1"])["regions"]
    assert none == ()
    assert not labels[1].any()
    assert {one.phrase for one in found} == set(PHRASES)
    assert [one.number for one in found] == list(range(1, len(found) + 1))
    for one in found:
        assert one.frames == tuple(np.flatnonzero((labels[0] == one.number).any((1, 2))).tolist())
        assert (one.reason is None) == bool(one.frames)
        assert one.score > 0 or not one.frames
    assert any(one.frames for one in found)
    assert verify(str(tmp_path / "store")).findings == ()


def test_a_clip_s_objects_do_not_depend_on_the_clips_beside_it(teacher: Sam3Teacher) -> None:
    torch.manual_seed(1)
    frames = torch.randint(0, 256, (2, 4, 112, 112, 3), dtype=torch.uint8)
    together = teacher.raw(frames, ["regions", "objects"], [PHRASES[:1], PHRASES[1:]])
    alone = teacher.raw(frames[1:], ["regions", "objects"], [PHRASES[1:]])
    assert together["regions"].dtype == torch.uint8
    for name, values in alone.items():
        assert torch.equal(together[name][1:], values)


def test_what_scores_below_the_threshold_is_a_row_with_a_reason_and_no_mask(weights: Path) -> None:
    strict = FAMILY.load(job_of(weights, detection_threshold=0.9999999), "cpu")
    raw = strict.raw(torch.zeros((1, 4, 112, 112, 3), dtype=torch.uint8), ["regions", "objects"], [PHRASES])
    assert not raw["regions"].any()
    objects = unpacked_objects(raw["objects"][0].numpy(), PHRASES)
    assert [(one.phrase, one.box, one.reason) for one in objects] == [(phrase, None, "no_box") for phrase in PHRASES]


def test_masks_that_show_the_same_pixels_are_one_object(weights: Path) -> None:
    """Of one phrase, in the frame in which the later is found; random finds overlap there."""
    frames = torch.zeros((1, 4, 112, 112, 3), dtype=torch.uint8)
    counts = []
    for most in (1.0, 1e-9):
        raw = FAMILY.load(job_of(weights, most_overlap=most), "cpu").raw(frames, ["objects"], [PHRASES[:1]])
        counts.append(len(unpacked_objects(raw["objects"][0].numpy(), PHRASES)))
    assert counts[0] > counts[1] >= 1
    shown, half = torch.ones(2, 2), torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    assert _overlap({0: shown, 1: half}, {1: shown, 2: -shown}) == 0.5
    assert _overlap({0: shown}, {1: shown}) == 0


def test_no_kernels_are_fetched(teacher: Sam3Teacher, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the package that fetches them were installed."""
    asked: list[str] = []
    monkeypatch.setattr(modeling_sam3_video, "is_kernels_available", lambda: True)
    monkeypatch.setattr(modeling_sam3_video, "get_kernel", lambda name, **_: asked.append(name), raising=False)
    teacher.raw(torch.zeros((1, 4, 112, 112, 3), dtype=torch.uint8), ["objects"], [PHRASES])
    assert not asked


def test_weights_that_do_not_fit_are_named(weights: Path, tmp_path: Path) -> None:
    first, other = (FAMILY.identify(job_of(one)).identity for one in (weights, write_sam3(tmp_path / "other", seed=1)))
    assert first.weights != other.weights
    assert first.takes == ("phrases",)
    assert first.config["models"] == {"sam3": "sam3_video"}
    with pytest.raises(BadInput, match=r"there is no .*; `teacher\.weights` needs a local folder of SAM 3's video model"):
        FAMILY.identify(job_of(tmp_path))
    with pytest.raises(BadInput, match="`new_object_threshold`: Input should be less than 1; it has objects"):
        FAMILY.identify(job_of(weights, new_object_threshold=2))
