"""Trains the packaged `tiny` preset of L4P on rendered scenes: `python -m teacher_cache.teachers.l4p_tiny.train --out DIR`.

The losses are those that L4P (arXiv 2502.13078) names: scale-invariant log error for depth, L1 for flow and rays, binary
cross-entropy for motion. Encoder and heads are the same code that runs the published model.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
import torch.nn.functional as F
import typer
from torch import Tensor, nn

from schemas.signal import SignalName
from schemas.view import View
from teacher_cache.heads.dpt import PATCH_SIZE, canonical_name
from teacher_cache.teachers.checkpoint import PREFIX
from teacher_cache.teachers.l4p import L4P, normalise
from teacher_cache.teachers.l4p_config import FRAMES, MAPS, PRESETS
from teacher_cache.teachers.l4p_encoder import Block
from teacher_cache.teachers.l4p_tiny.clips import Clips, render_clips
from teacher_cache.views import view_signal

FIRST_TRAINING_SEED = 1_000_000
"""Scenes of smaller seeds are never trained on: they are for demonstrations, tests and evaluation."""
WEIGHTS: dict[SignalName, float] = {"depth": 1.0, "flow": 2.0, "motion": 1.0, "camray": 12.0}
"""Of each loss in the sum. Depth and motion can be told from one picture, and come by themselves; what moves from frame to
frame is the harder part, and needs the larger say."""
_TYPICAL: dict[SignalName, float] = {"depth": 1.5, "motion": -2.0}
"""Where the outputs begin: log metres, and the logit of the share of pixels that moves."""
_SILOG_LAMBDA = 0.85
"""How much of a clip's mean log error is forgiven: not all, so that depth comes out near to metres."""
_FILTER_GAIN = 0.8
_FREE = range(8, 56)
"""Channels of the patch embedding in which the sinusoids of the position vary over tens to hundreds of tokens."""
_DECODED_FRAMES = 5
"""Frames of a clip that the pixel heads decode at full resolution in one step; that stage is dear, and neighbours are alike."""


@dataclass(frozen=True)
class Settings:
    """How to train. The defaults made the packaged weights."""

    clips: int = 3000
    steps: int = 1200
    batch: int = 4
    matrix_rate: float = 3.0e-3
    """Learning rate of the blocks' matrices, by Muon."""
    other_rate: float = 6.0e-4
    """Of everything else, by AdamW."""
    weight_decay: float = 0.02
    warmup: int = 50
    decay_share: float = 0.9
    """Share of the steps, the last ones, over which the rate falls to zero in a straight line."""
    seed: int = 0


def silog(log_depth: Tensor, truth: Tensor) -> Tensor:
    """The scale-invariant log error of each clip, sqrt(mean d² - λ (mean d)²) with d = log depth - log truth; its mean.

    ``log_depth``, ``truth`` (positive): float (clip, frame, y, x). Eigen et al., arXiv 1406.2283.
    """
    difference = (log_depth - truth.log()).flatten(1)
    return (difference.square().mean(1) - _SILOG_LAMBDA * difference.mean(1).square()).clamp_min(1e-8).sqrt().mean()


Maps = dict[SignalName, Tensor]


def losses(raw: Maps, truth: Maps) -> Maps:
    """Each loss of raw maps (log depth, logits) against the truth of the same frames; flow where it is not NaN."""
    known = truth["flow"].isfinite()
    return {
        "depth": silog(raw["depth"], truth["depth"]),
        "flow": (raw["flow"] - truth["flow"])[known].abs().mean(),
        "motion": F.binary_cross_entropy_with_logits(raw["motion"], truth["motion"]),
        "camray": F.l1_loss(raw["camray"], truth["camray"]),
    }


