"""A config, an NVILA-Lite checkpoint or a folder that this project saved goes in; a 4D-RGPT backbone comes out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2ForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from schemas.errors import BadInput
from student_train.models.backbone import Backbone, Pixels, Visual, behind
from student_train.models.folder import load_config, load_model, load_tokenizer, read_json, unreadable
from student_train.models.rgpt import FourDRgptConfig, FourDRgptForConditionalGeneration
from student_train.models.tiny_tokenizer import tiny_qwen2, tiny_tokenizer

VIDEO_TOKEN, IMAGE_TOKEN = "<video>", "<image>"  # words of the vocabulary, not secrets
AutoConfig.register(FourDRgptConfig.model_type, FourDRgptConfig)
AutoModelForImageTextToText.register(FourDRgptConfig, FourDRgptForConditionalGeneration)

PARTS = ("vision_tower", "mm_projector", "llm")
"""The folders of an NVILA-Lite checkpoint."""


EXAMPLE = """# A 4D-RGPT student

SigLIP, a projector and Qwen2, with the frames' real times added. It loads with transformers alone, once you allow that to run
the model's code: `rgpt.py` beside this file, which is `student_train/models/rgpt.py` of p4d-cache as it was at the export.
Read it first if this folder comes from elsewhere: `trust_remote_code=True` runs whatever is there, as you.

