"""Statistics of objects over time: against truth on rendered scenes, and against a loop over pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import tree

from schemas.errors import SignalMissing
from teacher_cache import join_caches, open_cache
from teacher_cache.reader.region_stats import RegionStats

IDS = [f"scene-{seed}.mp4" for seed in (2, 0)]


@pytest.fixture(scope="module")
def stats(tiny_store: Path, regions_store: Path) -> RegionStats:
    return join_caches({"maps": open_cache(str(tiny_store)), "masks": open_cache(str(regions_store))}).region_stats(IDS)


def test_they_are_what_a_loop_over_pixels_gives(stats: RegionStats, tiny_store: Path, regions_store: Path) -> None:
    maps = open_cache(str(tiny_store)).read(["depth", "flow", "motion"], IDS)
    labels = open_cache(str(regions_store)).read(["regions"], IDS)["regions"]
    assert stats.pixels.shape == (2, 12, 16)
    assert stats.clip_ids == tuple(IDS)
    for clip in range(2):
        for k in (1, 3, 12):
            for frame in (0, 7, 15):
                inside = labels[clip, frame] == k
                assert stats.pixels[clip, k - 1, frame] == inside.sum()
                assert stats.area[clip, k - 1, frame] == pytest.approx(inside.mean())
                found = [
                    getattr(stats, name)[clip, k - 1, frame]
                    for name in ("depth", "depth_spread", "speed", "flow_spread", "motion")
                ]
                if not inside.any():
                    assert np.isnan(found).all()
                    continue
                depth, flow, motion = (maps[name][clip, frame][inside].astype(np.float64) for name in maps)
                speed = np.hypot(*flow.T).mean() if frame else np.nan
                spread = np.sqrt(flow.var(0).sum()) if frame else np.nan
                wanted = [depth.mean(), np.log(depth).std(), speed, spread, (1 / (1 + np.exp(-motion))).mean()]
                np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5)
                mean = flow.mean(0) if frame else [np.nan, np.nan]
                np.testing.assert_allclose(stats.flow[clip, k - 1, frame], mean, rtol=1e-4, atol=1e-5)
    assert (stats.visible == (stats.pixels > 0)).all()
    assert stats.bounds == {"depth": 0.001, "flow": 1 / 32, "motion": 1 / 16}


def test_many_clips_are_the_same_as_few_and_none_are_none(stats: RegionStats, tiny_store: Path, regions_store: Path) -> None:
    joined = join_caches({"maps": open_cache(str(tiny_store)), "masks": open_cache(str(regions_store))})
    many = joined.region_stats(IDS * 9)
    np.testing.assert_array_equal(many.depth[16:], stats.depth)
    assert many.objects[16:] == stats.objects
    assert joined.region_stats([]).objects == ()


def test_a_store_without_maps_gives_areas_and_one_without_regions_says_so(regions_store: Path, tiny_store: Path) -> None:
    before = tree(regions_store)
    alone = open_cache(str(regions_store)).region_stats(IDS)
    assert alone.depth is alone.flow is alone.motion is None
    assert alone.bounds == {}
    assert alone.area.sum() > 0
    assert tree(regions_store) == before
    with pytest.raises(SignalMissing, match="regions"):
        open_cache(str(tiny_store)).region_stats(IDS)
