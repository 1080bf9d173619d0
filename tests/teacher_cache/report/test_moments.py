"""Moments of values in pieces are numpy's of them all."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from teacher_cache.report.moments import Moments

SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=4)


@given(SHAPES, st.data())
def test_of_any_pieces_and_axes(shape: list[int], data: st.DataObject) -> None:
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    kept = data.draw(st.sets(st.integers(0, len(shape) - 1)))
    centre, spread = data.draw(st.sampled_from([0.0, -3.0, 1e6])), data.draw(st.sampled_from([0.0, 1e-3, 1.0, 1e4]))
    pieces = [(centre + spread * random.standard_normal(shape)).astype(np.float32) for _ in range(data.draw(st.integers(1, 5)))]
    found = reduce(Moments.merged, [Moments.of(piece, kept) for piece in pieces])

    whole = np.stack(pieces).astype(np.float64)
    axes = tuple(axis for axis in range(whole.ndim) if axis - 1 not in kept)
    close = {"rtol": 1e-9, "atol": 1e-9 * (abs(centre) + spread)}
    np.testing.assert_allclose(found.mean, whole.mean(axes), **close)
    np.testing.assert_allclose(found.std, whole.std(axes), **close)
    np.testing.assert_allclose(found.rms, np.sqrt(np.square(whole).mean(axes)), **close)
    np.testing.assert_array_equal(found.least, whole.min(axes))
    np.testing.assert_array_equal(found.most, whole.max(axes))
    assert found.count * found.mean.size == whole.size
    if len(kept) == 2:
        pooled, axes = found.over_channels(), (*axes, max(kept) + 1)
        np.testing.assert_allclose(pooled.mean, whole.mean(axes), **close)
        np.testing.assert_allclose(pooled.std, whole.std(axes), **close)
        np.testing.assert_array_equal(pooled.most, whole.max(axes))


def test_far_from_zero_no_digits_are_lost() -> None:
    """Where sums of squares would have none left: 10^8 ± 1 in ten thousand pieces."""
    piece = np.array([1e8 - 1, 1e8 + 1])
    assert reduce(Moments.merged, [Moments.of(piece, ())] * 10_000).std == pytest.approx(1.0, rel=1e-12)
