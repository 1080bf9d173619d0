"""P4D as one module: a student's hidden states and cached targets go in, named losses come out.

Needs neither transformers nor a trainer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from schemas.errors import BadInput
from schemas.signal import Shape, SignalName
from schemas.train import RECIPES, DecoderConfig, LossRecipe, Modality, Mode
from student_train.distill.gathered import Gathered, LossOfClips
from student_train.distill.losses import Count, explicit_loss, latent_loss
from student_train.distill.perception import (
    FROZEN,
    DirectPerception,
    F4DShape,
    FrozenPerception,
    Grid,
    LatentPerception,
    NoPerception,
    Perception,
    perception_decoder,
)
from teacher_cache.teachers.heads.dpt import PATCH_SIZE, TUBELET_FRAMES

if TYPE_CHECKING:
    from teacher_cache import Targets
    from teacher_cache.teachers.heads.frozen import FrozenHeads

_DECODER = DecoderConfig()


class P4DLosses(NamedTuple):
    """The distillation losses of one batch."""

    total: torch.Tensor
    """float32 scalar with a gradient: alpha · LD + beta · Σ weight · ED. Add it to the language-modelling loss."""
    parts: dict[str, torch.Tensor]
    """``ld``, ``ed_depth``, ``ed_flow``, …: float32 scalars, unweighted and detached, for logging. NaN if no clip of the
    batch has the target, so that a missing target never looks like a loss of zero."""


class P4D(nn.Module):
    """Perceptual 4D distillation of one student. 4D-RGPT, arXiv 2512.17012, section 3.

    ``perception`` is trained with the student and dropped afterwards; the teacher's heads in it, if any, stay frozen.
    ``recipe`` gives the weights and the form of the losses. `for_store` builds both to fit a store.
    """

    def __init__(self, perception: Perception, recipe: LossRecipe) -> None:
        super().__init__()
        self.perception = perception
        self.recipe = recipe
        weights = signal_weights(recipe)
        self.signals: tuple[SignalName, ...] = tuple(signal for signal in weights if signal in perception.gives)
        """Signals with a weight above 0 that the perception gives: the targets that `forward` needs."""
        self._weights = weights

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
        """P4D for the targets in a store.

        ``hidden_size``: channels of the student's hidden states. ``mode`` and ``decoder``: as in `schemas.train.TrainConfig`.
        Reads no clip. Raises `BadInput` if the store has no committed clip, or lacks a signal or the frozen heads that the
        recipe and the mode need.
        """
        if not cache.committed_ids():
            raise BadInput(f"the store {cache.url} has no committed clip to train on; see `teacher-cache status {cache.url}`")
        p4d = cls(_PERCEPTIONS[mode](cache, hidden_size, tuple(signal_weights(recipe)), decoder), recipe)
        if not p4d.signals and mode != "sft":
            raise BadInput(f"nothing would be distilled: the recipe gives no weight above 0 to any loss of mode `{mode}`")
        return p4d

    def forward(
        self,
        hidden: torch.Tensor,
        targets: Mapping[str, torch.Tensor],
        valid: Mapping[str, torch.Tensor] | None = None,
        clips: Mapping[str, Count] | None = None,
        weights: Mapping[str, torch.Tensor] | None = None,
    ) -> P4DLosses:
        """The losses of one batch.

        ``hidden``: float (clip, time, y, x, hidden), the language model's last hidden states at the video tokens.
        ``targets``: signal → float (clip, …) for each of `signals`, axes and units as in `schemas.signal.SIGNALS`, on any
        device.
        ``valid``: signal → bool (clip,), which clips have that target; all of them when absent.
        ``clips``: signal → number of clips that the loss is a mean over, needed under gradient accumulation; the valid
        clips of this batch when absent.
        ``weights``: map → float (clip, frame, y, x), each pixel's weight in ED, as
        `student_train.distill.pixel_weights.PixelWeights` gives them; a map without has 1 everywhere.

        Raises `BadInput` if a prediction and its target differ in shape, or ``hidden`` and the targets in clips.
        """
        self._check_clips(len(hidden), targets)
        decoded = [signal for signal in self.signals if signal in self.perception.decoded]
        direct = [signal for signal in self.signals if signal not in decoded]
        predictions = self.perception(hidden, [*direct, *(("f4d",) if decoded and "f4d" not in direct else ())])
        gathered = Gathered(predictions["f4d"], _clips_at_once(predictions["f4d"])) if decoded else None
        total = hidden.new_zeros((), dtype=torch.float32)
        parts: dict[str, torch.Tensor] = {}
        for signal in self.signals:
            mask = torch.ones(len(targets[signal]), dtype=torch.bool) if valid is None else valid[signal]
            count = mask.sum() if clips is None else clips[signal]
            pixels = None if weights is None else weights.get(signal)
            loss_of = partial(self._loss, signal, target=targets[signal], valid=mask, count=count, weights=pixels)
            if gathered is not None and signal in decoded:
                loss = gathered.add(self._weights[signal], partial(self._decoded_loss, loss_of, signal), mask)
            else:
                # If no clip has the target, the loss is 0 but still in the graph, so every trained weight gets a gradient.
                loss = loss_of(slice(None), predictions[signal])
                total = total + self._weights[signal] * loss
            parts[part_name(signal)] = torch.where(mask.any().to(loss.device), loss.detach(), torch.nan)
        return P4DLosses(total if gathered is None else total + gathered.total(), parts)

    def _loss(
        self,
        signal: SignalName,
        clips: slice,
        prediction: torch.Tensor,
        *,
        target: torch.Tensor,
        valid: torch.Tensor,
        count: Count,
        weights: torch.Tensor | None,
    ) -> torch.Tensor:
        """These clips' share of a signal's loss."""
        self._check_shapes(signal, tuple(prediction.shape[1:]), tuple(target.shape[1:]))
        target, mask = (value[clips].to(prediction.device, non_blocking=True) for value in (target, valid))
        if signal == "f4d":
            return latent_loss(prediction, target, valid=mask, recipe=self.recipe, clips=count)
        if weights is not None:
            self._check_shapes(f"{signal}'s weights", tuple(target.shape[1:4]), tuple(weights.shape[1:]))
            weights = weights[clips].to(prediction.device, non_blocking=True)
        modality = cast("Modality", signal)  # what `LossRecipe` has a weight for
        return explicit_loss(modality, prediction, target, valid=mask, recipe=self.recipe, clips=count, weights=weights)

    def _decoded_loss(self, loss_of: LossOfClips, signal: SignalName, clips: slice, f4d: torch.Tensor) -> torch.Tensor:
        return loss_of(clips, self.perception.decode(f4d, signal))

    @property
    def gives_maps(self) -> bool:
        """Whether the student's maps can be had from it."""
        return any(signal != "f4d" for signal in self.perception.gives)

    @torch.no_grad()
    def maps(self, hidden: torch.Tensor, signals: Collection[SignalName] | None = None) -> dict[SignalName, torch.Tensor]:
        """The student's own maps, from ``hidden`` as `forward` takes it.

        Returns signal → float32 (clip, …), axes and units as in `schemas.signal.SIGNALS`, depth positive. ``signals``: all
        maps of the mode when absent; ``f4d`` may be named too. Raises `BadInput` for a signal that the mode does not give:
        `latent` has no maps, so load its weights into a P4D of mode `heads`.
        """
        maps = [signal for signal in self.perception.gives if signal != "f4d"]
        wanted = maps if signals is None else signals
        if absent := [signal for signal in wanted if signal not in self.perception.gives]:
            raise BadInput(
                f"this P4D gives no {', '.join(absent)}, only {', '.join(self.perception.gives)}; "
                "to get maps from a `latent` run, load it into a P4D of mode `heads`"
            )
        raw = self.perception(hidden, wanted)
        return {signal: x.float().exp() if signal == "depth" else x.float() for signal, x in raw.items()}

    @property
    def parts(self) -> dict[str, nn.Module]:
        """Modules by name: ``perception_decoder`` and ``direct_heads``, which train, and ``frozen_heads``, which do not."""
        return self.perception.parts

    def save(self, folder: Path) -> None:
        """Write each trained part to ``folder`` as safetensors. The frozen heads stay in the store."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, part in self._trained().items():
            save_file({key: values.contiguous() for key, values in part.state_dict().items()}, folder / f"{name}.safetensors")

    def load(self, folder: Path) -> None:
        """Load the trained parts that `save` wrote. Raises `BadInput` if a file is missing or a shape differs."""
        for name, part in self._trained().items():
            file = folder / f"{name}.safetensors"
            try:
                found = load_file(file)
            except (OSError, SafetensorError) as error:
                raise BadInput(f"cannot read the trained {name} in {file}: {error}; was the run of this mode?") from None
            needed = {key: tuple(values.shape) for key, values in part.state_dict().items()}
            if needed != (held := {key: tuple(values.shape) for key, values in found.items()}):
                differing = sorted(key for key in needed | held if needed.get(key) != held.get(key))
                raise BadInput(
                    f"{file} does not fit: {differing[0]} is {held.get(differing[0])}, needed {needed.get(differing[0])} "
                    f"({len(differing)} such); use the store, the student and the decoder settings it was trained with."
                )
            part.load_state_dict(found)

    def _trained(self) -> dict[str, nn.Module]:
        return {name: part for name, part in self.parts.items() if name != FROZEN}

    def _check_clips(self, clips: int, targets: Mapping[str, torch.Tensor]) -> None:
        for signal in self.signals:
            if len(targets[signal]) != clips:
                raise BadInput(
                    f"the student's hidden states are of {clips} clips, the targets of {signal} are of {len(targets[signal])}: "
                    "needed one row in both for each video of the batch. A sample for `TargetCollator` has no `clip_id` if it "
                    "has no video, and None for a video without targets."
                )

    @staticmethod
    def _check_shapes(signal: str, prediction: tuple[int, ...], target: tuple[int, ...]) -> None:
        if prediction != target:
            raise BadInput(
                f"a clip's {signal} is {prediction} by the student, its target is {target}: "
                "the heads or the decoder were made for another teacher. Build P4D from the store that the targets come from."
            )


def _clips_at_once(f4d: torch.Tensor) -> int:
    """How many clips to decode a map of at a time: one, for the least memory; on a CPU all.

    There, PyTorch convolves a batch of one clip by a path that takes ten times as long.
    """
    return max(1, len(f4d)) if f4d.device.type == "cpu" else 1


def signal_weights(recipe: LossRecipe) -> dict[SignalName, float]:
    """Signal → weight of its loss in the total, for weights above 0."""
    weights: dict[SignalName, float] = {"f4d": recipe.alpha}
    weights |= {modality: recipe.beta * weight for modality, weight in recipe.weights.items()}
    return {signal: weight for signal, weight in weights.items() if weight > 0}


def part_name(signal: SignalName) -> str:
    """The name of a signal's loss in logs: ``ld``, ``ed_depth``, …."""
    return "ld" if signal == "f4d" else f"ed_{signal}"


