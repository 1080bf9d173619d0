"""A run's folder in, the plain video language model out: what transformers loads alone, without a trace of P4D."""

from __future__ import annotations

import shutil
from pathlib import Path

from safetensors import safe_open
from transformers.core_model_loading import revert_weight_conversion

from schemas.errors import BadInput, CouldNotRun
from schemas.train import Dtype, ExportReport
from student_train.models.backbone import Backbone
from student_train.models.build import load_student
from student_train.run_folder import RunFolder


def export(run: Path, out: Path, *, dtype: Dtype | None = None) -> ExportReport:
    """Write the student of a finished run to ``out``, which appears whole or not at all.

    ``dtype``: of the weights written; as the run has them when absent.
    Raises `BadInput` where ``run`` holds no finished run or ``out`` something else, and `CouldNotRun` if what was written is
    not the student's own weights and no more.
    """
    folder = RunFolder(run)
    report = folder.result()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"{out} is there already; give another folder to --out, or remove it")
    student = load_student(folder.student, dtype or folder.config().model.dtype)
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
        backbone=folder.config().model.backbone,
        store=report.store,
        fingerprint=report.fingerprint,
        tensors=tensors,
        parameters=sum(p.numel() for p in student.model.parameters()),
        bytes=sum(path.stat().st_size for path in out.rglob("*") if path.is_file()),
    )


def require_its_own_weights(folder: Path, student: Backbone) -> int:
    """How many tensors the files hold: the model's, by name and shape, and no more; what shares memory is written once."""
    # transformers writes some models under the names that they were published with.
    state = revert_weight_conversion(student.model, student.model.state_dict())
    own = {name: tuple(tensor.shape) for name, tensor in state.items()}
    written: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            written |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118  # not a mapping
    stored = {state[name].data_ptr() for name in written if name in state}
    for name in [name for name in own if name not in written and state[name].data_ptr() in stored]:
        del own[name]
    if unlike := {name for name in own.keys() | written.keys() if own.get(name) != written.get(name)}:
        raise CouldNotRun(f"{folder} was not written as the student is: {', '.join(sorted(unlike)[:5])} differ; export again")
    return len(written)
