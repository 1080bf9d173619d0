"""A store with the student's frames: training opens no video, and may show some clips mirrored."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Jobs

from schemas.errors import BadInput, CouldNotRun
from schemas.job import Job
from schemas.train import DataConfig, ModelConfig, TrainConfig
from student_train.data.frames import StudentFrames
from student_train.data.samples import Collator, Sample, load_samples, with_flipped
from student_train.distill.targets import TargetReader
from student_train.models.build import build_student
from student_train.training.fit import fit
from student_train.training.validation import held_out
from teacher_cache import Cache, open_cache
from teacher_cache.jobs.run import run_job

SIZE = 96
"""Of the tiny student's frames."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, videos: Path) -> Path:
    """``store``, of two videos in both views with frames, and ``videos``."""
    made = tmp_path_factory.mktemp("frames")
    (made / "videos").mkdir()
    for name in ("scene-0.mp4", "scene-1.mp4"):
        shutil.copy(videos / name, made / "videos")
    clips = {"views": ["plain", "flipped"], "student_size": SIZE}
    job = Jobs(made, made / "videos").value(made / "store", signals=["f4d", "camray", "frames"], clips=clips)
    assert run_job(Job.model_validate(job)).clips.committed == 4
    return made


@pytest.fixture(scope="module")
def cache(folder: Path) -> Cache:
    return open_cache(str(folder / "store"))


def collator(cache: Cache, *, stored: bool) -> Collator:
    processor = build_student(ModelConfig()).processor
    frames = StudentFrames(processor.image_size, 0)
    return Collator(TargetReader(cache, ["camray"]), frames, processor, reads_stored_frames=stored)


def test_a_batch_is_the_same_from_the_store_and_from_videos(cache: Cache) -> None:
    samples = load_samples(cache, DataConfig(video_root="/")).samples
    assert [sample.flipped for sample in samples] == [False, True, False, True]
    by_video, by_store = (collator(cache, stored=stored)(samples) for stored in (False, True))
    for name in ("frames", "timestamps"):
        torch.testing.assert_close(by_store["visual"][name], by_video["visual"][name], rtol=0, atol=0)
    assert torch.equal(by_store["input_ids"], by_video["input_ids"])


def config(folder: Path, output: Path, **data: Any) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "store": str(folder / "store"), "output": str(output), "steps": 2, "batch": 2, "decoder": {"hidden": 64},
            "loss": {"weights": {"depth": 0, "flow": 0, "motion": 0}}, "data": data,
            "validation": {"share": 0.5, "every": 2, "pictures": 1},
        }
    )  # fmt: skip


def losses(output: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{name: line[name] for name in ("loss", "sft", "ld", "ed_camray") if name in line} for line in lines]


def test_a_fit_opens_no_video_and_learns_the_same(folder: Path, tmp_path: Path) -> None:
    fit(config(folder, tmp_path / "videos", frames="videos", video_root=str(folder / "videos")))
    aside = (folder / "videos").rename(folder / "aside")
    try:
        for given in ({"frames": "store"}, {}):  # and no `video_root`
            output = tmp_path / f"store-{len(given)}"
            fit(config(folder, output, **given))
            assert losses(output) == losses(tmp_path / "videos")
            assert len(list((output / "validation").rglob("*.png"))) == 2  # before and after
        with pytest.raises(CouldNotRun, match=r"cannot read .*scene-"):
            fit(config(folder, tmp_path / "gone", frames="videos", video_root=str(folder / "videos")))
    finally:
        aside.rename(folder / "videos")


def test_frames_that_are_not_there_are_asked_for_in_vain(folder: Path, tmp_path: Path) -> None:
    kinds = {"has no frames": {}, "has frames of 60 pixels": {"clips": {"student_size": 60}}}
    for said, changes in kinds.items():
        signals = ["camray", *["frames"] * bool(changes)]
        store = tmp_path / f"store-{len(signals)}"
        run_job(Job.model_validate(Jobs(tmp_path, folder / "videos").value(store, signals=signals, **changes)))
        wanted = config(folder, tmp_path / "run", frames="store")
        wanted = wanted.model_copy(update={"store": str(store), "loss": wanted.loss.model_copy(update={"alpha": 0})})
        with pytest.raises(
            BadInput, match=rf"`data\.frames` is store, and .* {said}; this student takes 96 .*student_size: 96"
        ):
            fit(wanted)


