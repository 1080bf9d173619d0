"""Frames and phrases in, the signals ``regions`` and ``objects`` out: SAM 3, which finds what a phrase names and follows it.

One model does what Grounding DINO and SAM 2 do together (``grounded-sam``), and in every frame: it also finds what comes into
view after the first one, which then has frames and no box. Transformers' own class, from a folder of weights in its format.

For duplicates within a frame and for holes in masks, transformers' class takes a package of kernels that it fetches from the
Hugging Face Hub, code and all. None is fetched here: duplicates of a phrase are left out by `PhraseOptions.most_overlap`, and
holes stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from transformers import AutoTokenizer, Sam3VideoModel
from transformers.models.sam3_video import modeling_sam3_video
from transformers.models.sam3_video.modeling_sam3_video import Sam3VideoInferenceSession

from schemas.job import TeacherJob
from teacher_cache.geometry.boxes import box_of
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

__all__ = ["FAMILY", "Sam3Family", "Sam3Options", "Sam3Teacher"]

_TOKENS = 32
"""Of a phrase, as SAM 3's processor cuts and pads it."""
_MEAN = _STD = 0.5

modeling_sam3_video.cv_utils_kernel = False  # as if its package were not there: it would be fetched


class Sam3Options(PhraseOptions):
    """`TeacherJob.options` of ``sam3``. The thresholds are the published model's."""

    detection_threshold: float = Field(0.5, ge=0, lt=1)
    """Least score of what is found in a frame. Where nothing is followed yet, as in the first frame, it is a new object."""
    new_object_threshold: float = Field(0.7, ge=0, lt=1)
    """Least score for it to be a new object beside those that are followed."""


class Sam3Teacher(PhraseTeacher):
    """SAM 3 on one device, as a `Teacher` and `Prompted`."""

    name = "sam3"

    def __init__(self, description: TeacherDescription, options: Sam3Options, weights: Path, device: str) -> None:
        super().__init__(description, options, device)
        self._options = options
        self._tokenizer = of_folder(AutoTokenizer, weights)
        model = of_folder(Sam3VideoModel, weights, use_safetensors=True, dtype=getattr(torch, description.identity.dtype))
        model.score_threshold_detection = options.detection_threshold
        model.new_det_thresh = options.new_object_threshold
        self._model = model.eval().requires_grad_(requires_grad=False).to(self._device)

    def _found(self, clip: Tensor, phrases: tuple[str, ...]) -> tuple[list[Found], Tensor]:
        session = self._session(clip, phrases)
        logits: dict[int, dict[int, Tensor]] = {}
        for output in self._model.propagate_in_video_iterator(session):
            hidden = {*session.hotstart_removed_obj_ids, *(output.suppressed_obj_ids or ())}
            for number, mask in output.obj_id_to_mask.items():
                if number not in hidden and bool((mask > 0).any()):
                    logits.setdefault(number, {})[output.frame_idx] = mask[0].float()
        scores, prompts = session.obj_id_to_score, session.obj_id_to_prompt_id
        found = [(Found(prompts[n], float(scores[n]), _box(of.get(0))), of) for n, of in logits.items() if n in scores]
        kept = without_duplicates(found, _overlap, self._options.most_overlap)
        masks = {id(one): of for one, of in kept}
        objects = numbered([one for one, _ in kept], len(phrases), self._options.objects)
        labels, highest = self._nothing(clip), torch.zeros(clip.shape[:3], device=self._device)
        for number, one in enumerate(objects, start=1):
            for frame, mask in masks.get(id(one), {}).items():
                whole = F.interpolate(mask[None, None], clip.shape[1:3], mode="bilinear", align_corners=False)[0, 0]
                is_its = whole > highest[frame]  # a pixel that several masks have goes to the one with the greatest logit
                labels[frame][is_its] = number
                highest[frame] = torch.where(is_its, whole, highest[frame])
        return objects, labels

    def _session(self, clip: Tensor, phrases: tuple[str, ...]) -> Sam3VideoInferenceSession:
        """The clip as the model takes it, and what to look for."""
        side = int(self._model.config.image_size)
        pictures = clip.to(self._device).permute(0, 3, 1, 2).float()
        resized = F.interpolate(pictures, (side, side), mode="bilinear", align_corners=False, antialias=True)
        session = Sam3VideoInferenceSession(
            video=(resized.round() / 255 - _MEAN) / _STD,
            video_height=self.image_size,
            video_width=self.image_size,
            inference_device=self._device,
            inference_state_device=self._device,
            video_storage_device=self._device,
            dtype=self._model.dtype,
        )
        for phrase in phrases:
            prompt = session.add_prompt(phrase)
            text = self._tokenizer(phrase, return_tensors="pt", padding="max_length", max_length=_TOKENS, truncation=True)
            session.prompt_input_ids[prompt] = text.input_ids.to(self._device)
            session.prompt_attention_masks[prompt] = text.attention_mask.to(self._device)
        return session


def _overlap(one: Mapping[int, Tensor], other: Mapping[int, Tensor]) -> float:
    """Intersection over union of two objects' masks in the frame in which the later one is found.

    Beyond that frame the model gives each pixel to one of them.
    """
    frame = max(min(one), min(other))
    if frame not in one or frame not in other:
        return 0.0
    mask, its = one[frame] > 0, other[frame] > 0
    return float((mask & its).sum() / (mask | its).sum())


def _box(logits: Tensor | None) -> tuple[float, float, float, float] | None:
    box = None if logits is None else box_of((logits > 0).cpu().numpy())
    return None if box is None else (box.left, box.top, box.right, box.bottom)


class Sam3Family(PhraseFamily):
    """SAM 3, as a `TeacherFamily`."""

    name = "sam3"
    models: Mapping[str, tuple[str, ...]] = {"": ("sam3_video",)}
    needed = "a local folder of SAM 3's video model, such as facebook/sam3, as transformers saves it"
    options = Sam3Options

    def _made(self, job: TeacherJob, description: TeacherDescription, weights: Path, device: str) -> Teacher:
        return Sam3Teacher(description, options_of(job, Sam3Options), weights, device)


FAMILY: TeacherFamily = Sam3Family()
