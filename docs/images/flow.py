"""Draw docs/images/flow.png, with the maps of one clip of a store: `python docs/images/flow.py demo-out/store`.

The store is one that `teacher-cache demo` wrote. Needs `pip install '.[demo]'`, for matplotlib.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from PIL import Image
from small import write_small

from teacher_cache import open_cache
from teacher_cache.clips.decoder import DECODE_TIMEOUT_SECONDS, Decoder
from teacher_cache.clips.preprocess import FrameSize
from teacher_cache.report import colors

mpl.use("agg")
WIDTH, HEIGHT, DOTS = 920, 468, 200  # of the picture in CSS pixels; at 200 dots to 100 of them it is sharp on dense screens
INK, GREY = "#1f2328", "#59636e"
TEACHER, STORE, STUDENT = ("#fff1e5", "#bc4c00"), ("#ddf4ff", "#0969da"), ("#dafbe1", "#1a7f37")
PLAIN = ("#f6f8fa", "#d1d9e0")
FRAME = 9  # of the clip: the one that is shown

axes = plt.figure(figsize=(WIDTH / 100, HEIGHT / 100), dpi=DOTS).add_axes((0, 0, 1, 1))
axes.set(xlim=(0, WIDTH), ylim=(HEIGHT, 0))
axes.axis("off")


def text(x: float, y: float, words: str, size: float = 12, color: str = INK, **style: object) -> None:
    axes.text(x, y, words, fontsize=size * 0.72, color=color, **{"ha": "center", "va": "center"} | style)


def box(x: float, y: float, width: float, height: float, look: tuple[str, str]) -> None:
    style = f"round,pad=0,rounding_size={min(10, height / 2)}"
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=style, fc=look[0], ec=look[1], lw=1.1))


def arrow(start: tuple[float, float], end: tuple[float, float]) -> None:
    style = {"arrowstyle": "-|>,head_length=4,head_width=2.2", "shrinkA": 0, "shrinkB": 0}
    axes.add_patch(FancyArrowPatch(start, end, color=GREY, lw=1.3, **style))


def picture(rgb: np.ndarray, x: float, y: float, width: float, height: float) -> None:
    axes.imshow(rgb, extent=(x, x + width, y + height, y), interpolation="lanczos", zorder=3)
    axes.set(xlim=(0, WIDTH), ylim=(HEIGHT, 0), aspect="auto")


cache = open_cache(sys.argv[1])
clip_id = cache.committed_ids()[3]
maps = {name: values[0] for name, values in cache.read([*cache.signals, "frame_index"], [clip_id]).items()}
with Decoder(None, DECODE_TIMEOUT_SECONDS) as decoder:
    small = decoder.frames(cache.clip(clip_id).video, maps["frame_index"], FrameSize(cache.size)).frames
shown = {
    "f4d\nfeatures": colors.f4d_to_rgb(maps["f4d"])[-1, FRAME // 2],
    "depth": colors.depth_to_rgb(maps["depth"], colors.depth_scale(maps["depth"]))[FRAME],
    "flow": colors.flow_to_rgb(maps["flow"], colors.flow_scale(maps["flow"]))[FRAME],
    "motion": colors.motion_to_rgb(maps["motion"], small)[FRAME],
    "camray\ncamera rays": colors.ray_directions_to_rgb(maps["camray"])[FRAME],
}

# The teacher's row: what happens once to every video.
text(24, 22, "teacher-cache run", 13, TEACHER[1], ha="left", weight="bold", family="DejaVu Sans Mono")
text(186, 22, "once for each video: on one machine, or on a Ray cluster with a pool of GPUs", 12, GREY, ha="left")
steps = {
    "videos": "mp4, mkv, webm, …",
    "clips": "16 frames each",
    "frames": "decoded in processes\nthat can be killed",
    "teacher": "frozen L4P,\nor your own",
    "encoded signals": "within a stated,\nmeasured error",
    "shards": "written once,\nnever changed",
}
wide, gap, top = 132, 16, 44
for number, (name, note) in enumerate(steps.items()):
    x = 24 + number * (wide + gap)
    box(x, top, wide, 78, TEACHER if name == "teacher" else PLAIN)
    text(x + wide / 2, top + 22, name, 12.5, weight="bold")
    text(x + wide / 2, top + 52, note, 10.5, GREY, linespacing=1.35)
    if number:
        arrow((x - gap, top + 39), (x, top + 39))
arrow((24 + 5 * (wide + gap) + wide / 2, top + 78), (24 + 5 * (wide + gap) + wide / 2, 158))

# The store.
box(24, 158, WIDTH - 48, 136, STORE)
text(44, 182, "Zarr v3 store", 15, STORE[1], ha="left", weight="bold")
for line, words in enumerate(
    (
        "on S3 or a disk;",
        "xarray and zarr open it.",
        "Beside the arrays: digests,",
        "error figures, reasons of",
        "clips that failed",
    )
):
    text(44, 205 + 17 * line, words, 11, GREY, ha="left")
side = 84
names = ["frame", *shown]
for number, (name, rgb) in enumerate({"a frame\nof the video": small[FRAME], **shown}.items()):
    x = 244 + number * (side + 24) + (8 if number else -8)
    picture(rgb, x, 170, side, side)
    text(x + side / 2, 274, name, 10.5, INK if number else GREY, linespacing=1.25)

# The students' row: what happens as often as somebody has an idea.
lanes = {
    "4D-RGPT": "student-train fit: LD and ED",
    "Qwen-VL": "transformers' own model, other losses",
    "your own loop": "P4D + TargetCollator in PyTorch",
}
lane, between = 280, 16
for number, (name, note) in enumerate(lanes.items()):
    x = 24 + number * (lane + between)
    arrow((x + lane / 2, 294), (x + lane / 2, 346))
    box(x + lane / 2 - 34, 307, 68, 22, ("#ffffff", STORE[1]))
    text(x + lane / 2, 318, "reader", 11, STORE[1])
    box(x, 346, lane, 62, STUDENT)
    text(x + lane / 2, 367, name, 13, weight="bold")
    text(x + lane / 2, 390, note, 11, GREY)
text(24, 440, "student-train fit", 13, STUDENT[1], ha="left", weight="bold", family="DejaVu Sans Mono")
text(186, 440, "as many runs as you like: the teacher's encoder is never on a training GPU", 12, GREY, ha="left")

with TemporaryDirectory() as folder:
    drawn = Path(folder, "flow.png")
    axes.figure.savefig(drawn, dpi=DOTS, facecolor="white")
    with Image.open(drawn) as image:
        write_small(image, Path(__file__).with_suffix(".png"))
