"""4D-RGPT as a transformers model: frames, their times and text go in; logits, loss and hidden states come out.

4D-RGPT, arXiv 2512.17012, section 3: an NVILA-Lite student (SigLIP tower, MLP projector, Qwen2) with timestamp positional
encoding as its only addition. Every saved model carries this file, which needs only torch and transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM, SiglipVisionConfig, SiglipVisionModel
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast


class FourDRgptConfig(PreTrainedConfig):  # type: ignore[misc]  # transformers ships no types
    """Configuration of a 4D-RGPT: its parts and how they are joined."""

    model_type = "four_d_rgpt"
    sub_configs = {"vision_config": SiglipVisionConfig, "text_config": Qwen2Config}  # noqa: RUF012  # transformers reads it so

    def __init__(
        self,
        vision_config: SiglipVisionConfig | dict[str, Any] | None = None,
        text_config: Qwen2Config | dict[str, Any] | None = None,
        *,
        vision_layer: int = -1,
        downsample: int = 3,
        projector_layers: Sequence[int | str] = (),
        timestamps: str = "before_projector",
        separator: str = "",
        video_token_id: int = 0,
        image_token_id: int = 0,
        **kwargs: Any,
    ) -> None:
        """Configure a model.

        ``vision_layer``: index of the tower's hidden state to project; -1 is its output, after its last norm.
        ``downsample``: the projector joins squares of ``downsample`` × ``downsample`` tokens into one.
        ``projector_layers``: the projector's layers in order: the width of a linear layer, ``norm`` or ``gelu``.
        ``timestamps``: where the timestamp encoding is added: ``before_projector``, ``after_projector`` or ``none``.
        ``separator``: the text after the tokens of every frame of a video, and of every image.
        ``video_token_id``, ``image_token_id``: the placeholder tokens.
        """
        self.vision_config = _sub_config(SiglipVisionConfig, vision_config)
        self.text_config = _sub_config(Qwen2Config, text_config)
        self.vision_layer, self.downsample, self.projector_layers = vision_layer, downsample, list(projector_layers)
        self.timestamps, self.separator = timestamps, separator
        self.video_token_id, self.image_token_id = video_token_id, image_token_id
        super().__init__(**kwargs)


def _sub_config(kind: type[PreTrainedConfig], value: PreTrainedConfig | dict[str, Any] | None) -> PreTrainedConfig:
    return value if isinstance(value, kind) else kind(**(value or {}))


def timestamp_encoding(seconds: torch.Tensor, dim: int) -> torch.Tensor:
    """Timestamp positional encoding: p[2i] = sin(t / 10000^(2i/D)), p[2i+1] = cos(t / 10000^(2i/D)), t in seconds.

    float (…,) to float64 (…, dim). No parameters. 4D-RGPT, arXiv 2512.17012, section 3.
    """
    exponents = torch.arange(0, dim, 2, dtype=torch.float64, device=seconds.device) / dim  # (dim/2,)
    angles = seconds.double()[..., None] / 10000**exponents  # (…, dim/2)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)


def _is_padded_at_end(attention_mask: torch.Tensor) -> bool:
    """Whether all padding, if any, follows the tokens (right padding)."""
    return bool((attention_mask[:, 1:] <= attention_mask[:, :-1]).all())


def siglip_pixels(frames: torch.Tensor) -> torch.Tensor:
    """uint8 (…, height, width, RGB) to float32 (…, RGB, height, width) in [-1, 1], as SigLIP's image processor scales it."""
    return frames.movedim(-1, -3).float() / 127.5 - 1


