"""Surface coordinates in metres and a pixel's footprint in; antialiased linear-light albedo of procedural textures out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np

from teacher_cache.scenes.geometry import Float, FloatArray, Vector

Pattern = Literal["checker", "stripes", "bands", "dots", "bricks", "planks", "marble", "plain"]

_NOISE_CELLS = 64


@dataclass(frozen=True)
class Texture:
    """A surface's pattern, colours and grain."""

    pattern: Pattern
    colors: tuple[Vector, Vector]
    """Base and pattern colour, linear-light RGB in [0, 1]."""
    period: tuple[float, float]
    """Length of one repeat along u and v, metres."""
    grain: float = 0.25
    """Contrast of the noise over the pattern, 0 to 1. It gives trackable detail to flat colours."""
    grain_size: float = 0.05
    """Size of the finest grain, metres."""
    gloss: float = 0.0
    """Strength of the highlight, 0 to 1."""
    offset: Vector = (0.0, 0.0, 0.0)
    """Shift of pattern and grain, metres, so that equal textures look different."""


def albedo(texture: Texture, uv: FloatArray, point: FloatArray, footprint: FloatArray) -> FloatArray:
    """Linear-light colours (3, N) of surface points.

    ``uv`` (2, N) and ``point`` (3, N) are surface and solid coordinates in metres; ``footprint`` (N,) is the width of a pixel
    on the surface, metres: finer detail is averaged out, as by a real sensor.
    """
    shift = np.asarray(texture.offset, Float)
    u = (uv[0] + shift[0]) / Float(texture.period[0])
    v = (uv[1] + shift[1]) / Float(texture.period[1])
    noise = _noise(point + shift[:, None], texture.grain_size)
    mix = _PATTERNS[texture.pattern](u, v, noise, footprint / Float(min(texture.period)))
    base, other = (np.asarray(c, Float)[:, None] for c in texture.colors)
    fade = np.clip(Float(1.5) - footprint / Float(4 * texture.grain_size), 0, 1)
    grain = 1 + Float(2 * texture.grain) * (noise - Float(0.5)) * fade
    return np.asarray((base + mix * (other - base)) * grain, Float)


def _checker(u: FloatArray, v: FloatArray, noise: FloatArray, width: FloatArray) -> FloatArray:
    del noise
    a, b = _square_wave(u, 0.5, width), _square_wave(v, 0.5, width)
    return a + b - 2 * a * b


def _dots(u: FloatArray, v: FloatArray, noise: FloatArray, width: FloatArray) -> FloatArray:
    del noise
    radius = np.hypot(u - np.floor(u) - Float(0.5), v - np.floor(v) - Float(0.5))
    return _fade_out(_step(Float(0.3) - radius, width), width, mean=0.28)


def _bricks(u: FloatArray, v: FloatArray, noise: FloatArray, width: FloatArray) -> FloatArray:
    del noise
    shifted = np.asarray(u + Float(0.5) * (np.floor(v) % 2), Float)
    return 1 - _square_wave(shifted, 0.94, width) * _square_wave(v, 0.88, width)


def _planks(u: FloatArray, v: FloatArray, noise: FloatArray, width: FloatArray) -> FloatArray:
    row = np.floor(v)
    column = np.floor(u * Float(0.2) + Float(0.37) * row)
    # Each plank has its own tone: a cheap hash of its row and column.
    tone = np.sin(row * Float(12.9898) + column * Float(78.233)) * Float(0.5) + Float(0.5)
    return np.asarray(tone * Float(0.6) + noise * Float(0.3) + Float(0.1) * (1 - _square_wave(v, 0.94, width)), Float)


def _marble(u: FloatArray, v: FloatArray, noise: FloatArray, width: FloatArray) -> FloatArray:
    del v, width
    return np.asarray(Float(0.5) + Float(0.5) * np.sin(Float(2 * np.pi) * (u + Float(1.5) * (noise - Float(0.5)))), Float)


