"""The seam between P4D and the multimodal models it distils: text and pictures in; loss and the video tokens' states out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
Visual = Mapping[str, torch.Tensor]
"""The visual inputs of a batch, by the model's own keyword arguments."""


@dataclass(frozen=True)
class StudentOutput:
    """One forward pass."""

    logits: torch.Tensor
    """float (sample, token, vocabulary)."""
    loss: torch.Tensor | None
    """Next-token cross-entropy, where labels were given."""
    hidden: torch.Tensor | None
    """float (clip, time, y, x, hidden): the last hidden states at the video tokens; None where no sample has a video.
    Time steps are the frames, or groups of as many frames as the model puts in one token."""


class Processor(Protocol):
    """The data side of a backbone. Picklable: it works in the processes that read ahead."""

    tokenizer: PreTrainedTokenizerBase
    image_size: int
    """Height and width of the frames it takes, in pixels."""

    def video_ids(self, seconds: Sequence[float]) -> list[int]:
        """The token ids that stand for a clip in the text; ``seconds`` are its frames' times."""

    def image_ids(self) -> list[int]:
        """The token ids that stand for an image."""

    def visual(self, frames: Pixels | None, timestamps: np.ndarray[Any, Any] | None, images: Pixels | None) -> Visual:
        """Frames, uint8 (clip, frame, height, width, RGB), their times, float (clip, frame), and images, uint8 (image,
        height, width, RGB), as the model's keyword arguments; nothing for what is None.
        """

    def save(self, folder: Path) -> None:
        """Write the tokenizer and what else of the data side transformers keeps beside the weights."""


class Backbone(nn.Module, ABC):
    """A video language model of transformers. The model is `model`, untouched; this only reads its hidden states."""

    example: ClassVar[str]
    """How to use what `save` writes with transformers alone: the README of an export."""

    def __init__(self, model: PreTrainedModel, processor: Processor) -> None:
        super().__init__()
        self.model = model
        self.processor = processor

    @property
    def hidden_size(self) -> int:
        """Channels of the language model's hidden states."""
        return int(self.model.config.text_config.hidden_size)

    @property
    def video_token_id(self) -> int:
        return int(self.model.config.video_token_id)

    @abstractmethod
    def video_shape(self, visual: Visual) -> tuple[int, int, int, int]:
        """(clip, time, y, x) of the video tokens that the model makes of its visual inputs."""

    @abstractmethod
    def parts(self) -> dict[str, nn.Module]:
        """``vision_tower``, ``projector`` and ``llm``, wherever the model has them."""

    def model_inputs(self, input_ids: torch.Tensor, visual: Visual | None) -> Visual:  # noqa: ARG002  # some models are told more
        """The visual inputs by the model's own keyword arguments: as the processor made them, or with more."""
        return visual or {}

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        *,
        labels: torch.Tensor | None = None,
        label_count: float | torch.Tensor | None = None,
        visual: Visual | None = None,
    ) -> StudentOutput:
        """Read text, videos and images together.

        ``input_ids``, ``attention_mask``, ``labels``: int64 (sample, token), with the processor's ids for videos and images.
        ``label_count``: labels that the loss is the mean over, where one step has several batches; this batch's when absent.
        ``visual``: as the processor made it.
        """
        is_video = input_ids == self.video_token_id  # (sample, token)
        has_video = bool(is_video.any())
        output = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            labels=labels,
            num_items_in_batch=label_count,
            output_hidden_states=has_video,
            use_cache=False,
            **self.model_inputs(input_ids, visual),
        )
        hidden = None
        if has_video:
            assert visual is not None
            hidden = output.hidden_states[-1][is_video].view(*self.video_shape(visual), self.hidden_size)
        return StudentOutput(output.logits, output.loss, hidden)

    @torch.inference_mode()
    def generate(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, *, visual: Visual | None = None, max_new_tokens: int = 16
    ) -> torch.Tensor:
        """Greedy answers, int64 (sample, new token), to prompts that are padded at the beginning."""
        answered: torch.Tensor = self.model.generate(
            input_ids=input_ids,
            attention_mask=attention_mask,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=self.processor.tokenizer.pad_token_id,
            **self.model_inputs(input_ids, visual),
        )
        return answered[:, input_ids.shape[1] :]

    def save(self, folder: Path) -> None:
        """Write the plain model and its tokenizer, as transformers loads them; nothing of P4D, no pickle."""
        with no_progress_bars():
            self.model.save_pretrained(folder)
        self.processor.save(folder)


class no_progress_bars:  # noqa: N801  # reads as what it does
    """Reading and writing a few files needs none, and the command's standard error has its own."""

    def __enter__(self) -> None:
        from transformers.utils import logging  # noqa: PLC0415  # only who has a model has it loaded

        self.shown = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        from transformers.utils import logging  # noqa: PLC0415

        if self.shown:
            logging.enable_progress_bar()
