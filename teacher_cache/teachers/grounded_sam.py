"""Frames and phrases in, the signals ``regions`` and ``objects`` out: boxes by Grounding DINO, masks through the clip by SAM 2.

As 4D-RGPT's region pipeline has it (arXiv 2512.17012, appendix A2): a grounding model boxes what the phrases name in the first
frame, and a segmenter follows each box. The paper masks the first frame alone; here SAM 2's memory carries each object through
all frames, so that its number is the same before and after it is hidden. Both are transformers' own classes, from folders of
weights in their own formats.

Frames come squashed to the teacher's square, as all teachers see them. Boxes are in shares of width and height, so they hold
for the video as well; what squashing costs a grounding model's recall is not known here.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from transformers import AutoConfig, AutoModelForZeroShotObjectDetection, AutoTokenizer, Sam2VideoModel
from transformers.models.grounding_dino.image_processing_pil_grounding_dino import GroundingDinoImageProcessorPil
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession
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
from teacher_cache.teachers.protocol import ForwardBytes, Teacher, TeacherDescription, TeacherFamily

__all__ = ["FAMILY", "GroundedSamFamily", "GroundedSamOptions", "GroundedSamTeacher"]

GROUNDING, SEGMENTER = "grounding", "segmenter"
"""The folders in that of the weights: Grounding DINO's or MM-Grounding-DINO's, and SAM 2's."""
_GROUNDING_MODELS = ("grounding-dino", "mm-grounding-dino")
_SEGMENTER_MODELS = ("sam2_video", "sam2")
_KEPT = (".safetensors", ".json", ".txt")
"""What the files end in by which a folder of weights computes."""
_OF_FOLDER: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
"""How transformers reads a folder: without the network, and without code that lies in it."""
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_WORKING = 6 * 2**30
"""Bytes reckoned, not measured, that the published sizes take beside their weights, at 1024 pixels and 32 objects."""


class GroundedSamOptions(RegionOptions):
    """`TeacherJob.options` of ``grounded-sam``. The thresholds are the paper's."""

    box_threshold: float = Field(0.25, ge=0, lt=1)
    """Least score of a box: that of the token that fits it best."""
    text_threshold: float = Field(0.25, ge=0, lt=1)
    """Least score of a token of the phrase for a box to be the phrase's."""
    most_overlap: float = Field(0.7, gt=0, le=1)
    """Of two boxes of one phrase that overlap by more, as intersection over union, the lower-scored is a duplicate."""


class Grounded(NamedTuple):
    """A box that was found."""

    phrase: int
    """Index of its phrase."""
    score: float
    box: tuple[float, float, float, float]
    """Left, top, right, bottom in shares of the frame."""


