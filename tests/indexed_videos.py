"""Videos of one index in one place: what each is written of and how, for `strange_videos.write`."""

from __future__ import annotations

from typing import Any

import numpy as np

NOISE = np.random.default_rng(0).integers(0, 256, (40, 96, 128, 3), dtype=np.uint8)
GROUPS = {"g": "5", "bf": "2"}
UNEVEN = [*range(0, 400, 10)]
UNEVEN[20:] = [900 + 77 * n for n in range(20)]
FAST = {"movflags": "faststart"}

KINDS: dict[str, dict[str, Any]] = {
    "index at the end.mp4": {"options": GROUPS},
    "index first.mp4": {"options": GROUPS, "container_options": FAST},
    "uneven.mp4": {"stamps": UNEVEN, "options": GROUPS},
    "late.mp4": {"shift": 5000, "options": GROUPS, "container_options": FAST},
    "hidden frames.mp4": {"options": {"bf": "3", "b-adapt": "0"}, "shift": -400},
    "no edit list.mp4": {"options": GROUPS, "container_options": {"use_editlist": "0", "movflags": "negative_cts_offsets"}},
    "open groups.mp4": {"options": {"x264-params": "keyint=6:min-keyint=6:open-gop=1:bframes=3:b-adapt=0:scenecut=0"}},
    "hevc.mp4": {
        "codec": "libx265",
        "options": {"x265-params": "log-level=none:keyint=8:bframes=4"},
        "container_options": FAST,
    },
    "av1.mp4": {"codec": "libsvtav1"},
    "prores.mov": {"codec": "prores_ks", "pixels": "yuv422p10le"},
    "jpegs.mov": {"codec": "mjpeg", "pixels": "yuvj420p"},
}
