"""Signals in physical units, axes as in `schemas.signal.SIGNALS`, in; uint8 RGB pictures of the same layout out.

Every scale is computed once per clip, from robust percentiles, so that a colour means the same in all of its frames. Non-finite
values become `NEUTRAL`, which no signal uses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from teacher_cache.regions.marks import color_of

RgbArray = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.floating[Any]]

NEUTRAL = (128, 128, 128)
MOTION_COLOR = (255, 64, 92)

# Degree-6 polynomial fits of matplotlib's viridis and magma (both CC0), lowest degree first, RGB in columns.
_MAPS = {
    "viridis": (
        (0.2777273272, 0.0054073445, 0.3340998053),
        (0.1050930431, 1.4046135299, 1.3845901626),
        (-0.3308618287, 0.2148475595, 0.0950951630),
        (-4.6342304990, -5.7991009734, -19.3324409563),
        (6.2282699363, 14.1799333668, 56.6905526007),
        (4.7763849977, -13.7451453777, -65.3530326334),
        (-5.4354558559, 4.6458526122, 26.3124352496),
    ),
    "magma": (
        (-0.0021364851, -0.0007496551, -0.0053861279),
        (0.2516605407, 0.6775232437, 2.4940265993),
        (8.3537172792, -3.5777195150, 0.3144679030),
        (-27.6687330858, 14.2647307810, -13.6492131881),
        (52.1761398123, -27.9436060717, 12.9441694424),
        (-50.7685253647, 29.0465828213, 4.2341529938),
        (18.6557050659, -11.4897735200, -5.6019615087),
    ),
}

# Number of hues in each sixth of the colour wheel: more where the eye distinguishes more. Baker et al., "A Database and
# Evaluation Methodology for Optical Flow", IJCV 2011.
_WHEEL_SIXTHS = (15, 6, 4, 11, 13, 6)


@dataclass(frozen=True)
class DepthScale:
    """The depths at the two ends of the logarithmic colour scale."""

    near: float
    far: float


def colormap(values: FloatArray, name: str = "viridis") -> RgbArray:
    """Colours (…, 3) of values (…) in [0, 1]; values outside are clipped. ``name`` is ``viridis`` or ``magma``."""
    x = np.clip(values, 0, 1)[..., None].astype(np.float32)
    color = np.zeros((*x.shape[:-1], 3), np.float32)
    for coefficients in reversed(_MAPS[name]):
        color = color * x + np.asarray(coefficients, np.float32)
    return _neutral_where(~np.isfinite(values), _to_bytes(color))


def depth_scale(depth: FloatArray, *, low_percent: float = 2.0, high_percent: float = 98.0) -> DepthScale:
    """Near and far ends of the colour scale for a clip's depth (frame, y, x), robust to a few outliers."""
    valid = depth[np.isfinite(depth) & (depth > 0)]
    if not valid.size:
        return DepthScale(1.0, 2.0)
    near, far = (float(v) for v in np.percentile(valid, [low_percent, high_percent]))
    return DepthScale(near, max(far, near * 1.01))  # a flat wall still needs two ends


def depth_to_rgb(depth: FloatArray, scale: DepthScale) -> RgbArray:
    """Depth (frame, y, x) to colours (frame, y, x, 3): bright yellow is near, dark violet is far, linear in log depth."""
    with np.errstate(invalid="ignore", divide="ignore"):
        position = np.log(np.where(depth > 0, depth, np.nan) / scale.near) / np.log(scale.far / scale.near)
    return colormap(1 - position)


def flow_scale(flow: FloatArray, *, percent: float = 99.0) -> float:
    """The flow length, in pixels, shown in full colour: a high percentile over the clip's flow (frame, y, x, 2)."""
    length = np.hypot(flow[..., 0], flow[..., 1])
    valid = length[np.isfinite(length)]
    return max(float(np.percentile(valid, percent)), 1e-3) if valid.size else 1.0


