"""A run's folder in, the plain video language model out: what transformers loads alone, without a trace of P4D."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from transformers.core_model_loading import revert_weight_conversion

from schemas.errors import BadInput, CouldNotRun
from schemas.train import Dtype, ExportReport
from student_train.models.backbone import Backbone
from student_train.models.build import build_student, load_student
from student_train.models.lora import add_adapters, merge_adapters
from student_train.training.checkpoints import Checkpoint, Checkpoints
from student_train.training.run_folder import RunFolder


def export(run: Path, out: Path, *, step: int | None = None, dtype: Dtype | None = None) -> ExportReport:
    """Write the student of a finished run, or of a run's checkpoint, to ``out``, which appears whole or not at all.

    ``step``: of the checkpoint. ``dtype``: of the weights written; as the run has them when absent.
    Raises `BadInput` where ``run`` holds no finished run, or not that checkpoint, or ``out`` something else, and `CouldNotRun`
    if what was written is not the student's own weights and no more.
    """
    folder = RunFolder(run)
    config = folder.config()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"{out} is there already; give another folder to --out, or remove it")
    if step is None:
        fingerprint = folder.result().fingerprint
        student = load_student(folder.student, dtype or config.model.dtype)
    else:
        checkpoint = Checkpoints(folder.checkpoints, config.keep_checkpoints).at(step)
        fingerprint = checkpoint.state.fingerprint
        student = student_of(checkpoint)
        student.to(getattr(torch, dtype or config.model.dtype))
    draft = out.with_name(f"{out.name}.part")
    shutil.rmtree(draft, ignore_errors=True)
    student.save(draft)
    (draft / "README.md").write_text(student.example, encoding="utf-8")
    tensors = require_its_own_weights(draft, student)
    if out.exists():
        out.rmdir()
    draft.rename(out)
    return ExportReport(
        out=str(out),
        backbone=config.model.backbone,
        store=config.store,
        fingerprint=fingerprint,
        tensors=tensors,
        parameters=sum(p.numel() for p in student.model.parameters()),
        bytes=sum(path.stat().st_size for path in out.rglob("*") if path.is_file()),
    )


def student_of(checkpoint: Checkpoint) -> Backbone:
    """The plain student as it was at a checkpoint, its adapters merged. Raises `CouldNotRun` where the weights are not its."""
    config = checkpoint.state.config
    torch.manual_seed(config.seed)  # what a student built from config does not train is as the run's own
    student = build_student(config.model)
    adapters = None if config.lora is None else add_adapters(student.parts()["llm"], config.lora)
    own = {f"student.{name}": parameter for name, parameter in student.named_parameters() if parameter.requires_grad}
    weights = {name: weight for name, weight in checkpoint.tensors().weights.items() if name.startswith("student.")}
    if own.keys() != weights.keys():
        unlike = sorted(own.keys() ^ weights.keys())
        raise CouldNotRun(
            f"the checkpoint {checkpoint.folder} is not of the student that its settings build: {unlike[0]} differs"
        )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(weights[name])
    if adapters is not None:
        merge_adapters(adapters)
    return student


def require_its_own_weights(folder: Path, student: Backbone) -> int:
    """How many tensors the files hold: the model's, by name and shape, and no more; what shares memory is written once."""
    # transformers writes some models under the names that they were published with.
    state = revert_weight_conversion(student.model, student.model.state_dict())
    own = {name: tuple(tensor.shape) for name, tensor in state.items()}
    written: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.rglob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            written |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118  # not a mapping
    stored = {state[name].data_ptr() for name in written if name in state}
    for name in [name for name in own if name not in written and state[name].data_ptr() in stored]:
        del own[name]
    if unlike := {name for name in own.keys() | written.keys() if own.get(name) != written.get(name)}:
        raise CouldNotRun(f"{folder} was not written as the student is: {', '.join(sorted(unlike)[:5])} differ; export again")
    return len(written)
