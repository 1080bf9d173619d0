"""Label maps of clips go in; each pixel's weight in ED comes out: more inside of objects, or at their edges.

The released training has no region supervision; a map's mean is mostly background. This is not in the paper, and off unless a
config asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import get_args

import torch
import torch.nn.functional as F

from schemas.errors import BadInput
from schemas.train import Modality, RegionLossConfig, RegionsConfig
from student_train.distill.pixel_weights import OtherStore, Weights
from teacher_cache import Cache

SETTING = "regions.store"
"""What names the store of regions, in messages."""


def region_weights(labels: torch.Tensor, config: RegionLossConfig) -> torch.Tensor:
    """Each pixel's weight, float32 (clip, frame, y, x), from label maps of these axes, uint8.

    ``config.edge`` within ``edge_pixels`` of a border between two numbers, on both of its sides, the background's too;
    elsewhere ``config.inside`` where the label is not 0, and 1 where it is.
    """
    numbers = labels.float().flatten(0, 1).unsqueeze(1)
    window = 2 * config.edge_pixels + 1
    highest, lowest = (F.max_pool2d(sign * numbers, window, stride=1, padding=config.edge_pixels) for sign in (1, -1))
    is_edge = (highest + lowest != 0).squeeze(1).view(labels.shape)
    inside = torch.where(labels > 0, config.inside, 1.0)
    return torch.where(is_edge, torch.tensor(config.edge), inside)


class RegionWeights:
    """Weighs a store's clips by another store's label maps: a `PixelWeights`."""

    def __init__(self, cache: Cache, signals: Sequence[str], regions: RegionsConfig, config: RegionLossConfig) -> None:
        """``signals``: those that the losses compare. Raises `BadInput` if the other store has no regions."""
        self._store = OtherStore(cache, regions.store, regions.version, SETTING)
        self._config = config
        self._maps = tuple(name for name in signals if name in get_args(Modality))
        if "regions" not in self._store.cache.signals:
            raise BadInput(
                f"`{SETTING}` {regions.store} holds {', '.join(self._store.cache.signals)}; `loss.regions` needs `regions`"
            )

    def require(self, clip_ids: Sequence[str]) -> None:
        """See `PixelWeights.require`."""
        self._store.require(clip_ids)

    def __call__(self, targets: Mapping[str, torch.Tensor], clip_ids: Sequence[str | None]) -> Weights:
        """See `PixelWeights`. A map of fewer cells, as of rays, has each cell's mean weight."""
        known = [clip_id is not None for clip_id in clip_ids]
        if not any(known):
            return {}
        labels = torch.from_numpy(self._store.read(["regions"], clip_ids)["regions"])
        of_pixels = region_weights(labels, self._config)
        weights: Weights = {}
        for name in self._maps:
            shape, device = targets[name].shape[:4], targets[name].device
            weights[name] = torch.ones(shape, device=device)
            of_cells = F.interpolate(of_pixels.flatten(0, 1).unsqueeze(1), shape[2:], mode="area")
            weights[name][known] = of_cells.view(-1, *shape[1:]).to(device)
        return weights
