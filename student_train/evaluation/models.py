"""A folder of any kind goes in; the model to evaluate comes out: of a run, a checkpoint, an export, or a plain model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import torch

from schemas.errors import BadInput
from schemas.train import Dtype, FitReport, ModelConfig, TrainConfig
from student_train.models import nvila
from student_train.models.backbone import Backbone
from student_train.models.build import build_student, load_student
from student_train.models.folder import model_type
from student_train.training.checkpoints import STATE, TENSORS, Checkpoints
from student_train.training.run_folder import RunFolder
from student_train.training.students import student_of

_PLAIN: Dtype = "bfloat16"


class Run(NamedTuple):
    """A finished run."""

    folder: RunFolder
    config: TrainConfig
    result: FitReport


def open_run(path: Path) -> Run:
    """The finished run in a folder. Raises `BadInput` if there is none, or it is not finished."""
    folder = RunFolder(path)
    return Run(folder, folder.config(), folder.result())


def is_model(path: Path) -> bool:
    """Whether a folder holds a model by itself, or a checkpoint, and not a run."""
    return nvila.is_checkpoint(path) or (path / STATE).is_file() or model_type(path) is not None


def device() -> torch.device:
    """This process's GPU, if there is one."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


class Opened(NamedTuple):
    """A model to evaluate."""

    student: Backbone
    dtype: Dtype
    config: TrainConfig | None
    """Of the run that it is from."""
    steps: int | None
    """Optimizer steps that it was trained for in that run."""
    weights: tuple[Path, ...]
    """The folders whose safetensors it was read from."""


def open_model(path: Path, dtype: Dtype | None) -> Opened:
    """The model in a folder. ``dtype``: of its weights; by default the run's, and bfloat16 for a model that is no run's.

    Raises `BadInput` if the folder holds none.
    """
    if (path / STATE).is_file():
        return _checkpoint(path, dtype)
    if nvila.is_checkpoint(path):
        # As it is published: without the timestamp encoding, which it was not trained with.
        config = ModelConfig(backbone="4d-rgpt", weights=str(path), dtype=dtype or _PLAIN, timestamps="none", freeze=())
        return Opened(build_student(config), dtype or _PLAIN, None, None, tuple(path / part for part in nvila.PARTS))
    if model_type(path) is not None:
        return Opened(load_student(path, dtype or _PLAIN), dtype or _PLAIN, None, None, (path,))
    run = open_run(path)
    dtype = dtype or run.config.model.dtype
    student = run.folder.student
    return Opened(load_student(student, dtype), dtype, run.config, run.result.steps, (student,))


def _checkpoint(path: Path, dtype: Dtype | None) -> Opened:
    number = path.name.removeprefix("step-")
    if not number.isdigit():
        raise BadInput(f"{path} is no checkpoint as a fit wrote it: needed a folder called step-NNNNNNNN")
    checkpoint = Checkpoints(path.parent, 1).at(int(number))
    config = checkpoint.state.config
    dtype = dtype or config.model.dtype
    student = student_of(checkpoint).to(getattr(torch, dtype))
    return Opened(student, dtype, config, checkpoint.state.step, (path / TENSORS,))