def about(cache: Cache, folder: Path, *texts: str) -> list[Sample]:
    """A conversation about a video for each text."""
    clip_id = cache.committed_ids()[0]
    lines = [
        {"clip_id": clip_id, "conversations": [{"from": "human", "value": text}, {"from": "gpt", "value": "Yes."}]}
        for text in texts
    ]
    path = folder / "questions.json"
    path.write_text(json.dumps(lines))
    return load_samples(cache, DataConfig(conversations=str(path), video_root="/")).samples


def test_a_share_of_the_conversations_shows_its_clip_flipped(cache: Cache, tmp_path: Path) -> None:
    many = about(cache, tmp_path, *(f"Is this question {number}?" for number in range(200)))
    half = with_flipped(many, cache, 0.5, seed=1)
    assert 70 < sum(sample.flipped for sample in half) < 130
    assert half == with_flipped(many, cache, 0.5, seed=1)
    assert half != with_flipped(many, cache, 0.5, seed=2)
    assert with_flipped(many, cache, 0, seed=1) == many
    assert {sample.clip_id for sample in with_flipped(many, cache, 1, seed=1)} == {f"{many[0].clip_id}~flipped"}


def test_what_speaks_of_a_side_is_not_flipped(cache: Cache, tmp_path: Path) -> None:
    sides = (
        "Which is leftmost?", "Does it go to the Right?", "Does it turn counterclockwise?", "Anti-clockwise?", "Due west?",
        "It heads northeast.", "To the SouthWest.", "A north-east wind.", "Eastbound?", "A Midwestern road?", "NE", "gate_SW",
        "The truck is in CAM_FRONT_LEFT.", "front_right", "frontLeft", "In the bottomright corner.", "A left-hand turn.",
        "Rightward?", "At your 2 o'clock.", "At 10o’clock.", "Counter-clockwise?", "It turns counter_clockwise.", "rear_mirror",
    )  # fmt: skip
    others = (
        "Is the light bright?", "How far is the least of them?", "A brightly lit feast.", "The lowest beast?", "The newest?",
        "By the clock.", "It SWims to the NEt.",
    )  # fmt: skip
    found = with_flipped(about(cache, tmp_path, *sides, *others), cache, 1, seed=0)
    assert [sample.flipped for sample in found] == [False] * len(sides) + [True] * len(others)


def test_flipped_clips_that_are_not_there_are_asked_for_in_vain(tiny_store: Path) -> None:
    plain = open_cache(str(tiny_store))
    with pytest.raises(BadInput, match=r"`data\.flipped_share` is 0\.5, and .* has no flipped clips; teach them with"):
        with_flipped(load_samples(plain, DataConfig(video_root="/")).samples, plain, 0.5, seed=0)


def test_both_views_of_a_video_are_held_out_together(cache: Cache) -> None:
    samples = load_samples(cache, DataConfig(video_root="/")).samples
    videos = dict(zip(cache.clips["clip_id"].to_pylist(), cache.clips["video"].to_pylist(), strict=True))
    taken, held = held_out(samples, videos, 0.5, seed=0)
    assert [sample.flipped for sample in taken] == [sample.flipped for sample in held] == [False, True]
    assert len({str(sample.video) for sample in held}) == 1


def test_a_conversation_about_a_video_is_about_it_as_it_is(cache: Cache, folder: Path, tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "<video>\nWhat is it?"}, {"from": "gpt", "value": "A cup."}]
    (tmp_path / "train.json").write_text(json.dumps([{"video": "scene-1.mp4", "conversations": turns}]))
    (sample,) = load_samples(
        cache, DataConfig(conversations=str(tmp_path / "train.json"), video_root=str(folder / "videos"))
    ).samples
    assert (sample.clip_id, sample.flipped) == ("scene-1.mp4", False)
    assert np.array_equal(*(collator(cache, stored=stored)([sample])["visual"]["frames"] for stored in (True, False)))
