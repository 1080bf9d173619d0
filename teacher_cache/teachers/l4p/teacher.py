"""uint8 clips in, L4P's raw signals out: the teacher of P4D distillation."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from schemas.errors import BadInput, CouldNotRun
from schemas.job import TeacherJob
from schemas.recipe import TeacherIdentity
from schemas.signal import Shape, SignalName
from teacher_cache.io.hints import closest
from teacher_cache.io.places import local_path
from teacher_cache.teachers.batch import require_fit, require_no_options
from teacher_cache.teachers.heads import RawSignals
from teacher_cache.teachers.heads.dpt import canonical_name
from teacher_cache.teachers.heads.frozen import save_heads
from teacher_cache.teachers.heads.precision import autocast, convert_weights
from teacher_cache.teachers.l4p.checkpoint import PUBLISHED, read_checkpoint
from teacher_cache.teachers.l4p.config import FRAMES, PACKAGED, PRESETS, L4PConfig
from teacher_cache.teachers.l4p.cost import forward_bytes
from teacher_cache.teachers.l4p.network import L4P, parameter_shapes
from teacher_cache.teachers.node_cache import digest_of_unchanged, fetched, made_once
from teacher_cache.teachers.protocol import ForwardBytes, Teacher, TeacherDescription, TeacherFamily

_CONVERTED_VERSION = "1"
"""To be increased when the conversion of a checkpoint changes."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class L4PTeacher:
    """L4P on one device, as a `Teacher`. Its weights are kept in the precision that it runs in."""

    def __init__(self, model: L4P, identity: TeacherIdentity, device: str, *, compile_model: bool = False) -> None:
        """Takes over ``model``: rounds its weights to the identity's dtype and moves them to ``device``.

        ``compile_model`` compiles the encoder and each head with `torch.compile`, which pays off over many batches of one size.
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

    def raw(self, frames: Tensor, signals: Collection[SignalName], told: Sequence[Any] = ()) -> RawSignals:  # noqa: ARG002
        """Teach a batch of uint8 (batch, frame 16, size, size, RGB) frames; see `Teacher.raw`."""
        require_fit(self, "L4P", frames, signals)
        with torch.no_grad(), autocast(self.device.type, self.identity.dtype):
            return self.model.raw(normalise(frames.to(self.device, non_blocking=True)), signals)

    def heads(self) -> tuple[bytes, bytes]:
        """The frozen heads as (safetensors file, card as JSON), in this teacher's precision."""
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
    mean, std = (_on(frames.device, values) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return ((frames / 255 - mean) / std).permute(0, 4, 1, 2, 3)


def _on(device: torch.device, values: Collection[float]) -> Tensor:
    """The values as float32, made on the device: a copy from the host would wait for all that the device has yet to do."""
    return torch.cat([torch.full((1,), value, device=device) for value in values])


class L4PFamily:
    """L4P's presets, as a `TeacherFamily`."""

    presets = tuple(PRESETS)

    def identify(self, job: TeacherJob) -> TeacherDescription:
        """Describe the job's teacher. Hashes the weights file as a stream, keeping no weights in memory. Raises `BadInput`."""
        config, weights = _resolve(job)
        read_checkpoint(weights, _shapes(config))  # a wrong file is refused before it is hashed
        digest = digest_of_unchanged(weights)
        if job.weights_digest not in {None, digest}:
            raise BadInput(
                f"the weights {job.weights or weights} have the digest {digest}, and `teacher.weights_digest` asks for "
                f"{job.weights_digest}. Give the file that has it, or correct the digest."
            )
        identity = TeacherIdentity(family="l4p", config=config.model_dump(mode="json"), weights=digest, dtype=job.dtype)
        return TeacherDescription(identity=identity, image_size=config.image_size, frames=FRAMES, shapes=config.shapes)

    def load(self, job: TeacherJob, device: str) -> Teacher:
        """Load the job's teacher on a device, its weights directly from the mapped file. Raises `BadInput`, `CouldNotRun`.

        `teacher_cache.teachers.registry.loaded` also makes the process compute float32 as such.
        """
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise CouldNotRun(
                f"the teacher is to run on {device!r}, but PyTorch finds no GPU here. Run it on `cpu`, or on another machine."
            )
        config, weights = _resolve(job)
        identity = self.identify(job).identity
        if job.dtype == "float32" and (not job.weights or local_path(job.weights)):
            model = _on_meta(config).load_checkpoint(weights)  # memory-mapped from the original file
        else:
            model = _load_converted(config, weights, identity)
        return L4PTeacher(model, identity, device, compile_model=job.compile)

    def forward_bytes(self, job: TeacherJob, batch: int, signals: Collection[SignalName]) -> ForwardBytes:
        """Predict the memory of a forward pass from its shapes."""
        config, _ = _resolve(job)
        found = forward_bytes(config, job.dtype, batch, signals)
        return ForwardBytes(weights=found.weights, working=found.peak - found.weights)


FAMILY: TeacherFamily = L4PFamily()


def _resolve(job: TeacherJob) -> tuple[L4PConfig, Path]:
    """The preset's configuration, and its weights file."""
    require_no_options(job, "L4P")
    if job.preset not in PRESETS:
        close = closest(job.preset, PRESETS)
        suggestion = f" Did you mean {close!r}?" if close else ""
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
    """The network on the "meta" device, without memory for its weights."""
    with torch.device("meta"):
        return L4P(config)


@functools.cache
def _shapes(config: L4PConfig) -> Mapping[str, Shape]:
    """Name → shape of every parameter, for which the network is built but once."""
    return parameter_shapes(_on_meta(config))


def _load_converted(config: L4PConfig, weights: Path, identity: TeacherIdentity) -> L4P:
    """The network, with weights in working precision, mapped from a file that each node makes once and its workers share."""

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