class GroundedSamTeacher:
    """Grounding DINO and SAM 2 on one device, as a `Teacher` and `Prompted`."""

    def __init__(self, description: TeacherDescription, options: GroundedSamOptions, weights: Path, device: str) -> None:
        self.identity = description.identity
        self.image_size = description.image_size
        self.frames = description.frames
        self.shapes: Mapping[SignalName, Shape] = description.shapes
        self._options, self._device = options, torch.device(device)
        dtype = getattr(torch, description.identity.dtype)
        with _quietly():
            self._tokenizer = AutoTokenizer.from_pretrained(weights / GROUNDING, **_OF_FOLDER)
            self._pictures = GroundingDinoImageProcessorPil.from_pretrained(weights / GROUNDING, local_files_only=True)
            grounding = AutoModelForZeroShotObjectDetection.from_pretrained(
                weights / GROUNDING, use_safetensors=True, dtype=dtype, **_OF_FOLDER
            )
            segmenter = Sam2VideoModel.from_pretrained(
                weights / SEGMENTER, local_files_only=True, use_safetensors=True, dtype=dtype
            )
        self._grounding = grounding.eval().requires_grad_(requires_grad=False).to(self._device)
        self._segmenter = segmenter.eval().requires_grad_(requires_grad=False).to(self._device)

    def prepare(self, prompt: Prompt, clock: FrameClock, *, flipped: bool) -> tuple[str, ...]:  # noqa: ARG002
        """The phrases. Raises `VideoError` if there are more than objects in the store."""
        if len(prompt.phrases) > self._options.objects:
            raise VideoError(
                "prompt_unusable",
                f"{len(prompt.phrases)} phrases, and a clip of this store has at most {self._options.objects} objects; a job "
                "with a higher `teacher.options.objects` takes it, into another store",
            )
        return prompt.phrases

    def raw(self, frames: Tensor, signals: Collection[SignalName], told: Sequence[tuple[str, ...]] = ()) -> RawSignals:
        """Find and follow each clip's objects; see `Teacher.raw`. Clip by clip, and it waits for the device between steps."""
        require_fit(self, "grounded-sam", frames, signals)
        with torch.no_grad():
            found = [self._clip(clip, phrases) for clip, phrases in zip(frames, told, strict=True)]
        raw: RawSignals = {
            "regions": torch.stack([labels for labels, _ in found]),
            "objects": torch.from_numpy(np.stack([objects for _, objects in found])).to(self._device),
        }
        return {signal: raw[signal] for signal in signals}

    def heads(self) -> None:
        """None: there are no features to decode."""

    def _clip(self, clip: Tensor, phrases: tuple[str, ...]) -> tuple[Tensor, NDArray[np.float32]]:
        """Label map uint8 (frame, y, x) and objects float32 (object, property) of uint8 frames (frame, y, x, RGB)."""
        boxes = numbered(self._grounded(clip[0], phrases), len(phrases), self._options.objects)
        found = {number: one for number, one in enumerate(boxes, start=1) if one.score > 0}
        labels = self._followed(clip, found) if found else torch.zeros(clip.shape[:3], dtype=torch.uint8, device=self._device)
        shown = frames_shown(labels.cpu().numpy(), len(boxes))
        objects = [(one.phrase, _object(number, one, phrases, shown[number - 1])) for number, one in enumerate(boxes, start=1)]
        return labels, packed_objects(objects, self.shapes["objects"])

    def _grounded(self, frame: Tensor, phrases: tuple[str, ...]) -> list[Grounded]:
        """The boxes of all phrases in a frame (y, x, RGB), each phrase's without duplicates, best first."""
        pixels = self._pictures(images=frame.cpu().numpy(), return_tensors="pt").to(self._device)
        pixels = {
            name: values.to(self._grounding.dtype) if values.is_floating_point() else values for name, values in pixels.items()
        }
        found: list[Grounded] = []
        for first, some in self._asked_together(phrases):
            text, spans = self._text(some)
            outputs = self._grounding(**pixels, **text.to(self._device))
            scores = outputs.logits[0].float().sigmoid()
            best = scores.max(-1).values
            by_phrase = torch.stack([scores[:, span].max(-1).values for span in spans], -1)
            score, phrase = by_phrase.max(-1)
            kept = torch.nonzero((best > self._options.box_threshold) & (score > self._options.text_threshold)).flatten()
            corners = _corners(outputs.pred_boxes[0].float())
            found += [Grounded(first + int(phrase[n]), float(score[n]), tuple(corners[n].tolist())) for n in kept.tolist()]
        return without_duplicates(found, self._options.most_overlap)

    def _asked_together(self, phrases: tuple[str, ...]) -> Iterator[tuple[int, tuple[str, ...]]]:
        """Phrases in groups whose text is no longer than the model takes, each with the index of its first."""
        most = int(self._grounding.config.max_text_len)
        lengths = [len(self._tokenizer(_plain(phrase), add_special_tokens=False)["input_ids"]) + 1 for phrase in phrases]
        start = 0
        while start < len(phrases):
            stop, length = start, 2  # the first and the last token
            while stop < len(phrases) and (stop == start or length + lengths[stop] <= most):
                length += lengths[stop]
                stop += 1
            yield start, phrases[start:stop]
            start = stop

    def _text(self, phrases: tuple[str, ...]) -> tuple[Any, list[list[int]]]:
        """The text as the model is asked, ``a cup. a dog.``, and the tokens of each phrase."""
        text, places, at = "", [], 0
        for phrase in phrases:
            plain = _plain(phrase)
            places.append((at, at + len(plain)))
            text += f"{plain}. "
            at = len(text)
        most = int(self._grounding.config.max_text_len)
        encoded = self._tokenizer(
            text.rstrip(),
            return_tensors="pt",
            return_offsets_mapping=True,
            return_token_type_ids=True,
            truncation=True,
            max_length=most,
        )
        offsets = encoded.pop("offset_mapping")[0].tolist()
        spans = [[n for n, (a, b) in enumerate(offsets) if start <= a < b <= stop] for start, stop in places]
        return encoded, [span or [0] for span in spans]

    def _followed(self, clip: Tensor, boxes: Mapping[int, Grounded]) -> Tensor:
        """The label map of the clip, uint8 (frame, y, x), from each object's box in the first frame.

        A pixel that several masks have goes to the one with the greatest logit.
        """
        side = int(self._segmenter.config.image_size)
        mean, std = (torch.tensor(values, device=self._device).view(3, 1, 1) for values in (_MEAN, _STD))
        pictures = clip.to(self._device).permute(0, 3, 1, 2).float()
        resized = F.interpolate(pictures, (side, side), mode="bilinear", align_corners=False, antialias=True)
        session = Sam2VideoInferenceSession(
            video=(resized.round() / 255 - mean) / std,
            video_height=self.image_size,
            video_width=self.image_size,
            inference_device=self._device,
            inference_state_device=self._device,
            video_storage_device=self._device,
            dtype=self._segmenter.dtype,
        )
        for number, one in boxes.items():
            corners = torch.tensor(one.box, dtype=torch.float32).view(1, 1, 2, 2) * side
            points = {"point_coords": corners, "point_labels": torch.tensor([[[2, 3]]], dtype=torch.int32)}  # a box's corners
            session.add_point_inputs(session.obj_id_to_idx(number), 0, points)
        session.obj_with_new_inputs = list(boxes)
        labels = torch.zeros(clip.shape[:3], dtype=torch.uint8, device=self._device)
        for output in self._segmenter.propagate_in_video_iterator(session, start_frame_idx=0):
            logits = F.interpolate(output.pred_masks.float(), clip.shape[1:3], mode="bilinear", align_corners=False)[:, 0]
            most, which = logits.max(0)
            numbers = torch.tensor(session.obj_ids, dtype=torch.uint8, device=self._device)
            labels[output.frame_idx] = torch.where(most > 0, numbers[which], numbers.new_zeros(()))
        return labels


