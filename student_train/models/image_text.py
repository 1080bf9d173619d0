"""A folder of an image-text-to-text model of transformers goes in, or nothing for a tiny one; a student comes out.

For models that show each image as one square of tokens, such as LLaVA and InternVL. A video is shown as its frames, one image
after another. What a model needs to be a student is its line in `ADAPTERS`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import isqrt
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import nn
from transformers import (
    CLIPVisionConfig,
    InternVLForConditionalGeneration,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from schemas.errors import BadInput
from schemas.train import ModelConfig
from student_train.models.backbone import Backbone, Pixels, Visual, beginning, behind, takes_pieces
from student_train.models.folder import load_model, load_tokenizer, model_type, unreadable
from student_train.models.qwen_vl import MOST_SIDE, SETTINGS, PixelSettings, pixel_settings
from student_train.models.tiny_tokenizer import tiny_qwen2, tiny_tokenizer

VIDEO_ID = -1
"""Stands in ``input_ids`` for the tokens of frames, so that they differ from those of images; no word has it. The model gets
its own image token in its place."""


class Adapter(NamedTuple):
    """What is special about one model."""

    model: type[PreTrainedModel]
    """transformers' class of it."""
    before: str = ""
    after: str = ""
    """What comes before and after an image's tokens."""


ADAPTERS: dict[str, Adapter] = {
    "llava": Adapter(LlavaForConditionalGeneration),
    "internvl": Adapter(InternVLForConditionalGeneration, before="<img>", after="</img>"),
}
"""transformers' ``model_type`` → its adapter. A model belongs here if it has a ``vision_tower``, a ``multi_modal_projector``
and a ``language_model``, takes ``pixel_values`` of one square size, and shows an image as a square of
``image_seq_length`` tokens.
"""

EXAMPLE = """# A student that transformers loads alone

The weights and files of transformers' own model, tuned. It was shown a video as its frames, one image after another, each
squashed to a square:

```python
import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer

folder = "."
model = AutoModelForImageTextToText.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)

frames = torch.zeros(16, 3, {size}, {size}, dtype=torch.uint8)  # a clip: (frame, RGB, height, width)
mean, std = (torch.tensor(values).view(3, 1, 1) for values in ({mean}, {std}))
chat = [{"role": "user", "content": {content}}]
text = {begin} + tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
before, after = text.split("VIDEO")
start, end, before, after = (
    tokenizer(text, add_special_tokens=False).input_ids for text in ({start}, {end}, before, after)
)
frame = [*start, *[model.config.image_token_id] * model.config.image_seq_length, *end]
ids = torch.tensor([before + frame * len(frames) + after])
pixels = (frames / 255 - mean) / std
answer = model.generate(
    input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels, max_new_tokens=32, do_sample=False
)
print(tokenizer.decode(answer[0, ids.shape[1]:], skip_special_tokens=True))
```
"""


class ImageTextProcessor:
    """Scales frames and images alike, as the checkpoint's settings say; each has the tokens of an image."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, files: Mapping[str, str]) -> None:
        """``files``: name → text of the settings' files that the checkpoint has. Raises `BadInput` if one does not fit."""
        self.tokenizer, self.files = tokenizer, dict(files)
        self.adapter = ADAPTERS[config.model_type]
        self.pixels: PixelSettings = pixel_settings(files, "image")
        self.image_size = _side_of(config)
        self.tokens = int(config.image_seq_length)
        self.video_token_id, self.image_token_id = VIDEO_ID, int(config.image_token_id)
        self.start, self.end = (
            tokenizer(text, add_special_tokens=False).input_ids for text in (self.adapter.before, self.adapter.after)
        )

    def video_ids(self, seconds: Sequence[float]) -> list[int]:
        return [*self.start, *[VIDEO_ID] * self.tokens, *self.end] * len(seconds)

    def image_ids(self) -> list[int]:
        return [*self.start, *[self.image_token_id] * self.tokens, *self.end]

    def visual(
        self,
        frames: Pixels | None,
        timestamps: np.ndarray[Any, Any] | None,  # noqa: ARG002  # these models are not told the time
        images: Pixels | None,
    ) -> Visual:
        """``frames``: float32 (clip, frame, RGB, height, width); ``images``: float32 (image, RGB, height, width)."""
        given = {"frames": frames, "images": images}
        return {name: self._scaled(torch.from_numpy(value)) for name, value in given.items() if value is not None}

    def _scaled(self, pixels: torch.Tensor) -> torch.Tensor:
        mean, std = (torch.tensor(values) for values in self.pixels)
        return ((pixels.float() / 255 - mean) / std).movedim(-1, -3)

    def save(self, folder: Path) -> None:
        self.tokenizer.save_pretrained(folder)
        for name, text in self.files.items():
            (folder / name).write_text(text, encoding="utf-8")


