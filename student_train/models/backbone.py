"""The interface between P4D and its students: text and frames go in; loss and hidden states at the video tokens come out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

IGNORED_LABEL = -100
"""The label, as in transformers, of a token that the language-modelling loss ignores."""

_PROBE = "\ue000"
"""A character that is in no template."""

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
Visual = Mapping[str, torch.Tensor]
"""The visual inputs of a batch: the model's own keyword arguments → tensors."""


@dataclass(frozen=True)
class StudentOutput:
    """One forward pass."""

    logits: torch.Tensor
    """float (sample, token, vocabulary); with labels (label, vocabulary), of the tokens before a label alone: of thousands of
    tokens a few dozen have one, and the vocabulary is large."""
    loss: torch.Tensor | None
    """Next-token cross-entropy, a scalar; None without labels."""
    hidden: torch.Tensor | None
    """float (clip, time, y, x, hidden): the last hidden states at the video tokens; None if no sample has a video.
    A time step is a frame, or the group of frames that the model merges into one token."""


class Processor(Protocol):
    """The data side of a backbone: times, frames and images to token ids and tensors. Picklable, for DataLoader workers."""

    tokenizer: PreTrainedTokenizerBase
    image_size: int
    """Height and width of the frames it takes, in pixels."""
    video_token_id: int
    """The placeholder token of videos; below 0 if the vocabulary has none."""
    image_token_id: int
    """The placeholder token of images."""

    def video_ids(self, seconds: Sequence[float]) -> list[int]:
        """The token ids that replace ``<video>`` in the text. ``seconds``: the time of each frame."""

    def image_ids(self) -> list[int]:
        """The token ids that replace ``<image>`` in the text."""

    def visual(self, frames: Pixels | None, timestamps: np.ndarray[Any, Any] | None, images: Pixels | None) -> Visual:
        """The model's visual inputs.

        ``frames``: uint8 (clip, frame, height, width, RGB). ``timestamps``: float (clip, frame), seconds. ``images``: uint8
        (image, height, width, RGB). Inputs that are None are left out.
        """

    def save(self, folder: Path) -> None:
        """Write the tokenizer and the processor files that transformers keeps beside the weights."""


