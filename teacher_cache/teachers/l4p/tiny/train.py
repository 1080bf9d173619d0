"""Seeds in, the packaged `tiny` weights of L4P out: `python -m teacher_cache.teachers.l4p.tiny.train --out DIR`.

Trains on rendered scenes, with the losses that L4P (arXiv 2502.13078) names: scale-invariant log error for depth, L1 for flow
and rays, binary cross-entropy for motion. The published model runs the same encoder and head code.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
import torch.nn.functional as F
import typer
from torch import Tensor, nn

from schemas.recipe import Precision
from schemas.signal import SignalName
from schemas.view import View
from teacher_cache.geometry.augmentation import view_signal
from teacher_cache.io.command_line import reported_errors
from teacher_cache.io.console import progress_bar
from teacher_cache.io.output_folder import claim_folder, written_whole
from teacher_cache.teachers.heads.dpt import PATCH_SIZE, canonical_name
from teacher_cache.teachers.heads.precision import autocast, full_float32
from teacher_cache.teachers.l4p.checkpoint import PREFIX
from teacher_cache.teachers.l4p.config import FRAMES, MAPS, PRESETS, L4PConfig
from teacher_cache.teachers.l4p.encoder import Block
from teacher_cache.teachers.l4p.network import L4P
from teacher_cache.teachers.l4p.teacher import normalise
from teacher_cache.teachers.l4p.tiny.clips import Clips, render_clips

FIRST_TRAINING_SEED = 1_000_000
"""Scenes with smaller seeds are never used in training: they are for demonstrations, tests and evaluation."""
WEIGHTS: dict[SignalName, float] = {"depth": 1.0, "flow": 3.0, "motion": 2.0, "camray": 12.0}
"""Weight of each loss in the sum. Depth and motion can be predicted from one frame and are easy to learn; correspondence
between frames is harder and needs larger weights."""
_TYPICAL: dict[SignalName, float] = {"depth": 1.5, "motion": -2.0}
"""Initial outputs: log metres, and the logit of the typical share of moving pixels."""
_SILOG_LAMBDA = 0.85
"""Share of a clip's mean log error that is not penalised: below 1, so that depth stays close to metres."""
_FEATURE_PENALTY = 0.01
"""Weight of F4D's mean square in the sum of losses. Heads and blocks work with features of any magnitude, but a student must
learn that magnitude step by step; without the penalty, a few channels grow to fifty."""
_FILTER_GAIN = 0.8
_FREE = range(8, 56)
"""Channels of the patch embedding whose position sinusoids vary over tens to hundreds of tokens."""
_CHECKPOINT_EVERY = 100
_DECODED_FRAMES = 3
"""Frames per clip that the pixel heads decode at full resolution in a step: that is expensive, and neighbours are similar."""


@dataclass(frozen=True)
class Settings:
    """Training settings. The defaults are those of the model card."""

    clips: int = 3000
    steps: int = 3600
    batch: int = 4
    matrix_rate: float = 3.0e-3
    """Learning rate of the blocks' matrices (Muon)."""
    other_rate: float = 6.0e-4
    """Learning rate of all other parameters (AdamW)."""
    weight_decay: float = 0.05
    warmup: int = 100
    seed: int = 0
    precision: Precision = "bfloat16"
    """Of products. Where the processor has no bfloat16 of its own, float32 is ten times as fast."""


def silog(log_depth: Tensor, truth: Tensor) -> Tensor:
    """Scale-invariant log error, sqrt(mean d² - λ (mean d)²) with d = log depth - log truth, averaged over clips.

    ``log_depth``, ``truth`` (positive): float (clip, frame, y, x). Eigen et al., arXiv 1406.2283.
    """
    difference = (log_depth - truth.log()).flatten(1)
    return (difference.square().mean(1) - _SILOG_LAMBDA * difference.mean(1).square()).clamp_min(1e-8).sqrt().mean()


Maps = dict[SignalName, Tensor]