def _varied(rgb: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """A clip under another light and another camera's noise; hues change places, geometry does not."""
    channels = rng.permutation(3)
    bright = rgb[..., channels] * np.float32(rng.uniform(0.75, 1.25)) + np.float32(rng.uniform(-12, 12))
    noise = rng.standard_normal(rgb.shape, np.float32) * np.float32(rng.uniform(0, 4))
    return np.clip(bright + noise, 0, 255).astype(np.uint8)


def batches(clips: Clips, settings: Settings) -> Iterator[tuple[Tensor, Maps, slice]]:
    """Endless (normalised frames, truth, the frames that pixel heads decode); every epoch in another order, half mirrored."""
    rng = np.random.default_rng(settings.seed)
    size = clips.rgb.shape[2]
    while True:
        order = rng.permutation(len(clips))
        for rows in order[: len(order) // settings.batch * settings.batch].reshape(-1, settings.batch):
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
    """The share of the learning rates at a step: a straight rise, a plateau, and a straight fall to zero."""
    fall = (settings.steps - step) / (settings.decay_share * settings.steps)
    return min(1.0, (step + 1) / settings.warmup, fall)


def train(model: L4P, clips: Clips, settings: Settings, log: Callable[[int, dict[SignalName, float]], None]) -> None:
    """Train ``model`` in place, on the CPU in bfloat16 products. ``log`` gets each step's number and losses."""
    model.requires_grad_(requires_grad=True).train()
    matrices = [p for n, p in model.video_encoder.named_parameters() if n.startswith("blocks.") and p.dim() == 2]
    inner = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in inner]
    # Muon makes more of few steps than AdamW does, on the matrices that it is defined for.
    optimizers = (
        torch.optim.Muon(matrices, weight_decay=settings.weight_decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, weight_decay=settings.weight_decay, betas=(0.9, 0.98)),
    )
    for step, (frames, truth, span) in zip(range(settings.steps), batches(clips, settings), strict=False):
        for optimizer, rate in zip(optimizers, (settings.matrix_rate, settings.other_rate), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * schedule(settings, step)
        with torch.autocast("cpu", torch.bfloat16):
            f4d = model.encode(frames)
            raw = {s: head(f4d, slice(None) if s == "camray" else span) for s, head in model.heads.items()}
        parts = losses(raw, truth)
        torch.stack([WEIGHTS[name] * loss for name, loss in parts.items()]).sum().backward()  # type: ignore[no-untyped-call]  # torch's own
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()  # type: ignore[no-untyped-call]  # torch's own, of Muon
            optimizer.zero_grad()
        log(step, {name: float(loss.detach()) for name, loss in parts.items()})
    model.requires_grad_(requires_grad=False).eval()


class Filters(NamedTuple):
    """Where the patch embedding has the two phases of a spatial frequency, in each of a tubelet's two frames."""

    cosine: tuple[int, int]
    """Channel of the first frame, channel of the second."""
    sine: tuple[int, int]


def begin_with_frequencies(proj: nn.Conv3d) -> list[Filters]:
    """Set most of the patch embedding's filters to one spatial frequency each, in brightness, of one frame; returns where.

    What moves is then a shift of phase between channels, which random filters, all full of the pictures' low frequencies, show
    only faintly. Gains rise with the frequency, as pictures' amplitudes fall. The channels in `_FREE` keep faint random ones:
    there the position shows, and colour.
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
        places = []
        for wave in (angle.cos(), angle.sin()):
            places.append((next(channels), next(channels)))
            for frame, channel in enumerate(places[-1]):
                proj.weight[channel] = 0
                proj.weight[channel, :, frame] = gain * brightness * wave / wave.norm()
        found.append(Filters(*places))
    return found


def _frequencies(count: int) -> list[tuple[int, int]]:
    """The lowest spatial frequencies but 0, (x, y) in cycles a patch, one of each and its mirror image."""
    half_plane = [(kx, ky) for ky in range(8) for kx in range(-7, 8) if ky > 0 or kx > 0]
    return sorted(half_plane, key=lambda k: math.hypot(*k))[:count]


def begin_with_motion_energy(block: Block, filters: Sequence[Filters]) -> None:
    """Set part of a block's MLP to opponent motion energy: of each frequency, in which direction its phase went, and how far.

    sin(φ₁ - φ₀) = c₀ s₁ - s₀ c₁, and a product is a difference of squares, as GELU(x) + GELU(-x) nearly is. Adelson and Bergen
    1985. Without it a network of this size finds no motion at all in the first thousands of clips; training may change it.
    """
    first, second = block.mlp.fc1, block.mlp.fc2
    block.attn.proj.weight.mul_(0.1)  # what it mixes in would drown the energies at first
    units = iter(range(first.out_features))
    for (cosine, sine), out in zip(filters, _FREE, strict=False):
        for one, other, sign in ((cosine[0], sine[1], 1.0), (sine[0], cosine[1], -1.0)):
            for relative, side in ((1.0, 1.0), (1.0, -1.0), (-1.0, 1.0), (-1.0, -1.0)):
                unit = next(units)
                first.weight[unit], first.bias[unit], second.weight[:, unit] = 0, 0, 0
                first.weight[unit, one], first.weight[unit, other] = side, side * relative
                second.weight[out, unit] = sign * relative


def new_model(seed: int) -> L4P:
    """The `tiny` network with fresh weights: PyTorch's, but for an eye for motion and a scene's average."""
    torch.manual_seed(seed)
    model = L4P(PRESETS["tiny"])
    encoder = model.video_encoder
    with torch.no_grad():
        begin_with_motion_energy(cast("Block", encoder.blocks[0]), begin_with_frequencies(encoder.patch_embed.proj))
        for signal, typical in _TYPICAL.items():
            last = cast("nn.Conv3d", model.heads[signal].head2[-1])
            cast("nn.Parameter", last.bias).fill_(typical)
    return model


def save_weights(model: L4P, path: Path) -> None:
    """The weights under their published names, each once, as safetensors in float16."""
    own = {name: tensor for name, tensor in model.state_dict().items() if name == canonical_name(name)}
    tensors = {PREFIX + name: tensor.half().contiguous() for name, tensor in own.items()}
    safetensors.torch.save_file(tensors, path)


def main(
    out: Annotated[Path, typer.Option(help="Folder for the clips, the log and the weights.")],
    clips: int = Settings.clips,
    steps: int = Settings.steps,
    seed: int = Settings.seed,
    workers: Annotated[int, typer.Option(help="Processes that render.")] = 2,
) -> None:
    """Render the clips, train, and write weights.safetensors and log.jsonl."""
    settings = Settings(clips=clips, steps=steps, seed=seed)
    size = PRESETS["tiny"].image_size
    seeds = range(FIRST_TRAINING_SEED, FIRST_TRAINING_SEED + settings.clips)
    rendered = render_clips(out / "clips", seeds, size=size, grid=size // PATCH_SIZE, workers=workers, advance=lambda _: None)
    model = new_model(settings.seed)
    start = time.perf_counter()
    with (out / "log.jsonl").open("w") as file:

        def log(step: int, parts: dict[SignalName, float]) -> None:
            line = {"step": step, "seconds": round(time.perf_counter() - start, 1)} | parts
            file.write(json.dumps(line) + "\n")
            file.flush()
            if step % 200 == 199:
                save_weights(model, out / "weights.safetensors")

        train(model, rendered, settings, log)
    save_weights(model, out / "weights.safetensors")


if __name__ == "__main__":
    typer.run(main)
