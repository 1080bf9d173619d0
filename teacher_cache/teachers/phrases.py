"""Phrases in, the signals ``regions`` and ``objects`` out: what teachers share that find in a clip what its row's phrases name.

Their models are transformers' own classes, from folders of weights in transformers' own format: safetensors alone, without the
network, and without code that lies in a folder.
"""

from __future__ import annotations

import functools
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from transformers import AutoConfig
from transformers.utils import logging

from schemas.clip import FrameClock
from schemas.errors import BadInput, CouldNotRun, VideoError
from schemas.job import TeacherJob
from schemas.prompt import Prompt
from schemas.recipe import TeacherIdentity
from schemas.regions import Box, NotFound, RegionObject
from schemas.signal import Shape, SignalName
from teacher_cache.encodings.objects import frames_shown, packed_objects
from teacher_cache.io.places import local_path
from teacher_cache.teachers.batch import options_of, require_fit
from teacher_cache.teachers.given import PRESETS, RegionOptions, region_shapes
from teacher_cache.teachers.heads import RawSignals
from teacher_cache.teachers.node_cache import digest_of_unchanged
from teacher_cache.teachers.protocol import ForwardBytes, Teacher, TeacherDescription

_KEPT = (".safetensors", ".json", ".txt")
"""What the files end in by which a folder of weights computes."""
_WORKING = 6 * 2**30
"""Bytes reckoned, not measured, that the published sizes take beside their weights, at 1024 pixels and 32 objects."""


def of_folder(kind: Any, folder: Path, **options: Any) -> Any:
    """What one of transformers' classes makes of a folder: without the network, and without code that lies in it."""
    return kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **options)


Shown = TypeVar("Shown")


class PhraseOptions(RegionOptions):
    """`TeacherJob.options` of a family that finds what phrases name."""

    most_overlap: float = Field(0.7, gt=0, le=1)
    """Of two finds of one phrase that overlap by more, as intersection over union, the lower-scored is a duplicate."""


class Found(NamedTuple):
    """Something that was found."""

    phrase: int
    """Index of its phrase."""
    score: float
    """0 for a phrase of which nothing was found."""
    box: tuple[float, float, float, float] | None
    """Left, top, right, bottom in shares of the first frame; None if it is not in that."""


class PhraseTeacher(ABC):
    """Finds and follows what phrases name, on one device, as a `Teacher` and `Prompted`."""

    name: str
    """Of its family, for messages."""

    def __init__(self, description: TeacherDescription, options: PhraseOptions, device: str) -> None:
        self.identity = description.identity
        self.image_size = description.image_size
        self.frames = description.frames
        self.shapes: Mapping[SignalName, Shape] = description.shapes
        self._most, self._device = options.objects, torch.device(device)

    def prepare(self, prompt: Prompt, clock: FrameClock, *, flipped: bool) -> tuple[str, ...]:  # noqa: ARG002
        """The phrases. Raises `VideoError` if there are more than objects in the store."""
        if len(prompt.phrases) > self._most:
            raise VideoError(
                "prompt_unusable",
                f"{len(prompt.phrases)} phrases, and a clip of this store has at most {self._most} objects; a job "
                "with a higher `teacher.options.objects` takes it, into another store",
            )
        return prompt.phrases

    def raw(self, frames: Tensor, signals: Collection[SignalName], told: Sequence[tuple[str, ...]] = ()) -> RawSignals:
        """Find and follow each clip's objects; see `Teacher.raw`. Clip by clip, and it waits for the device between steps."""
        require_fit(self, self.name, frames, signals)
        with torch.no_grad():
            found = [self._clip(clip, phrases) for clip, phrases in zip(frames, told, strict=True)]
        raw: RawSignals = {
            "regions": torch.stack([labels for labels, _ in found]),
            "objects": torch.from_numpy(np.stack([objects for _, objects in found])).to(self._device),
        }
        return {signal: raw[signal] for signal in signals}

    def heads(self) -> None:  # noqa: B027  # none has any
        """None: there are no features to decode."""

    def _clip(self, clip: Tensor, phrases: tuple[str, ...]) -> tuple[Tensor, NDArray[np.float32]]:
        """Label map uint8 (frame, y, x) and objects float32 (object, property) of uint8 frames (frame, y, x, RGB)."""
        objects, labels = self._found(clip, phrases) if phrases else ([], self._nothing(clip))
        shown = frames_shown(labels.cpu().numpy(), len(objects))
        told = [(one.phrase, _object(number, one, phrases, shown[number - 1])) for number, one in enumerate(objects, start=1)]
        return labels, packed_objects(told, self.shapes["objects"])

    @abstractmethod
    def _found(self, clip: Tensor, phrases: tuple[str, ...]) -> tuple[list[Found], Tensor]:
        """The clip's objects in the order of their numbers, as `numbered` has them, and its label map."""

    def _nothing(self, clip: Tensor) -> Tensor:
        """A label map without objects."""
        return torch.zeros(clip.shape[:3], dtype=torch.uint8, device=self._device)


