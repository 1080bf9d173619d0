"""Scores, losses and maps go in; PNG files come out."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from schemas.ablation import AblationReport, Spread
from schemas.evaluation import ClipScores
from schemas.train import Mode
from student_train.evaluation.map_metrics import METRICS
from teacher_cache.io.console import printable
from teacher_cache.report import colors

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Maps = Mapping[str, np.ndarray[Any, Any]]

STUDENT_COLOR, BASELINE_COLOR = "#2457a6", "#9a9a9a"
ARM_COLORS: dict[Mode, str] = {"sft": "#c9c9c9", "latent": "#8fb3e0", "heads": STUDENT_COLOR, "direct": "#7a5fb0"}
ABLATION_METRICS = ("depth_abs_rel", "flow_epe", "motion_iou", "camray_angle")
"""One for each of the teacher's maps."""
_COLUMNS = 4
_FRAMES_SHOWN = 6
_INCHES = 2.6
_PIXELS = 112
_DPI = 120


@dataclass(frozen=True)
class ClipMaps:
    """One clip to plot."""

    clip_id: str
    student: Maps
    """Signal → its map, axes and units as in `schemas.signal.SIGNALS`; depth in the teacher's scale."""
    teacher: Maps
    """Signal → its map, likewise."""
    frames: np.ndarray[Any, np.dtype[np.uint8]] | None
    """(frame, y, x, RGB) at the size of the maps; None if the video cannot be read."""
    timestamps: Sequence[float]
    """Seconds, one per frame."""


def plot_ablation(path: Path, report: AblationReport) -> None:
    """Each arm's accuracy per kind of question and its maps' scores: bars are means, whiskers one deviation, dots runs."""
    tasks = list(report.questions)
    maps = [name for name in ABLATION_METRICS if name in report.map_guess]
    config = report.config
    figure, panels = _panels(len(tasks) + len(maps))
    for task, axes in zip(tasks, panels, strict=False):
        spreads, values = [arm.accuracy[task] for arm in report.arms], [run.accuracy[task] for run in report.runs]
        _draw_arms(axes, report, spreads, values, report.baseline[task], scale=100)
        axes.set_title(f"{printable(task)} ({report.questions[task]})", fontsize=9, parse_math=False)
        axes.set_xlabel("right answers, %; dotted: the constant baseline", fontsize=7)
    for name, axes in zip(maps, panels[len(tasks) :], strict=True):
        means, scores = [arm.maps.get(name) for arm in report.arms], [run.maps.get(name) for run in report.runs]
        _draw_arms(axes, report, means, scores, report.map_guess[name])
        metric = METRICS[name]
        axes.set_title(f"{metric.title}{f' [{metric.unit}]' if metric.unit else ''}", fontsize=9)
        axes.set_xlabel(f"{metric.better} is better; dotted: a constant", fontsize=7)
    title = f"{config.steps} steps on {config.videos} scenes, {config.seeds} seeds, asked about {config.held_out} others"
    _save(figure, path, title)


def _draw_arms(
    axes: Axes,
    report: AblationReport,
    spreads: Sequence[Spread | None],
    values: Sequence[float | None],
    baseline: float,
    *,
    scale: float = 1,
) -> None:
    """One panel: a bar per arm (``spreads``), a dot per run (``values``), and the baseline. None draws nothing."""
    for line, (summary, spread) in enumerate(zip(report.arms, spreads, strict=True)):
        if spread is None:
            continue
        of_arm = [value for run, value in zip(report.runs, values, strict=True) if run.arm == summary.arm]
        found = [scale * value for value in of_arm if value is not None]
        deviation, whisker = scale * (spread.deviation or 0.0), {"linewidth": 1.2, "ecolor": "#333333"}
        color = ARM_COLORS[summary.arm.mode]
        axes.barh(line, scale * spread.mean, xerr=deviation, color=color, height=0.7, error_kw=whisker)
        axes.plot(found, [line] * len(found), ".", color="#111111", markersize=4)
    axes.axvline(scale * baseline, color=BASELINE_COLOR, linestyle=":", linewidth=1.4)
    labels = [report.label(summary.arm) for summary in report.arms]
    axes.set_yticks(np.arange(len(labels)), labels, fontsize=7)
    axes.set_ylim(len(labels) - 0.5, -0.5)


def plot_scores(path: Path, clips: Sequence[ClipScores]) -> None:
    """Each metric's cumulative distribution over the clips, for the student and for the constant baseline."""
    names = [name for name in METRICS if any(clip.scores.get(name) is not None for clip in clips)]
    figure, panels = _panels(len(names))
    for name, axes in zip(names, panels, strict=True):
        metric = METRICS[name]
        for values, color, label in (
            ([clip.baselines.get(name) for clip in clips], BASELINE_COLOR, "constant"),
            ([clip.scores.get(name) for clip in clips], STUDENT_COLOR, "student"),
        ):
            known = sorted(value for value in values if value is not None)
            if not known:
                continue
            axes.ecdf(known, color=color, label=label, linewidth=2)
            axes.axvline(sum(known) / len(known), color=color, linestyle=":", linewidth=1.2)
        unit = f" [{metric.unit}]" if metric.unit else ""
        axes.set_xlabel(f"{metric.title}{unit} ({metric.better} is better)", fontsize=8)
        axes.set_ylim(0, 1.02)
    panels[0].set_ylabel("share of clips", fontsize=8)
    panels[0].legend(fontsize=7, frameon=False)
    _save(figure, path, f"Student against teacher, {len(clips)} clips; dotted: means")