```python
import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer

folder = "."
model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)  # rgpt.py, beside this file
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)

size = model.config.vision_config.image_size
frames = torch.zeros(1, 16, size, size, 3, dtype=torch.uint8)  # a clip: (1, frame, height, width, RGB)
timestamps = torch.linspace(0, 5, 16)[None]  # (1, frame), in seconds

chat = [{"role": "user", "content": "<video>\\nWhat moves?"}]
text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
before, after, between = (
    tokenizer(part, add_special_tokens=False).input_ids for part in (*text.split("<video>"), model.config.separator)
)
frame = [model.config.video_token_id] * model.grid**2 + between
ids = torch.tensor([before + frame * frames.shape[1] + after])
answer = model.generate(
    input_ids=ids, attention_mask=torch.ones_like(ids), frames=frames, timestamps=timestamps, max_new_tokens=32, do_sample=False
)
print(tokenizer.decode(answer[0, ids.shape[1]:], skip_special_tokens=True))
```
"""


class RgptProcessor:
    """Passes frames on as uint8, since the model scales pixels itself; writes one placeholder token per visual token."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: FourDRgptConfig) -> None:
        self.tokenizer = tokenizer
        self.image_size = int(config.vision_config.image_size)
        self.video_token_id, self.image_token_id = config.video_token_id, config.image_token_id
        patches = self.image_size // int(config.vision_config.patch_size)
        self.tokens = (-(-patches // config.downsample)) ** 2
        self.separator: list[int] = tokenizer(config.separator, add_special_tokens=False).input_ids

    def video_ids(self, seconds: Sequence[float]) -> list[int]:
        return [*[self.video_token_id] * self.tokens, *self.separator] * len(seconds)

    def image_ids(self) -> list[int]:
        return [*[self.image_token_id] * self.tokens, *self.separator]

    def visual(self, frames: Pixels | None, timestamps: np.ndarray[Any, Any] | None, images: Pixels | None) -> Visual:
        inputs = {"frames": frames, "timestamps": timestamps, "images": images}
        return {name: torch.from_numpy(value) for name, value in inputs.items() if value is not None}

    def save(self, folder: Path) -> None:
        self.tokenizer.save_pretrained(folder)


class RgptBackbone(Backbone):
    """4D-RGPT: its video tokens form a square grid for each frame."""

    model: FourDRgptForConditionalGeneration
    usage = EXAMPLE

    def video_shape(self, visual: Visual) -> tuple[int, int, int, int]:
        clips, frames = visual["frames"].shape[:2]
        return clips, frames, self.model.grid, self.model.grid

    def parts(self) -> dict[str, nn.Module]:
        return {"vision_tower": self.model.vision_tower, "projector": self.model.projector, "llm": self.model.llm}

    @property
    def unread(self) -> list[nn.Module]:
        layer = self.model.config.vision_layer
        return [] if layer == -1 else behind(self.model.vision_tower, [layer])  # -1 is the tower's output, after its last norm

    @property
    def last_states(self) -> Callable[..., Any]:
        return self.model.last_states

    @property
    def language_model(self) -> PreTrainedModel:
        return self.model.llm


def tiny(timestamps: str, separator: str = "") -> RgptBackbone:
    """The architecture at a size for tests and the demo: frames of 96², 8 × 8 tokens a frame, a vocabulary of 464."""
    tokenizer = tiny_tokenizer([VIDEO_TOKEN, IMAGE_TOKEN])
    vision = SiglipVisionConfig(
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=96,
        patch_size=12,
        vision_use_head=False,  # NVILA reads the patches, not the pooled vector
    )
    # Qwen2's 0.02 suits thousands of channels; with a hundred, hardly any signal passes at first.
    text = tiny_qwen2(tokenizer, 128, initializer_range=0.07)
    config = FourDRgptConfig(
        vision,
        text,
        downsample=1,  # as many tokens as L4P-tiny has; fewer could not express most of its features
        projector_layers=[256, "gelu", 128],
        timestamps=timestamps,
        separator=separator,
        video_token_id=tokenizer.convert_tokens_to_ids(VIDEO_TOKEN),
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
    )
    model = FourDRgptForConditionalGeneration(config)
    patch = model.vision_tower.get_input_embeddings()
    assert isinstance(patch, nn.Conv2d)
    with torch.no_grad():
        # A hundred channels with random weights learn only strong signals. A token's own content must outweigh what attention
        # to all others adds, or the model learns only their mean for a long time; and the timestamp encoding must not drown in
        # the tower's features that it is added to.
        patch.weight.mul_(6)
        model.vision_tower.post_layernorm.weight.mul_(0.25)
        model.llm.get_input_embeddings().weight.div_(text.initializer_range)
    return RgptBackbone(model, RgptProcessor(tokenizer, config))


def saved(folder: Path, timestamps: str | None, separator: str | None, dtype: torch.dtype) -> RgptBackbone:
    """The model that `Backbone.save` wrote. ``timestamps``: where to add them; ``separator``; both as saved when None."""
    config = load_config(FourDRgptConfig, folder)
    config.timestamps = config.timestamps if timestamps is None else timestamps
    config.separator = config.separator if separator is None else separator
    model = load_model(FourDRgptForConditionalGeneration, folder, dtype, config)
    return RgptBackbone(model, RgptProcessor(load_tokenizer(folder), config))


def is_checkpoint(folder: Path) -> bool:
    """Whether the folder has the layout of an NVILA-Lite checkpoint."""
    return all((folder / part).is_dir() for part in PARTS)


def checkpoint(folder: Path, timestamps: str, separator: str, dtype: torch.dtype) -> RgptBackbone:
    """The model of an NVILA-Lite checkpoint, whose parts are each read once.

    Raises `BadInput` if a part is not of 4D-RGPT's kind, or does not fit the others.
    """
    tower = load_model(SiglipVisionModel, folder / "vision_tower", dtype)
    llm = load_model(Qwen2ForCausalLM, folder / "llm", dtype)
    tokenizer = _with_tokens(load_tokenizer(folder / "llm"), llm)
    weights = _projector_weights(folder / "mm_projector")
    config = FourDRgptConfig(
        tower.config,
        llm.config,
        vision_layer=int(read_json(folder / "config.json").get("mm_vision_select_layer", -2)),
        downsample=_downsample(folder / "mm_projector", tower, weights),
        projector_layers=_projector_layers(weights),
        timestamps=timestamps,
        separator=separator,
        video_token_id=tokenizer.convert_tokens_to_ids(VIDEO_TOKEN),
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        dtype=dtype,
    )
    _require_fitting(folder, config)
    with torch.device("meta"):
        model = FourDRgptForConditionalGeneration(config)
    model.vision_tower, model.llm, model.generation_config = tower, llm, llm.generation_config
    _assign(model.projector, weights, dtype)
    return RgptBackbone(model, RgptProcessor(tokenizer, config))


def _with_tokens(tokenizer: PreTrainedTokenizerBase, llm: Qwen2ForCausalLM) -> PreTrainedTokenizerBase:
    """The tokenizer with a placeholder token for video and one for image.

    Their embeddings are never read, so the table grows only if it has no spare rows.
    """
    tokenizer.add_tokens([VIDEO_TOKEN, IMAGE_TOKEN], special_tokens=True)
    if len(tokenizer) > llm.get_input_embeddings().num_embeddings:
        llm.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    return tokenizer


def _projector_weights(folder: Path) -> dict[str, torch.Tensor]:
    path = folder / "model.safetensors"
    if not path.is_file():
        raise BadInput(f"there is no {path}; needed the projector's weights as safetensors")
    with unreadable(folder):
        weights: dict[str, torch.Tensor] = load_file(path)
    if stray := [name for name in weights if not name.startswith("layers.")]:
        raise BadInput(f"{path} holds {', '.join(stray[:3])}; needed tensors called layers.N.weight and layers.N.bias")
    return weights


def _projector_layers(weights: Mapping[str, torch.Tensor]) -> list[int | str]:
    """The layers that the tensors belong to: a matrix is a linear layer, a vector a norm, and a GELU is between two matrices.

    A position without tensors before the first of them is the one where neighbouring tokens are joined.
    """
    layers: list[int | str] = []
    for _, weight in sorted((int(name.split(".")[1]), w) for name, w in weights.items() if name.endswith(".weight")):
        is_linear = weight.dim() == 2
        if is_linear and any(isinstance(layer, int) for layer in layers):
            norm = [layers.pop()] if layers[-1] == "norm" else []
            layers += ["gelu", *norm]
        layers.append(len(weight) if is_linear else "norm")
    return layers


def _downsample(folder: Path, tower: SiglipVisionModel, weights: Mapping[str, torch.Tensor]) -> int:
    """Side of the square of tokens that are joined into one, from the width of the first layer."""
    first = min((int(name.split(".")[1]), w.shape[-1]) for name, w in weights.items() if name.endswith(".weight"))[1]
    side = round((first / tower.config.hidden_size) ** 0.5)
    if side**2 * tower.config.hidden_size != first:
        raise BadInput(
            f"the projector of {folder} takes {first} channels, and its tower gives {tower.config.hidden_size}: needed "
            "a square number times the tower's channels; take all parts from one checkpoint"
        )
    return int(side)


def _require_fitting(folder: Path, config: FourDRgptConfig) -> None:
    width = next(layer for layer in reversed(config.projector_layers) if isinstance(layer, int))
    if width != config.text_config.hidden_size:
        raise BadInput(
            f"the projector of {folder} gives {width} channels, and its language model takes {config.text_config.hidden_size}; "
            "take all parts from one checkpoint"
        )


def _assign(projector: nn.Module, weights: Mapping[str, torch.Tensor], dtype: torch.dtype) -> None:
    """Load the projector by the order of its layers: their numbers differ, since layers without tensors count differently."""
    own = sorted({int(name.split(".")[1]) for name in projector.state_dict()})
    theirs = sorted({int(name.split(".")[1]) for name in weights})
    renamed = {}
    for name, tensor in weights.items():
        _, number, kind = name.split(".")
        renamed[f"layers.{own[theirs.index(int(number))]}.{kind}"] = tensor.to(dtype)
    projector.load_state_dict(renamed, assign=True)
