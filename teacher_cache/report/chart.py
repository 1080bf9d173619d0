"""Named series of (x, y) points in, a line chart as inline SVG, in the page's light or dark colours, out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from teacher_cache.report.text import escape

Point = tuple[float, float]

_WIDTH, _HEIGHT = 640, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 62, 46
_ROW_HEIGHT = 18
_MAX_POINTS = 600
# Okabe and Ito's colours, which remain distinct under the common colour-vision deficiencies.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_DASHES = ("none", "7 3", "2 3")


@dataclass(frozen=True)
class _Axis:
    """Maps a range of values to pixels; logarithmic if ``log``."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def pixel(self, value: float) -> float:
        low, high, v = (math.log10(x) if self.log else x for x in (self.low, self.high, value))
        return self.start + (v - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        return _log_ticks(self.low, self.high) if self.log else _even_ticks(self.low, self.high)


def line_chart_svg(
    series: Mapping[str, Sequence[Point]], title: str, x_label: str, y_label: str, *, log_y: bool = False
) -> str:
    """A line chart as one ``<svg>`` element, with axes, ticks and a legend.

    Points need not be sorted. NaN and infinity break the line; with ``log_y``, so do values of zero or less. Long series are
    thinned to the extremes of short intervals, so that spikes survive.
    """
    clean = {name: _drawable(points, log_y=log_y) for name, points in series.items()}
    finite = [p for points in clean.values() for p in points if math.isfinite(p[1])]
    x_axis = _axis([p[0] for p in finite], _LEFT, _WIDTH - _RIGHT, log=False, pad=False)
    y_axis = _axis([p[1] for p in finite], _HEIGHT - _BOTTOM, _TOP, log=log_y, pad=True)
    lines = [_line(points, x_axis, y_axis, number) for number, points in enumerate(clean.values())]
    empty = (
        "" if finite else f'<text class="chart-note" x="{_WIDTH / 2}" y="{_HEIGHT / 2}" text-anchor="middle">no values</text>'
    )
    rows = _legend_rows(list(clean))
    above = _ROW_HEIGHT * (len(rows) - 1)  # a long legend grows upwards
    body = "".join([_grid(x_axis, y_axis), *lines, _legend(rows), _titles(title, x_label, y_label, above), empty])
    label = escape(f"{title}: {y_label} over {x_label}, for {', '.join(series) or 'no series'}")
    return f'<svg class="chart" viewBox="0 {-above} {_WIDTH} {_HEIGHT + above}" role="img" aria-label="{label}">{body}</svg>'


def _drawable(points: Sequence[Point], *, log_y: bool) -> list[Point]:
    """Sorted and thinned points. A y that cannot be drawn becomes NaN; points without a finite x are left out."""
    usable = sorted(
        (float(x), float(y) if math.isfinite(y) and (y > 0 or not log_y) else math.nan) for x, y in points if math.isfinite(x)
    )
    if len(usable) <= _MAX_POINTS:
        return usable
    bucket = math.ceil(2 * len(usable) / _MAX_POINTS)
    thinned: list[Point] = []
    for start in range(0, len(usable), bucket):
        part = [p for p in usable[start : start + bucket] if math.isfinite(p[1])]
        ends = {min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])} if part else {(usable[start][0], math.nan)}
        thinned.extend(sorted(ends))
    return thinned


def _axis(values: Sequence[float], start: float, end: float, *, log: bool, pad: bool) -> _Axis:
    low, high = (min(values), max(values)) if values else (1.0, 10.0)
    if log:
        factor = max((high / low) ** 0.04, 1.02)
        return _Axis(low / factor, high * factor, start, end, log=True)
    margin = (high - low) * (0.04 if pad else 0) or (0 if high > low else abs(high) * 0.1 or 1.0)
    return _Axis(low - margin, high + margin, start, end)