def plot_training(path: Path, metrics: Path) -> bool:
    """Each part of the loss over the steps, from ``metrics.jsonl``. Returns False if there is no line to plot."""
    records = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()] if metrics.is_file() else []
    names = list(dict.fromkeys(name for record in records for name in record if _is_loss(name)))
    if not names:
        return False
    figure, panels = _panels(len(names))
    for name, axes in zip(names, panels, strict=True):
        steps, values = zip(*((record["step"], record[name]) for record in records if name in record), strict=True)
        axes.plot(steps, values, color=STUDENT_COLOR, alpha=0.35 if len(values) > 1 else 1, linewidth=1, marker=_mark(values))
        axes.plot(steps, smoothed(values), color=STUDENT_COLOR, linewidth=2)
        if min(values) > 0:
            axes.set_yscale("log")
        axes.set_title(printable(name), fontsize=9, parse_math=False)
        axes.set_xlabel("optimizer step", fontsize=8)
    _save(figure, path, "Training: each part unweighted; bold: running mean of a tenth of the lines")
    return True


def smoothed(values: Sequence[float]) -> list[float]:
    """Running mean over a trailing window of a tenth of the values."""
    window = max(1, len(values) // 10)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - window)
    return list((sums[ends] - sums[starts]) / (ends - starts))


def plot_clip(path: Path, clip: ClipMaps) -> None:
    """Some frames of a clip, and below them the teacher's and the student's maps on the same colour scale."""
    rows = _rows(clip)
    count = len(next(iter(rows.values())))
    shown = np.unique(np.round(np.linspace(0, count - 1, min(count, _FRAMES_SHOWN))).astype(int))
    figure = _figure(len(shown) * 1.7 + 0.9, len(rows) * 1.7 + 0.9)
    lines = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
    for (title, pictures), axes in zip(rows.items(), lines, strict=True):
        # One image per row, with thin white gaps: separate axes for each frame would take most of the time.
        fine = max(1, _PIXELS // pictures.shape[2])  # a map of rays has so few cells that a gap is narrower than one
        tiles = pictures[shown].repeat(fine, axis=1).repeat(fine, axis=2)
        gap = ((0, 0), (0, 0), (0, max(1, tiles.shape[2] // 40)), (0, 0))
        strip = np.concatenate(list(np.pad(tiles, gap, constant_values=255)), axis=1)  # (y, frame·x, RGB)
        axes.imshow(strip, interpolation="nearest", extent=(0, len(shown), 0, 1))
        axes.set_axis_off()
        axes.text(-0.03, 0.5, title, rotation=90, ha="right", va="center", fontsize=9)
    for column, frame in enumerate(shown):
        lines[0].text(column + 0.5, 1.03, f"{clip.timestamps[frame]:.2f} s", ha="center", va="bottom", fontsize=8)
    # Matplotlib's default font lacks most scripts, and an id can use any.
    _save(figure, path, printable(clip.clip_id).encode("ascii", "backslashreplace").decode())


def _rows(clip: ClipMaps) -> dict[str, np.ndarray[Any, np.dtype[np.uint8]]]:
    """Title → pictures, uint8 (frame, y, x, RGB). Both use the teacher's colour scale."""
    rows = {} if clip.frames is None else {"video": clip.frames}
    pairs = {"teacher": clip.teacher, "student": clip.student}
    if "depth" in clip.teacher:
        depths = colors.depth_scale(clip.teacher["depth"])
        rows |= {f"depth\n{who}": colors.depth_to_rgb(maps["depth"], depths) for who, maps in pairs.items()}
    if "flow" in clip.teacher:
        longest = colors.flow_scale(clip.teacher["flow"][1:])
        rows |= {f"flow\n{who}": _first_void(colors.flow_to_rgb(maps["flow"], longest)) for who, maps in pairs.items()}
    if "motion" in clip.teacher:
        rows |= {f"motion\n{who}": colors.motion_to_rgb(maps["motion"], clip.frames) for who, maps in pairs.items()}
    if "camray" in clip.teacher:
        rows |= {f"rays\n{who}": colors.ray_directions_to_rgb(maps["camray"]) for who, maps in pairs.items()}
    return rows


def _first_void(pictures: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Blank the first frame: it has no previous frame, so its flow means nothing."""
    pictures[0] = colors.NEUTRAL
    return pictures


def _is_loss(name: str) -> bool:
    return name in {"loss", "sft", "ld"} or name.startswith("ed_")


def _mark(values: Sequence[float]) -> str | None:
    return "o" if len(values) == 1 else None


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    columns = min(count, _COLUMNS)
    rows = math.ceil(count / columns)
    figure = _figure(columns * _INCHES * 1.15, rows * _INCHES)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in panels[count:]:
        unused.set_axis_off()
    for axes in panels[:count]:
        axes.tick_params(labelsize=7, which="both")
        axes.grid(visible=True, alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels[:count]


def _figure(width: float, height: float) -> Figure:
    """A figure made without pyplot, which would keep it in memory and look for a display."""
    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path, title: str) -> None:
    figure.suptitle(title, fontsize=10, parse_math=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")