def numbered(found: Sequence[Found], phrases: int, most: int) -> list[Found]:
    """The clip's objects in the order of their numbers: by phrase, then by score. A phrase without any has one of score 0.

    Each phrase keeps its best; what room there is then goes to the others, the best first.
    """
    best: dict[int, Found] = {}
    others: list[Found] = []
    for one in sorted(found, key=lambda one: -one.score):
        others += [one] if one.phrase in best else []
        best.setdefault(one.phrase, one)
    nowhere = [Found(phrase, 0.0, None) for phrase in range(phrases) if phrase not in best]
    kept = [*best.values(), *nowhere, *others[: max(0, most - phrases)]]
    return sorted(kept, key=lambda one: (one.phrase, -one.score))


def without_duplicates(
    found: Sequence[tuple[Found, Shown]], overlap: Callable[[Shown, Shown], float], most: float
) -> list[tuple[Found, Shown]]:
    """What was found, each with what it shows, best first: without what overlaps a better one of the same phrase by more."""
    kept: list[tuple[Found, Shown]] = []
    for one, shown in sorted(found, key=lambda pair: -pair[0].score):
        if all(one.phrase != other.phrase or overlap(shown, its) <= most for other, its in kept):
            kept.append((one, shown))
    return kept


def _object(number: int, one: Found, phrases: Sequence[str], shown: NDArray[np.bool_]) -> RegionObject:
    has_box = one.score > 0 and one.box is not None
    reason: NotFound | None = None if shown.any() else "no_mask" if has_box else "no_box"
    box = None if one.box is None or not has_box else Box(**dict(zip(("left", "top", "right", "bottom"), one.box, strict=True)))
    return RegionObject(
        number=number,
        phrase=phrases[one.phrase],
        box=box,
        score=one.score,
        frames=tuple(np.flatnonzero(shown).tolist()),
        reason=reason,
    )


