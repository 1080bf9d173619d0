"""Arrays in, as many as there are; the mean, spread and extremes of each channel out, in memory for one of them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """What is known of the values of each channel; float64, of one shape.

    Deviations are summed around their own mean and merged by Chan, Golub and LeVeque (1983), so that values far from 0, or many
    of them, cost no digits.
    """

    count: int
    """Values of each channel."""
    mean: Numbers
    squares: Numbers
    """Sum of the squared deviations from the mean."""
    least: Numbers
    most: Numbers

    @staticmethod
    def of(values: NDArray[Any], kept: Collection[int]) -> Moments:
        """Of an array with at least one axis: over all axes but the ``kept`` ones.

        The first axis is gone through step by step, so that only one step is held in float64.
        """
        axes = tuple(axis - 1 for axis in range(1, values.ndim) if axis not in kept)
        steps = [_of_step(step, axes) for step in values]
        return _stacked(steps) if 0 in kept else reduce(Moments.merged, steps)

    @property
    def std(self) -> Numbers:
        """Standard deviation of the values, not of a population that they are drawn from."""
        return np.sqrt(self.squares / self.count)

    @property
    def rms(self) -> Numbers:
        """Root mean square."""
        return np.sqrt(self.mean**2 + self.squares / self.count)

    def merged(self, other: Moments) -> Moments:
        """Of both one's values and the other's."""
        count = self.count + other.count
        apart = other.mean - self.mean
        return Moments(
            count,
            self.mean + apart * (other.count / count),
            self.squares + other.squares + apart**2 * (self.count * other.count / count),
            np.minimum(self.least, other.least),
            np.maximum(self.most, other.most),
        )

    def over_channels(self) -> Moments:
        """Of all channels of the last axis together."""
        mean = self.mean.mean(-1)
        squares = (self.squares + self.count * (self.mean - mean[..., None]) ** 2).sum(-1)
        return Moments(self.count * self.mean.shape[-1], mean, squares, self.least.min(-1), self.most.max(-1))


def _of_step(values: NDArray[Any], axes: tuple[int, ...]) -> Moments:
    exact = values.astype(np.float64, order="F")  # so that each of a few channels lies together: fifteen times faster for two
    mean = exact.mean(axes)
    least, most = exact.min(axes), exact.max(axes)
    squares = np.square(exact - np.expand_dims(mean, axes)).sum(axes)
    return Moments(exact.size // mean.size, mean, squares, least, most)


def _stacked(steps: list[Moments]) -> Moments:
    fields = ("mean", "squares", "least", "most")
    return Moments(steps[0].count, *(np.stack([getattr(step, field) for step in steps]) for field in fields))
