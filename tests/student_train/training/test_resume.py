"""A run that is stopped and goes on has the curve of one that nothing stopped, to the last digit."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open

from schemas.errors import BadInput, CouldNotRun
from schemas.log import RowsRetired
from schemas.train import TrainConfig
from student_train.training.checkpoints import Checkpoints, CheckpointState
from student_train.training.fit import fit
from student_train.training.metrics import RATES
from student_train.training.ranks import Ranks
from student_train.training.run_folder import RunFolder
from teacher_cache import open_cache
from teacher_cache.store.store import open_store

STEPS = 12
TIMES = {"seconds", "data_wait_seconds", *RATES}


def config(store: Path, output: Path, **changes: Any) -> TrainConfig:
    base: dict[str, Any] = {
        "store": str(store),
        "output": str(output),
        "data": {"video_root": "/", "workers": 0},
        "mode": "latent",
        "decoder": {"hidden": 64},
        "optim": {"learning_rate": 2e-3},
        "lora": {"rank": 4, "dropout": 0.1},  # draws at random in each step
        "steps": STEPS,
        "batch": 3,
        "log_every": 2,
        "checkpoint_every": 3,  # between two lines of metrics, every other time
    }
    return TrainConfig.model_validate(base | changes)


def curve(output: Path) -> list[dict[str, float]]:
    lines = map(json.loads, (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def checkpoints(output: Path) -> list[str]:
    return sorted(path.name for path in (output / "checkpoints").glob("step-*"))


@pytest.fixture(scope="module")
def undisturbed(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("undisturbed") / "run"
    fit(config(tiny_store, output))
    return output


def stopped_at(run: Path, output: Path) -> Path:
    """A copy of the run as it was before its last steps."""
    shutil.copytree(run, output)
    (output / "result.json").unlink()
    return output


def started(path: Path, *arguments: str) -> subprocess.Popen[str]:
    """The command, in a process of its own that computes as this one does."""
    return subprocess.Popen(
        [str(Path(sys.executable).parent / "student-train"), "fit", str(path), *arguments], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
    )  # fmt: skip


def wait_for(seen: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not seen():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_stopped_then_killed_it_has_the_curve_of_an_undisturbed_run(
    undisturbed: Path, tiny_store: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    settings = config(tiny_store, output)
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(settings.model_dump(mode="json")), encoding="utf-8")

    told = started(path)
    wait_for((output / "checkpoints" / "step-00000003").exists, told)
    told.send_signal(signal.SIGTERM)
    _, err = told.communicate(timeout=60)
    assert told.returncode == 143, err
    assert "--resume continues from there" in err
    last = checkpoints(output)[-1]

    killed = started(path, "--resume")
    wait_for(lambda: checkpoints(output)[-1] > last, killed)
    killed.kill()
    killed.communicate(timeout=60)
    assert not (output / "result.json").exists()

    report = fit(settings, resume=True)
    assert curve(output) == curve(undisturbed)
    assert (report.first.losses, report.last.losses) == tuple(
        json.loads((undisturbed / "result.json").read_text(encoding="utf-8"))[end]["losses"] for end in ("first", "last")
    )
    for file in ("student/model.safetensors", "p4d/perception_decoder.safetensors"):
        assert (output / file).read_bytes() == (undisturbed / file).read_bytes()


def test_the_last_ones_stay_and_hold_what_trains_alone(undisturbed: Path) -> None:
    assert checkpoints(undisturbed) == ["step-00000006", "step-00000009"]
    newest = undisturbed / "checkpoints" / "step-00000009"
    assert {path.name for path in newest.iterdir()} == {"tensors", "metrics.jsonl", "state.json"}
    (tensors,) = (newest / "tensors").iterdir()
    with safe_open(tensors, framework="pt") as file:
        names = {name.removeprefix("weight:") for name in file.keys() if name.startswith("weight:")}  # noqa: SIM118  # not a mapping
    assert not [name for name in names if "heads" in name or "vision_tower" in name or "base_layer" in name]
    assert any("lora_A" in name for name in names)
    assert any(name.startswith("p4d.perception.decoder") for name in names)


def test_a_finished_run_is_not_run_again(undisturbed: Path, tiny_store: Path) -> None:
    before = (undisturbed / "metrics.jsonl").stat().st_mtime_ns
    report = fit(config(tiny_store, undisturbed), resume=True)
    assert report.model_dump(mode="json") == json.loads((undisturbed / "result.json").read_text(encoding="utf-8"))
    assert (undisturbed / "metrics.jsonl").stat().st_mtime_ns == before


def test_a_finished_run_of_other_data_is_refused(
    undisturbed: Path, tiny_store: Path, single_clips_store: Path, tmp_path: Path
) -> None:
    turns = [{"from": "human", "value": "<video>\nWhat?"}, {"from": "gpt", "value": "That."}]
    asked = [{"clip_id": clip_id, "conversations": turns} for clip_id in open_cache(str(tiny_store)).committed_ids()]
    (tmp_path / "asked.json").write_text(json.dumps(asked), encoding="utf-8")
    data = {"video_root": "/", "workers": 0, "conversations": str(tmp_path / "asked.json")}
    for other, said in (
        (config(single_clips_store, undisturbed), "the fingerprint of `store`"),
        (config(tiny_store, undisturbed, data=data), "the digest of the conversations"),
        (config(tiny_store, undisturbed, batch=4), "samples in one optimizer step"),
    ):
        with pytest.raises(BadInput, match=rf"the run in .* belongs to another run; these differ:\n  {said}.*: the run has"):
            fit(other, resume=True)
    store = shutil.copytree(tiny_store, tmp_path / "store")
    free = config(store, undisturbed, batch=1, accumulate=3, log_every=1, keep_checkpoints=9)
    assert fit(free, resume=True) == RunFolder(undisturbed).result()


def test_with_nothing_to_go_on_from_it_begins(tiny_store: Path, tmp_path: Path) -> None:
    assert fit(config(tiny_store, tmp_path / "run", steps=1), resume=True).steps == 1


def test_a_half_written_checkpoint_is_none(undisturbed: Path, tiny_store: Path, tmp_path: Path) -> None:
    """What a kill in the middle of a save leaves is passed over, and gone with the next save."""
    output = stopped_at(undisturbed, tmp_path / "run")
    folder = output / "checkpoints"
    (folder / "step-00000009").rename(folder / ".step-00000009.part")
    (folder / ".step-00000009.part" / "state.json").unlink()
    fit(config(tiny_store, output), resume=True)
    assert curve(output) == curve(undisturbed)
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000006", "step-00000009"]


WRITER = """
import sys, torch
from pathlib import Path
from student_train.training.checkpoints import Checkpoints, CheckpointState
from student_train.training.ranks import Ranks
folder, like = map(Path, sys.argv[1:])
state = CheckpointState.model_validate_json((like / "state.json").read_text())
tensor, checkpoints = torch.zeros(2_000_000), Checkpoints(folder, keep=2)
for step in range(1, 100000):
    tensor.fill_(step)
    now = state.model_copy(update={"step": step})
    checkpoints.write(now, {"weight:a": tensor, "b:a": tensor.clone()}, str(step), ranks=Ranks())
    tensor.fill_(-1)  # as training does while the disk is written