class Projector(nn.Module):
    """Joins n × n neighbouring tokens into one, then an MLP to the language model's width (NVILA-Lite: n = 3).

    Where the tokens do not divide into squares, zeros are added at the bottom and at the right.
    """

    def __init__(self, vision_size: int, downsample: int, layers: Sequence[int | str]) -> None:
        super().__init__()
        self.downsample = downsample
        modules: list[nn.Module] = []
        width = vision_size * downsample**2
        for layer in layers:
            if isinstance(layer, int):
                modules.append(nn.Linear(width, layer))
                width = layer
            else:
                modules.append(nn.LayerNorm(width) if layer == "norm" else nn.GELU())
        self.layers = nn.Sequential(*modules)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features, float (frame, y, x, vision), to tokens, float (frame, ⌈y/n⌉, ⌈x/n⌉, hidden)."""
        n = self.downsample
        features = nn.functional.pad(features, (0, 0, 0, -features.shape[2] % n, 0, -features.shape[1] % n))
        frames, height, width, channels = features.shape
        blocks = features.reshape(frames, height // n, n, width // n, n, channels)
        projected: torch.Tensor = self.layers(blocks.transpose(2, 3).flatten(3))  # in: (frame, y/n, x/n, n·n·vision)
        return projected


class FourDRgptForConditionalGeneration(PreTrainedModel, GenerationMixin):  # type: ignore[misc]  # transformers ships no types
    """A video language model of three parts: ``vision_tower``, ``projector`` and ``llm``."""

    config_class = FourDRgptConfig
    input_modalities = ("video", "image", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ["Qwen2DecoderLayer", "SiglipEncoderLayer"]  # noqa: RUF012  # transformers reads it so
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    def __init__(self, config: FourDRgptConfig) -> None:
        super().__init__(config)
        self.vision_tower = SiglipVisionModel(config.vision_config)
        self.projector = Projector(config.vision_config.hidden_size, config.downsample, config.projector_layers)
        self.llm = Qwen2ForCausalLM(config.text_config)
        self.post_init()

    @property
    def grid(self) -> int:
        """Tokens along each side of a frame."""
        return -(-self._side // int(self.config.downsample))

    @property
    def _side(self) -> int:
        """Patches along each side of a frame."""
        vision = self.config.vision_config
        return int(vision.image_size) // int(vision.patch_size)

    def get_input_embeddings(self) -> nn.Module:
        embeddings: nn.Module = self.llm.get_input_embeddings()
        return embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.llm.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        head: nn.Module = self.llm.get_output_embeddings()
        return head

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        *,
        frames: torch.Tensor | None = None,
        timestamps: torch.Tensor | None = None,
        images: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        logits_to_keep: int = 0,
        num_items_in_batch: float | torch.Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """One forward pass over text, videos and images.

        ``labels``: int64 (sample, token). ``num_items_in_batch``: number of labels that the loss is a mean over, under gradient
        accumulation. Other inputs, and errors: as `last_states` has them.
        """
        output = self.last_states(input_ids, attention_mask, frames=frames, timestamps=timestamps, images=images, **kwargs)
        logits = self.llm.lm_head(output.last_hidden_state[:, -logits_to_keep if logits_to_keep else 0 :])
        loss = None
        if labels is not None:
            loss = self.llm.loss_function(
                logits, labels, vocab_size=self.config.text_config.vocab_size, num_items_in_batch=num_items_in_batch
            )
        return CausalLMOutputWithPast(
            loss=loss, logits=logits, past_key_values=output.past_key_values, hidden_states=output.hidden_states
        )

    def last_states(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        *,
        frames: torch.Tensor | None = None,
        timestamps: torch.Tensor | None = None,
        images: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """The language model's last hidden states, float (sample, token, hidden), without the head.

        ``input_ids``, ``attention_mask``: int64 (sample, token). For a video, ``input_ids`` holds the placeholder
        ``video_token_id`` once per visual token: frame by frame, row by row; likewise ``image_token_id`` for an image. The
        tokens of the config's ``separator`` come after each frame's.
        ``frames``: uint8 (clip, frame, height, width, RGB) at the tower's size, clips in the order of their placeholders.
        ``timestamps``: float (clip, frame), seconds from the video's start.
        ``images``: uint8 (image, height, width, RGB), in the order of their placeholders.

        Raises `ValueError` if the placeholders are not as many as the visual tokens.
        """
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)  # (sample, token, hidden)
        if frames is not None:
            tokens = self.encode(frames, timestamps)  # (clip, frame, y, x, hidden)
            inputs_embeds = self._placed(tokens, input_ids == self.config.video_token_id, inputs_embeds, "video")
        if images is not None:
            tokens = self.encode(images[:, None], None)  # (image, 1, y, x, hidden)
            inputs_embeds = self._placed(tokens, input_ids == self.config.image_token_id, inputs_embeds, "image")
        if attention_mask is not None and not kwargs.get("use_cache", True) and _is_padded_at_end(attention_mask):
            # With causal attention no token sees the padding after it, and the padding's own states are never read. Without a
            # mask, attention uses its causal kernel and takes half the time.
            attention_mask = None
        return self.llm.model(inputs_embeds=inputs_embeds, attention_mask=attention_mask, **kwargs)

    def encode(self, frames: torch.Tensor, timestamps: torch.Tensor | None) -> torch.Tensor:
        """Visual tokens: uint8 (clip, frame, height, width, RGB) to float (clip, frame, y, x, hidden).

        ``timestamps``: float (clip, frame), seconds; None for images.
        """
        clips, count = frames.shape[:2]
        pixels = siglip_pixels(frames.flatten(0, 1)).to(self.vision_tower.dtype)  # (clip·frame, RGB, height, width)
        patches = self._patches(pixels)  # (clip·frame, patch, vision)
        features = patches.reshape(-1, self._side, self._side, patches.shape[-1])  # (clip·frame, y, x, vision)
        if timestamps is not None and self.config.timestamps == "before_projector":
            features = features + _time(timestamps, features)
        tokens: torch.Tensor = self.projector(features)  # (clip·frame, ⌈y/n⌉, ⌈x/n⌉, hidden)
        if timestamps is not None and self.config.timestamps == "after_projector":
            tokens = tokens + _time(timestamps, tokens)
        return tokens.view(clips, count, *tokens.shape[1:])

    def _patches(self, pixels: torch.Tensor) -> torch.Tensor:
        if self.config.vision_layer == -1:
            last: torch.Tensor = self.vision_tower(pixel_values=pixels).last_hidden_state
            return last
        states = self.vision_tower(pixel_values=pixels, output_hidden_states=True).hidden_states
        chosen: torch.Tensor = states[self.config.vision_layer]
        return chosen

    @staticmethod
    def _placed(tokens: torch.Tensor, where: torch.Tensor, embeddings: torch.Tensor, kind: str) -> torch.Tensor:
        """The embeddings with the visual tokens at the placeholders; ``where``: bool (sample, token)."""
        if (expected := int(where.sum())) != tokens[..., 0].numel():
            raise ValueError(
                f"input_ids hold {expected} {kind} tokens, but the frames give {tokens[..., 0].numel()} "
                f"({' × '.join(map(str, tokens.shape[:-1]))}); write frame · y · x placeholders for each {kind}"
            )
        return embeddings.masked_scatter(where[..., None], tokens.to(embeddings.dtype))

    def prepare_inputs_for_generation(self, *args: Any, is_first_iteration: bool = False, **kwargs: Any) -> dict[str, Any]:
        """The inputs of one step of ``generate``; after the first, the key-value cache already holds the frames."""
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(*args, is_first_iteration=is_first_iteration, **kwargs)
        if not is_first_iteration and kwargs.get("use_cache", True):
            inputs |= {"frames": None, "timestamps": None, "images": None}
        return inputs


def _time(timestamps: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """The encoding of the timestamps, (clip·frame, 1, 1, channel), to add to every token of the frame."""
    return timestamp_encoding(timestamps.flatten(), features.shape[-1])[:, None, None].to(features.dtype)


# Makes `save_pretrained` copy this file beside the weights and name its classes in config.json.
FourDRgptConfig.register_for_auto_class()
FourDRgptForConditionalGeneration.register_for_auto_class("AutoModelForImageTextToText")
