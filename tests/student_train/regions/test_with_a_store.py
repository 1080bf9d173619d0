"""The commands with a real store of regions: marks, questions rewritten, and what a store without regions says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Command, Jobs, is_one_clear_error
from tiny_grounding import write_models

from schemas.job import Job
from student_train.evaluation.benchmarks.protocol import read
from student_train.evaluation.benchmarks.r4d import R4D
from teacher_cache import open_cache
from teacher_cache.jobs.run import run_job


@pytest.fixture
def questions(regions_store: Path, videos: Path, tmp_path: Path) -> Path:
    """A question about the first object of each clip, by its name, and one about what was not found."""
    cache = open_cache(str(regions_store))
    told = []
    for clip_id in cache.committed_ids():
        seen = next(one for one in cache.objects([clip_id])[0] if 0 in one.frames)
        for phrase in (seen.phrase, "unicorn"):
            about = {"id": f"{clip_id} {phrase}", "task": "Translational", "video": str(videos / clip_id)}
            told.append(about | {"question": f"Does the {phrase} move?", "options": ["yes", "no"], "answer": "no"})
    path = tmp_path / "questions.json"
    path.write_text(json.dumps(told))
    return path


def test_questions_are_asked_by_the_marks_of_a_store(
    regions_store: Path, videos: Path, questions: Path, tmp_path: Path, student_train_command: Command
) -> None:
    out = tmp_path / "asked"
    words = ["data", "regionize", questions, "--store", regions_store, "--out", out, "--video-root", videos]
    done = student_train_command(*words, "--json")
    assert done.status == 0, done.err
    assert (done.json["read"], done.json["kept"], done.json["dropped"]) == (8, 4, {"not_found": 4})
    numbers = {
        one["id"].rpartition(" ")[0].rpartition(" ")[0]: one["objects"][0]["number"]
        for one in json.loads((out / "test.json").read_text())
    }
    cache = open_cache(str(regions_store))
    for item in read(R4D, out).items:
        clip_id, _, phrase = item.id.partition(" ")
        (number,) = (one.number for one in cache.objects([clip_id])[0] if one.phrase == phrase)
        assert item.question == f"Does <obj_{number}> move?"
        assert numbers[clip_id] == number
    again = student_train_command(*words)
    is_one_clear_error(again, 2, "holds questions already")
    again = student_train_command(*words, "--overwrite", "--style", "contour", "--whole", "--least", "0.5")
    assert again.status == 0, again.err
    assert "dropped: not_found" in again.out


def test_a_store_without_regions_and_one_that_is_not_there_are_named(
    tiny_store: Path, questions: Path, tmp_path: Path, student_train_command: Command, teacher_cache_command: Command
) -> None:
    words = ["data", "regionize", questions, "--out", tmp_path / "out", "--store"]
    is_one_clear_error(student_train_command(*words, tiny_store), 2, "regions and objects are needed")
    is_one_clear_error(student_train_command(*words, tmp_path / "none"), 2, "none")
    is_one_clear_error(
        teacher_cache_command("marks", tiny_store, "--out", tmp_path / "out"), 2, "regions and objects are needed"
    )
    assert not (tmp_path / "out").exists()


def test_marks_of_a_store_are_drawn_by_command(
    regions_store: Path, videos: Path, tmp_path: Path, teacher_cache_command: Command
) -> None:
    words = ["marks", regions_store, "--out", tmp_path / "marks"]
    done = teacher_cache_command(*words, "--videos", videos, "--style", "contour", "--square", "--size", "64", "--json")
    assert done.status == 0, done.err
    assert sorted(path.name for path in (tmp_path / "marks").iterdir()) == [f"scene-{n}.mp4.png" for n in range(4)]
    done = teacher_cache_command(*words, "--videos", videos, "--clip", "scene-1.mp4", "--frame", "99")
    assert done.status == 1
    assert "needed one of 0 to 15" in " ".join(done.out.split())
    is_one_clear_error(teacher_cache_command(*words, "--clip", "other"), 2, "no clip 'other'")


def test_a_job_looks_for_what_questions_name(
    questions: Path, videos: Path, tmp_path: Path, student_train_command: Command
) -> None:
    """Grounding DINO and SAM 2 are tiny and random: what they find is chance, and that they are asked for it is held."""
    listed = tmp_path / "videos.jsonl"
    done = student_train_command("data", "phrases", questions, "--out", listed, "--video-root", videos, "--json")
    assert (done.status, done.json["videos"]) == (0, 4), done.err
    options = {"objects": 3, "frames": 4, "box_threshold": 0.0, "text_threshold": 0.0}
    teacher = {
        "family": "grounded-sam",
        "preset": "px112",
        "weights": str(write_models(tmp_path / "models")),
        "options": options,
    }
    job = Jobs(tmp_path, tmp_path).value(
        tmp_path / "store",
        videos={"manifest": str(listed)},
        teacher=teacher,
        signals=["regions", "objects"],
        clips={"frames": 4},
    )
    assert run_job(Job.model_validate(job)).clips.committed == 4
    named = [json.loads(line)["phrases"] for line in listed.read_text().splitlines()]
    cache = open_cache(str(tmp_path / "store"))
    found = [sorted({one.phrase for one in of_clip}) for of_clip in cache.objects(cache.committed_ids())]
    assert sorted(found) == sorted(map(sorted, named))
    words = ["data", "regionize", questions, "--store", tmp_path / "store", "--video-root", videos, "--out", tmp_path / "asked"]
    done = student_train_command(*words, "--json")
    assert done.json["read"] == 8
    assert set(done.json["dropped"]) <= {"not_found", "not_in_frame", "ambiguous"}
