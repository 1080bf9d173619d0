"""The student's side of P4D: train a 4D-RGPT from a store of cached targets. Never loads Ray or a teacher.

Your own training loop needs only `P4D` and `TargetCollator`. ``grid`` is the (time, y, x) of a clip's video tokens::

    cache = open_cache(store)
    p4d = P4D.for_store(cache, hidden_size).to(device)
    optimizer.add_param_group({"params": p4d.parameters()})
    collate = TargetCollator(collate, cache, p4d.signals)  # samples are mappings; their "clip_id" names the clip
    for batch in DataLoader(samples, 2, collate_fn=collate, num_workers=2, multiprocessing_context="spawn"):
        targets, valid = batch.pop("targets"), batch.pop("valid")
        output = model(**batch, output_hidden_states=True)
        hidden = output.hidden_states[-1][batch["input_ids"] == video_token_id]  # (token, hidden_size)
        distilled = p4d(hidden.unflatten(0, (-1, *grid)), targets, valid)  # distilled.parts: each loss, for logging
        (output.loss + distilled.total).backward()
        optimizer.step()
        optimizer.zero_grad()
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from student_train.distill.p4d import P4D, P4DLosses
    from student_train.distill.perception import perception_decoder
    from student_train.distill.targets import TargetBatch, TargetCollator, TargetReader
    from student_train.training.fit import fit

_HOMES = {
    "P4D": "student_train.distill.p4d",
    "P4DLosses": "student_train.distill.p4d",
    "TargetBatch": "student_train.distill.targets",
    "TargetCollator": "student_train.distill.targets",
    "TargetReader": "student_train.distill.targets",
    "fit": "student_train.training.fit",
    "perception_decoder": "student_train.distill.perception",
}

__all__ = ["P4D", "P4DLosses", "TargetBatch", "TargetCollator", "TargetReader", "fit", "perception_decoder"]


def __getattr__(name: str) -> Any:
    # Lazy, because transformers takes seconds to import and P4D alone does not need it.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