def _side_of(config: PreTrainedConfig) -> int:
    """Pixels along a frame's side. Raises `BadInput` if frames or their tokens are no square."""
    side, tokens = config.vision_config.image_size, int(config.image_seq_length)
    sides = {side} if isinstance(side, int) else set(side)
    if len(sides) > 1 or max(sides) > MOST_SIDE or isqrt(tokens) ** 2 != tokens:
        raise BadInput(
            f"the model takes images of {side} pixels as {tokens} tokens; needed a square of at most {MOST_SIDE} pixels and a "
            "square number of tokens"
        )
    return int(max(sides))


class ImageTextBackbone(Backbone):
    """A model that sees images alone: its video tokens form a square grid for each frame."""

    usage: ClassVar[str] = EXAMPLE
    processor: ImageTextProcessor

    @property
    def example(self) -> str:
        adapter, pixels, tokenizer = self.processor.adapter, self.processor.pixels, self.processor.tokenizer
        text = "VIDEO\\nWhat moves?"
        content = f'[{{"type": "text", "text": "{text}"}}]' if takes_pieces(tokenizer) else f'"{text}"'
        values = {"mean": list(pixels.mean), "std": list(pixels.std), "content": content}
        values |= {"begin": repr(beginning(tokenizer)), "start": repr(adapter.before), "end": repr(adapter.after)}
        text = super().example
        for name, value in values.items():
            text = text.replace(f"{{{name}}}", str(value))
        return text

    @property
    def video_token_id(self) -> int:
        return VIDEO_ID

    def video_shape(self, visual: Visual) -> tuple[int, int, int, int]:
        clips, frames = visual["frames"].shape[:2]
        side = isqrt(self.processor.tokens)
        return clips, frames, side, side

    def parts(self) -> dict[str, nn.Module]:
        model = self.model.model
        llm = nn.ModuleDict({"language_model": model.language_model, "lm_head": self.model.lm_head})
        return {"vision_tower": model.vision_tower, "projector": model.multi_modal_projector, "llm": llm}

    @property
    def unread(self) -> list[nn.Module]:
        read = self.model.config.vision_feature_layer
        return behind(self.model.model.vision_tower, [read] if isinstance(read, int) else read)

    def model_inputs(self, input_ids: torch.Tensor, visual: Visual | None) -> Visual:
        """``input_ids`` with the image token for frames as well, and ``pixel_values``, (image, RGB, y, x), in order."""
        is_frame, image_id = input_ids == VIDEO_ID, self.processor.image_token_id
        inputs = {"input_ids": input_ids.masked_fill(is_frame, image_id)}
        if not visual:
            return inputs
        # Which of them each square of tokens is, in the order of the text: the first token of each says.
        kinds = input_ids[is_frame | (input_ids == image_id)][:: self.processor.tokens] == VIDEO_ID  # (image,)
        like = next(iter(visual.values()))
        pixels = like.new_empty(len(kinds), *like.shape[-3:])
        for name, where in (("frames", kinds), ("images", ~kinds)):
            if name in visual:
                pixels[where] = visual[name].reshape(-1, *like.shape[-3:])
        return {**inputs, "pixel_values": pixels}


def build(config: ModelConfig) -> ImageTextBackbone:
    """The model of the checkpoint in ``config.weights``, or a tiny LLaVA. Raises `BadInput` if the folder's has no adapter."""
    for name, value in (("timestamps", config.timestamps), ("separator", config.separator)):
        if value not in {None, "none"}:
            raise BadInput(f"`model.{name}: {value}` is 4D-RGPT's; {config.backbone} has none, so leave it out")
    return tiny() if config.weights is None else checkpoint(Path(config.weights), getattr(torch, config.dtype))


def checkpoint(folder: Path, dtype: torch.dtype) -> ImageTextBackbone:
    """The model of a checkpoint in transformers' own layout, with the checkpoint's own pixel settings."""
    found = model_type(folder)
    if found not in ADAPTERS:
        raise BadInput(
            f"{folder} holds {'no model' if found is None else f'a {found}'}; needed one of {', '.join(ADAPTERS)}, or another "
            "`model.backbone`"
        )
    model = load_model(ADAPTERS[found].model, folder, dtype)
    tokenizer = load_tokenizer(folder)
    with unreadable(folder):
        files = {name: (folder / name).read_text(encoding="utf-8") for name in SETTINGS if (folder / name).is_file()}
        if tokenizer.chat_template is None and (template := files.get("chat_template.json")) is not None:
            tokenizer.chat_template = json.loads(template)["chat_template"]
        return ImageTextBackbone(model, ImageTextProcessor(tokenizer, model.config, files))


def tiny() -> ImageTextBackbone:
    """LLaVA at a size for tests: frames of 56², 4 × 4 tokens a frame."""
    tokenizer = tiny_tokenizer(["<image>"])
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14
    )
    text = tiny_qwen2(tokenizer, 64)
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
    )
    files = {"preprocessor_config.json": json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3})}
    return ImageTextBackbone(LlavaForConditionalGeneration(config), ImageTextProcessor(tokenizer, config, files))
