"""uint8 clips in, L4P's raw signals out: the teacher of P4D distillation.

L4P is arXiv 2502.13078. This is an independent implementation under the parameter names of its published checkpoint;
the weights are the user's to supply.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Self, cast

import safetensors.torch
import torch
from torch import Tensor, nn

from schemas.errors import BadInput, CouldNotRun
from schemas.job import TeacherJob
from schemas.recipe import TeacherIdentity
from schemas.signal import SIGNAL_NAMES, Shape, SignalName
from teacher_cache.heads import RawSignals
from teacher_cache.heads.dpt import DPTHead, canonical_name
from teacher_cache.heads.frozen import decode_raw, save_heads, to_physical
from teacher_cache.heads.precision import autocast, convert_weights, no_tf32
from teacher_cache.teachers.batch import require_fit
from teacher_cache.teachers.checkpoint import PUBLISHED, check_finite, read_checkpoint
from teacher_cache.teachers.l4p_config import FRAMES, MAPS, PACKAGED, PRESETS, TASKS, L4PConfig
from teacher_cache.teachers.l4p_encoder import VideoEncoder
from teacher_cache.teachers.node_cache import digest_of_unchanged, fetched, is_remote, made_once
from teacher_cache.teachers.protocol import ForwardBytes, Teacher, TeacherDescription, TeacherFamily

__all__ = ["FAMILY", "L4P", "PRESETS", "L4PConfig", "L4PFamily", "L4PTeacher"]

_CONVERTED_VERSION = "1"
"""Raised when the same checkpoint is converted to something else."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class L4P(nn.Module):
    """The network: a video encoder and a dense head for each map. Frozen; gradients pass through it, never into it."""

    def __init__(self, config: L4PConfig) -> None:
        super().__init__()
        self.config = config
        _, t, h, w, dim = config.f4d
        self.video_encoder = VideoEncoder(
            tokens=t * h * w, dim=dim, depth=config.depth, num_heads=config.num_heads, mlp_dim=config.mlp_dim
        )
        self.task_heads = nn.ModuleDict(
            {
                task: nn.ModuleDict({"task_head": nn.ModuleDict({"dpt": DPTHead(config.head(signal))})})
                for signal, task in TASKS.items()
            }
        )
        self.requires_grad_(requires_grad=False)

    def load_checkpoint(self, path: str | Path) -> Self:
        """Take the weights of L4P's Lightning ``.ckpt``, or of a safetensors file with the same names, as float32.

        The weights stay mapped from the file until they are moved or converted, so loading copies nothing. Works on a
        model made on the "meta" device too. Raises BadInput, naming what is missing, unexpected, of the wrong shape
        or not finite; the model is then unchanged.
        """
        file = Path(path).expanduser()
        tensors = read_checkpoint(file, _parameter_shapes(self))
        check_finite(file, tensors)
        placed = {name: _like(tensors[canonical_name(name)], parameter) for name, parameter in self.state_dict().items()}
        self.load_state_dict(placed, assign=True)
        return self

    @property
    def heads(self) -> dict[SignalName, DPTHead]:
        """The head of each map."""
        tasks = cast("Mapping[str, Mapping[str, Mapping[str, DPTHead]]]", self.task_heads)
        return {signal: tasks[task]["task_head"]["dpt"] for signal, task in TASKS.items()}

    def encode(self, frames: Tensor) -> Tensor:
        """Features of normalised frames (batch, 3, 16, size, size).

        Returns float32 (batch, layer, token_time, token_y, token_x, channel). Blocks after the last hook are not run.
        """
        features = self.video_encoder(frames, self.config.hooks)
        return torch.stack([features[hook] for hook in self.config.hooks], dim=1).reshape(-1, *self.config.f4d)

    def raw(self, frames: Tensor, signals: Collection[SignalName] = SIGNAL_NAMES) -> RawSignals:
        """Raw signals (log depth) of normalised frames; only the heads of ``signals`` run."""
        f4d = self.encode(frames)
        features: RawSignals = {"f4d": f4d} if "f4d" in signals else {}
        return features | self.decode_raw(f4d, [s for s in signals if s != "f4d"])

    def decode_raw(self, f4d: Tensor, signals: Collection[SignalName] = MAPS) -> RawSignals:
        """Raw maps (log depth) of features, from the heads alone."""
        return decode_raw(self.heads, f4d, signals)

    def decode(self, f4d: Tensor) -> RawSignals:
        """The maps of features in physical units, as `forward` gives them."""
        return to_physical(self.decode_raw(f4d))

    def forward(self, frames: Tensor) -> RawSignals:
        """Every signal of a batch, in the units of `schemas.signal.SIGNALS`.

        ``frames``: (batch, 3, frame 16, size, size), RGB normalised with ImageNet's mean and standard deviation.
        Returns float32 ``f4d`` (batch, layer, token_time, token_y, token_x, channel); ``depth`` (batch, frame, y, x),
        positive; ``flow`` (batch, frame, y, x, uv) in pixels, backward; ``motion`` (batch, frame, y, x), logits;
        ``camray`` (batch, frame, token_y, token_x, plucker).
        """
        return to_physical(self.raw(frames))


def _parameter_shapes(model: L4P) -> dict[str, Shape]:
    return {name: tuple(t.shape) for name, t in model.state_dict().items()}


def _like(tensor: Tensor, parameter: Tensor) -> Tensor:
    return tensor.to(device="cpu" if parameter.is_meta else parameter.device, dtype=torch.float32)


