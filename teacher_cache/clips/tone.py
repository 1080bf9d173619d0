"""A picture of high dynamic range (PQ or HLG, BT.2020) in; its picture in SDR (BT.709), by the curve of BT.2390, out.

The arithmetic of each colour is done once per video, on a grid of 64³ colours, and libavfilter's ``haldclut`` applies it.
"""

from __future__ import annotations

import functools
import itertools
import struct
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, Literal, NamedTuple

import av
import numpy as np
from av.filter import Graph
from av.sidedata.sidedata import Type
from numpy.typing import NDArray

Transfer = Literal["PQ", "HLG"]
Values = NDArray[np.float64]

SDR_WHITE = 203.0
"""Luminance in cd/m² that becomes SDR's white: that of reference white in HDR (ITU-R BT.2408)."""
USUAL_PEAK = 1000.0
"""Luminance in cd/m² of the brightest that a PQ video shows, where it does not say it, and of the display for HLG (BT.2100)."""

# SMPTE ST 2084.
_M1, _M2, _C1, _C2, _C3, _MOST = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128, 10000.0
# ITU-R BT.2100, Hybrid Log-Gamma.
_A = 0.17883277
_B, _C = 1 - 4 * _A, 0.5 - _A * np.log(4 * _A)
_GAMMA = 1.2
_LUMA = np.array([0.2627, 0.6780, 0.0593])
_TO_BT_709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]])
"""ITU-R BT.2407, of linear RGB in BT.2020."""

_LEVEL = 8
"""A table of 8² values of each channel, in a picture of 8³ × 8³."""


def tone_mapped(frame: Any, transfer: Transfer) -> Any:
    """A decoded frame as an ``rgb48le`` frame in SDR."""
    main = frame.reformat(format="rgb48le")
    graph = _graph(main.width, main.height)
    number, table = next(graph.numbers), _table(transfer, _peak(frame) if transfer == "PQ" else USUAL_PEAK)
    for source, picture in ((graph.pictures, main), (graph.tables, table)):
        picture.pts, picture.time_base = number, Fraction(1, 25)
        source.push(picture)
    return graph.out.pull()


class _Graph(NamedTuple):
    whole: Graph
    """Holds the others."""
    pictures: Any
    tables: Any
    out: Any
    numbers: Iterator[int]
    """Times of what goes in: a picture and a table belong together."""


@functools.lru_cache(maxsize=2)
def _graph(width: int, height: int) -> _Graph:
    graph, side = Graph(), _LEVEL**3
    graph.threads = 1  # a decoder has one core
    pictures, tables = (
        graph.add("buffer", f"video_size={w}x{h}:pix_fmt=rgb48le:time_base=1/25:pixel_aspect=1/1")
        for w, h in ((width, height), (side, side))
    )
    clut, out = graph.add("haldclut", "interp=tetrahedral"), graph.add("buffersink")
    pictures.link_to(clut, 0, 0)
    tables.link_to(clut, 0, 1)
    clut.link_to(out)
    graph.configure()
    return _Graph(graph, pictures, tables, out, itertools.count())


def _peak(frame: Any) -> float:
    """The luminance of the display that a video was mastered on (SMPTE ST 2086), in cd/m²."""
    found = frame.side_data.get(Type.MASTERING_DISPLAY_METADATA)
    if found is None:
        return USUAL_PEAK
    *_, most, parts, _, has_luminance = struct.unpack("=22i", bytes(found)[:88])
    return min(max(most / parts, SDR_WHITE), _MOST) if has_luminance and parts > 0 else USUAL_PEAK


@functools.lru_cache(maxsize=4)
def _table(transfer: Transfer, peak: float) -> Any:
    values = np.linspace(0, 1, _LEVEL**2)
    blue, green, red = np.meshgrid(values, values, values, indexing="ij")
    mapped = sdr(np.stack([red, green, blue], -1), transfer, peak)
    side = _LEVEL**3
    return av.VideoFrame.from_ndarray((mapped.reshape(side, side, 3) * 65535).round().astype(np.uint16), format="rgb48le")


def sdr(codes: Values, transfer: Transfer, peak: float) -> Values:
    """Non-linear BT.2020 (…, RGB) in 0 … 1 to SDR's, for a display of BT.1886.

    ``peak``: luminance of the brightest colour, in cd/m². The curve is applied to the largest channel and the others keep their
    ratio to it, so that no hue turns.
    """
    light = _from_pq(codes) if transfer == "PQ" else _from_hlg(codes, peak)
    brightest = np.maximum(light.max(-1, keepdims=True), 1e-6)
    light = light * (_from_pq(_rolled_off(_to_pq(brightest), peak)) / brightest)
    narrow = np.clip(light @ _TO_BT_709.T / SDR_WHITE, 0, 1)
    return np.asarray(narrow ** (1 / 2.4))


def _rolled_off(codes: Values, peak: float) -> Values:
    """BT.2390's curve: nothing changes below its knee, and ``peak`` comes out at SDR's white."""
    most = _to_pq(np.array(peak))
    white = _to_pq(np.array(SDR_WHITE)) / most
    if white >= 1:
        return codes
    knee = 1.5 * white - 0.5
    relative = np.minimum(codes / most, 1)
    t = np.clip((relative - knee) / (1 - knee), 0, 1)
    above = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * white
    return np.asarray(np.where(relative < knee, relative, above) * most)


def _from_pq(codes: Values) -> Values:
    powers = codes ** (1 / _M2)
    return np.asarray(_MOST * (np.maximum(powers - _C1, 0) / (_C2 - _C3 * powers)) ** (1 / _M1))


def _to_pq(light: Values) -> Values:
    powers = (light / _MOST) ** _M1
    return np.asarray(((_C1 + _C2 * powers) / (1 + _C3 * powers)) ** _M2)


def _from_hlg(codes: Values, peak: float) -> Values:
    scene = np.where(codes <= 0.5, codes**2 / 3, (np.exp((codes - _C) / _A) + _B) / 12)
    luminance = np.maximum(scene @ _LUMA, 1e-9)[..., None]
    return np.asarray(peak * luminance ** (_GAMMA - 1) * scene)