def _even_ticks(low: float, high: float, *, wanted: int = 6) -> list[float]:
    """Round values in [low, high] at steps of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten in [low, high]; if fewer than three, also their multiples by 2 and 5; if still fewer, even steps."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    stride = math.ceil(len(exponents) / 7)
    tens = [10.0**e for e in exponents if e % stride == 0 and low <= 10.0**e <= high]
    if len(tens) >= 3:
        return tens
    finer = [m * 10.0**e for e in exponents for m in (1, 2, 5) if low <= m * 10.0**e <= high]
    return finer if len(finer) >= 3 else _even_ticks(low, high, wanted=4)


def _grid(x_axis: _Axis, y_axis: _Axis) -> str:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = []
    for value in y_axis.ticks():
        y = y_axis.pixel(value)
        parts.append(f'<path class="chart-grid" d="M{_LEFT} {y:.1f}H{right}"/>')
        parts.append(f'<text class="chart-tick" x="{_LEFT - 8}" y="{y + 3.5:.1f}" text-anchor="end">{_number(value)}</text>')
    for value in x_axis.ticks():
        x = x_axis.pixel(value)
        parts.append(f'<path class="chart-axis" d="M{x:.1f} {bottom}v5"/>')
        parts.append(f'<text class="chart-tick" x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{_number(value)}</text>')
    parts.append(f'<path class="chart-axis" d="M{_LEFT} {bottom}H{right}"/>')
    return "".join(parts)


def _line(points: Sequence[Point], x_axis: _Axis, y_axis: _Axis, number: int) -> str:
    runs: list[list[str]] = [[]]
    for x, y in points:
        if math.isfinite(y):
            runs[-1].append(f"{x_axis.pixel(x):.1f} {y_axis.pixel(y):.1f}")
        elif runs[-1]:
            runs.append([])
    path = "".join(f"M{'L'.join(run)}" for run in runs if len(run) > 1)
    dots = "".join(f'<circle cx="{run[0].split()[0]}" cy="{run[0].split()[1]}" r="3"/>' for run in runs if len(run) == 1)
    color, dash = _style(number)
    return f'<g style="color:{color}"><path class="chart-line" stroke-dasharray="{dash}" d="{path}"/>{dots}</g>'


def _legend_rows(names: Sequence[str]) -> list[list[tuple[int, str, float]]]:
    """(series number, name, x) of each legend entry, in as many rows as the names need."""
    rows: list[list[tuple[int, str, float]]] = [[]]
    x = float(_LEFT)
    for number, name in enumerate(names):
        width = 44 + 7.0 * len(name)
        if rows[-1] and x + width > _WIDTH:
            rows.append([])
            x = float(_LEFT)
        rows[-1].append((number, name, x))
        x += width
    return rows


def _legend(rows: Sequence[Sequence[tuple[int, str, float]]]) -> str:
    """Legend entries, the last row just above the plot."""
    parts = []
    for row, entries in enumerate(rows):
        y = 44 - _ROW_HEIGHT * (len(rows) - 1 - row)
        for number, name, x in entries:
            color, dash = _style(number)
            parts.append(
                f'<g style="color:{color}"><path class="chart-line" stroke-dasharray="{dash}" d="M{x:.0f} {y}h20"/></g>'
                f'<text class="chart-name" x="{x + 26:.0f}" y="{y + 4}">{escape(name)}</text>'
            )
    return "".join(parts)


def _titles(title: str, x_label: str, y_label: str, above: int) -> str:
    across, down = (_LEFT + _WIDTH - _RIGHT) / 2, (_TOP + _HEIGHT - _BOTTOM) / 2
    return (
        f'<text class="chart-title" x="{_LEFT}" y="{20 - above}">{escape(title)}</text>'
        f'<text class="chart-label" x="{across}" y="{_HEIGHT - 8}" text-anchor="middle">{escape(x_label)}</text>'
        f'<text class="chart-label" transform="translate(14 {down}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>'
    )


def _style(number: int) -> tuple[str, str]:
    """Colour and dashes of a series. Dashes are used once the colours run out."""
    return f"var(--series-{number % len(_COLORS) + 1}, {_COLORS[number % len(_COLORS)]})", _DASHES[
        number // len(_COLORS) % len(_DASHES)
    ]


def _number(value: float) -> str:
    """A tick's text: ``1.5k`` and ``2M`` for large numbers, a proper minus sign."""
    size = abs(value)
    for unit, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= unit:
            divisor = 1e3 if suffix == "k" else unit
            return f"{value / divisor:.6g}{suffix}".replace("-", "−")
    rounded = f"{value:.4g}" if size >= 1e-4 or size == 0 else f"{value:.0e}".replace("e-0", "e-")
    return rounded.replace("-", "−")
