"""A run's folder goes in; the plain video language model comes out, which transformers loads alone, without P4D."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from transformers.core_model_loading import revert_weight_conversion

from schemas.errors import BadInput, CouldNotRun
from schemas.train import Dtype, ExportReport
from student_train.models.backbone import Backbone
from student_train.models.build import load_student
from student_train.training.checkpoints import Checkpoints
from student_train.training.run_folder import RunFolder
from student_train.training.students import student_of


def export(run: Path, out: Path, *, step: int | None = None, dtype: Dtype | None = None) -> ExportReport:
    """Write the student of a finished run, or of a checkpoint, to ``out``, which appears complete or not at all.

    ``step``: step of the checkpoint; None for the finished run. ``dtype``: of the written weights; the run's when None.
    Raises `BadInput` if ``run`` holds no finished run or not that checkpoint, or if ``out`` is not empty, and `CouldNotRun` if
    the written files do not hold exactly the student's own weights.
    """
    folder = RunFolder(run)
    config = folder.config()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"{out} already exists; give another folder to --out, or remove it")
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


def require_its_own_weights(folder: Path, student: Backbone) -> int:
    """Check that the files hold exactly the model's tensors, by name and shape, and return how many.

    Tensors that share memory are written once. Raises `CouldNotRun` if any differs.
    """
    # transformers saves some models under the tensor names of their publication.
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
        raise CouldNotRun(f"the files in {folder} differ from the student: {', '.join(sorted(unlike)[:5])}; export again")
    return len(written)
