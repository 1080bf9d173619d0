"""Label maps and maps of clips in; each object's area, depth, flow and motion over time out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from schemas.errors import BadInput
from schemas.regions import RegionObject

_AT_ONCE = 16
"""Clips whose maps are in memory at once: some 14 MB each at 224 pixels."""
_MAPS = ("depth", "flow", "motion")

Floats = NDArray[np.float32]


class Regions(Protocol):
    """A store, or joined ones, with ``regions`` and ``objects``."""

    @property
    def signals(self) -> Sequence[str]: ...

    def read(self, signals: Sequence[str], clip_ids: Sequence[str], /) -> Mapping[str, NDArray[Any]]: ...

    def objects(self, clip_ids: Sequence[str], /) -> list[tuple[RegionObject, ...]]: ...

    def error_bound(self, name: str, /) -> float: ...


@dataclass(frozen=True, eq=False)
class RegionStats:
    """What the teachers' maps say of each object over time. Arrays are (clip, object, frame, …), object k at index k - 1.

    Where an object has no pixel, everything but ``pixels`` and ``area`` is NaN; a map that no store holds is None.
    """

    clip_ids: tuple[str, ...]
    objects: tuple[tuple[RegionObject, ...], ...]
    """Of each clip."""
    pixels: NDArray[np.int32]
    """Number of pixels of the object, at the label map's size."""
    area: Floats
    """Share of the picture."""
    depth: Floats | None
    """Mean depth of its pixels, in the scale of the clip."""
    depth_spread: Floats | None
    """Standard deviation of the natural log of its pixels' depths."""
    flow: Floats | None
    """(…, 2): mean backward flow, to the frame before, in pixels of the teacher's frame (u right, v down); NaN in frame 0."""
    flow_spread: Floats | None
    """Standard deviation of its pixels' flow, of u and v together; NaN in frame 0."""
    speed: Floats | None
    """Mean length of its pixels' flow, in pixels a step from frame to frame of the clip; NaN in frame 0."""
    motion: Floats | None
    """Mean probability that its pixels belong to something that moves."""
    bounds: Mapping[str, float]
    """Map → the largest error of its stored values: of depth relative, of flow in pixels, of motion in logits."""

    @property
    def visible(self) -> NDArray[np.bool_]:
        """Whether the object has a pixel: bool (clip, object, frame)."""
        return self.pixels > 0


def region_stats(store: Regions, clip_ids: Sequence[str]) -> RegionStats:
    """See `teacher_cache.reader.for_training.ForTraining.region_stats`."""
    maps = [name for name in _MAPS if name in store.signals]
    parts = [
        _of_some(store.read(["regions", "objects", *maps], clip_ids[start : start + _AT_ONCE]), maps)
        for start in range(0, len(clip_ids), _AT_ONCE)
    ]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in (parts[0] if parts else ())}
    names = ("depth", "depth_spread", "flow", "flow_spread", "speed", "motion")
    nothing = np.empty((0, 0, 0))
    return RegionStats(
        clip_ids=tuple(clip_ids),
        objects=tuple(store.objects(clip_ids)) if clip_ids else (),
        pixels=joined.get("pixels", nothing).astype(np.int32),
        area=joined.get("area", nothing).astype(np.float32),
        bounds={name: store.error_bound(name) for name in maps},
        **{name: joined[name].astype(np.float32) if name in joined else None for name in names},
    )


def _of_some(read: Mapping[str, NDArray[Any]], maps: Sequence[str]) -> dict[str, NDArray[Any]]:
    labels = read["regions"]
    for name in maps:
        if read[name].shape[:4] != labels.shape:
            raise BadInput(
                f"{name} has maps of {read[name].shape[2:4]} and the label maps {labels.shape[2:]}; teach the regions at the "
                "size of the maps, such as `preset: px224`"
            )
    sums = _Sums(labels, read["objects"].shape[1])
    found: dict[str, NDArray[Any]] = {"pixels": sums.count, "area": sums.count / (labels.shape[2] * labels.shape[3])}
    if "depth" in maps:
        log = np.log(read["depth"])
        found |= {"depth": sums.mean(read["depth"]), "depth_spread": np.sqrt(sums.variance(log))}
    if "flow" in maps:
        u, v = read["flow"][..., 0], read["flow"][..., 1]
        flow = {
            "flow": np.stack([sums.mean(u), sums.mean(v)], -1),
            "flow_spread": np.sqrt(sums.variance(u) + sums.variance(v)),
            "speed": sums.mean(np.hypot(u, v)),
        }
        for values in flow.values():
            values[:, :, 0] = np.nan
        found |= flow
    if "motion" in maps:
        found["motion"] = sums.mean(1 / (1 + np.exp(-read["motion"])))
    return found


class _Sums:
    """Sums over the pixels of each object in each frame, in one pass over a map: `numpy.bincount` by clip, frame and label."""

    def __init__(self, labels: NDArray[np.uint8], objects: int) -> None:
        """``labels``: (clip, frame, y, x)."""
        clips, frames = labels.shape[:2]
        self._shape = clips, frames, objects + 1
        first = np.arange(clips * frames, dtype=np.int64).reshape(clips, frames, 1, 1) * (objects + 1)
        self._bins = (first + np.minimum(labels, objects)).ravel()
        self._count = self._summed(None)
        self.count: NDArray[np.int64] = self._count.astype(np.int64)
        """(clip, object, frame)."""

    def _summed(self, values: NDArray[Any] | None) -> NDArray[np.float64]:
        weights = None if values is None else values.ravel()
        sums = np.bincount(self._bins, weights, minlength=int(np.prod(self._shape))).reshape(self._shape)
        return sums[:, :, 1:].transpose(0, 2, 1).astype(np.float64)

    def mean(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Mean of a map (clip, frame, y, x) over each object: (clip, object, frame); NaN where it has no pixel."""
        found: NDArray[np.float64] = np.full(self._count.shape, np.nan)
        return np.divide(self._summed(values), self._count, out=found, where=self._count > 0)

    def variance(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Likewise the variance."""
        found: NDArray[np.float64] = np.maximum(self.mean(np.square(values, dtype=np.float64)) - self.mean(values) ** 2, 0)
        return found
