"""An export is the plain model: transformers alone loads it, and it computes what the student did before P4D was added."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Command, tree
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode

from schemas.errors import BadInput, CouldNotRun
from schemas.train import BackboneName, DataConfig, ModelConfig, TrainConfig
from student_train.data.frames import StudentFrames
from student_train.data.samples import Collator, load_samples
from student_train.distill.p4d import P4D
from student_train.distill.student import DistilledStudent
from student_train.distill.targets import TargetReader
from student_train.export import export, require_its_own_weights
from student_train.models.build import build_student, load_student
from student_train.training.fit import fit
from teacher_cache import open_cache


class Operations(TorchDispatchMode):
    """Names of the operations that run under it, with the shapes they give: the graph, as it is executed."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.seen.append(f"{func} {tuple(result.shape) if isinstance(result, torch.Tensor) else ''}")
        return result


ALONE = """
import sys, torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText
folder, given, answer = sys.argv[1:]
model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True).eval()
with torch.inference_mode():
    logits = model(**load_file(given)).logits
assert not {"student_train", "teacher_cache", "schemas"} & {name.partition(".")[0] for name in sys.modules}
count = torch.tensor(sum(p.numel() for p in model.parameters()))
save_file({"logits": logits, "count": count}, answer)
"""


def alone(code: str, *arguments: Path, folder: Path) -> str:
    """Run code in another process, which finds transformers and nothing of ours."""
    environment = os.environ | {"HF_MODULES_CACHE": str(folder / "modules"), "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def run(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("export") / "run"
    rays_alone = {"weights": {"depth": 0, "flow": 0, "motion": 0}}
    settings = {"store": str(tiny_store), "output": str(output), "loss": rays_alone, "steps": 2, "batch": 2}
    fit(TrainConfig.model_validate(settings | {"data": {"video_root": "/"}}))
    return output


def batch_of(store: Path, signals: tuple[str, ...], processor: Any) -> dict[str, Any]:
    cache = open_cache(str(store))
    batch = Collator(TargetReader(cache, signals), StudentFrames(processor.image_size, 2**26), processor)(
        load_samples(cache, DataConfig(video_root=("/",))).samples[:2]
    )
    del batch["clip_ids"]
    return batch


def test_p4d_leaves_no_trace(tiny_store: Path, tmp_path: Path) -> None:
    """Logits, parameters and graph of the student as it is built, with P4D beside it, and written and loaded by itself."""
    student = build_student(ModelConfig()).eval()
    p4d = P4D.for_store(open_cache(str(tiny_store)), student.hidden_size)
    batch = batch_of(tiny_store, p4d.signals, student.processor)
    given = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.inference_mode(), Operations() as before:
        logits = student(**given, visual=batch["visual"]).logits
    count, names = sum(p.numel() for p in student.parameters()), set(student.model.state_dict())

    distilled = DistilledStudent(student, p4d)
    distilled(**batch).total.backward()
    with torch.inference_mode(), Operations() as beside:
        unchanged = distilled.student(**given, visual=batch["visual"]).logits
    torch.testing.assert_close(unchanged, logits, rtol=0, atol=0)
    assert beside.seen == before.seen

    student.save(tmp_path / "plain")
    loaded = load_student(tmp_path / "plain").eval()
    with torch.inference_mode(), Operations() as after:
        loaded(**given, visual=batch["visual"])
    assert after.seen == before.seen
    with safe_open(tmp_path / "plain" / "model.safetensors", framework="pt") as file:
        assert set(file.keys()) == names
    save_file({**given, **batch["visual"]}, tmp_path / "given.safetensors")
    alone(ALONE, tmp_path / "plain", tmp_path / "given.safetensors", tmp_path / "answer.safetensors", folder=tmp_path)
    answer = load_file(tmp_path / "answer.safetensors")
    torch.testing.assert_close(answer["logits"], logits)
    assert answer["count"] == count


def test_the_command_writes_the_trained_student_and_how_to_use_it(
    run: Path, tmp_path: Path, student_train_command: Command
) -> None:
    done = student_train_command("export", run, "--out", tmp_path / "out", "--json")
    assert done.status == 0, done.err
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert done.json["tensors"] == len(tensors)
    assert done.json["parameters"] == sum(tensor.numel() for tensor in tensors.values())
    for name, tensor in load_student(run / "student").model.state_dict().items():
        torch.testing.assert_close(tensors[name], tensor, rtol=0, atol=0)
    code = re.search(r"```python\n(.*?)```", (tmp_path / "out" / "README.md").read_text(), re.DOTALL)
    assert code is not None
    shutil.copytree(tmp_path / "out", tmp_path / "moved")
    assert alone(code[1], folder=tmp_path / "moved").endswith("\n")


def test_an_export_holds_the_student_s_files_and_no_other_anywhere(run: Path, tmp_path: Path) -> None:
    """No file of P4D's, under whatever name or in whatever folder: nor of the run's settings, losses or checkpoints."""
    export(run, tmp_path / "out")
    written, student = tree(tmp_path / "out"), tree(run / "student")
    assert written.keys() == student.keys() | {"README.md"}
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_symlink()]
    others = {name: data for name, data in tree(run).items() if not name.startswith("student/")}
    assert any(name.startswith("p4d/") for name in others)
    assert not set(written.values()) & set(others.values())
    of_p4d = {name for path in (run / "p4d").rglob("*.safetensors") for name in load_file(path)}
    assert of_p4d
    assert not of_p4d & {name for path in (tmp_path / "out").rglob("*.safetensors") for name in load_file(path)}


