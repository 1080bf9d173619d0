"""Checkpoints' folders at tiny width, in their real layouts: NVILA-Lite's three folders, and InternVL's one."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from student_train.models.nvila import tiny
from student_train.models.tiny_tokenizer import tiny_qwen2, tiny_tokenizer


class Downsample(nn.Module):
    """Squares of neighbours side by side, at the head of the published projectors; it has no weights."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        frames, patches, _, channels = features.shape
        rows = []
        for y in range(0, patches, self.side):
            for x in range(0, patches, self.side):
                square = torch.zeros(frames, self.side, self.side, channels)
                found = features[:, y : y + self.side, x : x + self.side]
                square[:, : found.shape[1], : found.shape[2]] = found
                rows.append(square.flatten(1))
        count = -(-patches // self.side)
        return torch.stack(rows, dim=1).view(frames, count, count, -1)


MLP_3X3_FIX = nn.Sequential(
    Downsample(3),
    *(nn.LayerNorm(576), nn.Linear(576, 192), nn.GELU()),
    *(nn.LayerNorm(192), nn.Linear(192, 128), nn.GELU()),
    nn.Linear(128, 128),
)
"""`mlp_downsample_3x3_fix`, at 64 channels of the tower and 128 of the language model."""


def nvila_lite(folder: Path, patches: int) -> Path:
    """NVILA-Lite with so many patches along a frame's side, and random weights."""
    torch.manual_seed(0)
    student = tiny("none")
    tower = SiglipVisionConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=8 * patches,
        patch_size=8,
        vision_use_head=False,
    )
    SiglipVisionModel(tower).save_pretrained(folder / "vision_tower")
    student.model.llm.save_pretrained(folder / "llm")
    student.processor.save(folder / "llm")
    with_projector(folder, MLP_3X3_FIX)
    (folder / "config.json").write_text(json.dumps({"model_type": "llava_llama"}))
    return folder


def with_projector(folder: Path, layers: nn.Module) -> Path:
    for parameter in layers.parameters():
        nn.init.normal_(parameter, std=0.2)
    (folder / "mm_projector").mkdir(exist_ok=True)
    save_file({f"layers.{n}": t for n, t in layers.state_dict().items()}, folder / "mm_projector" / "model.safetensors")
    return folder


def internvl(folder: Path) -> Path:
    """A tiny InternVL as transformers saves it: 2 × 2 tokens for an image of 56 pixels."""
    tokenizer = tiny_tokenizer(["<IMG_CONTEXT>", "<img>", "</img>"])
    vision = InternVLVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14
    )
    text = tiny_qwen2(tokenizer, 64)
    shown = tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")
    config = InternVLConfig(vision_config=vision, text_config=text, image_token_id=shown, image_seq_length=4)
    InternVLForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settings = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder
