"""One clip's frames and signals in; its HTML panels, each with title, moving picture and legend, out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.regions import RegionObject
from schemas.signal import P4D_SIGNALS, SignalName
from teacher_cache.regions.marks import color_of
from teacher_cache.report import colors
from teacher_cache.report.camera import camera_path
from teacher_cache.report.sprites import Sprite, grid_sprite, photo_sprite, png_uri, resize_frames
from teacher_cache.report.text import escape

SignalArray = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class ClipPanel:
    """The data of one clip that the page shows."""

    clip_id: str
    video: str
    status: str
    """``committed``, ``failed`` or ``pending``."""
    reason: str | None = None
    """Reason code, if it failed."""
    detail: str | None = None
    frames: npt.NDArray[np.uint8] | None = None
    """(frame, y, x, RGB); None if the video cannot be read now."""
    timestamps_seconds: tuple[float, ...] = ()
    """Presentation time of each frame."""
    frame_index: tuple[int, ...] = ()
    """Source frame number of each frame, from 0."""
    signals: dict[str, SignalArray] = field(default_factory=dict)
    """Signal → the clip's array in physical units, axes as in `schemas.signal.SIGNALS`. Any may be absent."""
    objects: tuple[RegionObject, ...] = ()
    """The objects that the numbers of ``regions`` stand for, if there are any."""
    f4d_layers: tuple[int, ...] = ()
    """Encoder block of each layer of ``f4d``, from 1, for its label."""

    @property
    def num_frames(self) -> int:
        """Number of frames to show: 0 for a clip with neither frames nor signals."""
        dense = [len(self.signals[name]) for name in ("depth", "flow", "motion", "camray", "regions") if name in self.signals]
        own = [] if self.frames is None else [len(self.frames)]
        tokens = [self.signals["f4d"].shape[1]] if "f4d" in self.signals else []
        return next(iter([*own, *dense, *tokens]), 0)

    @property
    def aspect(self) -> float:
        """Width over height of the video's picture, or of the signals if it is unknown.

        Teachers see the whole picture squeezed to a square, so their maps are shown in the picture's original shape.
        """
        if self.frames is not None:
            return float(self.frames.shape[2] / self.frames.shape[1])
        maps = (s for n, s in self.signals.items() if n not in {"f4d", "objects"})
        return next((float(s.shape[2] / s.shape[1]) for s in maps), 1.0)


def clip_panels(clip: ClipPanel, shown: int) -> str:
    """The HTML of a clip's panels, at frame ``shown`` before any script runs: its frames, and each signal that it has."""
    drawn = "".join(panel(clip, shown) for signal, panel in _PANELS.items() if signal in clip.signals)
    panels = f'<div class="panels" style="--aspect:{clip.aspect:.4f}">{_frame_panel(clip, shown)}{drawn}</div>'
    missing = [signal for signal in P4D_SIGNALS if signal not in clip.signals]
    return panels + (f'<p class="missing">not in this store: {", ".join(missing)}</p>' if missing else "")


def _frame_panel(clip: ClipPanel, shown: int) -> str:
    if clip.frames is None:
        return '<figure><h4>Frame</h4><div class="absent">the video cannot be read</div></figure>'
    times = clip.timestamps_seconds
    span = f" over {times[-1] - times[0]:.2f} s" if len(times) > 1 else ""
    tile = _tile(photo_sprite(clip.frames, quality=80), shown, clip.num_frames, "Video frame")
    return _figure("Frame", _stage(tile), f"{len(clip.frames)} frames{span}")


def _depth_panel(clip: ClipPanel, shown: int) -> str:
    depth = clip.signals["depth"]
    scale = colors.depth_scale(depth)
    sprite = photo_sprite(colors.depth_to_rgb(depth, scale), quality=82)
    middle = (scale.near * scale.far) ** 0.5
    ends = "".join(f"<span>{_short(v)}</span>" for v in (scale.near, middle, scale.far))
    legend = f'{_gradient()}<div class="ends">{ends}</div>near to far, log scale'
    return _figure("Depth", _stage(_tile(sprite, shown, clip.num_frames, "Depth")), legend)


def _flow_panel(clip: ClipPanel, shown: int) -> str:
    flow = clip.signals["flow"]
    scale = colors.flow_scale(flow[1:])
    sprite = photo_sprite(colors.flow_to_rgb(flow, scale), quality=82, full_color=True)
    void = f'<div class="void{" on" if shown == 0 else ""}" data-frame="0">The first frame has no frame before it.</div>'
    wheel = f'<img src="{png_uri(colors.flow_wheel())}" alt="Colour wheel: the hue is the direction of the flow">'
    meaning = f"where each pixel was one frame before; the rim is {_short(scale)}&nbsp;px"
    legend = f'<div class="wheel">{wheel}<span>{meaning}</span></div>'
    tile = _tile(sprite, shown, clip.num_frames, "Backward optical flow")
    return _figure("Backward flow", _stage(tile + void), legend)


def _motion_panel(clip: ClipPanel, shown: int) -> str:
    logit = clip.signals["motion"]
    sprite = photo_sprite(colors.motion_to_rgb(logit, _ground(clip, logit)), quality=76)
    ramp = f"linear-gradient(90deg, rgb({_css_rgb(colors.MOTION_COLOR)} / .04), rgb({_css_rgb(colors.MOTION_COLOR)} / .85))"
    with np.errstate(invalid="ignore"):
        share = float(np.mean(logit > 0))
    legend = (
        f'<div class="scale" style="background:{ramp}"></div>'
        '<div class="ends"><span>0</span><span>0.5</span><span>1</span></div>'
        f"probability of a moving object; {share:.1%} of pixels over 0.5"
    )
    return _figure("Motion", _stage(_tile(sprite, shown, clip.num_frames, "Motion probability over the frame")), legend)


def _ground(clip: ClipPanel, values: npt.NDArray[Any]) -> npt.NDArray[np.uint8] | None:
    """The frames in the size of a map (frame, y, x, …), to draw it over; None if there are none."""
    if clip.frames is None or len(clip.frames) != len(values):
        return None
    return clip.frames if clip.frames.shape[1:3] == values.shape[1:3] else resize_frames(clip.frames, *values.shape[1:3])


def _regions_panel(clip: ClipPanel, shown: int) -> str:
    labels = clip.signals["regions"].astype(np.uint8)
    sprite = photo_sprite(colors.regions_to_rgb(labels, _ground(clip, labels)), quality=82, full_color=True)
    found = [one for one in clip.objects if one.frames]
    named = "".join(
        f'<span><i style="background:rgb({_css_rgb(color_of(one.number))})"></i>{one.number} {escape(one.phrase)}</span>'
        for one in found
    )
    absent = ", ".join(f"{escape(one.phrase)} ({escape(one.reason)})" for one in clip.objects if one.reason is not None)
    legend = f'<div class="objects">{named or "no object"}</div>' + (f"not found: {absent}" if absent else "")
    return _figure("Regions", _stage(_tile(sprite, shown, clip.num_frames, "Objects over the frame")), legend)


def _camera_panel(clip: ClipPanel, shown: int) -> str:
    rays = clip.signals["camray"]
    direction = grid_sprite(colors.ray_directions_to_rgb(rays))
    moment = grid_sprite(colors.ray_moments_to_rgb(rays))
    path = camera_path(rays, least_extent=_least_extent(clip.signals.get("depth")))
    drawing = path.svg.replace(f'class="cone" data-frame="{shown}"', f'class="cone on" data-frame="{shown}"')
    mosaic = (
        f"{_tile(direction, shown, clip.num_frames, 'Ray directions', tag='direction')}"
        f"{_tile(moment, shown, clip.num_frames, 'Ray moments', tag='moment')}"
        f'<div class="wide">{drawing}</div>'
    )
    legend = f"{rays.shape[2]} × {rays.shape[1]} rays; camera from above, path {_short(path.length)} long in the scale of depth"
    return _figure("Camera rays", f'<div class="stage mosaic">{mosaic}</div>', legend)


def _f4d_panel(clip: ClipPanel, shown: int) -> str:
    pictures = colors.f4d_to_rgb(clip.signals["f4d"])
    layers = clip.f4d_layers if len(clip.f4d_layers) == len(pictures) else tuple(range(1, len(pictures) + 1))
    word = "block" if clip.f4d_layers == layers else "layer"
    tiles = [
        _tile(grid_sprite(p), shown, clip.num_frames, f"F4D, {word} {n}", tag=f"{word} {n}")
        for n, p in zip(layers, pictures, strict=True)
    ]
    body = f'<div class="stage mosaic">{"".join(tiles)}</div>' if len(tiles) > 1 else _stage(tiles[0])
    _, steps, _, _, channels = clip.signals["f4d"].shape
    return _figure("F4D latents", body, f"first three principal components of {channels} channels, {steps} time steps")


_PANELS: dict[SignalName, Callable[[ClipPanel, int], str]] = {
    "depth": _depth_panel,
    "flow": _flow_panel,
    "motion": _motion_panel,
    "camray": _camera_panel,
    "f4d": _f4d_panel,
    "regions": _regions_panel,
}
"""In their order on the page."""


def _figure(title: str, body: str, legend: str) -> str:
    return f"<figure><h4>{escape(title)}</h4>{body}<figcaption>{legend}</figcaption></figure>"


def _stage(body: str) -> str:
    return f'<div class="stage">{body}</div>'


def _tile(sprite: Sprite, shown: int, total: int, alt: str, *, tag: str = "") -> str:
    # The same arithmetic as the script's, so that the page is right before the script runs, and without it.
    i = min(sprite.count - 1, shown * sprite.count // max(total, 1))
    x, y = -100 * (i % sprite.columns) / sprite.columns, -100 * (i // sprite.columns) / sprite.rows
    label = f'<span class="tag">{escape(tag)}</span>' if tag else ""
    return (
        f'<div class="tile{" pixelated" if sprite.pixelated else ""}" data-count="{sprite.count}" '
        f'data-columns="{sprite.columns}" data-rows="{sprite.rows}" '
        f'style="--columns:{sprite.columns};--rows:{sprite.rows}">'
        f'<img src="{sprite.uri}" alt="{escape(alt)}" style="transform:translate({x:.4f}%,{y:.4f}%)">{label}</div>'
    )


def _gradient() -> str:
    stops = colors.colormap(1 - np.linspace(0, 1, 12))
    ramp = ", ".join(f"rgb({_css_rgb(s)})" for s in stops)
    return f'<div class="scale" style="background:linear-gradient(90deg, {ramp})"></div>'


def _css_rgb(color: Any) -> str:
    r, g, b = (int(c) for c in color)
    return f"{r} {g} {b}"


def _least_extent(depth: SignalArray | None) -> float:
    """Smallest extent of the camera's map: a hundredth of the median depth."""
    if depth is None:
        return 0.02
    valid = depth[np.isfinite(depth) & (depth > 0)]
    return 0.01 * float(np.median(valid)) if valid.size else 0.02


def _short(value: float) -> str:
    return f"{value:.3g}" if 1e-3 <= abs(value) < 1e5 or value == 0 else f"{value:.2e}"
