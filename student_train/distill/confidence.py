"""Two teachers' maps of the same clips go in; each pixel's weight in ED comes out: less, the further they are apart.

A frozen teacher is wrong somewhere, and a student that copies it learns that too. Where another teacher, of another kind, says
the same, both are likelier to be right. This is not in the paper; it is off unless a config asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F

from schemas.errors import BadInput
from schemas.train import ConfidenceConfig, Modality
from student_train.distill.pixel_weights import OtherStore, Weights
from teacher_cache import Cache

Maps = torch.Tensor
"""float (clip, frame, …): a signal of some clips, axes and units as in `schemas.signal.SIGNALS`."""


def agreement(modality: Modality, ours: Maps, theirs: Maps, tolerance: float) -> torch.Tensor:
    """How well two teachers agree, float32 (clip, frame, y, x) in 0 to 1: 1 / (1 + (d / tolerance)²), d their distance.

    It is 1 where they say the same and 1/2 where they are ``tolerance`` apart. d is of depth the difference of logarithms, less
    the clip's median difference, since depth is known up to a scale; of flow the distance in pixels; of motion the difference
    of probabilities; of camray the angle between the rays' directions, in radians: moments have each teacher's own scale.
    Where either has no number, the weight is 0.
    """
    distance = _DISTANCES[modality](ours.float(), theirs.float())
    return (1 / (1 + (distance / tolerance) ** 2)).nan_to_num(nan=0.0)


def _of_depth(ours: Maps, theirs: Maps) -> torch.Tensor:
    difference = ours.log() - theirs.log()
    scale = difference.flatten(1).nanmedian(dim=1).values  # (clip,)
    return difference - scale.view(-1, *[1] * (difference.dim() - 1))


def _of_flow(ours: Maps, theirs: Maps) -> torch.Tensor:
    distance: torch.Tensor = torch.linalg.vector_norm(ours - theirs, dim=-1)
    return distance


def _of_motion(ours: Maps, theirs: Maps) -> torch.Tensor:
    return ours.sigmoid() - theirs.sigmoid()


def _of_camray(ours: Maps, theirs: Maps) -> torch.Tensor:
    a, b = F.normalize(ours[..., :3], dim=-1), F.normalize(theirs[..., :3], dim=-1)
    # From the sine and the cosine: the arc cosine alone is off by 3e-4 where the angle is 0.
    return torch.atan2(torch.linalg.vector_norm(torch.linalg.cross(a, b), dim=-1), (a * b).sum(-1))


_DISTANCES: dict[Modality, Callable[[Maps, Maps], torch.Tensor]] = {
    "depth": _of_depth,
    "flow": _of_flow,
    "motion": _of_motion,
    "camray": _of_camray,
}


class Confidence:
    """Weighs a store's clips by their agreement with another store's: a `PixelWeights`."""

    def __init__(self, cache: Cache, signals: Sequence[str], config: ConfidenceConfig) -> None:
        """``signals``: those that the losses compare.

        Raises `BadInput` if the other store has none of their maps, and `JoinRefused` if it does not hold the same frames.
        """
        self._store = OtherStore(cache, config.store, config.version, "loss.confidence.store")
        self.other = self._store.cache
        self.tolerances: dict[Modality, float] = {
            name: tolerance for name, tolerance in config.tolerances().items() if name in signals and name in self.other.signals
        }
        if not self.tolerances:
            raise BadInput(
                f"`loss.confidence.store` {self.other.url} holds {', '.join(self.other.signals)}, and ED compares "
                f"{', '.join(name for name in signals if name != 'f4d') or 'nothing'}; needed a store with one of these"
            )

    def require(self, clip_ids: Sequence[str]) -> None:
        """See `student_train.distill.pixel_weights.PixelWeights.require`."""
        self._store.require(clip_ids)

    def __call__(self, targets: Mapping[str, torch.Tensor], clip_ids: Sequence[str | None]) -> Weights:
        """See `student_train.distill.pixel_weights.PixelWeights`."""
        known = [clip_id is not None for clip_id in clip_ids]
        theirs = self._store.read(tuple(self.tolerances), clip_ids)
        weights: Weights = {}
        for signal, tolerance in self.tolerances.items():
            ours = targets[signal]
            weights[signal] = torch.ones(ours.shape[:4], device=ours.device)
            there = torch.from_numpy(theirs[signal]).to(ours.device)
            weights[signal][known] = agreement(signal, ours[known], there, tolerance)
        return weights