def _latent(cache: Targets, hidden_size: int, wanted: Collection[SignalName], decoder: DecoderConfig) -> Perception:  # noqa: ARG001  # one signature for all modes
    return LatentPerception(perception_decoder(decoder, hidden_size, f4d_shape(cache)))


def _nothing(cache: Targets, hidden_size: int, wanted: Collection[SignalName], decoder: DecoderConfig) -> Perception:  # noqa: ARG001  # one signature for all modes
    return NoPerception()


def _frozen(cache: Targets, hidden_size: int, wanted: Collection[SignalName], decoder: DecoderConfig) -> Perception:
    heads = cache.heads()
    if heads is None:
        raise BadInput(
            f"the store {cache.url} holds no frozen heads, which mode `heads` needs; "
            "use mode `latent` or `direct`, or a store whose teacher gives its heads."
        )
    _require(cache, wanted)
    shape = cast("F4DShape", tuple(heads.card.f4d))
    if "f4d" in cache.signals and shape != f4d_shape(cache):
        raise BadInput(
            f"the heads of {cache.url} decode F4D of shape {shape}, but its f4d is {f4d_shape(cache)}: "
            "they belong to another teacher. Run the job again with the teacher's own weights, or use mode `latent`."
        )
    # F4D and the activations have channels last; weights in the same layout save a third of the heads' time and change no
    # value.
    heads = cast("FrozenHeads", heads.to(memory_format=torch.channels_last_3d))  # type: ignore[call-overload]  # torch's stubs lack it
    return FrozenPerception(perception_decoder(decoder, hidden_size, shape), heads, list(heads.card.heads))


