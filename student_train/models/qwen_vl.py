"""A checkpoint's folder goes in, or a tiny config; a Qwen2.5-VL or Qwen3-VL backbone of transformers comes out.

transformers' own video processors need torchvision. What they do to frames of the right size is written here in torch alone,
and their settings are saved with the weights.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from math import isqrt
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import nn
from transformers import (
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from schemas.errors import BadInput
from schemas.train import ModelConfig
from student_train.models.backbone import Backbone, Pixels, Visual
from student_train.models.folder import load_model, load_tokenizer, model_type, unreadable
from student_train.models.tiny_tokenizer import tiny_tokenizer

SIDE = 384
"""Pixels along a frame's side, as near as the patches allow: 392 for Qwen2.5-VL, whose 16 frames are then 8 · 14 · 14 = 1568
tokens, and 384 for Qwen3-VL, with 8 · 12 · 12 = 1152."""
MOST_SIDE = 2048
"""The most pixels along a frame's side, whatever a checkpoint says."""
SETTINGS = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json", "chat_template.json")
"""The checkpoint's processor and chat template files, in addition to the tokenizer's."""
VISION_START, VISION_END, IMAGE, VIDEO = "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"

EXAMPLE = """# A Qwen-VL student

The weights and files of transformers' own model, tuned. transformers alone loads it; the video processor needs torchvision:

```python
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

folder = "."
model = AutoModelForImageTextToText.from_pretrained(folder)
processor = AutoProcessor.from_pretrained(folder)

frames = torch.zeros(16, 3, {size}, {size}, dtype=torch.uint8)  # a clip: (frame, RGB, height, width), squashed to a square
clock = {"fps": 3.0, "total_num_frames": 16, "frames_indices": list(range(16))}  # three frames a second

chat = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "What moves?"}]}]
text = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
prompt = processor(text=[text], videos=[frames], video_metadata=[clock], do_sample_frames=False, return_tensors="pt")
answer = model.generate(**prompt, max_new_tokens=32, do_sample=False)
print(processor.decode(answer[0, prompt["input_ids"].shape[1]:], skip_special_tokens=True))
```
"""


class PixelSettings(NamedTuple):
    """Normalisation of images or of video frames: per RGB channel, for values in 0 to 1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class Patches(NamedTuple):
    """The sizes of a patch and of a token."""

    size: int
    """Pixels along a patch's side."""
    frames: int
    """Frames in one patch."""
    merge: int
    """Patches along a token's side."""

    @property
    def factor(self) -> int:
        """Pixels along a token's side."""
        return self.size * self.merge


