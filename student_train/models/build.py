"""The ``model`` of TRAIN.yaml goes in; the student comes out, freshly initialised or from a checkpoint, with parts frozen."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from schemas.errors import BadInput, CouldNotRun, first_line
from schemas.train import BackboneName, Dtype, LoraConfig, ModelConfig, Separator
from student_train.models import image_text, nvila, qwen_vl
from student_train.models.backbone import Backbone
from student_train.models.folder import model_type
from student_train.models.lora import add_adapters


def build_student(config: ModelConfig) -> Backbone:
    """The student, with ``config.freeze`` applied, and what is never read frozen. Fresh weights depend on torch's random state.

    Raises `BadInput` if ``config.weights`` holds no checkpoint of the backbone.
    """
    student = BUILDERS[config.backbone](config)
    if config.attention != student.model.config._attn_implementation:  # noqa: SLF001  # there is no public name
        try:
            student.model.set_attn_implementation(config.attention)
        except (ImportError, ValueError) as error:
            raise CouldNotRun(f"`model.attention: {config.attention}` cannot be used here: {first_line(error)}") from None
    for name, part in student.parts().items():
        part.requires_grad_(requires_grad=name not in config.freeze)
    for module in student.unread:
        module.requires_grad_(requires_grad=False)
    return student


def build_trained(config: ModelConfig, lora: LoraConfig | None) -> tuple[Backbone, Any]:
    """The student to train, and its adapters, a `peft.LoraModel`, or None without ``lora``; what trains is in float32."""
    student = build_student(config)
    adapters = None if lora is None else add_adapters(student.parts()["llm"], lora)
    for parameter in student.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return student, adapters


def load_student(folder: Path, dtype: Dtype = "float32") -> Backbone:
    """The student that a run or an export wrote, with any backbone. Raises `BadInput` if the folder holds none."""
    kind = model_type(folder)
    if kind is None:
        raise BadInput(f"{folder} holds no student; needed a folder that `student-train fit` or `export` wrote")
    if kind not in BACKBONES:
        raise BadInput(f"{folder} holds a {kind}; needed one of {', '.join(BACKBONES)}")
    return build_student(ModelConfig(backbone=BACKBONES[kind], weights=str(folder), dtype=dtype, freeze=()))


def _rgpt(config: ModelConfig) -> Backbone:
    separator = None if config.separator is None else SEPARATORS[config.separator]
    if config.weights is None:
        return nvila.tiny(config.timestamps or "before_projector", separator or "")
    folder, dtype = Path(config.weights), getattr(torch, config.dtype)
    if nvila.is_checkpoint(folder):
        separator = SEPARATORS["newline"] if separator is None else separator
        return nvila.checkpoint(folder, config.timestamps or "before_projector", separator, dtype)
    if (folder / "config.json").is_file():
        return nvila.saved(folder, config.timestamps, separator, dtype)
    raise BadInput(
        f"{folder} is no 4D-RGPT checkpoint: needed the folders {', '.join(nvila.PARTS)}, as NVILA-Lite has them, "
        "or a config.json, as `student-train export` writes it"
    )


SEPARATORS: dict[Separator, str] = {"newline": "\n", "none": ""}
BACKBONES: dict[str, BackboneName] = {
    "four_d_rgpt": "4d-rgpt",
    "qwen2_5_vl": "qwen2.5-vl",
    "qwen3_vl": "qwen3-vl",
    **dict.fromkeys(image_text.ADAPTERS, "image-text-to-text"),
}
"""transformers' ``model_type`` → the backbone's name in this project."""
BUILDERS: dict[BackboneName, Callable[[ModelConfig], Backbone]] = {
    "4d-rgpt": _rgpt,
    "qwen2.5-vl": partial(qwen_vl.build, qwen_vl.QWEN25),
    "qwen3-vl": partial(qwen_vl.build, qwen_vl.QWEN3),
    "image-text-to-text": image_text.build,
}
