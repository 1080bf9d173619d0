"""What lmms-eval finds by the entry point ``lmms_eval.models``: the name of the model, and where its class is."""

from __future__ import annotations

from lmms_eval.models.registry_v2 import ModelManifest


def manifest() -> ModelManifest:
    """The model ``p4d_student``, of the interface that lmms-eval calls chat."""
    return ModelManifest(model_id="p4d_student", chat_class_path="student_train.lmms.model.Student")
