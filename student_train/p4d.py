"""P4D as one module: a student's hidden states and cached targets in, named losses out. Needs no transformers, no trainer."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from safetensors.torch import save_file
from torch import nn

from schemas.errors import BadInput
from schemas.signal import SignalName
from schemas.train import RECIPES, DecoderConfig, LossRecipe, Modality, Mode
from student_train.losses import Count, explicit_loss, latent_loss
from student_train.perception import PerceptionDecoder, perception_decoder

if TYPE_CHECKING:
    from teacher_cache import Targets

_DECODER = DecoderConfig()


class Heads(Protocol):
    """What P4D asks of the teacher's frozen heads: dense maps from F4D, through which gradients flow back to F4D."""

    def raw(self, f4d: torch.Tensor, signals: Collection[SignalName]) -> dict[SignalName, torch.Tensor]:
        """F4D, float (clip, layer, token_time, token_y, token_x, channel), to log depth, flow, motion logits, raw rays."""


class P4DLosses(NamedTuple):
    """What one batch lost."""

    total: torch.Tensor
    """Scalar with a gradient: alpha · LD + beta · Σ weight · ED. Add it to the language-modelling loss."""
    parts: dict[str, torch.Tensor]
    """``ld``, ``ed_depth``, ``ed_flow``, …: each unweighted and detached, for logging. NaN where no clip of the batch had
    the target, so that an absent target is never read as a loss of zero."""


class P4D(nn.Module):
    """Perceptual 4D distillation of one student. 4D-RGPT, arXiv 2512.17012, section 3.

    The decoder is trained with the student and thrown away after; the heads are the teacher's, and stay as they are.
    Without heads there is latent distillation alone.
    """

    def __init__(self, decoder: PerceptionDecoder, recipe: LossRecipe, heads: Heads | None = None) -> None:
        super().__init__()
        self.decoder = decoder
        self.recipe = recipe
        self.heads = heads
        weighted = tuple(modality for modality, weight in recipe.weights.items() if weight > 0)
        self.modalities: tuple[Modality, ...] = weighted if heads is not None and recipe.beta > 0 else ()
        """What the heads decode."""
        self.signals: tuple[SignalName, ...] = ("f4d", *self.modalities) if recipe.alpha > 0 else self.modalities
        """The signals that `forward` needs as targets."""

    @classmethod
    def for_store(
        cls,
        cache: Targets,
        hidden_size: int,
        recipe: LossRecipe = RECIPES["paper"],
        *,
        mode: Mode = "heads",
        decoder: DecoderConfig = _DECODER,
    ) -> P4D:
        """P4D that fits what the store holds, for a student whose hidden states have ``hidden_size`` channels.

        Raises `BadInput` where the store cannot serve the recipe: a signal is missing, or the heads are.
        """
        heads = cache.heads() if mode == "heads" else None
        if mode == "heads" and heads is None:
            raise BadInput(
                f"the store {cache.url} holds no frozen heads, which mode `heads` decodes with; "
                "take mode `latent`, or a store whose teacher gives its heads."
            )
        shape = f4d_shape(cache)
        if heads is not None and tuple(heads.card.f4d) != shape:
            raise BadInput(
                f"the heads of {cache.url} decode F4D of shape {tuple(heads.card.f4d)}, but its f4d is {shape}: "
                "they belong to another teacher. Run the job again with the teacher's own weights, or take mode `latent`."
            )
        if heads is not None:
            # F4D comes with its channels last, and so do the activations; weights laid out alike save a third of the
            # heads' time, and change no value.
            heads = heads.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # torch's stubs lack it
        p4d = cls(perception_decoder(decoder, hidden_size, shape), recipe, heads)
        if absent := [name for name in p4d.signals if name not in cache.signals]:
            raise BadInput(
                f"the losses need {', '.join(absent)}, but the store {cache.url} holds {', '.join(cache.signals)}; "
                "set their weights to 0 (`loss.alpha` for f4d), or add the signals with `teacher-cache run`."
            )
        return p4d

    def forward(
        self,
        hidden: torch.Tensor,
        targets: Mapping[str, torch.Tensor],
        valid: Mapping[str, torch.Tensor] | None = None,
        clips: Mapping[str, Count] | None = None,
    ) -> P4DLosses:
        """Distil one batch.

        ``hidden``: float (clip, frame, y, x, hidden), the language model's last hidden states at the video tokens.
        ``targets``: one tensor for each of `signals`, in the store's physical units, first axis = clip.
        ``valid``: signal → bool (clip,), which clips have that target; all of them when absent.
        ``clips``: signal → how many clips the loss is the mean over, where one step has several batches; the valid
        clips of this batch when absent.
        """
        f4d = self.decoder(hidden)  # (clip, layer, token_time, token_y, token_x, channel)
        predictions = {**self._decode(f4d), "f4d": f4d}
        total = 0.0 * f4d.sum()  # keeps every trained weight in the graph, whatever targets the batch has
        parts: dict[str, torch.Tensor] = {}
        for signal in self.signals:
            prediction, target = predictions[signal], targets[signal]
            self._check_shapes(signal, prediction, target)
            mask = torch.ones(len(target), dtype=torch.bool, device=target.device) if valid is None else valid[signal]
            count = mask.sum() if clips is None else clips[signal]
            if signal == "f4d":
                name, weight = "ld", self.recipe.alpha
                loss = latent_loss(prediction, target, valid=mask, recipe=self.recipe, clips=count)
            else:
                name, weight = f"ed_{signal}", self.recipe.beta * self.recipe.weights[signal]
                loss = explicit_loss(signal, prediction, target, valid=mask, recipe=self.recipe, clips=count)
            total = total + weight * loss
            parts[name] = torch.where(mask.any(), loss.detach(), torch.nan)
        return P4DLosses(total, parts)

    def _decode(self, f4d: torch.Tensor) -> dict[SignalName, torch.Tensor]:
        return self.heads.raw(f4d, self.modalities) if self.heads is not None and self.modalities else {}

    @staticmethod
    def _check_shapes(signal: str, prediction: torch.Tensor, target: torch.Tensor) -> None:
        if prediction.shape != target.shape:
            raise BadInput(
                f"the student's {signal} is {tuple(prediction.shape)}, the target is {tuple(target.shape)}: "
                "the heads or the decoder were made for another teacher. Take both from the store that gives the targets."
            )

    def save(self, folder: Path) -> None:
        """Write the trained part, the perception decoder, as safetensors. The heads stay in the store they came from."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.decoder.state_dict(), folder / "decoder.safetensors")


def f4d_shape(cache: Targets) -> tuple[int, int, int, int, int]:
    """(layer, token_time, token_y, token_x, channel) of the store's F4D, read off its first committed clip."""
    if "f4d" not in cache.signals:
        raise BadInput(
            f"the store {cache.url} holds {', '.join(cache.signals)} but no f4d, whose shape the perception decoder takes; "
            "add it with `teacher-cache run`."
        )
    committed = cache.committed_ids()
    if not committed:
        raise BadInput(f"the store {cache.url} has no committed clip to train on; see `teacher-cache status {cache.url}`")
    layer, time, y, x, channel = cache.read(["f4d"], committed[:1])["f4d"].shape[1:]
    return layer, time, y, x, channel