def _direct(cache: Targets, hidden_size: int, wanted: Collection[SignalName], decoder: DecoderConfig) -> Perception:
    _require(cache, wanted)
    latent = perception_decoder(decoder, hidden_size, f4d_shape(cache)) if "f4d" in wanted else None
    shapes: dict[SignalName, Shape] = {signal: cache.shape(signal) for signal in wanted if signal != "f4d"}
    return DirectPerception(hidden_size, token_grid(cache), shapes, latent)


_PERCEPTIONS: dict[Mode, Callable[[Targets, int, Collection[SignalName], DecoderConfig], Perception]] = {
    "latent": _latent,
    "heads": _frozen,
    "direct": _direct,
    "sft": _nothing,
}


def _require(cache: Targets, signals: Collection[SignalName]) -> None:
    if absent := [name for name in signals if name not in cache.signals]:
        raise BadInput(
            f"the losses need {', '.join(absent)}, but the store {cache.url} holds {', '.join(cache.signals)}; "
            "set their weights to 0 (`loss.alpha` for f4d), or add the signals with `teacher-cache run`."
        )


def f4d_shape(cache: Targets) -> F4DShape:
    """Shape of one clip's F4D in the store: (layer, token_time, token_y, token_x, channel). Raises `BadInput` without F4D."""
    if "f4d" not in cache.signals:
        raise BadInput(
            f"the store {cache.url} holds {', '.join(cache.signals)} but no f4d, whose shape the perception decoder needs; "
            "add it with `teacher-cache run`."
        )
    return cast("F4DShape", cache.shape("f4d"))


def token_grid(cache: Targets) -> Grid:
    """The teacher's tokens along (time, y, x): from the store's F4D, or without it from L4P's patch size."""
    if "f4d" in cache.signals:
        return f4d_shape(cache)[1:4]
    frames, side = cache.shape("timestamps")[0] // TUBELET_FRAMES, cache.size // PATCH_SIZE
    return frames, side, side