@pytest.mark.parametrize("backbone", ["4d-rgpt", "qwen2.5-vl", "qwen3-vl"])
def test_what_is_written_is_checked_against_the_student(backbone: BackboneName, tmp_path: Path) -> None:
    student = build_student(ModelConfig(backbone=backbone))
    student.save(tmp_path)
    assert require_its_own_weights(tmp_path, student) == len(student.model.state_dict())
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({**tensors, "p4d.decoder.weight": torch.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(CouldNotRun, match=r"differ from the student: p4d\.decoder\.weight; export again"):
        require_its_own_weights(tmp_path, student)
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "more").mkdir()
    save_file({"p4d.decoder.weight": torch.ones(2)}, tmp_path / "more" / "p4d.safetensors")
    with pytest.raises(CouldNotRun, match=r"differ from the student: p4d\.decoder\.weight; export again"):
        require_its_own_weights(tmp_path, student)


def test_weights_can_be_written_in_half_the_bytes(run: Path, tmp_path: Path) -> None:
    report = export(run, tmp_path / "out", dtype="bfloat16")
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert report.parameters == sum(tensor.numel() for tensor in tensors.values())


def test_a_checkpoint_is_written_as_a_run_that_ended_there_would_be(tiny_store: Path, tmp_path: Path) -> None:
    settings = {"store": str(tiny_store), "mode": "latent", "lora": {"rank": 4, "dropout": 0.1}, "batch": 2}
    settings |= {
        "data": {"video_root": "/"},
        "optim": {"schedule": "constant_with_warmup", "learning_rate": 1e-3, "warmup": 0},
        "checkpoint_every": 1,
    }
    for name, steps in (("longer", 2), ("ended", 1)):
        fit(TrainConfig.model_validate(settings | {"output": str(tmp_path / name), "steps": steps}))
    (tmp_path / "longer" / "result.json").unlink()  # as if it were still at work
    export(tmp_path / "longer", tmp_path / "out", step=1)
    mine, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "ended/student"))
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=0)
    with pytest.raises(BadInput, match="no checkpoint of step 5; it has steps 1"):
        export(tmp_path / "longer", tmp_path / "other", step=5)
    with pytest.raises(BadInput, match="no checkpoint of step 1; it has none"):
        export(tmp_path / "ended", tmp_path / "other", step=1)


def test_a_folder_in_use_is_left_alone(run: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    with pytest.raises(BadInput, match="already exists; give another folder"):
        export(run, tmp_path / "out")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine.txt"]


def test_what_is_no_finished_run_is_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"holds no run: it has no config.json"):
        export(tmp_path, tmp_path / "out")
    unfinished = Path(shutil.copytree(run, tmp_path / "run"))
    (unfinished / "result.json").unlink()
    with pytest.raises(BadInput, match=r"is not finished: it has no result.json"):
        export(unfinished, tmp_path / "out")
    shutil.rmtree(unfinished / "student")
    (unfinished / "result.json").write_text((run / "result.json").read_text())
    with pytest.raises(BadInput, match="holds no student"):
        export(unfinished, tmp_path / "out")
