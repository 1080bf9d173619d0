"""The student's and the teacher's F4D and maps go in; each clip's scores come out, beside those of a constant baseline.

All functions are pure. Tensors have the clips as first axis and the units of `schemas.signal.SIGNALS`; every score is float32
(clip,), a mean over one clip. `METRICS` describes each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F

from schemas.signal import SignalName
from student_train.data.pictures import aligned_depth


class Metric(NamedTuple):
    """Describes one score."""

    signal: SignalName
    title: str
    unit: str
    better: Literal["lower", "higher"]
    baseline: str
    """The constant prediction that the student is compared with, taken from the teacher's values of the same clip.

    ``no flow`` and ``no moment`` score the mean length of the teacher's vectors, ``all moves`` the share of moving pixels."""


METRICS: dict[str, Metric] = {
    "f4d_smooth_l1": Metric("f4d", "F4D SmoothL1", "", "lower", "mean token"),
    "f4d_cosine": Metric("f4d", "F4D cosine", "", "higher", "mean token"),
    "depth_abs_rel": Metric("depth", "depth AbsRel", "", "lower", "median depth"),
    "depth_delta_125": Metric("depth", "depth δ < 1.25", "", "higher", "median depth"),
    "flow_epe": Metric("flow", "flow end-point error", "px", "lower", "no flow"),
    "motion_iou": Metric("motion", "motion IoU", "", "higher", "all moves"),
    "camray_angle": Metric("camray", "ray angle", "°", "lower", "mean direction"),
    "camray_moment": Metric("camray", "ray moment error", "", "lower", "no moment"),
}


class Scores(NamedTuple):
    """One metric over a batch of clips."""

    student: torch.Tensor
    """float32 (clip,)."""
    baseline: torch.Tensor
    """float32 (clip,): the score of the constant that `Metric.baseline` names."""


def f4d_scores(student: torch.Tensor, teacher: torch.Tensor) -> dict[str, Scores]:
    """SmoothL1 (beta 1), as in the latent loss, and cosine similarity, both means over all tokens.

    ``student``, ``teacher``: float (clip, layer, token_time, token_y, token_x, channel). Features share a large mean, which
    alone gives a high cosine, so compare it with its baseline.
    """
    baseline = teacher.mean((2, 3, 4), keepdim=True).expand_as(teacher)
    return {
        "f4d_smooth_l1": Scores(_smooth_l1(student, teacher), _smooth_l1(baseline, teacher)),
        "f4d_cosine": Scores(_cosine(student, teacher), _cosine(baseline, teacher)),
    }


def depth_scores(student: torch.Tensor, teacher: torch.Tensor) -> dict[str, Scores]:
    """AbsRel, the mean of |d − d*| / d*, and the share of pixels with max(d / d*, d* / d) < 1.25, after `aligned_depth`.

    ``student``, ``teacher``: positive float (clip, frame, y, x). Eigen et al., arXiv 1406.2283.
    """
    aligned, baseline = aligned_depth(student, teacher), aligned_depth(torch.ones_like(teacher), teacher)
    return {
        "depth_abs_rel": Scores(_abs_rel(aligned, teacher), _abs_rel(baseline, teacher)),
        "depth_delta_125": Scores(_delta(aligned, teacher), _delta(baseline, teacher)),
    }


def flow_scores(student: torch.Tensor, teacher: torch.Tensor) -> dict[str, Scores]:
    """End-point error: the mean length of the difference, in pixels at the teacher's image size.

    ``student``, ``teacher``: float (clip, frame, y, x, uv). Frame 0 is left out: it has no previous frame to point to.
    """
    student, teacher = student[:, 1:], teacher[:, 1:]
    return {"flow_epe": Scores(_mean_length(student - teacher), _mean_length(teacher))}


def motion_scores(student: torch.Tensor, teacher: torch.Tensor) -> dict[str, Scores]:
    """Intersection over union of the pixels that move, sigmoid(logit) > 0.5, over all frames of a clip together.

    ``student``, ``teacher``: logits, float (clip, frame, y, x). NaN, and so no score, if neither has a moving pixel; a
    perfect score would reward finding nothing where there is nothing.
    """
    moves, truly = student.flatten(1) > 0, teacher.flatten(1) > 0
    return {"motion_iou": Scores(_iou(moves, truly), _iou(torch.ones_like(truly), truly))}


def camray_scores(student: torch.Tensor, teacher: torch.Tensor) -> dict[str, Scores]:
    """Mean angle between ray directions, in degrees, and mean length of the difference of their moments.

    ``student``, ``teacher``: Plücker rays, float (clip, frame, ray_y, ray_x, 6), direction then moment. The angle does not
    depend on a direction's length. Moments are compared unscaled, as in the loss, in the scale of the teacher's depth.
    """
    directions, truth = student[..., :3], teacher[..., :3]
    mean = F.normalize(truth, dim=-1).mean((1, 2, 3), keepdim=True).expand_as(truth)
    moments, true_moments = student[..., 3:], teacher[..., 3:]
    return {
        "camray_angle": Scores(_angle(directions, truth), _angle(mean, truth)),
        "camray_moment": Scores(_mean_length(moments - true_moments), _mean_length(true_moments)),
    }


SCORED: dict[SignalName, Callable[[torch.Tensor, torch.Tensor], dict[str, Scores]]] = {
    "f4d": f4d_scores,
    "depth": depth_scores,
    "flow": flow_scores,
    "motion": motion_scores,
    "camray": camray_scores,
}
"""Signal → the function that scores (student, teacher)."""


def _mean(values: torch.Tensor) -> torch.Tensor:
    """(clip, …) to (clip,)."""
    return values.float().flatten(1).mean(1)


def _smooth_l1(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return _mean(F.smooth_l1_loss(a.float(), b.float(), reduction="none"))


def _cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return _mean(F.cosine_similarity(a.float(), b.float(), dim=-1))


def _abs_rel(depth: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    return _mean((depth - truth).abs() / truth)


def _delta(depth: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    # NaN must stay NaN; the comparison alone would count it as a miss.
    ratio = torch.maximum(depth / truth, truth / depth)
    return _mean(torch.where(ratio.isnan(), ratio, (ratio < 1.25).to(ratio.dtype)))


def _mean_length(vectors: torch.Tensor) -> torch.Tensor:
    return _mean(torch.linalg.vector_norm(vectors.float(), dim=-1))


def _iou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(clip, pixel) to (clip,); 0 / 0 is NaN."""
    return (a & b).sum(1) / (a | b).sum(1)


def _angle(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Mean angle in degrees, by atan2, which is exact near 0° and 180°, where the cosine is flat. NaN for a zero direction."""
    a, b = a.float(), b.float()
    cross = torch.linalg.vector_norm(torch.linalg.cross(a, b), dim=-1)
    dot = (a * b).sum(-1)
    angle = torch.rad2deg(torch.atan2(cross, dot))
    return _mean(torch.where((cross == 0) & (dot == 0), torch.nan, angle))
