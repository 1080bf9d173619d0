"""Several processes and one student: the losses of one process, one message where something is wrong, whole files."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
import two_processes
import yaml
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from schemas.train import DataConfig, FitReport, TrainConfig
from student_train.data.samples import load_samples
from student_train.models.build import load_student
from student_train.training.batches import StepBatches
from student_train.training.fit import fit
from student_train.training.ranks import Ranks
from student_train.training.trainer import P4DTrainer
from teacher_cache import open_cache

PARTS = ("loss", "sft", "ld", "ed_camray", "learning_rate", "grad_norm")


def settings(store: Path, output: Path, **changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "store": str(store),
        "output": str(output),
        "data": {"video_root": "/", "workers": 0},
        "decoder": {"hidden": 64},
        "optim": {"learning_rate": 2e-3},
        "loss": {"weights": {"depth": 0, "flow": 0, "motion": 0}},
        "steps": 4,
        "batch": 1,
    }
    if isinstance(changes.get("data"), dict):
        # After the second step too, which some save as well.
        base["validation"] = {"conversations": changes["data"]["conversations"], "student": "last", "pictures": 0, "every": 2}
    return base | changes


def write(value: dict[str, Any], name: str) -> Path:
    path = Path(value["output"]).parent / f"{name}.yaml"
    path.write_text(yaml.safe_dump(value), encoding="utf-8")
    return path


def curve(output: Path) -> list[dict[str, float]]:
    """Each line's losses; a validation's line has its own."""
    lines = map(json.loads, (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [line.get("validation") or {name: line[name] for name in PARTS if name in line} for line in lines]


def assert_equal_curves(mine: Path, theirs: Path) -> None:
    for ours, others in zip(curve(mine), curve(theirs), strict=True):
        assert ours == pytest.approx(others, rel=1e-4)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, videos: Path) -> dict[str, Any]:
    """Two conversations about videos and four of text alone: some steps show a video to one process, some to none."""
    path = tmp_path_factory.mktemp("mixed") / "train.json"
    shown = [{"from": "human", "value": "<video>\nWhat moves?"}, {"from": "gpt", "value": "A ball."}]
    plain = [{"from": "human", "value": "Hello?"}, {"from": "gpt", "value": "Yes."}]
    samples = [{"video": f"scene-{i}.mp4", "conversations": shown} for i in range(2)]
    samples += [{"conversations": plain}] * 4
    path.write_text(json.dumps(samples), encoding="utf-8")
    return {"conversations": str(path), "video_root": str(videos), "workers": 0}


ONE: dict[str, dict[str, Any]] = {
    "plain": {"batch": 4, "checkpoint_every": 2},
    "adapters": {"batch": 4, "checkpoint_every": 2, "lora": {"rank": 4}},
}
"""Fits by one process. The same by two has the same samples in a step."""
TWO: dict[str, tuple[str, dict[str, Any]]] = {
    "ddp": ("plain", {"batch": 1, "accumulate": 2}),
    "ddp-resumed": ("plain", {"batch": 2}),
    "fsdp": (
        "plain",
        {"batch": 1, "accumulate": 2, "fsdp": "full_shard", "gradient_checkpointing": True, "checkpoint_every": 2},
    ),
    "machines-adapters-resumed": (
        "adapters",
        {"batch": 1, "accumulate": 2, "fsdp": "hybrid_shard", "lora": {"rank": 4}},
    ),
}
"""Name → which fit by one process it must equal, and what is special."""


def cut_back(run: Path, output: Path) -> None:
    """A copy of a finished run as if it had been killed after its checkpoint of step 2, with step 3 in its metrics."""
    shutil.copytree(run, output)
    (output / "result.json").unlink()
    shutil.rmtree(output / "student")
    metrics = output / "metrics.jsonl"
    metrics.write_text("".join(metrics.read_text(encoding="utf-8").splitlines(keepends=True)[:5]), encoding="utf-8")
    assert [path.name for path in (output / "checkpoints").iterdir()] == ["step-00000002"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_store: Path, mixed: dict[str, Any]) -> Path:
    """The folder of all these runs."""
    folder = tmp_path_factory.mktemp("runs")
    for name, changes in ONE.items():
        fit(TrainConfig.model_validate(settings(tiny_store, folder / name, data=mixed, **changes)))
    files = []
    for name, (alone, changes) in TWO.items():
        if name.endswith("resumed"):
            cut_back(folder / alone, folder / name)
        files.append(write(settings(tiny_store, folder / name, data=mixed, **changes), name))
    cut_back(folder / "plain", folder / "full-resumed")
    (folder / "full-resumed" / "metrics.jsonl").unlink()
    (folder / "full-resumed" / "metrics.jsonl").symlink_to("/dev/full")
    files.append(write(settings(tiny_store, folder / "full-resumed", data=mixed, batch=2), "full-resumed"))
    explodes = {"optim": {"learning_rate": 1e30, "max_grad_norm": 0}, "steps": 20, "max_bad_steps": 1}
    files.append(write(settings(tiny_store, folder / "nan", data=mixed, **explodes), "nan"))
    done = two_processes.finished(two_processes.start(two_processes.PROGRAM, *files, cwd=folder))
    for status, _, err in done:
        assert status == 0, err
    (folder / "said.json").write_text(json.dumps([out for _, out, _ in done]), encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", TWO)
def test_two_processes_have_the_losses_of_one(runs: Path, name: str) -> None:
    assert_equal_curves(runs / name, runs / TWO[name][0])


def test_between_the_passes_of_a_step_no_gradient_is_whole() -> None:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        trainer = P4DTrainer.__new__(P4DTrainer)
        trainer.model = fully_shard(nn.Linear(4, 4), mesh=init_device_mesh("cpu", (1,)))
        for passes in (1, 2):
            with trainer._defer_fsdp_gradient_reduction():
                trainer.model(torch.ones(1, 4)).sum().backward()
            assert isinstance(trainer.model.bias.grad, DTensor)
            assert trainer.model.bias.grad.to_local().tolist() == [passes] * 4
    finally:
        torch.distributed.destroy_process_group()


def test_one_process_goes_on_from_what_two_with_shards_saved(runs: Path, tiny_store: Path, mixed: dict[str, Any]) -> None:
    cut_back(runs / "fsdp", runs / "alone")
    fit(TrainConfig.model_validate(settings(tiny_store, runs / "alone", batch=4, data=mixed)), resume=True)
    assert_equal_curves(runs / "alone", runs / "plain")


def test_some_steps_show_a_video_to_one_process_alone(tiny_store: Path, mixed: dict[str, Any]) -> None:
    """Else the comparisons above would not say what they are to say."""
    samples = load_samples(open_cache(str(tiny_store)), DataConfig.model_validate(mixed)).samples
    ranks = [StepBatches([1] * len(samples), 1, seed=0, ranks=Ranks(rank, 2)) for rank in range(2)]
    shown = [[samples[i].clip_id is not None for (i,) in pair] for pair in islice(zip(*ranks, strict=True), 8)]
    assert [True, False] in shown
    assert [False, False] in shown


def test_a_full_disk_or_a_loss_that_is_not_a_number_stops_both(runs: Path) -> None:
    first, second = json.loads((runs / "said.json").read_text(encoding="utf-8"))
    full = r"full-resumed: cannot write .*metrics.jsonl: No space left on device.*\n"
    assert re.fullmatch(full + r"nan: the loss of step \d+ is .*learning_rate.*\n", first)
    assert second == first
    assert not (runs / "nan" / "result.json").exists()


@pytest.mark.parametrize("name", TWO)
def test_the_saved_student_is_whole(runs: Path, name: str) -> None:
    mine, theirs = (load_student(runs / run / "student").model.state_dict() for run in (name, TWO[name][0]))
    assert mine.keys() == theirs.keys()
    for parameter, value in mine.items():
        torch.testing.assert_close(value, theirs[parameter], rtol=2e-3, atol=2e-4, msg=parameter)


def test_the_report_is_the_first_processs_and_of_all(runs: Path) -> None:
    reports = {
        name: FitReport.model_validate_json((runs / name / "result.json").read_text(encoding="utf-8")) for name in (*ONE, *TWO)
    }
    for name, (alone, _) in TWO.items():
        assert (reports[name].processes, reports[alone].processes) == (2, 1)
        assert reports[name].parameters == reports[alone].parameters
        assert reports[name].trained_parameters == reports[alone].trained_parameters


def test_torchrun_starts_the_command(tiny_store: Path, tmp_path: Path) -> None:
    path = write(settings(tiny_store, tmp_path / "run", steps=1), "train")
    # Of itself torchrun takes one port, 29500, which another test run on this machine may have.
    torchrun = [
        str(Path(sys.executable).parent / "torchrun"),
        "--standalone",
        "--nproc_per_node",
        "2",
        "--shutdown-timeout",
        "600",
        "-m",
        "student_train.cli",
    ]
    done = subprocess.run(
        [*torchrun, "fit", str(path), "--json"], capture_output=True, text=True, timeout=200, cwd=tmp_path, check=False,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[3]), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert FitReport.model_validate_json(done.stdout).processes == 2
    assert done.stderr.count("step 1: loss") == 1


def test_a_video_that_is_gone_stops_both_with_one_message(tiny_store: Path, tmp_path: Path, videos: Path) -> None:
    """One process finds it missing, in the process that reads ahead for it, and the other does not."""
    here = tmp_path / "videos"
    shutil.copytree(videos, here)
    (here / "scene-2.mp4").write_bytes(b"no video")
    turns = [{"from": "human", "value": "<video>\nWhat?"}, {"from": "gpt", "value": "That."}]
    samples = [{"video": f"scene-{i}.mp4", "conversations": turns} for i in range(4)]
    (tmp_path / "train.json").write_text(json.dumps(samples), encoding="utf-8")
    data = {"conversations": str(tmp_path / "train.json"), "video_root": str(here), "workers": 1}
    stops_with_one_message(write(settings(tiny_store, tmp_path / "run", data=data), "train"), 3, "the student cannot read")


def test_a_misspelt_key_stops_both_with_one_message(tiny_store: Path, tmp_path: Path) -> None:
    stops_with_one_message(write(settings(tiny_store, tmp_path / "run", stpes=3), "train"), 2, "did you mean `steps`")


def stops_with_one_message(path: Path, status: int, message: str) -> None:
    done = two_processes.finished(two_processes.start(two_processes.COMMAND, path, cwd=path.parent))
    assert [each[0] for each in done] == [status, status], done
    first, second = (err for _, _, err in done)
    assert message in first
    assert first.count("error:") == 1
    assert "Traceback" not in first + second
    assert "error" not in second
