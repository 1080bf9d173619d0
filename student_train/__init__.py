"""The student's side of P4D: train a 4D-RGPT from a store of cached targets. Never loads Ray or a teacher."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from student_train.p4d import P4D, P4DLosses
    from student_train.perception import perception_decoder
    from student_train.targets import TargetBatch, TargetReader
    from student_train.train import fit

_HOMES = {
    "P4D": "student_train.p4d",
    "P4DLosses": "student_train.p4d",
    "TargetBatch": "student_train.targets",
    "TargetReader": "student_train.targets",
    "fit": "student_train.train",
    "perception_decoder": "student_train.perception",
}

__all__ = ["P4D", "P4DLosses", "TargetBatch", "TargetReader", "fit", "perception_decoder"]


def __getattr__(name: str) -> Any:
    # transformers takes seconds to import; whoever only wants P4D for a loop of their own does not wait for it.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