def numbered(found: Sequence[Grounded], phrases: int, most: int) -> list[Grounded]:
    """The clip's objects in the order of their numbers: by phrase, then by score. A phrase without a box has one of score 0.

    Each phrase keeps its best box; what room there is then goes to the others, the best first.
    """
    best: dict[int, Grounded] = {}
    others: list[Grounded] = []
    for one in sorted(found, key=lambda one: -one.score):
        others += [one] if one.phrase in best else []
        best.setdefault(one.phrase, one)
    nowhere = [Grounded(phrase, 0.0, (0.0, 0.0, 0.0, 0.0)) for phrase in range(phrases) if phrase not in best]
    kept = [*best.values(), *nowhere, *others[: max(0, most - phrases)]]
    return sorted(kept, key=lambda one: (one.phrase, -one.score))


def without_duplicates(found: Sequence[Grounded], most_overlap: float) -> list[Grounded]:
    """The boxes without those that overlap a better one of the same phrase by more: other phrases' stay, best first."""
    kept: list[Grounded] = []
    for one in sorted(found, key=lambda one: -one.score):
        if all(one.phrase != other.phrase or overlap(one.box, other.box) <= most_overlap for other in kept):
            kept.append(one)
    return kept


def overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union of two boxes (left, top, right, bottom)."""
    left, top, right, bottom = (*map(max, one[:2], other[:2]), *map(min, one[2:], other[2:]))
    shared = max(0.0, right - left) * max(0.0, bottom - top)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return shared / (areas - shared) if areas > shared else 0.0


def _corners(boxes: Tensor) -> Tensor:
    """(box, centre x, centre y, width, height) as (box, left, top, right, bottom), within the picture."""
    centre, half = boxes[:, :2], boxes[:, 2:] / 2
    return torch.cat([centre - half, centre + half], 1).clamp(0, 1)


def _plain(phrase: str) -> str:
    """A phrase as grounding models read it: lower case, and a full stop or a question mark ends a phrase."""
    return " ".join(phrase.lower().replace(".", " ").replace("?", " ").split())


def _object(number: int, one: Grounded, phrases: Sequence[str], shown: NDArray[np.bool_]) -> RegionObject:
    left, top, right, bottom = one.box
    has_box = one.score > 0
    reason: NotFound | None = None if shown.any() else "no_mask" if has_box else "no_box"
    return RegionObject(
        number=number,
        phrase=phrases[one.phrase],
        box=Box(left=left, top=top, right=right, bottom=bottom) if has_box else None,
        score=one.score,
        frames=tuple(np.flatnonzero(shown).tolist()),
        reason=reason,
    )


class GroundedSamFamily:
    """Grounding DINO and SAM 2, as a `TeacherFamily`."""

    presets = tuple(PRESETS)

    def identify(self, job: TeacherJob) -> TeacherDescription:
        """Describe the job's teacher; reads the weights' files as streams. Raises `BadInput`."""
        if job.preset not in PRESETS:
            raise BadInput(f"the family `grounded-sam` has no preset {job.preset!r}; it has {', '.join(PRESETS)}")
        options, weights, size = options_of(job, GroundedSamOptions), _folder(job), PRESETS[job.preset]
        digest = _digest(weights)
        if job.weights_digest not in {None, digest}:
            raise BadInput(
                f"the weights {job.weights} have the digest {digest}; `teacher.weights_digest` asks for {job.weights_digest}"
            )
        config: dict[str, Any] = {
            "takes": ["phrases"],
            "image_size": size,
            "options": options.model_dump(mode="json"),
            "models": {name: _kind(weights / name) for name in (GROUNDING, SEGMENTER)},
            "transformers": transformers.__version__,
        }
        identity = TeacherIdentity(family="grounded-sam", config=config, weights=digest, dtype=job.dtype)
        shapes = region_shapes(size, options)
        return TeacherDescription(identity=identity, image_size=size, frames=options.frames, shapes=shapes)

    def load(self, job: TeacherJob, device: str) -> Teacher:
        """Load both models on a device. Raises `BadInput` for weights that do not fit, `CouldNotRun` without the device."""
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise CouldNotRun(f"the teacher is to run on {device!r}, but PyTorch finds no GPU here. Run it on `cpu`.")
        description = self.identify(job)
        try:
            return GroundedSamTeacher(description, options_of(job, GroundedSamOptions), _folder(job), device)
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            said = str(error).strip().partition("\n")[0]
            raise BadInput(
                f"the weights {job.weights} cannot be loaded: {said}. Needed folders as transformers saves them."
            ) from None

    def forward_bytes(self, job: TeacherJob, batch: int, signals: Collection[SignalName]) -> ForwardBytes:  # noqa: ARG002
        """Memory: the files of the weights, a clip's work as reckoned for the published sizes, and a batch's label maps."""
        weights = _folder(job)
        size = sum(file.stat().st_size for name in (GROUNDING, SEGMENTER) for file in (weights / name).glob("*.safetensors"))
        options, config = (
            options_of(job, GroundedSamOptions),
            AutoConfig.from_pretrained(weights / SEGMENTER, **_OF_FOLDER),
        )
        share = (int(config.image_size) / 1024) ** 2
        return ForwardBytes(weights=size, working=int(_WORKING * share) + 2 * batch * options.frames * PRESETS[job.preset] ** 2)


FAMILY: TeacherFamily = GroundedSamFamily()


def _folder(job: TeacherJob) -> Path:
    """The folder of the weights. Raises `BadInput` that says what must be in it."""
    needed = (
        f"a local folder with `{GROUNDING}` (of {' or '.join(_GROUNDING_MODELS)}, such as IDEA-Research/grounding-dino-base) "
        f"and `{SEGMENTER}` (of SAM 2, such as facebook/sam2.1-hiera-large), each as transformers saves it, or links to them"
    )
    local = None if job.weights is None else local_path(job.weights)
    if local is None:
        raise BadInput(f"`teacher.weights` is {job.weights}; the family `grounded-sam` needs {needed}")
    weights = local.expanduser()
    for name, kinds in ((GROUNDING, _GROUNDING_MODELS), (SEGMENTER, _SEGMENTER_MODELS)):
        if not (weights / name / "config.json").is_file():
            raise BadInput(f"there is no {weights / name}/config.json; `teacher.weights` needs {needed}")
        if _kind(weights / name) not in kinds:
            raise BadInput(f"{weights / name} holds a model of the kind {_kind(weights / name)!r}; needed {' or '.join(kinds)}")
        if not list((weights / name).glob("*.safetensors")):
            raise BadInput(f"{weights / name} holds no .safetensors; other formats are not read, since they may hold code")
    return weights


def _kind(folder: Path) -> str:
    try:
        return str(_config(folder, (folder / "config.json").stat().st_mtime_ns).get("model_type"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{folder}/config.json cannot be read: {error}") from None


@functools.cache
def _config(folder: Path, _mtime_ns: int) -> dict[str, Any]:
    import json  # noqa: PLC0415

    found: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return found


def _digest(weights: Path) -> str:
    """sha256 over the names and digests of all files by which the two compute."""
    digest = hashlib.sha256()
    for name in (GROUNDING, SEGMENTER):
        for file in sorted((weights / name).iterdir()):
            if file.suffix in _KEPT:
                digest.update(f"{name}/{file.name}\0{digest_of_unchanged(file)}\n".encode())
    return f"sha256:{digest.hexdigest()}"


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
