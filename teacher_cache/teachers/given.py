"""Truth masks of a set in, the signals ``regions`` and ``objects`` out: a teacher that is given its answers.

So a set's own masks lie in a store like any teacher's, at the teacher's size and the clip's frames, and what reads, verifies,
repairs and trains by regions takes either.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from schemas.base import Frozen
from schemas.clip import MOST_FRAMES, FrameClock
from schemas.errors import BadInput, VideoError
from schemas.job import TeacherJob
from schemas.prompt import Prompt
from schemas.recipe import TeacherIdentity
from schemas.regions import MOST_OBJECTS, RegionObject
from schemas.signal import Shape, SignalName
from teacher_cache.encodings.objects import frames_shown, objects_shape, packed_objects
from teacher_cache.geometry.boxes import box_of
from teacher_cache.teachers.batch import options_of, require_fit
from teacher_cache.teachers.heads import RawSignals
from teacher_cache.teachers.masks import label_maps
from teacher_cache.teachers.protocol import ForwardBytes, Teacher, TeacherDescription, TeacherFamily

__all__ = ["FAMILY", "PRESETS", "GivenFamily", "GivenTeacher", "RegionOptions"]

PRESETS: dict[str, int] = {f"px{size}": size for size in (112, 224, 384, 512, 1024)}
"""Presets of the families that give regions: height and width of the frames and label maps, in pixels."""


class RegionOptions(Frozen):
    """`TeacherJob.options` of a family that gives regions."""

    objects: int = Field(32, ge=1, le=MOST_OBJECTS)
    """The most objects of a clip."""
    frames: int = Field(16, ge=2, le=MOST_FRAMES, multiple_of=2)
    """Frames of a clip: the job's ``clips.frames``."""


class GivenClip(NamedTuple):
    """A clip's answers."""

    labels: NDArray[np.uint8]
    """(frame, y, x)."""
    objects: NDArray[np.float32]
    """(object, property)."""


class GivenTeacher:
    """Gives each clip the masks that its row names, as a `Teacher` and `Prompted`. On the CPU."""

    def __init__(self, description: TeacherDescription) -> None:
        self.identity = description.identity
        self.image_size = description.image_size
        self.frames = description.frames
        self.shapes: Mapping[SignalName, Shape] = description.shapes

    def prepare(self, prompt: Prompt, clock: FrameClock, *, flipped: bool) -> GivenClip:
        """Read the masks of the clip's frames, nearest in time, and resize them, nearest in place. Raises `VideoError`."""
        if prompt.masks is None:
            raise VideoError("prompt_missing", "its row of the list names no `masks`")
        most = self.shapes["objects"][0]
        whole = [one[:, :: -1 if flipped else 1] for one in label_maps(prompt.masks, prompt.masks_digest, clock.frame_index)]
        highest = max(int(labels.max()) for labels in whole)
        if max(highest, len(prompt.phrases)) > most:
            raise VideoError(
                "prompt_unusable",
                f"object {max(highest, len(prompt.phrases))}, and a clip of this store has at most {most}; a job with a higher "
                "`teacher.options.objects` takes it, into another store",
            )
        side = self.image_size
        labels = np.stack([np.asarray(Image.fromarray(one).resize((side, side), Image.Resampling.NEAREST)) for one in whole])
        shown = frames_shown(labels, most)
        objects = [
            _object(number, prompt.phrases, whole[0], shown[number - 1])
            for number in range(1, max(highest, len(prompt.phrases)) + 1)
        ]
        found = [(one.number - 1, one) for one in objects]
        return GivenClip(labels, packed_objects(found, self.shapes["objects"]))

    def raw(self, frames: torch.Tensor, signals: Collection[SignalName], told: Sequence[GivenClip] = ()) -> RawSignals:
        """What `prepare` gave; see `Teacher.raw`. The frames are looked at for their shape alone."""
        require_fit(self, "the family `given`", frames, signals)
        raw: RawSignals = {
            "regions": torch.from_numpy(np.stack([one.labels for one in told])),
            "objects": torch.from_numpy(np.stack([one.objects for one in told])),
        }
        return {signal: raw[signal] for signal in signals}

    def heads(self) -> None:
        """None: there are no features to decode."""


def _object(number: int, phrases: Sequence[str], first: NDArray[np.uint8], shown: NDArray[np.bool_]) -> RegionObject:
    """The object of that number, by the first frame's label map in its own size and the frames that show it."""
    box = box_of(first == number)
    return RegionObject(
        number=number,
        phrase=phrases[number - 1] if number <= len(phrases) else f"object {number}",
        box=box,
        score=float(box is not None),
        frames=tuple(np.flatnonzero(shown).tolist()),
        reason=None if shown.any() else "no_box" if box is None else "no_mask",
    )


def region_shapes(size: int, options: RegionOptions) -> dict[SignalName, Shape]:
    """The shapes of one clip of `regions` and `objects`."""
    return {"regions": (options.frames, size, size), "objects": objects_shape(options.objects, options.frames)}


class GivenFamily:
    """Truth masks, as a `TeacherFamily`."""

    presets = tuple(PRESETS)

    def identify(self, job: TeacherJob) -> TeacherDescription:
        """Describe the job's teacher. Raises `BadInput` for an unknown preset or option, for weights, and for another dtype."""
        if job.preset not in PRESETS:
            raise BadInput(f"the family `given` has no preset {job.preset!r}; it has {', '.join(PRESETS)}")
        if job.weights is not None or job.dtype != "float32":
            raise BadInput("the family `given` computes nothing; leave out `teacher.weights` and `teacher.dtype`")
        options, size = options_of(job, RegionOptions), PRESETS[job.preset]
        config: dict[str, Any] = {
            "takes": ["masks", "phrases"],
            "resampling": "nearest in time and place",
            "image_size": size,
            "options": options.model_dump(mode="json"),
        }
        identity = TeacherIdentity(family="given", config=config, weights="none: truth masks of the set", dtype="float32")
        return TeacherDescription(
            identity=identity, image_size=size, frames=options.frames, shapes=region_shapes(size, options)
        )

    def load(self, job: TeacherJob, device: str) -> Teacher:  # noqa: ARG002  # there is nothing to compute on any device
        """The job's teacher."""
        return GivenTeacher(self.identify(job))

    def forward_bytes(self, job: TeacherJob, batch: int, signals: Collection[SignalName]) -> ForwardBytes:  # noqa: ARG002
        """Predict memory: each clip's label maps in their own size, one at a time, and at the teacher's, twice."""
        clip = options_of(job, RegionOptions).frames * PRESETS[job.preset] ** 2
        return ForwardBytes(weights=0, working=batch * 2 * clip + 64 * 2**20)


FAMILY: TeacherFamily = GivenFamily()
