"""Frames and phrases in, the signals ``regions`` and ``objects`` out: boxes by Grounding DINO, masks through the clip by SAM 2.

As 4D-RGPT's region pipeline has it (arXiv 2512.17012, appendix A2): a grounding model boxes what the phrases name in the first
frame, and a segmenter follows each box. The paper masks the first frame alone; here SAM 2's memory carries each object through
all frames, so that its number is the same before and after it is hidden. Both are transformers' own classes, from folders of
weights in their own formats.

Frames come squashed to the teacher's square, as all teachers see them. Boxes are in shares of width and height, so they hold
for the video as well; what squashing costs a grounding model's recall is not known here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from transformers import AutoModelForZeroShotObjectDetection, AutoTokenizer, Sam2VideoModel
from transformers.models.grounding_dino.image_processing_pil_grounding_dino import GroundingDinoImageProcessorPil
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

from schemas.job import TeacherJob
from teacher_cache.teachers.batch import options_of
from teacher_cache.teachers.phrases import (
    Found,
    PhraseFamily,
    PhraseOptions,
    PhraseTeacher,
    numbered,
    of_folder,
    without_duplicates,
)
from teacher_cache.teachers.protocol import Teacher, TeacherDescription, TeacherFamily

__all__ = ["FAMILY", "GroundedSamFamily", "GroundedSamOptions", "GroundedSamTeacher"]

GROUNDING, SEGMENTER = "grounding", "segmenter"
"""The folders in that of the weights: Grounding DINO's or MM-Grounding-DINO's, and SAM 2's."""
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class GroundedSamOptions(PhraseOptions):
    """`TeacherJob.options` of ``grounded-sam``. The thresholds are the paper's."""

    box_threshold: float = Field(0.25, ge=0, lt=1)
    """Least score of a box: that of the token that fits it best."""
    text_threshold: float = Field(0.25, ge=0, lt=1)
    """Least score of a token of the phrase for a box to be the phrase's."""


class GroundedSamTeacher(PhraseTeacher):
    """Grounding DINO and SAM 2 on one device, as a `Teacher` and `Prompted`."""

    name = "grounded-sam"

    def __init__(self, description: TeacherDescription, options: GroundedSamOptions, weights: Path, device: str) -> None:
        super().__init__(description, options, device)
        self._options = options
        dtype = getattr(torch, description.identity.dtype)
        self._tokenizer = of_folder(AutoTokenizer, weights / GROUNDING)
        self._pictures = of_folder(GroundingDinoImageProcessorPil, weights / GROUNDING)
        grounding, segmenter = (
            of_folder(kind, weights / name, use_safetensors=True, dtype=dtype)
            for kind, name in ((AutoModelForZeroShotObjectDetection, GROUNDING), (Sam2VideoModel, SEGMENTER))
        )
        self._grounding = grounding.eval().requires_grad_(requires_grad=False).to(self._device)
        self._segmenter = segmenter.eval().requires_grad_(requires_grad=False).to(self._device)

    def _found(self, clip: Tensor, phrases: tuple[str, ...]) -> tuple[list[Found], Tensor]:
        objects = numbered(self._grounded(clip[0], phrases), len(phrases), self._options.objects)
        boxes = {number: one.box for number, one in enumerate(objects, start=1) if one.box is not None}
        return objects, self._followed(clip, boxes) if boxes else self._nothing(clip)

    def _grounded(self, frame: Tensor, phrases: tuple[str, ...]) -> list[Found]:
        """The boxes of all phrases in a frame (y, x, RGB), each phrase's without duplicates, best first."""
        pixels = self._pictures(images=frame.cpu().numpy(), return_tensors="pt").to(self._device)
        pixels = {
            name: values.to(self._grounding.dtype) if values.is_floating_point() else values for name, values in pixels.items()
        }
        found: list[Found] = []
        for first, some in self._asked_together(phrases):
            text, spans = self._text(some)
            outputs = self._grounding(**pixels, **text.to(self._device))
            scores = outputs.logits[0].float().sigmoid()
            best = scores.max(-1).values
            by_phrase = torch.stack([scores[:, span].max(-1).values for span in spans], -1)
            score, phrase = by_phrase.max(-1)
            kept = torch.nonzero((best > self._options.box_threshold) & (score > self._options.text_threshold)).flatten()
            corners = _corners(outputs.pred_boxes[0].float())
            found += [Found(first + int(phrase[n]), float(score[n]), tuple(corners[n].tolist())) for n in kept.tolist()]
        boxed = [(one, one.box) for one in found if one.box is not None]
        return [one for one, _ in without_duplicates(boxed, overlap, self._options.most_overlap)]

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

    def _followed(self, clip: Tensor, boxes: Mapping[int, tuple[float, float, float, float]]) -> Tensor:
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
        for number, box in boxes.items():
            corners = torch.tensor(box, dtype=torch.float32).view(1, 1, 2, 2) * side
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


class GroundedSamFamily(PhraseFamily):
    """Grounding DINO and SAM 2, as a `TeacherFamily`."""

    name = "grounded-sam"
    models: Mapping[str, tuple[str, ...]] = {
        GROUNDING: ("grounding-dino", "mm-grounding-dino"),
        SEGMENTER: ("sam2_video", "sam2"),
    }
    needed = (
        f"a local folder with `{GROUNDING}` (of grounding-dino or mm-grounding-dino, such as IDEA-Research/grounding-dino-base)"
        f" and `{SEGMENTER}` (of SAM 2, such as facebook/sam2.1-hiera-large), each as transformers saves it, or links to them"
    )
    options = GroundedSamOptions

    def _made(self, job: TeacherJob, description: TeacherDescription, weights: Path, device: str) -> Teacher:
        return GroundedSamTeacher(description, options_of(job, GroundedSamOptions), weights, device)


FAMILY: TeacherFamily = GroundedSamFamily()