class Backbone(nn.Module, ABC):
    """A video language model of transformers, unchanged in `model`, whose hidden states this reads.

    Subclasses say where the model keeps its parts and how its video tokens form a grid.
    """

    usage: ClassVar[str]
    """The README of an export, with ``{size}`` for the side of its frames."""

    def __init__(self, model: PreTrainedModel, processor: Processor) -> None:
        super().__init__()
        self.model = model
        self.processor = processor

    @property
    def example(self) -> str:
        """The README of an export: how to use the saved model with transformers alone."""
        return self.usage.replace("{size}", str(self.processor.image_size))

    @property
    def hidden_size(self) -> int:
        """Channels of the language model's hidden states."""
        return int(self.model.config.text_config.hidden_size)

    @property
    def video_token_id(self) -> int:
        """The placeholder token of videos."""
        return int(self.model.config.video_token_id)

    @abstractmethod
    def video_shape(self, visual: Visual) -> tuple[int, int, int, int]:
        """(clip, time, y, x): the shape of the video tokens for these visual inputs."""

    @abstractmethod
    def parts(self) -> dict[str, nn.Module]:
        """The modules ``vision_tower``, ``projector`` and ``llm`` of the model."""

    @property
    def unread(self) -> Sequence[nn.Module]:
        """Modules of the vision tower that its tokens do not depend on: they get no gradient, so they cannot train."""
        return ()

    @property
    def last_states(self) -> Callable[..., Any]:
        """The model without its head: the model's inputs to ``last_hidden_state``, float (sample, token, hidden)."""
        model: Callable[..., Any] = self.model.model
        return model

    @property
    def language_model(self) -> PreTrainedModel:
        """The stack of decoder layers, as a model of transformers."""
        return self.model.model.language_model

    def model_inputs(self, input_ids: torch.Tensor, visual: Visual | None) -> Visual:  # noqa: ARG002  # some models derive inputs from it
        """The keyword arguments for the model: ``visual``, and in some models inputs derived from ``input_ids``, or others in
        their place.
        """
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
        """One forward pass over text, videos and images.

        ``input_ids``, ``attention_mask``, ``labels``: int64 (sample, token), with the processor's ids for videos and images.
        ``label_count``: number of labels that the loss is a mean over, needed under gradient accumulation; this batch's when
        absent.
        ``visual``: as `Processor.visual` returns it.
        """
        inputs = {"input_ids": input_ids, **self.model_inputs(input_ids, visual)}
        states = self.last_states(
            attention_mask=attention_mask, use_cache=False, **inputs
        ).last_hidden_state  # (sample, token, hidden)
        is_video = input_ids == self.video_token_id  # (sample, token)
        hidden = None
        if bool(is_video.any()):
            assert visual is not None
            hidden = states[is_video].view(*self.video_shape(visual), self.hidden_size)
        head = self.model.get_output_embeddings()
        if labels is None:
            return StudentOutput(head(states), None, hidden)
        expected = F.pad(labels[:, 1:], (0, 1), value=IGNORED_LABEL)  # (sample, token): the label of the token after each
        has_label = expected != IGNORED_LABEL
        logits = head(states[has_label])
        summed = F.cross_entropy(logits.float(), expected[has_label], reduction="sum")
        return StudentOutput(logits, summed / (has_label.sum() if label_count is None else label_count), hidden)

    @torch.inference_mode()
    def generate(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, *, visual: Visual | None = None, max_new_tokens: int = 16
    ) -> torch.Tensor:
        """Greedy decoding: int64 (sample, new token). Prompts, int64 (sample, token), must be padded on the left."""
        answered: torch.Tensor = self.model.generate(
            attention_mask=attention_mask,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,  # whatever the checkpoint's own generation settings are
            num_return_sequences=1,
            pad_token_id=self.processor.tokenizer.pad_token_id,
            **{"input_ids": input_ids, **self.model_inputs(input_ids, visual)},
        )
        return answered[:, input_ids.shape[1] :]

    def save(self, folder: Path) -> None:
        """Write the plain model, its tokenizer and processor files, as transformers loads them; nothing of P4D, no pickle."""
        with no_progress_bars():
            self.model.save_pretrained(folder)
        self.processor.save(folder)


def behind(tower: nn.Module, states: Sequence[int]) -> list[nn.Module]:
    """The modules of one of transformers' vision towers that none of its hidden ``states``, by their indices, depends on."""
    layers = max((module for module in tower.modules() if isinstance(module, nn.ModuleList)), key=len)
    last = max(state % (len(layers) + 1) for state in states)
    return [*layers[last:], *(getattr(tower, name) for name in ("post_layernorm", "head") if hasattr(tower, name))]


def takes_pieces(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether its chat template reads what a turn says only from a list of pieces, not from a text.

    Such a template, as LLaVA's, leaves a plain text out without a word.
    """
    return _PROBE not in _tried(tokenizer, _PROBE) and _PROBE in _tried(tokenizer, pieces(_PROBE))


def pieces(text: str) -> list[dict[str, str]]:
    """What a turn says, as a list of pieces."""
    return [{"type": "text", "text": text}]


def beginning(tokenizer: PreTrainedTokenizerBase) -> str:
    """What the tokenizer begins every text with and its chat template leaves out, as LLaVA's does; mostly nothing."""
    begin = tokenizer.bos_token
    if begin is None or tokenizer("").input_ids[:1] != [tokenizer.bos_token_id]:
        return ""
    text = _tried(tokenizer, pieces(_PROBE) if takes_pieces(tokenizer) else _PROBE)
    return "" if text.startswith(begin) else str(begin)


def _tried(tokenizer: PreTrainedTokenizerBase, content: str | list[dict[str, str]]) -> str:
    """A turn as its chat template writes it; nothing if that fails, as a real turn will then, with its message."""
    try:
        text: str = tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    except Exception:  # noqa: BLE001  # a template is anyone's, and may fail in any way
        return ""
    return text


class no_progress_bars:  # noqa: N801  # reads as what it does
    """Turns off transformers' progress bars, which would mix with the command's own on standard error."""

    def __enter__(self) -> None:
        from transformers.utils import logging  # noqa: PLC0415  # transformers is loaded by now, since there is a model

        self.shown = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        from transformers.utils import logging  # noqa: PLC0415

        if self.shown:
            logging.enable_progress_bar()