class PhraseFamily(ABC):
    """A `TeacherFamily` of models in a local folder."""

    presets = tuple(PRESETS)
    name: str
    models: Mapping[str, tuple[str, ...]]
    """Folder in that of the weights, empty for itself → transformers' names of the kinds of model that it may hold."""
    needed: str
    """What `TeacherJob.weights` needs to be, in words."""
    options: type[PhraseOptions]

    @abstractmethod
    def _made(self, job: TeacherJob, description: TeacherDescription, weights: Path, device: str) -> Teacher:
        """The teacher of a job that was identified."""

    def identify(self, job: TeacherJob) -> TeacherDescription:
        """Describe the job's teacher; reads the weights' files as streams. Raises `BadInput`."""
        if job.preset not in PRESETS:
            raise BadInput(f"the family `{self.name}` has no preset {job.preset!r}; it has {', '.join(PRESETS)}")
        options, weights, size = options_of(job, self.options), self._folder(job), PRESETS[job.preset]
        digest = self._digest(weights)
        if job.weights_digest not in {None, digest}:
            raise BadInput(
                f"the weights {job.weights} have the digest {digest}; `teacher.weights_digest` asks for {job.weights_digest}"
            )
        config: dict[str, Any] = {
            "takes": ["phrases"],
            "image_size": size,
            "options": options.model_dump(mode="json"),
            "models": {name or self.name: _kind(weights / name) for name in self.models},
            "transformers": transformers.__version__,
        }
        identity = TeacherIdentity(family=self.name, config=config, weights=digest, dtype=job.dtype)
        shapes = region_shapes(size, options)
        return TeacherDescription(identity=identity, image_size=size, frames=options.frames, shapes=shapes)

    def load(self, job: TeacherJob, device: str) -> Teacher:
        """Load the models on a device. Raises `BadInput` for weights that do not fit, `CouldNotRun` without the device."""
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise CouldNotRun(f"the teacher is to run on {device!r}, but PyTorch finds no GPU here. Run it on `cpu`.")
        description = self.identify(job)
        try:
            with _quietly():
                return self._made(job, description, self._folder(job), device)
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            said = str(error).strip().partition("\n")[0]
            raise BadInput(
                f"the weights {job.weights} cannot be loaded: {said}. Needed folders as transformers saves them."
            ) from None

    def forward_bytes(self, job: TeacherJob, batch: int, signals: Collection[SignalName]) -> ForwardBytes:  # noqa: ARG002
        """Memory: the files of the weights, a clip's work as reckoned for the published sizes, and a batch's label maps."""
        weights = self._folder(job)
        size = sum(file.stat().st_size for name in self.models for file in (weights / name).glob("*.safetensors"))
        options = options_of(job, self.options)
        segmenter = list(self.models)[-1]
        share = (int(of_folder(AutoConfig, weights / segmenter).image_size) / 1024) ** 2
        return ForwardBytes(weights=size, working=int(_WORKING * share) + 2 * batch * options.frames * PRESETS[job.preset] ** 2)

    def _folder(self, job: TeacherJob) -> Path:
        """The folder of the weights. Raises `BadInput` that says what must be in it."""
        local = None if job.weights is None else local_path(job.weights)
        if local is None:
            raise BadInput(f"`teacher.weights` is {job.weights}; the family `{self.name}` needs {self.needed}")
        weights = local.expanduser()
        for name, kinds in self.models.items():
            if not (weights / name / "config.json").is_file():
                raise BadInput(f"there is no {weights / name}/config.json; `teacher.weights` needs {self.needed}")
            if _kind(weights / name) not in kinds:
                raise BadInput(
                    f"{weights / name} holds a model of the kind {_kind(weights / name)!r}; needed {' or '.join(kinds)}"
                )
            if not list((weights / name).glob("*.safetensors")):
                raise BadInput(f"{weights / name} holds no .safetensors; other formats are not read, since they may hold code")
        return weights

    def _digest(self, weights: Path) -> str:
        """sha256 over the names and digests of all files by which the models compute."""
        digest = hashlib.sha256()
        for name in self.models:
            for file in sorted((weights / name).iterdir()):
                if file.suffix in _KEPT:
                    digest.update(f"{name}/{file.name}\0{digest_of_unchanged(file)}\n".encode())
        return f"sha256:{digest.hexdigest()}"


def _kind(folder: Path) -> str:
    try:
        return str(_config(folder, (folder / "config.json").stat().st_mtime_ns).get("model_type"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{folder}/config.json cannot be read: {error}") from None


@functools.cache
def _config(folder: Path, _mtime_ns: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return found


@contextmanager
def _quietly() -> Iterator[None]:
    """Without transformers' bars and reports of keys that a checkpoint has for other uses."""
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
