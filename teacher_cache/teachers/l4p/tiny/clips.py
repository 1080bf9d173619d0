"""Seeds in, rendered clips with ground truth out: written to disk once, and memory-mapped for training and evaluation."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.signal import Shape
from teacher_cache.io.output_folder import claim_folder
from teacher_cache.scenes import random_scene, render_scene
from teacher_cache.scenes.dataset import clip_seconds

_FRAMES = 16


@dataclass(frozen=True, eq=False)
class Clips:
    """Arrays of clips; the first axis is the clip. Units and axes as in `schemas.signal.SIGNALS`."""

    rgb: npt.NDArray[np.uint8]
    """(clip, frame 16, y, x, 3), sRGB."""
    depth: npt.NDArray[np.float16]
    """(clip, frame, y, x), metres."""
    flow: npt.NDArray[np.float16]
    """(clip, frame, y, x, uv) to the previous frame, pixels; NaN in frame 0, and where the point was behind the camera."""
    motion: npt.NDArray[np.bool_]
    """(clip, frame, y, x)."""
    camray: npt.NDArray[np.float32]
    """(clip, frame, ray_y, ray_x, 6), in the coordinates of the clip's first camera, metres."""

    def __len__(self) -> int:
        return len(self.rgb)


def render_clips(folder: Path, seeds: range, *, size: int, grid: int, workers: int, advance: Callable[[int], None]) -> Clips:
    """The clips of ``seeds``, ``size`` pixels and ``grid`` rays square. Renders those that ``folder`` lacks.

    The folder records which rows are done, so an interrupted rendering resumes. Raises `BadInput` if the folder holds clips of
    other seeds or sizes.
    """
    claim_folder(folder, {"first_seed": seeds.start, "clips": len(seeds), "size": size, "grid": grid})
    frame: Shape = (_FRAMES, size, size)
    shapes: dict[str, tuple[Shape, type]] = {
        "rgb": ((*frame, 3), np.uint8),
        "depth": (frame, np.float16),
        "flow": ((*frame, 2), np.float16),
        "motion": (frame, np.bool_),
        "camray": ((_FRAMES, grid, grid, 6), np.float32),
    }
    arrays = {name: _mapped(folder / f"{name}.npy", kind, (len(seeds), *shape)) for name, (shape, kind) in shapes.items()}
    done = _mapped(folder / "done.npy", np.bool_, (len(seeds),))
    left = [row for row in range(len(seeds)) if not done[row]]
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        rendered = pool.imap(partial(_render, size=size, grid=grid), [seeds[row] for row in left], chunksize=4)
        for row, values in zip(left, rendered, strict=True):
            for name, value in values.items():
                arrays[name][row] = value
            done[row] = True
            advance(1)
    return Clips(**arrays)


def _mapped(path: Path, kind: type, shape: Shape) -> npt.NDArray[Any]:
    """The file's array, memory-mapped; created if missing."""
    return np.lib.format.open_memmap(path, mode="r+" if path.exists() else "w+", dtype=kind, shape=shape)


def _render(seed: int, *, size: int, grid: int) -> dict[str, npt.NDArray[np.generic]]:
    times = np.linspace(0, clip_seconds(seed), _FRAMES)
    truth = render_scene(random_scene(seed), times, height=size, width=size, ray_grid=(grid, grid))
    flow = truth.flow.copy()
    flow[0] = np.nan
    return {"rgb": truth.rgb, "depth": truth.depth, "flow": flow, "motion": truth.motion, "camray": truth.camray}