def flow_to_rgb(flow: FloatArray, scale: float) -> RgbArray:
    """Flow (…, 2) in pixels, (u right, v down), to the Middlebury colours (…, 3).

    Hue is the direction (right is red, down is yellow, left is cyan, up is violet). Zero flow is white, ``scale`` pixels is
    full colour, and longer flow is darker.
    """
    wheel = _color_wheel()
    valid = np.asarray(np.isfinite(flow).all(axis=-1))
    # float64, since the length of a flow near float32's largest number would overflow.
    u, v = np.moveaxis(np.where(valid[..., None], flow, 0).astype(np.float64), -1, 0) / scale
    length = np.hypot(u, v)[..., None]
    # (-1, 1] around the wheel, as in the reference implementation; the wheel's first hue points right.
    position = (np.arctan2(-v, -u) / np.pi + 1) / 2 * (len(wheel) - 1)
    low = np.floor(position).astype(np.intp)
    fraction = (position - low)[..., None]
    hue = (1 - fraction) * wheel[low] + fraction * wheel[(low + 1) % len(wheel)]
    color = np.where(length <= 1, 1 - length * (1 - hue), 0.75 * hue)
    return _neutral_where(~valid, _to_bytes(color))


def flow_wheel(size: int = 96) -> RgbArray:
    """The legend of `flow_to_rgb`: a disc, RGBA (size, size, 4), each point in the colour of the flow from the centre to it."""
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    flow = np.stack(np.meshgrid(axis, axis), axis=-1)
    # One pixel of soft edge.
    cover = np.clip((1 - np.hypot(flow[..., 0], flow[..., 1])) * size / 2 + 0.5, 0, 1)
    color = flow_to_rgb(flow / np.maximum(np.hypot(flow[..., 0], flow[..., 1])[..., None], 1), 1.0)
    return np.concatenate([color, _to_bytes(cover[..., None])], axis=-1)


def regions_to_rgb(labels: npt.NDArray[np.uint8], ground: RgbArray | None = None) -> RgbArray:
    """Label maps (frame, y, x) as colours over ``ground`` (frame, y, x, 3), or over grey: each object in that of its marks.

    An object's rim is opaque, so that two of one colour that touch are seen to be two.
    """
    palette = np.array([NEUTRAL, *(color_of(number) for number in range(1, 256))], np.float32)
    base = np.full((*labels.shape, 3), NEUTRAL, np.float32) if ground is None else ground.astype(np.float32)
    padded = np.pad(labels, ((0, 0), (1, 1), (1, 1)), mode="edge")
    around = (padded[:, 2:, 1:-1], padded[:, :-2, 1:-1], padded[:, 1:-1, 2:], padded[:, 1:-1, :-2])
    is_rim = np.any([labels != other for other in around], axis=0)
    opacity = np.where(labels == 0, 0.0, np.where(is_rim, 1.0, 0.5))[..., None]
    return _to_bytes((base * (1 - opacity) + palette[labels] * opacity) / 255)


def motion_to_rgb(logit: FloatArray, frames: RgbArray | None = None) -> RgbArray:
    """Motion logits (frame, y, x) as a tint over the grey-scale frames: (frame, y, x, 3).

    The tint's strength is the probability, sigmoid(logit). ``frames`` is (frame, y, x, 3), of the same size; without it, the
    background is dark.
    """
    probability = 1 / (1 + np.exp(-np.clip(np.nan_to_num(logit), -30, 30)))
    strength = 0.78 * probability[..., None].astype(np.float32)
    grey = np.full((*logit.shape, 1), 40, np.float32) if frames is None else 0.85 * _luma(frames)[..., None]
    tint = np.asarray(MOTION_COLOR, np.float32) * (0.7 + 0.3 * grey / 255)
    mixed = grey * (1 - strength) + tint * strength
    return _neutral_where(~np.isfinite(logit), np.clip(mixed + 0.5, 0, 255).astype(np.uint8))


def ray_directions_to_rgb(camray: FloatArray) -> RgbArray:
    """Ray directions of (frame, ray_y, ray_x, 6) as colours (frame, ray_y, ray_x, 3): red right, green down, blue forward."""
    direction = camray[..., :3]
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        unit = direction / np.linalg.norm(direction, axis=-1, keepdims=True)
    return _signed_to_rgb(unit, 1.0)