class L4PTeacher:
    """L4P on one device, as a `Teacher`. Holds its weights in the precision it runs in."""

    def __init__(self, model: L4P, identity: TeacherIdentity, device: str, *, compile_model: bool = False) -> None:
        """Take ``model`` over: its weights are rounded to the identity's dtype and moved to ``device``.

        ``compile_model`` puts the encoder and each head through `torch.compile`, which pays over many batches of one size.
        """
        convert_weights(model, identity.dtype)
        self.model = model.to(device).eval()
        if device.startswith("cuda"):
            for conv in (m for m in self.model.modules() if isinstance(m, nn.Conv3d)):
                conv.weight.data = conv.weight.data.contiguous(memory_format=torch.channels_last_3d)
        if compile_model:
            self.model.video_encoder.compile()
            for head in self.model.heads.values():
                head.compile()
        self.identity = identity
        self.device = torch.device(device)
        self.image_size = model.config.image_size
        self.frames = FRAMES
        self.shapes: Mapping[SignalName, Shape] = model.config.shapes

    def raw(self, frames: Tensor, signals: Collection[SignalName]) -> RawSignals:
        """Teach a batch of uint8 (batch, frame 16, size, size, RGB) frames; see `Teacher.raw`."""
        require_fit(self, "L4P", frames, signals)
        with torch.no_grad(), no_tf32(), autocast(self.device.type, self.identity.dtype):
            return self.model.raw(normalise(frames.to(self.device, non_blocking=True)), signals)

    def heads(self) -> tuple[bytes, bytes]:
        """The frozen heads as (safetensors file, card as JSON), in the precision this teacher runs them in."""
        config = self.model.config
        return save_heads(
            self.model.heads,
            family=self.identity.family,
            dtype=self.identity.dtype,
            f4d=config.f4d,
            image_size=config.image_size,
            frames=FRAMES,
        )


def normalise(frames: Tensor) -> Tensor:
    """uint8 (batch, frame, y, x, RGB) → float32 (batch, RGB, frame, y, x) with ImageNet's mean and standard deviation."""
    mean, std = (torch.tensor(v, device=frames.device) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return ((frames / 255 - mean) / std).permute(0, 4, 1, 2, 3)


class L4PFamily:
    """L4P's presets, as a `TeacherFamily`."""

    presets = tuple(PRESETS)

    def identify(self, job: TeacherJob) -> TeacherDescription:
        """Describe the job's teacher. Streams the weights file through its digest, and keeps no weight in memory."""
        config, weights = _resolve(job)
        read_checkpoint(weights, _parameter_shapes(_on_meta(config)))  # a wrong file is refused before it is hashed
        digest = digest_of_unchanged(weights)
        identity = TeacherIdentity(family="l4p", config=config.model_dump(mode="json"), weights=digest, dtype=job.dtype)
        return TeacherDescription(identity=identity, image_size=config.image_size, frames=FRAMES, shapes=config.shapes)

    def load(self, job: TeacherJob, device: str) -> Teacher:
        """The job's teacher on a device; its weights go from the mapped file straight to their precision and place."""
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise CouldNotRun(
                f"the teacher was asked onto {device!r}, and PyTorch finds no GPU here. Run it on `cpu`, or on another machine."
            )
        config, weights = _resolve(job)
        identity = self.identify(job).identity
        if job.dtype == "float32" and not (job.weights and is_remote(job.weights)):
            model = _on_meta(config).load_checkpoint(weights)  # mapped from the file where it lies
        else:
            model = _load_converted(config, weights, identity)
        return L4PTeacher(model, identity, device, compile_model=job.compile)

    def forward_bytes(self, job: TeacherJob, batch: int, signals: Collection[SignalName]) -> ForwardBytes:
        """The forward's memory by its shapes."""
        from teacher_cache.teachers.l4p_cost import forward_bytes  # noqa: PLC0415  # it reckons with this module's network

        config, _ = _resolve(job)
        found = forward_bytes(config, job.dtype, batch, signals)
        return ForwardBytes(weights=found.weights, working=found.peak - found.weights)


FAMILY: TeacherFamily = L4PFamily()


def _resolve(job: TeacherJob) -> tuple[L4PConfig, Path]:
    """The preset's configuration, and its weights file."""
    if job.preset not in PRESETS:
        close = difflib.get_close_matches(job.preset, PRESETS, n=1)
        suggestion = f" Did you mean {close[0]!r}?" if close else ""
        raise BadInput(f"L4P has no preset {job.preset!r}; it has {', '.join(PRESETS)}.{suggestion}")
    if job.weights is not None:
        return PRESETS[job.preset], fetched(job.weights)
    if job.preset not in PACKAGED:
        raise BadInput(
            f"the preset {job.preset!r} needs weights: give `teacher.weights` the path of L4P's published checkpoint "
            f"({PUBLISHED}). Without weights there is {', '.join(sorted(PACKAGED))}."
        )
    return PRESETS[job.preset], PACKAGED[job.preset]


def _on_meta(config: L4PConfig) -> L4P:
    """The network without memory for its weights."""
    with torch.device("meta"):
        return L4P(config)


def _load_converted(config: L4PConfig, weights: Path, identity: TeacherIdentity) -> L4P:
    """The weights in their working precision, mapped from a file that is made once on a node and shared by its workers."""

    def convert(part: Path) -> None:
        model = _on_meta(config).load_checkpoint(weights)
        convert_weights(model, identity.dtype)
        own = {name: t.contiguous() for name, t in model.state_dict().items() if name == canonical_name(name)}
        safetensors.torch.save_file(own, part)

    file = made_once("converted", [_CONVERTED_VERSION, identity.model_dump_json()], ".safetensors", convert)
    tensors: dict[str, Tensor] = safetensors.torch.load_file(file)
    model = _on_meta(config)
    model.load_state_dict({name: tensors[canonical_name(name)] for name in model.state_dict()}, assign=True)
    return model.requires_grad_(requires_grad=False)