_PATTERNS: dict[Pattern, Callable[[FloatArray, FloatArray, FloatArray, FloatArray], FloatArray]] = {
    "checker": _checker,
    "stripes": lambda u, _v, _noise, width: _square_wave(u, 0.5, width),
    "bands": lambda _u, v, _noise, width: _square_wave(v, 0.5, width),
    "dots": _dots,
    "bricks": _bricks,
    "planks": _planks,
    "marble": _marble,
    "plain": lambda u, _v, _noise, _width: np.zeros_like(u),
}
"""The weight of the pattern colour, 0 to 1, at (u, v) in repeats, given noise in [0, 1] and the pixel's width in repeats."""


def _square_wave(x: FloatArray, duty: float, width: FloatArray) -> FloatArray:
    """1 on the first ``duty`` part of every unit, else 0; filtered over ``width``, its mean where that exceeds a unit."""
    phase = x - np.floor(x)
    rise = np.minimum(phase, 1 - phase)
    distance = np.minimum(rise, np.abs(phase - Float(duty)))
    inside = np.where(phase < Float(duty), distance, -distance)
    return _fade_out(_step(inside, width), width, duty)


def _step(distance: FloatArray, width: FloatArray) -> FloatArray:
    """A unit step across ``distance`` 0, as a pixel of ``width`` sees it."""
    return np.asarray(np.clip(distance / np.maximum(width, Float(1e-4)) + Float(0.5), 0, 1), Float)


def _fade_out(value: FloatArray, width: FloatArray, mean: float) -> FloatArray:
    """``value`` while a pixel is narrower than half a repeat, its ``mean`` once it is wider than one."""
    keep = np.clip(2 - 2 * width, 0, 1)
    return np.asarray(Float(mean) + keep * (value - Float(mean)), Float)


@cache
def _noise_volume() -> FloatArray:
    """Periodic fractal noise, (cells³,) flat float32 in [0, 1]: a 1/f^1.9 spectrum over a fixed random phase."""
    n = _NOISE_CELLS
    spectrum = np.fft.rfftn(np.random.default_rng(1).standard_normal((n, n, n)))
    f = np.fft.fftfreq(n) * n
    frequency = np.sqrt(f[:, None, None] ** 2 + f[None, :, None] ** 2 + (np.fft.rfftfreq(n) * n)[None, None, :] ** 2)
    frequency[0, 0, 0] = np.inf
    # Flat below three cycles, where the lattice's period would be visible on a large wall.
    volume = np.fft.irfftn(spectrum / np.maximum(frequency, 3) ** 1.9, s=(n, n, n), axes=(0, 1, 2))
    return np.asarray(np.clip(0.5 + volume / (4.5 * volume.std()), 0, 1).ravel(), Float)


def _noise(point: FloatArray, cell: float) -> FloatArray:
    """Fractal noise in [0, 1] at solid points (3, N), trilinear between lattice cells of ``cell`` metres."""
    n = _NOISE_CELLS
    scaled = point / Float(cell)
    floor = np.floor(scaled)
    fx, fy, fz = scaled - floor
    low = floor.astype(np.int32) & (n - 1)
    high = (low + 1) & (n - 1)
    volume = _noise_volume()
    (x0, y0, z0), (x1, y1, z1) = low, high
    x0, x1, y0, y1 = x0 * (n * n), x1 * (n * n), y0 * n, y1 * n
    rows = ((x0 + y0, x1 + y0), (x0 + y1, x1 + y1))
    # Along x first: four edges of the cell at each z, then y, then z.
    planes = []
    for z in (z0, z1):
        a, b = (volume[left + z] + fx * (volume[right + z] - volume[left + z]) for left, right in rows)
        planes.append(a + fy * (b - a))
    return np.asarray(planes[0] + fz * (planes[1] - planes[0]), Float)