def losses(raw: Maps, truth: Maps) -> Maps:
    """Signal → loss of its raw map (log depth, logits) against the ground truth of the same frames. NaN flow is masked out."""
    known = truth["flow"].isfinite()
    return {
        "depth": silog(raw["depth"], truth["depth"]),
        "flow": (raw["flow"] - truth["flow"])[known].abs().mean(),
        "motion": F.binary_cross_entropy_with_logits(raw["motion"], truth["motion"]),
        "camray": F.l1_loss(raw["camray"], truth["camray"]),
    }


def _varied(rgb: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Augment a clip's brightness, contrast, noise and channel order; not its geometry."""
    channels = rng.permutation(3)
    bright = rgb[..., channels] * np.float32(rng.uniform(0.75, 1.25)) + np.float32(rng.uniform(-12, 12))
    noise = rng.standard_normal(rgb.shape, np.float32) * np.float32(rng.uniform(0, 4))
    return np.clip(bright + noise, 0, 255).astype(np.uint8)


def batches(clips: Clips, settings: Settings, first_step: int = 0) -> Iterator[tuple[Tensor, Maps, slice]]:
    """Endless batches: (normalised frames, truth, the frames that pixel heads decode). Reshuffled each epoch; half mirrored.

    Determined by seed and step alone, so a training resumed at ``first_step`` sees the same batches.
    """
    size = clips.rgb.shape[2]
    steps_an_epoch = len(clips) // settings.batch
    for step in itertools.count(first_step):
        epoch, batch = divmod(step, steps_an_epoch)
        rows = np.random.default_rng([settings.seed, 0, epoch]).permutation(len(clips))[batch * settings.batch :][
            : settings.batch
        ]
        rng = np.random.default_rng([settings.seed, 1, step])
        start = int(rng.integers(FRAMES - _DECODED_FRAMES + 1))
        span = slice(start, start + _DECODED_FRAMES)
        picked: dict[SignalName, list[npt.NDArray[np.generic]]] = {signal: [] for signal in MAPS}
        frames = []
        for row in rows:
            view = View(flip=bool(rng.random() < 0.5))
            rgb = _varied(clips.rgb[row], rng)
            frames.append(np.ascontiguousarray(rgb[:, :, ::-1]) if view.flip else rgb)
            for name, values in picked.items():
                whole = getattr(clips, name)[row]
                part = whole if name == "camray" else whole[span]
                values.append(view_signal(name, part.astype(np.float32), view, size))
        truth = {name: torch.from_numpy(np.stack(values)) for name, values in picked.items()}
        yield normalise(torch.from_numpy(np.stack(frames))), truth, span


def schedule(settings: Settings, step: int) -> float:
    """Factor on the learning rates at a step: linear warm-up, then a parabolic decay to zero.

    At the full rate the losses soon stagnate; most is learned while the rate is a few tenths of that.
    """
    return float(min((step + 1) / settings.warmup, (1 - step / settings.steps) ** 2))


class Training:
    """A network in training, its optimizers and its step."""

    def __init__(self, model: L4P, settings: Settings) -> None:
        self.model, self.settings = model, settings
        self.step = 0
        """Number of steps done."""
        matrices = [p for n, p in model.video_encoder.named_parameters() if n.startswith("blocks.") and p.dim() == 2]
        inner = {id(p) for p in matrices}
        others = [p for p in model.parameters() if id(p) not in inner]
        # Muon learns faster than AdamW in few steps, but is defined for matrices only.
        self.optimizers = (
            torch.optim.Muon(matrices, weight_decay=settings.weight_decay, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, weight_decay=settings.weight_decay, betas=(0.9, 0.98)),
        )

    def run(self, clips: Clips, log: Callable[[dict[SignalName, float]], None]) -> None:
        """Train to the settings' last step, on the CPU. ``log`` is called with each step's losses."""
        model, settings = self.model.requires_grad_(requires_grad=True).train(), self.settings
        for frames, truth, span in itertools.islice(batches(clips, settings, self.step), settings.steps - self.step):
            for optimizer, rate in zip(self.optimizers, (settings.matrix_rate, settings.other_rate), strict=True):
                for group in optimizer.param_groups:
                    group["lr"] = rate * schedule(settings, self.step)
            with autocast("cpu", settings.precision):
                f4d = model.encode(frames)
                raw = {s: head(f4d, slice(None) if s == "camray" else span) for s, head in model.heads.items()}
            parts = losses(raw, truth)
            weighted = [WEIGHTS[name] * loss for name, loss in parts.items()] + [_FEATURE_PENALTY * f4d.square().mean()]
            torch.stack(weighted).sum().backward()  # type: ignore[no-untyped-call]  # torch's own
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in self.optimizers:
                optimizer.step()  # type: ignore[no-untyped-call]  # torch's own, of Muon
                optimizer.zero_grad()
            self.step += 1
            log({name: float(loss.detach()) for name, loss in parts.items()})
        model.requires_grad_(requires_grad=False).eval()

    def save(self, path: Path) -> None:
        """Write a checkpoint atomically: step, weights and optimizer states."""
        states = [optimizer.state_dict() for optimizer in self.optimizers]
        with written_whole(path) as unfinished:
            torch.save({"step": self.step, "model": self.model.state_dict(), "optimizers": states}, unfinished)

    def load(self, path: Path) -> None:
        """Resume from a checkpoint of `save`."""
        held = torch.load(path, weights_only=True)
        self.step = held["step"]
        self.model.load_state_dict(held["model"])
        for optimizer, state in zip(self.optimizers, held["optimizers"], strict=True):
            optimizer.load_state_dict(state)


class Filters(NamedTuple):
    """Channels of the patch embedding that filter one spatial frequency, in two phases, in each of a tubelet's two frames."""

    cosine: tuple[int, int]
    """Channel for the first frame, channel for the second."""
    sine: tuple[int, int]


def begin_with_frequencies(proj: nn.Conv3d) -> list[Filters]:
    """Set most of the patch embedding's filters to one spatial frequency each, of one frame's brightness. Returns channels.

    Motion then appears as a phase shift between channels. Random filters, dominated by the pictures' low frequencies, show it
    only faintly. Gains rise with the frequency, because pictures' amplitudes fall with it. The channels in `_FREE` keep faint
    random filters, so that they show position and colour.
    """
    y, x = torch.meshgrid(torch.arange(PATCH_SIZE) + 0.5, torch.arange(PATCH_SIZE) + 0.5, indexing="ij")
    brightness = F.normalize(torch.tensor([0.3, 0.6, 0.1]), dim=0)[:, None, None]
    nn.init.normal_(proj.weight, std=0.017)
    nn.init.zeros_(cast("nn.Parameter", proj.bias))
    channels = iter([channel for channel in range(proj.out_channels) if channel not in _FREE])
    found = []
    for kx, ky in _frequencies((proj.out_channels - len(_FREE)) // 4):
        angle = 2 * math.pi * (kx * x + ky * y) / PATCH_SIZE
        gain = _FILTER_GAIN * math.hypot(kx, ky) ** 1.25
        pairs = []
        for wave in (angle.cos(), angle.sin()):
            pairs.append((next(channels), next(channels)))
            for frame, channel in enumerate(pairs[-1]):
                proj.weight[channel] = 0
                proj.weight[channel, :, frame] = gain * brightness * wave / wave.norm()
        found.append(Filters(*pairs))
    return found


def _frequencies(count: int) -> list[tuple[int, int]]:
    """The lowest non-zero spatial frequencies, (x, y) in cycles per patch; only one of each pair (k, -k)."""
    half_plane = [(kx, ky) for ky in range(8) for kx in range(-7, 8) if ky > 0 or kx > 0]
    return sorted(half_plane, key=lambda k: math.hypot(*k))[:count]


def begin_with_motion_energy(block: Block, filters: Sequence[Filters]) -> None:
    """Set part of a block's MLP to opponent motion energy: the direction and size of each frequency's phase shift.

    sin(φ₁ - φ₀) = c₀ s₁ - s₀ c₁. A product is a difference of squares, and GELU(x) + GELU(-x) is nearly a square. Adelson and
    Bergen, 1985. Without this, a network of this size learns no motion from the first thousands of clips; training may
    change it.
    """
    first, second = block.mlp.fc1, block.mlp.fc2
    block.attn.proj.weight.mul_(0.1)  # attention would drown the motion energies at first
    units = iter(range(first.out_features))
    for (cosine, sine), out in zip(filters, _FREE, strict=False):
        for one, other, sign in ((cosine[0], sine[1], 1.0), (sine[0], cosine[1], -1.0)):
            for relative, side in ((1.0, 1.0), (1.0, -1.0), (-1.0, 1.0), (-1.0, -1.0)):
                unit = next(units)
                first.weight[unit], first.bias[unit], second.weight[:, unit] = 0, 0, 0
                first.weight[unit, one], first.weight[unit, other] = side, side * relative
                second.weight[out, unit] = sign * relative


def new_model(seed: int, config: L4PConfig = PRESETS["tiny"]) -> L4P:
    """A network with initial weights: PyTorch's, except for the motion filters and the heads' output biases."""
    torch.manual_seed(seed)
    model = L4P(config)
    encoder = model.video_encoder
    with torch.no_grad():
        begin_with_motion_energy(cast("Block", encoder.blocks[0]), begin_with_frequencies(encoder.patch_embed.proj))
        for signal, typical in _TYPICAL.items():
            last = cast("nn.Conv3d", model.heads[signal].head2[-1])
            cast("nn.Parameter", last.bias).fill_(typical)
    return model


def save_weights(model: L4P, path: Path) -> None:
    """Write the weights as float16 safetensors, under L4P's names, each only once."""
    own = {name: tensor for name, tensor in model.state_dict().items() if name == canonical_name(name)}
    tensors = {PREFIX + name: tensor.half().contiguous() for name, tensor in own.items()}
    safetensors.torch.save_file(tensors, path)


def main(
    out: Annotated[Path, typer.Option(help="Folder for the clips, the log and the weights.")],
    *,
    clips: int = Settings.clips,
    steps: int = Settings.steps,
    batch: Annotated[int, typer.Option(help="Clips in a step.")] = Settings.batch,
    seed: int = Settings.seed,
    precision: Annotated[
        Precision, typer.Option(help="Of products: float32 where the processor has no bfloat16.")
    ] = "bfloat16",
    workers: Annotated[int, typer.Option(help="Processes that render.")] = 2,
) -> None:
    """Render the clips, train, and write weights.safetensors and log.jsonl. An interrupted training resumes."""
    with reported_errors(as_json=False):
        _train(out, Settings(clips=clips, steps=steps, batch=batch, seed=seed, precision=precision), workers)


def _train(out: Path, settings: Settings, workers: int) -> None:
    full_float32()
    claim_folder(out, asdict(settings))
    size = PRESETS["tiny"].image_size
    seeds = range(FIRST_TRAINING_SEED, FIRST_TRAINING_SEED + settings.clips)
    with progress_bar("rendering", len(seeds), "clips") as advance:
        rendered = render_clips(out / "clips", seeds, size=size, grid=size // PATCH_SIZE, workers=workers, advance=advance)
    training, checkpoint, log_file = Training(new_model(settings.seed), settings), out / "training.pt", out / "log.jsonl"
    if checkpoint.exists():
        training.load(checkpoint)
        lines = log_file.read_text(encoding="utf-8").splitlines(keepends=True)[: training.step]
    else:
        lines = []
    with log_file.open("w", encoding="utf-8") as file, progress_bar("training", settings.steps, "steps") as advance:
        file.writelines(lines)
        advance(training.step)

        def log(parts: dict[SignalName, float]) -> None:
            file.write(json.dumps({"step": training.step, "time": round(time.time(), 1)} | parts) + "\n")
            file.flush()
            advance(1)
            if training.step % _CHECKPOINT_EVERY == 0:
                training.save(checkpoint)

        training.run(rendered, log)
    save_weights(training.model, out / "weights.safetensors")


if __name__ == "__main__":
    typer.run(main)
