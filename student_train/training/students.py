"""A checkpoint goes in; the plain student that it holds comes out."""

from __future__ import annotations

import torch

from schemas.errors import CouldNotRun
from student_train.models.backbone import Backbone
from student_train.models.build import build_trained
from student_train.models.lora import merge_adapters
from student_train.training.checkpoints import Checkpoint


def student_of(checkpoint: Checkpoint) -> Backbone:
    """The plain student at a checkpoint, adapters merged. Raises `CouldNotRun` if the weights are not this student's."""
    config = checkpoint.state.config
    torch.manual_seed(config.seed)  # a student built from config gets the run's own frozen weights
    student, adapters = build_trained(config.model, config.lora)
    own = {f"student.{name}": parameter for name, parameter in student.named_parameters() if parameter.requires_grad}
    weights = {name: weight for name, weight in checkpoint.weights().items() if name.startswith("student.")}
    if own.keys() != weights.keys():
        unlike = sorted(own.keys() ^ weights.keys())
        raise CouldNotRun(
            f"the weights of {checkpoint.folder} do not fit the student that its settings build: {unlike[0]} differs"
        )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(weights[name])
    if adapters is not None:
        merge_adapters(adapters)
    return student