def to_patches(frames: torch.Tensor, patches: Patches, pixels: PixelSettings) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames, uint8 (clip, frame, height, width, RGB), as flat patches for the vision tower.

    Returns float32 (clip · time · y · x, RGB · frames · patch · patch), with the patches of one token next to each other, and
    the number of patches along time, y and x, int64 (clip, 3). The last frame is repeated to fill the last patch in time; so
    is an image. The same as transformers' Qwen2VLVideoProcessor and Qwen2VLImageProcessor without resizing.
    """
    size, depth, merge = patches
    missing = -frames.shape[1] % depth
    frames = torch.cat([frames, frames[:, -1:].expand(-1, missing, -1, -1, -1)], dim=1)
    clips, count, height, width, channels = frames.shape
    # Scaled to 0…255, as transformers' processors fuse them, so that the values match to the last bit.
    mean, std = (torch.tensor(values) * 255 for values in pixels)
    values = (frames.float() - mean) / std  # (clip, frame, height, width, RGB)
    time, y, x = count // depth, height // size, width // size
    blocks = values.view(clips, time, depth, y // merge, merge, size, x // merge, merge, size, channels)
    ordered = blocks.permute(0, 1, 3, 6, 4, 7, 9, 2, 5, 8)  # (clip, time, y, x, merge, merge, RGB, depth, size, size)
    return ordered.reshape(clips * time * y * x, -1), torch.tensor([[time, y, x]] * clips)


class QwenProcessor(ABC):
    """The same ids and pixels as transformers' own processor, for frames of one square size."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, files: Mapping[str, str]) -> None:
        """``files``: name → text of the `SETTINGS` files that the checkpoint has. Raises `BadInput` if a setting is missing."""
        self.tokenizer = tokenizer
        self.files = dict(files)
        vision = config.vision_config
        self.patches = Patches(vision.patch_size, vision.temporal_patch_size, vision.spatial_merge_size)
        self.image_pixels, self.video_pixels = pixel_settings(files, "image"), pixel_settings(files, "video")
        self.image_size = _image_size(_settings(files, "image"), self.patches.factor)
        self.tokens = (self.image_size // self.patches.factor) ** 2
        self.video_token_id, self.image_token_id = config.video_token_id, config.image_token_id
        self.start, self.end = [config.vision_start_token_id], [config.vision_end_token_id]

    @abstractmethod
    def video_ids(self, seconds: Sequence[float]) -> list[int]:
        """The token ids that replace ``<video>`` in the text. ``seconds``: the time of each frame."""

    def image_ids(self) -> list[int]:
        return [*self.start, *[self.image_token_id] * self.tokens, *self.end]

    def visual(
        self,
        frames: Pixels | None,
        timestamps: np.ndarray[Any, Any] | None,  # noqa: ARG002  # Qwen3-VL has them in the text
        images: Pixels | None,
    ) -> Visual:
        inputs: dict[str, torch.Tensor] = {}
        if frames is not None:
            pixels, grid = to_patches(torch.from_numpy(frames), self.patches, self.video_pixels)
            inputs |= {"pixel_values_videos": pixels, "video_grid_thw": grid}
        if images is not None:
            pixels, grid = to_patches(torch.from_numpy(images)[:, None], self.patches, self.image_pixels)
            inputs |= {"pixel_values": pixels, "image_grid_thw": grid}
        return inputs

    def save(self, folder: Path) -> None:
        self.tokenizer.save_pretrained(folder)
        for name, text in self.files.items():
            (folder / name).write_text(text, encoding="utf-8")


class Qwen25Processor(QwenProcessor):
    """Qwen2.5-VL encodes time in the positions of its tokens."""

    def video_ids(self, seconds: Sequence[float]) -> list[int]:
        steps = -(-len(seconds) // self.patches.frames)
        return [*self.start, *[self.video_token_id] * (self.tokens * steps), *self.end]

    def visual(self, frames: Pixels | None, timestamps: np.ndarray[Any, Any] | None, images: Pixels | None) -> Visual:
        """Adds ``second_per_grid_ts``, float32 (clip,): seconds from one time step to the next.

        The model counts a clip's time from its first frame, in even steps; for uneven frames this is the mean step.
        """
        inputs = dict(super().visual(frames, timestamps, images))
        if timestamps is not None:
            spacing = (timestamps[:, -1] - timestamps[:, 0]) / max(timestamps.shape[1] - 1, 1)  # (clip,) seconds
            inputs["second_per_grid_ts"] = torch.from_numpy(spacing * self.patches.frames).float()
        return inputs


class Qwen3Processor(QwenProcessor):
    """Qwen3-VL writes time as text, before the tokens of each pair of frames."""

    def video_ids(self, seconds: Sequence[float]) -> list[int]:
        """Each pair's mean time, to a tenth of a second, then its tokens.

        The chat template writes the outer start and end tokens, transformers' processor the inner ones.
        """
        depth = self.patches.frames
        full = [*seconds, *[seconds[-1]] * (-len(seconds) % depth)]
        ids = list(self.start)
        for first, last in zip(full[::depth], full[depth - 1 :: depth], strict=True):
            ids += self.tokenizer(f"<{(first + last) / 2:.1f} seconds>", add_special_tokens=False).input_ids
            ids += [*self.start, *[self.video_token_id] * self.tokens, *self.end]
        return [*ids, *self.end]


def _settings(files: Mapping[str, str], kind: str) -> dict[str, Any]:
    """The settings for ``image`` or ``video``: from one file for both, from its own file, or from the images' file."""
    both = json.loads(files.get("processor_config.json", "{}"))
    own = "video_preprocessor_config.json" if kind == "video" else "preprocessor_config.json"
    images = files.get("preprocessor_config.json", "{}")
    found: dict[str, Any] = both.get(f"{kind}_processor") or json.loads(files.get(own, images))
    return found


def pixel_settings(files: Mapping[str, str], kind: str) -> PixelSettings:
    """The normalisation of ``image`` or ``video`` that the `SETTINGS` files say. Raises `BadInput` if they say none."""
    settings = _settings(files, kind)
    try:
        return PixelSettings(tuple(settings["image_mean"]), tuple(settings["image_std"]))
    except KeyError as error:
        raise BadInput(
            f"the checkpoint has no {error} for its pixels; needed in one of {', '.join(SETTINGS[:3])}, "
            "as transformers' processors save it"
        ) from None


def _image_size(settings: Mapping[str, Any], factor: int) -> int:
    """The side nearest to `SIDE` that divides into whole tokens, within the limits of the image processor."""
    size = settings.get("size") or {}
    least = size.get("shortest_edge") or settings.get("min_pixels") or 0
    most = size.get("longest_edge") or settings.get("max_pixels") or (2 * SIDE) ** 2
    tokens = min(round(max(SIDE, isqrt(least)) / factor), isqrt(most) // factor)
    if tokens * factor > MOST_SIDE:
        raise BadInput(f"the checkpoint wants frames of {tokens * factor} pixels a side, and at most {MOST_SIDE} are read")
    return max(tokens, 1) * factor


class QwenBackbone(Backbone):
    """Qwen2.5-VL or Qwen3-VL, which differ only in their processors."""

    usage: ClassVar[str] = EXAMPLE

    def video_shape(self, visual: Visual) -> tuple[int, int, int, int]:
        """(clip, time, y, x) of the video tokens; a time step is a pair of frames."""
        time, y, x = visual["video_grid_thw"][0].tolist()
        merge = int(self.model.config.vision_config.spatial_merge_size)
        return len(visual["video_grid_thw"]), time, y // merge, x // merge

    def parts(self) -> dict[str, nn.Module]:
        """The vision tower, the projector and the language model.

        The projector is every module that merges patches into tokens, with those that Qwen3-VL has in the middle of the tower.
        """
        children = dict(self.model.model.visual.named_children())
        mergers = {name: child for name, child in children.items() if "merger" in name}
        return {
            "vision_tower": nn.ModuleDict({name: child for name, child in children.items() if name not in mergers}),
            "projector": nn.ModuleDict(mergers),
            "llm": nn.ModuleDict({"language_model": self.model.model.language_model, "lm_head": self.model.lm_head}),
        }

    def model_inputs(self, input_ids: torch.Tensor, visual: Visual | None) -> Visual:
        """Adds each token's type (text 0, image 1, video 2), from which the model computes positions in time and space."""
        image, video = (input_ids == self.model.config.image_token_id), (input_ids == self.video_token_id)
        return {**(visual or {}), "mm_token_type_ids": image.int() + 2 * video.int()}


class Kind(NamedTuple):
    """What differs between the two models: classes, and the tiny configuration."""

    model: type[PreTrainedModel]
    config: type[PreTrainedConfig]
    processor: type[QwenProcessor]
    tiny_vision: dict[str, Any]
    tiny_text: dict[str, Any]
    video_processor: str


ROPE = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}
"""``mrope_section``: how many of a tiny head's 8 rotary frequencies encode time, y and x."""
QWEN25 = Kind(
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen25Processor,
    {"patch_size": 14, "window_size": 56, "fullatt_block_indexes": [1]},  # windows of 2 × 2 tokens
    {"rope_parameters": ROPE},
    "Qwen2VLVideoProcessor",
)
QWEN3 = Kind(
    Qwen3VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3Processor,
    {"patch_size": 16, "deepstack_visual_indexes": [0], "num_position_embeddings": 64},
    {"rope_parameters": {**ROPE, "mrope_interleaved": True}, "head_dim": 16},
    "Qwen3VLVideoProcessor",
)


def build(kind: Kind, config: ModelConfig) -> QwenBackbone:
    """The model of the checkpoint in ``config.weights``, or a tiny one. Raises `BadInput` if the folder holds another model."""
    if config.timestamps not in {None, "none"}:
        raise BadInput(
            f"`model.timestamps: {config.timestamps}` is 4D-RGPT's; {config.backbone} encodes real time itself, so leave it out"
        )
    if config.separator not in {None, "none"}:
        raise BadInput(f"`model.separator: {config.separator}` is 4D-RGPT's; {config.backbone} has its own, so leave it out")
    return tiny(kind) if config.weights is None else checkpoint(kind, Path(config.weights), getattr(torch, config.dtype))


def checkpoint(kind: Kind, folder: Path, dtype: torch.dtype) -> QwenBackbone:
    """The model of a checkpoint in transformers' own layout, with the checkpoint's own pixel settings."""
    wanted, found = kind.config.model_type, model_type(folder)
    if found is None:
        raise BadInput(f"{folder} holds no model: needed a {wanted} checkpoint's folder, with its config.json")
    if found != wanted:
        raise BadInput(f"{folder} holds a {found}; needed a {wanted}, or another `model.backbone`")
    model = load_model(kind.model, folder, dtype)
    tokenizer = load_tokenizer(folder)
    with unreadable(folder):
        files = {name: (folder / name).read_text(encoding="utf-8") for name in SETTINGS if (folder / name).is_file()}
        return QwenBackbone(model, kind.processor(tokenizer, model.config, files))


def tiny(kind: Kind) -> QwenBackbone:
    """The architecture at a size for tests and the demo: 4 × 4 tokens for each pair of frames, a vocabulary of 466."""
    tokenizer = tiny_tokenizer([VISION_START, VISION_END, IMAGE, VIDEO])
    tokenizer.chat_template = CHAT_TEMPLATE
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64, **kind.tiny_vision}
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        **kind.tiny_text,
    }
    marks = {"vision_start": VISION_START, "vision_end": VISION_END, "image": IMAGE, "video": VIDEO}
    ids = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(word) for name, word in marks.items()}
    config = kind.config(vision_config=vision, text_config=text, **ids)
    return QwenBackbone(kind.model(config), kind.processor(tokenizer, config, _tiny_files(kind, config)))


def _tiny_files(kind: Kind, config: PreTrainedConfig) -> dict[str, str]:
    """Processor files as transformers saves them, with an image size of four tokens along each side."""
    vision = config.vision_config
    side = 4 * vision.patch_size * vision.spatial_merge_size
    image = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "patch_size": vision.patch_size,
        "temporal_patch_size": vision.temporal_patch_size,
        "merge_size": vision.spatial_merge_size,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "size": {"shortest_edge": side**2, "longest_edge": side**2},
    }
    # For images the size bounds the pixels of one frame, for videos those of a whole clip.
    most = {"shortest_edge": side**2, "longest_edge": side**2 * 16}
    video = {**image, "video_processor_type": kind.video_processor, "size": most, "do_sample_frames": False}
    del video["image_processor_type"]
    return {
        "preprocessor_config.json": json.dumps(image, indent=2),
        "video_preprocessor_config.json": json.dumps(video, indent=2),
    }


CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for piece in message['content'] %}"
    "{% if piece['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif piece['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% else %}{{ piece['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""ChatML with both models' tokens for images and videos, and without the system turn that Qwen2.5-VL adds."""
