"""A student that is built twice, with weights and without: everything but the values must be the same."""

from __future__ import annotations

import torch

from schemas.train import ModelConfig
from student_train.models.build import build_student
from student_train.models.folder import without_weights


def is_the_same_without_values(config: ModelConfig) -> None:
    whole = build_student(config)
    with without_weights():
        empty = build_student(config)
    for mine, theirs in ((empty, whole), (empty.model.base_model, whole.model.base_model)):
        assert [name for name, _ in mine.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    for (name, mine), theirs in zip(empty.named_parameters(), whole.parameters(), strict=True):
        assert (mine.shape, mine.dtype, mine.requires_grad) == (theirs.shape, theirs.dtype, theirs.requires_grad), name
    assert any(parameter.is_meta for parameter in empty.parameters())
    for (name, mine), theirs in zip(empty.named_buffers(), whole.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0, msg=name)
    assert empty.training == whole.training
