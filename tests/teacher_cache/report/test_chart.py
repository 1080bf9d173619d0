"""Charts: well-formed, honest about gaps, deaf to hostile names."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from teacher_cache.report.chart import _even_ticks, _log_ticks, line_chart_svg


def lines(svg):
    return [p.get("d") for p in ET.fromstring(svg).iter("path") if p.get("class") == "chart-line"]


def texts(svg):
    return [t.text for t in ET.fromstring(svg).iter("text")]


def test_a_chart_names_its_series_axes_and_title():
    svg = line_chart_svg({"LD": [(0, 1), (1, 0.5)], "ED": [(0, 2), (1, 1)]}, "Losses", "step", "loss", log_y=True)
    assert {"Losses", "step", "loss", "LD", "ED", "0.5", "1", "2"} <= set(texts(svg))
    assert ET.fromstring(svg).get("aria-label") == "Losses: loss over step, for LD, ED"


def test_lines_fall_where_values_fall():
    svg = line_chart_svg({"a": [(0, 1.0), (10, 0.1), (20, 0.01)]}, "t", "x", "y", log_y=True)
    points = [tuple(map(float, p.split())) for p in lines(svg)[0][1:].split("L")]
    (x0, y0), (x1, y1), (x2, y2) = points
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y1 - y0 == pytest.approx(y2 - y1, abs=0.2)  # even in the logarithm
    assert y0 < y1 < y2  # smaller is lower on the page


def test_gaps_break_the_line():
    points = [(0, 1), (1, 2), (2, math.nan), (3, 2), (4, 1), (5, math.inf), (6, 1)]
    svg = line_chart_svg({"a": points}, "t", "x", "y")
    assert lines(svg)[0].count("M") == 2
    assert "<circle" in svg  # the last point stands alone
    assert lines(line_chart_svg({"a": [(0, 1), (1, 0), (2, 1), (3, 2)]}, "t", "x", "y", log_y=True))[0].count("M") == 1


@pytest.mark.parametrize("series", [{}, {"a": []}, {"a": [(0, math.nan)]}, {"a": [(0, 5.0)]}, {"a": [(0, 0), (1, 0)]}])
@pytest.mark.parametrize("log_y", [False, True])
def test_little_or_nothing_to_draw(series, log_y):
    svg = line_chart_svg(series, "t", "x", "y", log_y=log_y)
    ET.fromstring(svg)
    assert "nan" not in svg


def test_long_series_keep_their_spikes():
    points = [(float(i), 1.0) for i in range(20_000)]
    points[12_345] = (12_345.0, 9.0)
    svg = line_chart_svg({"a": points}, "t", "x", "y")
    assert len(svg) < 20_000
    heights = [float(y) for _, y in re.findall(r"([\d.]+) ([\d.]+)", lines(svg)[0])]
    assert min(heights) < 80
    assert max(heights) > 200


def test_hostile_names_are_text():
    svg = line_chart_svg({"</svg><script>x</script>": [(0, 1), (1, 2)]}, '"><img>', "&", "<")
    assert "<script" not in svg
    assert "<img" not in svg
    assert "</svg><script>x</script>" in texts(svg)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3, 7), (0, 1e6), (0.1, 0.1003), (1e-9, 3e-9), (-5e5, -4e5)])
def test_ticks_are_round_few_and_inside(low, high):
    ticks = _even_ticks(low, high)
    assert 3 <= len(ticks) <= 9
    assert all(low - 1e-9 * abs(low) <= t <= high + 1e-9 * abs(high) for t in ticks)
    assert np.allclose(np.diff(ticks), ticks[1] - ticks[0])


@pytest.mark.parametrize(("low", "high"), [(0.01, 2), (1e-6, 1e6), (0.9, 1.1), (3e-4, 5e-4), (1, 1000)])
def test_log_ticks_are_few_and_inside(low, high):
    ticks = _log_ticks(low, high)
    assert 2 <= len(ticks) <= 10
    assert all(low <= t <= high for t in ticks)


def test_a_long_legend_takes_more_rows_and_none_of_it_is_cut_off():
    names = [f"a rather long series name {i}" for i in range(7)]
    root = ET.fromstring(line_chart_svg({n: [(0, 1), (1, 2)] for n in names}, "t", "x", "y"))
    top, width = float(root.get("viewBox").split()[1]), float(root.get("viewBox").split()[2])
    entries = {t.text: (float(t.get("x")), float(t.get("y"))) for t in root.iter("text") if t.text in names}
    assert len(set(entries.values())) == 7
    assert all(x + 6.5 * len(name) < width and y > top + 30 for name, (x, y) in entries.items())
