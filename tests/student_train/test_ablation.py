"""What an ablation compares and how it counts; and one, as small as can be, from scenes to its table."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from conftest import Command

from schemas.ablation import AblationConfig, AblationReport, Arm, ArmRun
from schemas.errors import BadInput
from student_train.ablation import (
    ALL,
    arms,
    baseline,
    run_ablation,
    run_arm,
    spread,
    summaries,
    train_config,
)


def test_all_arms_learn_from_the_first_store_and_the_last_one_from_the_others() -> None:
    names = [(arm.name, arm.encoding) for arm in arms(AblationConfig(encodings=("fine", "compact")))]
    assert names == [
        *((name, "fine") for name in ("SFT", "SFT+TPE", "LD", "LD+TPE", "LD+ED", "LD+ED+TPE")),
        ("LD+ED+TPE", "compact"),
    ]


def test_arms_differ_in_what_they_are_about_and_in_nothing_else(tmp_path: Path) -> None:
    config = AblationConfig()
    trained = {arm.name: train_config(config, tmp_path, arm, 3, tmp_path / "run") for arm in arms(config)}
    alike = {c.model_copy(update={"mode": "sft", "model": trained["SFT"].model}).model_dump_json() for c in trained.values()}
    assert len(alike) == 1
    assert {name: (c.mode, c.model.timestamps) for name, c in trained.items() if "TPE" in name} == {
        "SFT+TPE": ("sft", "before_projector"),
        "LD+TPE": ("latent", "before_projector"),
        "LD+ED+TPE": ("heads", "before_projector"),
    }
    assert trained["LD"].model.timestamps == "none"


def question(task: str, answer: str, *options: str) -> dict[str, object]:
    return {"task": task, "answer": answer, "options": list(options)}


def test_a_guess_gives_each_kinds_most_frequent_letter() -> None:
    taught = [
        *[question("A", "x", "x", "y")] * 3,
        question("A", "y", "x", "y"),
        *[question("A", "v", "u", "v")] * 2,  # the same task with other options is another kind
        question("B", "<obj_2>", "<obj_1>", "<obj_2>"),
    ]
    asked = [
        question("A", "x", "x", "y"),
        question("A", "y", "x", "y"),
        question("A", "v", "u", "v"),
        question("B", "<obj_4>", "<obj_3>", "<obj_4>"),  # whichever the objects, the letter counts
        question("C", "new", "new", "old"),
    ]
    assert baseline(taught, asked) == {"A": pytest.approx(2 / 3), "B": 1.0, "C": 0.0, ALL: pytest.approx(3 / 5)}


def test_spreads_are_over_seeds() -> None:
    arm = Arm(name="LD", mode="latent", has_times=False, encoding="fine")
    runs = [
        ArmRun(arm=arm, seed=seed, accuracy={ALL: value}, maps={"flow_epe": value}, sft_loss=1.0, seconds=2.0)
        for seed, value in enumerate((0.2, 0.3, 0.4))
    ]
    (found,) = summaries(runs)
    assert found.accuracy[ALL] == spread([0.2, 0.3, 0.4])
    assert (found.accuracy[ALL].mean, found.accuracy[ALL].deviation) == (pytest.approx(0.3), pytest.approx(0.1))
    assert spread([0.2]).deviation is None


def test_an_arm_is_called_by_its_store_too_where_there_are_several() -> None:
    published = Path(__file__).parents[1] / "benchmarks" / "results" / "ablation.json"
    report = AblationReport.model_validate_json(published.read_text(encoding="utf-8"))
    arm = Arm(name="LD", mode="latent", has_times=False, encoding="compact")
    for encodings, name in ((("compact",), "LD"), (("fine", "compact"), "LD, compact")):
        config = report.config.model_copy(update={"encodings": encodings})
        assert report.model_copy(update={"config": config}).label(arm) == name


def test_from_scenes_to_a_table(tmp_path: Path, student_train_command: Command) -> None:
    out, settings = tmp_path / "out", tmp_path / "small.yaml"
    settings.write_text(
        "{videos: 2, held_out: 1, steps: 1, batch: 1, arms: [SFT, LD+ED+TPE], "
        "tasks: [Spatial Relation, Ego Motion], precision: fp32}"
    )
    run = ("ablation", "--out", out, "--seeds", "1", "--settings", settings, "--processes", "1")
    done = student_train_command(*run)
    assert done.status == 0, done.err
    assert "LD+ED" in done.out
    report = AblationReport.model_validate_json((out / "ablation.json").read_text())
    assert [summary.arm.name for summary in report.arms] == ["SFT", "LD+ED+TPE"]
    assert (out / "ablation.png").read_bytes().startswith(b"\x89PNG")
    asked = json.loads((out / "held-out" / "questions.json").read_text())
    assert {question["task"] for question in asked} == {"Spatial Relation", "Ego Motion"}
    assert report.questions[ALL] == len(asked) == sum(count for task, count in report.questions.items() if task != ALL)
    for summary in report.arms:
        assert set(summary.accuracy) == set(report.questions)
        assert bool(summary.maps) == (summary.arm.mode != "sft")
    assert {"depth_abs_rel", "flow_epe", "motion_iou", "camray_angle"} <= set(report.map_guess)

    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    config, first = report.config, report.runs[0]
    assert run_arm(config, out, first.arm, first.seed) == first  # what is done is not done again
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")} == before
    with pytest.raises(BadInput, match="was made with videos 2, not 3"):
        run_ablation(config.model_copy(update={"videos": 3}), out)
    unknown = student_train_command("ablation", "--out", out, "--encoding", "finest")
    assert (unknown.status, "no encoding profile 'finest'" in unknown.err) == (2, True)


def test_a_misspelt_kind_of_question_is_named_before_a_folder_is_made(tmp_path: Path, student_train_command: Command) -> None:
    (tmp_path / "settings.yaml").write_text("tasks: [Scene Dept]")
    done = student_train_command("ablation", "--out", tmp_path / "out", "--settings", tmp_path / "settings.yaml")
    assert (done.status, done.out) == (2, "")
    assert "tasks.0: input should be 'Translational'" in done.err
    assert "(found 'Scene Dept')" in done.err
    assert not (tmp_path / "out").exists()


_TWO_WORKERS = """
import sys, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from student_train.ablation import _begin_worker

if __name__ == "__main__":
    with ProcessPoolExecutor(2, get_context("spawn"), initializer=_begin_worker, initargs=(Path(sys.argv[1]), 1)) as pool:
        pool.submit(time.sleep, 600), pool.submit(time.sleep, 600)
        time.sleep(600)
"""


def test_workers_end_with_the_command(tmp_path: Path) -> None:
    """Even where it is killed: else they would train on beside those of the next command, in the same folders."""
    script = tmp_path / "two_workers.py"
    script.write_text(_TWO_WORKERS)
    with subprocess.Popen([sys.executable, str(script), str(tmp_path)]) as command:
        workers = within(60, lambda: [int(path.stem.removeprefix("log-")) for path in tmp_path.glob("log-*.txt")], count=2)
        command.kill()
    within(20, lambda: [pid for pid in workers if is_alive(pid)], count=0)


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def within(seconds: float, look: Callable[[], list[int]], *, count: int) -> list[int]:
    """What ``look`` finds, once there are as many as that."""
    end = time.monotonic() + seconds
    while len(found := look()) != count:
        assert time.monotonic() < end, found
        time.sleep(0.1)
    return found
