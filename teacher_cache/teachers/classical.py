"""uint8 clips in, flow and motion out, by OpenCV alone: a quick look at a data set without weights or a GPU.

Nothing here is learned: the flow is a dense patch search, the motion a model of a static background. So these signals do not
replace a trained teacher's: with a moving camera, all of the background counts as moving.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from schemas.errors import BadInput, CouldNotRun
from schemas.job import TeacherJob
from schemas.recipe import TeacherIdentity
from schemas.signal import Shape, SignalName
from teacher_cache.teachers.batch import require_fit, require_no_options
from teacher_cache.teachers.heads import RawSignals
from teacher_cache.teachers.protocol import ForwardBytes, Teacher, TeacherDescription, TeacherFamily

__all__ = ["FAMILY", "PRESETS", "ClassicalFamily", "ClassicalTeacher"]

FRAMES = 16
PRESETS: dict[str, int] = {"px224": 224, "px112": 112}
"""Presets by name: height and width of the frames, in pixels."""

# Squared RGB distance within which a sample supports the background: about 6 grey levels per channel.
_KNN_DISTANCE2 = 100.0
_WINDOW = 5
_VOTES = _WINDOW**2

Frames = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


class ClassicalTeacher:
    """OpenCV's optical flow and foreground model on the CPU, as a `Teacher`. Has no features and no heads."""

    def __init__(self, description: TeacherDescription) -> None:
        self.identity = description.identity
        self.image_size = description.image_size
        self.frames = description.frames
        self.shapes: Mapping[SignalName, Shape] = description.shapes

    def raw(self, frames: torch.Tensor, signals: Collection[SignalName], told: Sequence[Any] = ()) -> RawSignals:  # noqa: ARG002
        """Teach a batch of uint8 (batch, frame 16, size, size, RGB) frames; see `Teacher.raw`. Results are on the CPU."""
        require_fit(self, "the classical teacher", frames, signals)
        clips = frames.cpu().numpy()
        with _one_thread():
            return {
                signal: torch.from_numpy(np.stack([give(clip) for clip in clips]))
                for signal, give in _METHODS.items()
                if signal in signals
            }

    def heads(self) -> None:
        """None: there are no features to decode."""


def backward_flow(clip: Frames) -> Floats:
    """Optical flow from each frame to the one before it, in pixels (u right, v down), by DIS (arXiv 1603.03590).

    ``clip``: uint8 (frame, y, x, RGB). Returns float32 (frame, y, x, uv); frame 0, which has no previous frame, is zero.
    """
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    search.setFinestScale(0)  # full resolution: at these sizes, half the error of the preset's half resolution
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip]
    flow = np.zeros((*clip.shape[:3], 2), np.float32)
    for t in range(1, len(clip)):
        flow[t] = search.calc(grey[t], grey[t - 1], flow[t].copy())  # starts from zero flow
    return flow


def motion_logits(clip: Frames) -> Floats:
    """Logit that a pixel shows something other than the clip's static background.

    OpenCV's K-nearest-neighbours background model (Zivkovic and van der Heijden, 2006) first sees the whole clip, then
    classifies every frame; shadows count as background. If k of the n = 25 pixels around a pixel are foreground, its logit is
    that of the probability (k + 1/2) / (n + 1), so within ±3.93: a share of votes, not a calibrated probability.

    ``clip``: uint8 (frame, y, x, RGB). Returns float32 (frame, y, x).
    """
    cv2.setRNGSeed(0)  # the model chooses randomly which samples to keep
    model = cv2.createBackgroundSubtractorKNN(history=len(clip), dist2Threshold=_KNN_DISTANCE2, detectShadows=True)
    for seen, frame in enumerate(clip, start=1):
        model.apply(frame, learningRate=1 / seen)
    foreground = [(model.apply(frame, learningRate=0) == 255).astype(np.float32) for frame in clip]
    # Rounded, since the filter's running sums of these whole numbers are inexact.
    votes = np.stack([cv2.boxFilter(mask, -1, (_WINDOW, _WINDOW), normalize=False) for mask in foreground]).round()
    logits: Floats = np.log((votes + 0.5) / (_VOTES - votes + 0.5)).astype(np.float32)
    return logits


_METHODS: dict[SignalName, Callable[[Frames], Floats]] = {"flow": backward_flow, "motion": motion_logits}
"""Signal → the function that computes it."""


@contextmanager
def _one_thread() -> Iterator[None]:
    """Make OpenCV single-threaded: it cuts frames into one stripe per thread, and DIS differs at the stripes' borders."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


class ClassicalFamily:
    """The classical teacher's presets, as a `TeacherFamily`."""

    presets = tuple(PRESETS)

    def identify(self, job: TeacherJob) -> TeacherDescription:
        """Describe the job's teacher. Another OpenCV release counts as another teacher, as its results may differ.

        Raises `BadInput` for an unknown preset, for weights, and for a dtype other than float32.
        """
        require_no_options(job, "the classical teacher")
        if job.preset not in PRESETS:
            raise BadInput(f"the classical teacher has no preset {job.preset!r}; it has {', '.join(PRESETS)}")
        if job.weights is not None:
            raise BadInput(f"the classical teacher is not learned and takes no weights, got {job.weights!r}. Leave them out.")
        if job.dtype != "float32":
            raise BadInput(f"the classical teacher computes in float32 alone, got `dtype: {job.dtype}`. Leave it out.")
        size = PRESETS[job.preset]
        identity = TeacherIdentity(
            family="classical",
            config={
                "method": {
                    "flow": "OpenCV DIS, preset medium, finest scale 0",
                    "motion": f"OpenCV KNN background of the clip, distance² {_KNN_DISTANCE2:g}, votes of {_WINDOW}×{_WINDOW}",
                },
                "image_size": size,
            },
            weights=f"none: classical, opencv {cv2.__version__}",
            dtype="float32",
        )
        shapes: dict[SignalName, Shape] = {"flow": (FRAMES, size, size, 2), "motion": (FRAMES, size, size)}
        return TeacherDescription(identity=identity, image_size=size, frames=FRAMES, shapes=shapes)

    def load(self, job: TeacherJob, device: str) -> Teacher:
        """The job's teacher. Raises `CouldNotRun` for a device other than the CPU."""
        if device != "cpu":
            raise CouldNotRun(f"the classical teacher runs on the CPU, got {device!r}. Set `engine.gpus_per_teacher: 0`.")
        return ClassicalTeacher(self.identify(job))

    def forward_bytes(self, job: TeacherJob, batch: int, signals: Collection[SignalName]) -> ForwardBytes:
        """Predict memory: frames in colour and grey, both float32 maps twice (per clip and stacked), and OpenCV's buffers."""
        pixels = batch * FRAMES * PRESETS[job.preset] ** 2
        return ForwardBytes(weights=0, working=pixels * (3 + 1 + 2 * 4 * (1 + 2)) + 64 * 2**20 * bool(signals))


FAMILY: TeacherFamily = ClassicalFamily()