def ray_moments_to_rgb(camray: FloatArray) -> RgbArray:
    """Ray moments of (frame, ray_y, ray_x, 6) as colours (frame, ray_y, ray_x, 3), on one scale per clip; zero is mid grey."""
    moment = camray[..., 3:]
    size = np.abs(moment[np.isfinite(moment)])
    return _signed_to_rgb(moment, max(float(np.percentile(size, 98)) if size.size else 0.0, 1e-6))


def f4d_to_rgb(f4d: FloatArray) -> RgbArray:
    """Latents (layer, token_time, token_y, token_x, channel) as colours (layer, token_time, token_y, token_x, 3).

    Shows the first three principal components of each layer's tokens, with one basis per layer for the whole clip: similar
    colours mean similar features, in any frame. Colours cannot be compared between layers.
    """
    return np.stack([_layer_to_rgb(layer) for layer in f4d])


def _layer_to_rgb(layer: FloatArray) -> RgbArray:
    tokens = layer.reshape(-1, layer.shape[-1]).astype(np.float32)
    valid = np.isfinite(tokens).all(axis=-1)
    rgb = np.full((len(tokens), 3), NEUTRAL, np.uint8)
    if valid.sum() > 1:
        scores = _principal_scores(tokens[valid])
        low, high = np.percentile(scores, [1, 99], axis=0)
        # A component far weaker than the first is mostly noise; at full contrast it would hide the others.
        extent = np.maximum(high - low, max((high - low).max() / 4, 1e-12))
        rgb[valid] = _to_bytes(0.5 + (scores - (low + high) / 2) / extent)
    return rgb.reshape(*layer.shape[:-1], 3)


def _principal_scores(tokens: FloatArray, *, components: int = 3, iterations: int = 6) -> FloatArray:
    """Scores (token, components) of tokens (token, channel) on their leading principal components.

    Uses subspace iteration from a fixed start (Halko et al. 2011): a hundredth of a full decomposition's time, and precise
    enough for colours.
    """
    centred = tokens - tokens.mean(axis=0)
    centred /= max(float(np.abs(centred).max()), 1e-30)  # avoids overflow for large features
    basis = np.random.default_rng(0).standard_normal((tokens.shape[1], min(components + 5, tokens.shape[1]))).astype(np.float32)
    for _ in range(iterations):
        basis, _ = np.linalg.qr(centred.T @ (centred @ basis))
    left, size, right = np.linalg.svd(centred @ basis, full_matrices=False)
    # A component's sign is arbitrary; its largest weight is made positive, so that equal latents get equal colours.
    weights = right @ basis.T
    sign = np.sign(weights[np.arange(len(weights)), np.abs(weights).argmax(axis=1)])
    scores = (left * size * sign)[:, :components]
    return np.pad(scores, ((0, 0), (0, components - scores.shape[1])))


def _color_wheel() -> npt.NDArray[np.float64]:
    """The Middlebury wheel: 55 hues (55, 3) in [0, 1], from red through yellow, green, cyan, blue and magenta."""
    corners = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1], [1, 0, 0]], np.float64)
    sixths = [
        start + (end - start) * (np.arange(count) / count)[:, None]
        for start, end, count in zip(corners[:-1], corners[1:], _WHEEL_SIXTHS, strict=True)
    ]
    return np.concatenate(sixths)


def _luma(frames: RgbArray) -> npt.NDArray[np.float32]:
    return frames.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)


def _signed_to_rgb(vectors: FloatArray, scale: float) -> RgbArray:
    return _neutral_where(~np.isfinite(vectors).all(axis=-1), _to_bytes(0.5 + 0.5 * vectors / scale))


def _to_bytes(unit: FloatArray) -> RgbArray:
    """Map [0, 1] to 0…255, clipped; NaN to 0."""
    return (np.clip(np.nan_to_num(unit), 0, 1) * 255 + 0.5).astype(np.uint8)


def _neutral_where(mask: npt.NDArray[np.bool_] | np.bool_, rgb: RgbArray) -> RgbArray:
    rgb[mask] = NEUTRAL
    return rgb
