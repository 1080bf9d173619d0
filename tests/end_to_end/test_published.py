"""Render, teach, train, ask: the whole chain over every published benchmark's layout, without a download."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Command

from schemas.data import CheckReport
from schemas.evaluation import EvalReport
from schemas.report import ScenesReport
from schemas.train import FitReport
from student_train.evaluation.benchmarks.registry import BENCHMARKS
from teacher_cache.scenes.published import PUBLISHED

NAMES = [name for name in BENCHMARKS if name != "questions"]


def write(path: Path, value: Any) -> Path:
    path.write_text(yaml.safe_dump(value), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("published")


@pytest.fixture
def learnt(folder: Path, teacher_cache_command: Command, student_train_command: Command, _taught_once: None) -> Path:
    """The folder of scenes, with a student that was trained on their conversations by a mixture; made once."""
    run = folder / "run"
    if run.exists():
        return folder
    shape = ("--videos", 1, "--height", 64, "--width", 64, "--frames", 16, "--workers", 1)
    tasks = ("--task", "Ego Motion", "--task", "Spatial Relation")  # of which every benchmark takes one
    done = teacher_cache_command("scenes", folder / "scenes", *shape, *tasks, "--benchmark", "all", "--json")
    counts = ScenesReport.model_validate(done.json).benchmarks
    assert set(counts) == set(PUBLISHED)
    assert all(counts.values())
    scenes = {"conversations": str(folder / "scenes" / "conversations.json")}
    roots = {"video_root": str(folder / "scenes"), "image_root": str(folder / "scenes")}
    mixture = write(folder / "mixture.yaml", {"sets": {"scenes": {**scenes, **roots, "weight": 0.5}}})
    job = {"videos": {"mixture": str(mixture)}, "store": str(folder / "store"), "teacher": {"family": "l4p", "preset": "tiny"}}
    assert teacher_cache_command("run", write(folder / "job.yaml", job)).status == 0
    train = {"store": str(folder / "store"), "output": str(run), "mode": "latent", "decoder": {"hidden": 16}, "steps": 1}
    path = write(folder / "train.yaml", {**train, "batch": 1, "data": {"mixture": str(mixture), "workers": 0}})
    checked = CheckReport.model_validate(student_train_command("data", "check", path, "--json").json)
    assert (checked.faults, checked.sets["scenes"].without_targets, checked.sets["scenes"].videos) == ({}, 0, 1)
    assert checked.sets["scenes"].by_letter == checked.sets["scenes"].turns // 2
    assert FitReport.model_validate(student_train_command("fit", path, "--json").json).clips == 1
    out = folder / "scenes" / "timebench.json"
    videos = str(folder / "scenes" / "videos" / "*.mp4")
    assert student_train_command("data", "time-questions", videos, "--out", out).status == 0
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_a_trained_student_is_asked_every_benchmark_s_layout(
    name: str, learnt: Path, student_train_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A student of one step never ends its answer, and MMSI-Bench lets it go on for 2,048 tokens: minutes on a CPU.
    monkeypatch.setitem(BENCHMARKS, name, replace(BENCHMARKS[name], new_tokens=4))
    root = learnt / "scenes" / "benchmarks" / name if name in PUBLISHED else learnt / "scenes"
    asked = ("--benchmark", name, "--root", root, "--frames", 4, "--pictures", 0, "--out", learnt / name)
    done = student_train_command("eval", learnt / "run" / "student", *asked, "--json")
    assert done.status == 0, done.err
    answers = EvalReport.model_validate(done.json).answers
    assert answers is not None
    assert answers.unevaluated == ()
    assert answers.micro is not None
    assert answers.micro.questions * (2 if name == "sat" else 1) == answers.asked > 0  # SAT's pairs count once
    report = (learnt / name / "answers.md").read_text(encoding="utf-8")
    assert f"| {name} |" in report
