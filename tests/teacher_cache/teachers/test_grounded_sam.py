"""Grounding DINO and SAM 2 as one teacher: transformers' own classes, tiny and random, so what is held is how they are used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Jobs, tree
from log_files import contents
from tiny_grounding import write_models

from schemas.clip import FrameClock
from schemas.errors import BadInput, VideoError
from schemas.job import Job, TeacherJob
from schemas.prompt import Prompt
from teacher_cache import open_cache
from teacher_cache.jobs.run import run_job
from teacher_cache.store.verify import verify
from teacher_cache.teachers.grounded_sam import FAMILY, GroundedSamTeacher, overlap
from teacher_cache.teachers.phrases import Found, numbered, without_duplicates

PHRASES = ("a red cup", "a blue ball?", "unicorn")
OPTIONS = {"objects": 3, "frames": 4, "box_threshold": 0.0, "text_threshold": 0.0}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"))


def job_of(models: Path, **options: Any) -> TeacherJob:
    return TeacherJob(family="grounded-sam", preset="px112", weights=str(models), options=OPTIONS | options)


@pytest.fixture(scope="module")
def teacher(models: Path) -> GroundedSamTeacher:
    loaded = FAMILY.load(job_of(models), "cpu")
    assert isinstance(loaded, GroundedSamTeacher)
    return loaded


def test_a_job_finds_and_follows_what_its_rows_name(models: Path, videos: Path, tmp_path: Path) -> None:
    rows = [
        {"uri": str(videos / f"scene-{n}.mp4"), "id": f"scene-{n}", "phrases": phrases}
        for n, phrases in enumerate([" . ".join(PHRASES), [], [str(n) for n in range(4)]])
    ]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    value = Jobs(tmp_path, tmp_path).value(
        tmp_path / "store",
        videos={"manifest": str(tmp_path / "list.jsonl")},
        teacher=job_of(models).model_dump(),
        signals=["regions", "objects"],
        clips={"frames": 4},
    )
    report = run_job(Job.model_validate(value))
    assert [(one.clip_id, one.reason) for one in report.failures] == [("scene-2", "prompt_unusable")]
    cache = open_cache(str(tmp_path / "store"))
    found, none = cache.objects(["scene-0", "scene-1"])
    assert none == ()
    assert [one.phrase for one in found] == ["a red cup", "a blue ball?", "unicorn"]
    labels = cache.read(["regions"], ["scene-0", "scene-1"])["regions"]
    assert not labels[1].any()
    for one in found:
        assert one.frames == tuple(np.flatnonzero((labels[0] == one.number).any((1, 2))).tolist())
        assert one.score == 0 if one.box is None else one.score > 0
        assert (one.reason is None) == bool(one.frames)
    assert any(one.frames for one in found)
    assert verify(str(tmp_path / "store")).findings == ()
    again = value | {"store": str(tmp_path / "again")}
    run_job(Job.model_validate(again))
    assert contents(tree(tmp_path / "again")) == contents(tree(tmp_path / "store"))


def test_a_clip_s_objects_do_not_depend_on_the_clips_beside_it(teacher: GroundedSamTeacher) -> None:
    torch.manual_seed(1)
    frames = torch.randint(0, 256, (2, 4, 112, 112, 3), dtype=torch.uint8)
    together = teacher.raw(frames, ["regions", "objects"], [PHRASES[:1], PHRASES[1:]])
    alone = teacher.raw(frames[1:], ["regions", "objects"], [PHRASES[1:]])
    assert together["regions"].dtype == torch.uint8
    for name, values in alone.items():
        assert torch.equal(together[name][1:], values)


def test_what_scores_below_the_thresholds_is_a_row_with_a_reason_and_no_mask(models: Path) -> None:
    strict = FAMILY.load(job_of(models, box_threshold=0.9999999), "cpu")
    frames = torch.zeros((1, 4, 112, 112, 3), dtype=torch.uint8)
    raw = strict.raw(frames, ["regions", "objects"], [PHRASES])
    assert not raw["regions"].any()
    assert raw["objects"][0, :, 0].tolist() == [0, 1, 2]
    assert (raw["objects"][0, :, 6] == 1).all()


def test_phrases_are_asked_together_as_far_as_the_model_reads(teacher: GroundedSamTeacher) -> None:
    words = tuple(f"{colour} {thing}" for colour in ("red", "blue", "green") for thing in ("cup", "dog", "ball", "box"))
    groups = list(teacher._asked_together(words))
    assert sum((some for _, some in groups), ()) == words
    assert [first for first, _ in groups] == [0, 10]  # of 32 tokens, two are the text's ends
    for _, some in groups:
        encoded, spans = teacher._text(some)
        tokens = teacher._tokenizer.convert_ids_to_tokens(encoded["input_ids"][0])
        assert [" ".join(tokens[n] for n in span) for span in spans] == list(some)


def test_duplicates_of_a_phrase_go_and_each_phrase_keeps_a_number() -> None:
    box, near, far = (0.0, 0.0, 0.5, 0.5), (0.0, 0.0, 0.5, 0.45), (0.5, 0.5, 1.0, 1.0)
    assert overlap(box, near) == pytest.approx(0.9)
    assert overlap(box, far) == overlap((0, 0, 0, 0), (0, 0, 0, 0)) == 0
    boxes = [(1, 0.6, near), (1, 0.9, box), (0, 0.5, box), (1, 0.4, far), (1, 0.3, far)]
    kept = [one for one, _ in without_duplicates([(Found(*one), one[2]) for one in boxes], overlap, 0.7)]
    assert kept == [Found(1, 0.9, box), Found(0, 0.5, box), Found(1, 0.4, far)]
    nowhere = Found(2, 0.0, None)
    assert numbered(kept, 3, 4) == [Found(0, 0.5, box), Found(1, 0.9, box), Found(1, 0.4, far), nowhere]
    assert numbered(kept, 3, 3) == [Found(0, 0.5, box), Found(1, 0.9, box), nowhere]


def test_the_other_grounding_model_is_taken_by_its_config(tmp_path: Path) -> None:
    job = job_of(write_models(tmp_path, mm=True))
    assert FAMILY.identify(job).identity.config["models"]["grounding"] == "mm-grounding-dino"
    frames = torch.zeros((1, 4, 112, 112, 3), dtype=torch.uint8)
    assert FAMILY.load(job, "cpu").raw(frames, ["objects"], [PHRASES])["objects"].shape == (1, 3, 8)


def test_weights_that_do_not_fit_are_named(models: Path, teacher: GroundedSamTeacher, tmp_path: Path) -> None:
    other = write_models(tmp_path / "other", seed=1)
    identities = [FAMILY.identify(job_of(folder)).identity for folder in (models, other)]
    assert identities[0].weights != identities[1].weights
    assert identities[0].takes == ("phrases",)
    with pytest.raises(BadInput, match=r"`grounding` .*grounding-dino-base"):
        FAMILY.identify(job_of(tmp_path))
    with pytest.raises(BadInput, match=r"`most_overlap`: Input should be less than or equal to 1; it has objects"):
        FAMILY.identify(job_of(models, most_overlap=2))
    with pytest.raises(BadInput, match="needed sam2_video or sam2"):
        FAMILY.identify(job_of(_swapped(other, tmp_path / "swapped")))
    (weights,) = (other / "segmenter").glob("*.safetensors")
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(BadInput, match=r"holds no .safetensors"):
        FAMILY.identify(job_of(other))
    clock = FrameClock(frame_index=(0,), timestamps_seconds=(0.0,))
    with pytest.raises(VideoError, match="4 phrases, and a clip of this store has at most 3"):
        teacher.prepare(Prompt(phrases=tuple("abcd")), clock, flipped=False)


def _swapped(models: Path, folder: Path) -> Path:
    folder.mkdir()
    for name in ("grounding", "segmenter"):
        (folder / name).symlink_to(models / "grounding")
    return folder
