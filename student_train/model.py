"""4D-RGPT: a SigLIP tower, an MLP projector and a Qwen2 language model. Frames, their times and text in; logits, loss and
the hidden states of the video tokens out.

4D-RGPT, arXiv 2512.17012, section 3: an NVILA-Lite student with timestamp positional encoding and nothing else of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoTokenizer,
    ByT5Tokenizer,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from transformers.utils import logging

from schemas.train import ModelConfig

VIDEO_TOKEN = "<video>"  # noqa: S105  # a word of the vocabulary, not a secret

TimestampSite = Literal["before_projector", "after_projector", "none"]


@dataclass(frozen=True)
class StudentOutput:
    """One forward pass."""

    logits: torch.Tensor
    """float (sample, token, vocabulary)."""
    loss: torch.Tensor | None
    """Next-token cross-entropy, where labels were given."""
    hidden: torch.Tensor | None
    """float (clip, frame, y, x, hidden): the last hidden states at the video tokens; None where no sample has a video."""


def timestamp_encoding(seconds: torch.Tensor, dim: int) -> torch.Tensor:
    """Sinusoids of real time: p[2i] = sin(t / 10000^(2i/D)), p[2i+1] = cos(t / 10000^(2i/D)), t in seconds.

    float (…,) to float64 (…, dim). No parameters. 4D-RGPT, arXiv 2512.17012, section 3 (timestamp positional encoding).
    """
    exponents = torch.arange(0, dim, 2, dtype=torch.float64, device=seconds.device) / dim  # (dim/2,)
    angles = seconds.double()[..., None] / 10000**exponents  # (…, dim/2)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)


class Projector(nn.Module):
    """n × n neighbouring tokens side by side in one, then a two-layer MLP to the language model's width (NVILA-Lite: n = 3)."""

    def __init__(self, vision_size: int, hidden_size: int, downsample: int) -> None:
        super().__init__()
        self.downsample = downsample
        # Four times the tower's width: 4608 for SigLIP so400m, which is the paper's.
        width = 4 * vision_size
        self.mlp = nn.Sequential(nn.Linear(vision_size * downsample**2, width), nn.GELU(), nn.Linear(width, hidden_size))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features, float (frame, y, x, vision), to tokens, float (frame, y/n, x/n, hidden)."""
        n, (frames, height, width, channels) = self.downsample, features.shape
        blocks = features.reshape(frames, height // n, n, width // n, n, channels)
        projected: torch.Tensor = self.mlp(blocks.transpose(2, 3).flatten(3))  # in: (frame, y/n, x/n, n·n·vision)
        return projected


class Student(nn.Module):
    """A video language model composed of three parts, each saved and loaded as transformers saves and loads it."""

    def __init__(
        self,
        vision_tower: SiglipVisionModel,
        projector: Projector,
        llm: Qwen2ForCausalLM,
        video_token_id: int,
        timestamps: TimestampSite = "before_projector",
    ) -> None:
        super().__init__()
        self.vision_tower, self.projector, self.llm = vision_tower, projector, llm
        self.video_token_id = video_token_id
        self.timestamps = timestamps

    @property
    def image_size(self) -> int:
        """Height and width of the frames it takes, in pixels."""
        return int(self.vision_tower.config.image_size)

    @property
    def grid(self) -> int:
        """Video tokens along each side of a frame."""
        return self.image_size // int(self.vision_tower.config.patch_size) // self.projector.downsample

    @property
    def hidden_size(self) -> int:
        """Channels of the language model's hidden states."""
        return int(self.llm.config.hidden_size)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        *,
        labels: torch.Tensor | None = None,
        frames: torch.Tensor | None = None,
        timestamps: torch.Tensor | None = None,
        label_count: float | None = None,
    ) -> StudentOutput:
        """Read text and video together.

        ``input_ids``, ``attention_mask``, ``labels``: int64 (sample, token); where a sample shows a video, ``input_ids``
        holds `video_token_id` once for each of its tokens, frame by frame, row by row.
        ``frames``: uint8 (clip, frame, height, width, RGB) at `image_size`, the clips in the order of their samples.
        ``timestamps``: float (clip, frame), seconds from the video's start.
        ``label_count``: labels that the loss is the mean over, where one step has several batches; this batch's when absent.
        """
        embeddings = self.llm.get_input_embeddings()(input_ids)  # (sample, token, hidden)
        is_video = input_ids == self.video_token_id  # (sample, token)
        if frames is not None:
            assert timestamps is not None
            tokens = self.encode(frames, timestamps)  # (clip, frame, y, x, hidden)
            _check_token_count(int(is_video.sum()), tokens)
            embeddings = embeddings.masked_scatter(is_video[..., None], tokens.to(embeddings.dtype))
        output = self.llm(
            inputs_embeds=embeddings,
            attention_mask=attention_mask,
            labels=labels,
            output_hidden_states=True,
            use_cache=False,
            num_items_in_batch=label_count,
        )
        hidden = None if frames is None else output.hidden_states[-1][is_video].view(tokens.shape)
        return StudentOutput(output.logits, output.loss, hidden)

    def encode(self, frames: torch.Tensor, timestamps: torch.Tensor) -> torch.Tensor:
        """Video tokens: uint8 (clip, frame, height, width, RGB) to float (clip, frame, y, x, hidden)."""
        clips, count = frames.shape[:2]
        pixels = siglip_pixels(frames.flatten(0, 1)).to(self.vision_tower.dtype)  # (clip·frame, RGB, height, width)
        patches = self.vision_tower(pixel_values=pixels).last_hidden_state  # (clip·frame, patch, vision)
        side = self.grid * self.projector.downsample
        features = patches.reshape(-1, side, side, patches.shape[-1])  # (clip·frame, y, x, vision)
        if self.timestamps == "before_projector":
            features = features + self._time(timestamps, features)
        tokens: torch.Tensor = self.projector(features)  # (clip·frame, y/n, x/n, hidden)
        if self.timestamps == "after_projector":
            tokens = tokens + self._time(timestamps, tokens)
        return tokens.view(clips, count, *tokens.shape[1:])

    @staticmethod
    def _time(timestamps: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """The timestamps' encoding, (clip·frame, 1, 1, channel), to add to every token of its frame."""
        return timestamp_encoding(timestamps.flatten(), features.shape[-1])[:, None, None].to(features.dtype)

    def save(self, folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
        """Write the plain student: one folder for each part, and ``config.json`` for what joins them. No pickle."""
        with _no_progress_bars():
            self.vision_tower.save_pretrained(folder / "vision_tower")
            self.llm.save_pretrained(folder / "llm")
        # Beside a Qwen2 config, AutoTokenizer would take the tokenizer for Qwen2's, whatever its own file says.
        tokenizer.save_pretrained(folder / "tokenizer")
        (folder / "mm_projector").mkdir(exist_ok=True)
        save_file(self.projector.state_dict(), folder / "mm_projector" / "model.safetensors")
        joins = {
            "downsample": self.projector.downsample,
            "video_token_id": self.video_token_id,
            "timestamps": self.timestamps,
        }
        (folder / "config.json").write_text(json.dumps(joins, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> tuple[Self, PreTrainedTokenizerBase]:
        """The student that `save` wrote, and its tokenizer."""
        joins: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        with _no_progress_bars():
            tower = SiglipVisionModel.from_pretrained(folder / "vision_tower")
            llm = Qwen2ForCausalLM.from_pretrained(folder / "llm")
        projector = Projector(tower.config.hidden_size, llm.config.hidden_size, joins["downsample"])
        projector.load_state_dict(load_file(folder / "mm_projector" / "model.safetensors"))
        tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
        return cls(tower, projector, llm, joins["video_token_id"], joins["timestamps"]), tokenizer


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Reading and writing a few files needs none, and the command's standard error has its own."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def siglip_pixels(frames: torch.Tensor) -> torch.Tensor:
    """uint8 (…, height, width, RGB) to float32 (…, RGB, height, width) in [-1, 1], as SigLIP's image processor scales it."""
    return frames.movedim(-1, -3).float() / 127.5 - 1


def _check_token_count(expected: int, tokens: torch.Tensor) -> None:
    if expected != tokens[..., 0].numel():
        raise ValueError(
            f"input_ids hold {expected} video tokens, but the frames give {tokens[..., 0].numel()} "
            f"({' × '.join(map(str, tokens.shape[:-1]))}); write frame · y · x of them for each clip"
        )


def build_student(config: ModelConfig) -> tuple[Student, PreTrainedTokenizerBase]:
    """A freshly initialised student and its tokenizer; the weights follow torch's random state."""
    student, tokenizer = tiny_student(config.timestamps)
    for part in config.freeze:
        getattr(student, part).requires_grad_(requires_grad=False)
    return student, tokenizer


def tiny_student(timestamps: TimestampSite = "before_projector") -> tuple[Student, PreTrainedTokenizerBase]:
    """The architecture at a size for tests and the demo: frames of 96², 4 × 4 tokens a frame, a vocabulary of bytes."""
    tokenizer = ByT5Tokenizer(extra_ids=0, additional_special_tokens=[VIDEO_TOKEN])
    tower = SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=96,
            patch_size=8,
            vision_use_head=False,  # NVILA reads the patches, not the pooled vector
        )
    )
    llm = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=4096,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    video_token_id = int(tokenizer.convert_tokens_to_ids(VIDEO_TOKEN))
    return Student(tower, Projector(64, 128, downsample=3), llm, video_token_id, timestamps), tokenizer
