"""A clip's maps go in, the student's and the teacher's; a picture of both comes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from schemas.errors import CouldNotRun
from teacher_cache.clips.preprocess import FrameSize, resize
from teacher_cache.io.console import printable
from teacher_cache.report import colors

if TYPE_CHECKING:
    from student_train.data.frames import StudentFrames
    from student_train.data.samples import Sample
    from teacher_cache import Targets

Maps = Mapping[str, np.ndarray[Any, Any]]

_FRAMES_SHOWN = 6
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


def shown(cache: Targets, sample: Sample, student: Maps, teacher: Maps, frames_of: StudentFrames) -> ClipMaps:
    """A sample's clip to plot: frames at the teacher's size, and the student's depth in the teacher's scale."""
    clip_id = str(sample.clip_id)
    clock = {name: values[0] for name, values in cache.read(["timestamps", "frame_index"], [clip_id]).items()}
    student = dict(student)
    if "depth" in student:
        pair = (torch.from_numpy(maps["depth"])[None] for maps in (student, teacher))
        student["depth"] = aligned_depth(*pair)[0].numpy()
    return ClipMaps(
        clip_id, student, teacher, _frames(cache, sample, clock["frame_index"].tolist(), frames_of), clock["timestamps"]
    )


def _frames(
    cache: Targets, sample: Sample, frame_index: Sequence[int], frames_of: StudentFrames
) -> np.ndarray[Any, np.dtype[np.uint8]] | None:
    if "frames" in cache.signals:
        (stored,) = cache.read(["frames"], [str(sample.clip_id)])["frames"]
        return np.stack([resize(frame, FrameSize(frames_of.size)) for frame in stored])
    try:
        frames = frames_of(str(sample.video), frame_index)
    except CouldNotRun:  # readable a moment ago; a missing picture must not cost the rest
        return None
    return frames[:, :, ::-1] if sample.flipped else frames


def aligned_depth(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """The student's depth, float (clip, frame, y, x), in the teacher's scale: times median(teacher) / median(student).

    One scale per clip, since depth is known up to one scale per clip; a scale per frame would hide a depth that drifts.
    Median scaling: Zhou et al., arXiv 1704.07813.
    """
    scale = _median(teacher) / _median(student)
    return student * scale.view(-1, 1, 1, 1)


def _median(values: torch.Tensor) -> torch.Tensor:
    """(clip, …) to (clip,); the lower median of an even number of values."""
    return values.flatten(1).median(1).values


def plot_clip(path: Path, clip: ClipMaps) -> None:
    """Some frames of a clip, and below them the teacher's and the student's maps on the same colour scale."""
    rows = _rows(clip)
    count = len(next(iter(rows.values())))
    shown = np.unique(np.round(np.linspace(0, count - 1, min(count, _FRAMES_SHOWN))).astype(int))
    figure = figure_of(len(shown) * 1.7 + 0.9, len(rows) * 1.7 + 0.9)
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
    save_figure(figure, path, printable(clip.clip_id).encode("ascii", "backslashreplace").decode())


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


def figure_of(width: float, height: float) -> Figure:
    """A figure made without pyplot, which would keep it in memory and look for a display."""
    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path, title: str) -> None:
    figure.suptitle(title, fontsize=10, parse_math=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")