"""


def test_a_kill_in_the_middle_of_a_save_leaves_the_one_before(undisturbed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    like = undisturbed / "checkpoints" / "step-00000009"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(folder), str(like)], text=True)
    wait_for(lambda: Checkpoints(folder, 2).newest() is not None if folder.exists() else False, writer)
    # Wait for the next one to be under way, so that the kill meets it half written.
    wait_for(lambda: any(folder.glob(".step-*.part/tensors/*.safetensors")), writer)
    writer.kill()
    writer.wait()
    found = Checkpoints(folder, 2).newest()
    assert found is not None
    tensors = {key: torch.zeros(shape) for key, shape in found.shapes().items()}
    found.read_into(tensors, is_alone=True)
    assert all(bool(tensors[key].eq(found.state.step).all()) for key in ("weight:a", "b:a"))
    assert found.metrics == str(found.state.step)


def test_what_could_not_be_written_is_known_before_the_next_checkpoint(undisturbed: Path, tmp_path: Path) -> None:
    checkpoints, ranks = Checkpoints(tmp_path / "checkpoints", keep=2), Ranks()
    state = CheckpointState.model_validate_json((undisturbed / "checkpoints/step-00000009/state.json").read_text())
    tensor = torch.ones(100_000)
    checkpoints.write(state, {"weight:a": tensor}, "", ranks=ranks)
    checkpoints.finish(ranks)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # as where no room is left, but for this process alone
    try:
        checkpoints.write(state.model_copy(update={"step": 10}), {"weight:a": tensor}, "", ranks=ranks)
        deadline = time.monotonic() + 60
        while checkpoints.failure() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with pytest.raises(CouldNotRun, match=r"cannot write the checkpoint .*step-00000010: File too large.* Earlier checkpoints"):
        checkpoints.finish(ranks)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000009"]  # nor half of one


def test_other_settings_are_refused_by_name(undisturbed: Path, tiny_store: Path, tmp_path: Path) -> None:
    output = stopped_at(undisturbed, tmp_path / "run")
    other = config(tiny_store, output, optim={"learning_rate": 1e-3}, seed=7, log_every=1)
    with pytest.raises(BadInput, match=r"differ:\n  optim.learning_rate: .* 0.002, now .* 0.001\n  seed: .* 0, now .* 7\n"):
        fit(other, resume=True)
    assert curve(output) == curve(undisturbed)


def test_another_size_of_a_step_is_refused(undisturbed: Path, tiny_store: Path, tmp_path: Path) -> None:
    output = stopped_at(undisturbed, tmp_path / "run")
    with pytest.raises(BadInput, match=r"samples in one optimizer step .*: the checkpoint has 3, here it is 4"):
        fit(config(tiny_store, output, batch=4), resume=True)


@pytest.mark.parametrize(
    ("field", "named"), [("fingerprint", "the fingerprint of `store`"), ("samples", "the digest of the conversations")]
)
def test_other_data_is_refused(undisturbed: Path, tiny_store: Path, tmp_path: Path, field: str, named: str) -> None:
    output = stopped_at(undisturbed, tmp_path / "run")
    state = output / "checkpoints" / "step-00000009" / "state.json"
    state.write_text(json.dumps({**json.loads(state.read_text(encoding="utf-8")), field: "sha256:other"}), encoding="utf-8")
    with pytest.raises(BadInput, match=f"belongs to another run; these differ:\n  {named}: the checkpoint has sha256:other"):
        fit(config(tiny_store, output), resume=True)


def test_a_damaged_checkpoint_is_named(undisturbed: Path, tiny_store: Path, tmp_path: Path) -> None:
    output = stopped_at(undisturbed, tmp_path / "run")
    (weights,) = (output / "checkpoints" / "step-00000009" / "tensors").iterdir()
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CouldNotRun, match=r"step-00000009 cannot be read.*Remove it"):
        fit(config(tiny_store, output), resume=True)


def test_resume_and_overwrite_exclude_each_other(undisturbed: Path, tiny_store: Path) -> None:
    with pytest.raises(BadInput, match="give one of them"):
        fit(config(tiny_store, undisturbed), resume=True, overwrite=True)


def test_a_disk_that_fills_while_a_checkpoint_is_written_is_one_message(tiny_store: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    settings = tmp_path / "train.yaml"
    settings.write_text(config(tiny_store, disk / "run", steps=6, checkpoint_every=1).model_dump_json())  # JSON is YAML
    # A file system of a megabyte, in a mount namespace of the command's own.
    script = f"mount -t tmpfs -o size=1m tmpfs {disk} && {sys.executable} -m student_train.cli fit {settings}; echo status $?; "
    script += f"find {disk}/run/checkpoints -name 'step-*'"
    namespace = ["unshare", "--user", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*namespace, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine gives no mount namespace: a full disk was not tried")
    done = subprocess.run([*namespace, "sh", "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.split() == ["status", "3"]  # and no checkpoint, not even half of one
    assert "cannot write the checkpoint" in done.stderr
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_store_that_has_changed_since_is_read_as_it_was(undisturbed: Path, tiny_store: Path, tmp_path: Path) -> None:
    """It has another place, has gained a clip, and one of those that were learnt is retired."""
    store = shutil.copytree(tiny_store, tmp_path / "store")
    output = stopped_at(undisturbed, tmp_path / "run")
    log = open_store(str(store)).log
    begun = log.state.version
    log.append(lambda _: [RowsRetired(rows=(0,), found={})], "test")
    assert len(open_cache(str(store)).committed_ids()) == 3
    report = fit(config(store, output), resume=True)
    assert report.store_version == begun
    assert RunFolder(output).config().store == str(store)  # where `eval` looks
    assert curve(output) == curve(undisturbed)
    with pytest.raises(BadInput, match=r"version 99 of .* was asked for, and it has 0 to"):
        fit(config(store, tmp_path / "other", store_version=99))
