"""Scores and losses go in; PNG files come out."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from schemas.ablation import AblationReport, Spread
from schemas.evaluation import ClipScores
from schemas.sweep import SweepReport
from schemas.train import Mode
from student_train.data.pictures import figure_of, save_figure
from student_train.evaluation.map_metrics import METRICS
from teacher_cache.io.console import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STUDENT_COLOR, BASELINE_COLOR = "#2457a6", "#9a9a9a"
ARM_COLORS: dict[Mode, str] = {"sft": "#c9c9c9", "latent": "#8fb3e0", "heads": STUDENT_COLOR, "direct": "#7a5fb0"}
ABLATION_METRICS = ("depth_abs_rel", "flow_epe", "motion_iou", "camray_angle")
"""One for each of the teacher's maps."""
_COLUMNS = 4
_INCHES = 2.6


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
    save_figure(figure, path, title)


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


def plot_sweep(path: Path, report: SweepReport) -> None:
    """Each loss of every combination: dots are runs, and runs that differ in the seed alone share a line. Held-out losses where
    there are some.
    """
    lines: dict[str, list[dict[str, float]]] = {}
    varying = [
        name
        for name in report.runs[0].settings
        if name != "seed" and any(run.settings[name] != report.runs[0].settings[name] for run in report.runs)
    ]
    for run in report.runs:
        label = "\n".join(textwrap.shorten(f"{name.rpartition('.')[2]} {run.settings[name]}", 30) for name in varying) or "all"
        lines.setdefault(label, []).append(run.last.losses if run.validation is None else run.validation.losses)
    names = list(dict.fromkeys(name for runs in lines.values() for losses in runs for name in losses))
    figure, panels = _panels(len(names))
    for name, axes in zip(names, panels, strict=True):
        for line, runs in enumerate(lines.values()):
            values = [losses[name] for losses in runs if name in losses]
            axes.plot(values, [line] * len(values), "o", color=STUDENT_COLOR, markersize=4)
            if values:
                axes.plot([sum(values) / len(values)], [line], "|", color="#111111", markersize=14)
        axes.set_yticks(np.arange(len(lines)), [printable(label) for label in lines], fontsize=6, parse_math=False)
        axes.set_ylim(len(lines) - 0.5, -0.5)
        axes.set_title(printable(name), fontsize=9, parse_math=False)
    where = "on held-out conversations" if any(run.validation for run in report.runs) else "of the last steps"
    save_figure(figure, path, f"Losses {where}: dots are runs, bars their mean")


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
    save_figure(figure, path, f"Student against teacher, {len(clips)} clips; dotted: means")


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
    save_figure(figure, path, "Training: each part unweighted; bold: running mean of a tenth of the lines")
    return True


def smoothed(values: Sequence[float]) -> list[float]:
    """Running mean over a trailing window of a tenth of the values."""
    window = max(1, len(values) // 10)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - window)
    return list((sums[ends] - sums[starts]) / (ends - starts))


def _is_loss(name: str) -> bool:
    return name in {"loss", "sft", "ld"} or name.startswith("ed_")


def _mark(values: Sequence[float]) -> str | None:
    return "o" if len(values) == 1 else None


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    columns = min(count, _COLUMNS)
    rows = math.ceil(count / columns)
    figure = figure_of(columns * _INCHES * 1.15, rows * _INCHES)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in panels[count:]:
        unused.set_axis_off()
    for axes in panels[:count]:
        axes.tick_params(labelsize=7, which="both")
        axes.grid(visible=True, alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels[:count]
