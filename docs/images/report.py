"""Photograph a clip of a report as docs/images/report.png: `python docs/images/report.py demo-out/store`.

The store is one that `teacher-cache demo` wrote. Needs `chromium` on the PATH.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from small import write_small

from teacher_cache.report.write import write_report

WIDTH, HEIGHT, SCALE = 1120, 836, 1.7
TOP = 416  # the page's heading, which is left out, in CSS pixels

with TemporaryDirectory() as folder:
    page, photo = Path(folder, "report.html"), Path(folder, "report.png")
    write_report(sys.argv[1], ["scene-3.mp4"], page, videos=[str(Path(sys.argv[1]).parent / "videos")])
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars", "--virtual-time-budget=4000"]
    flags += [f"--disable-{name}" for name in ("quic", "background-networking", "component-update", "sync")]
    flags += [f"--force-device-scale-factor={SCALE}", f"--window-size={WIDTH},{HEIGHT}", f"--user-data-dir={folder}/profile"]
    subprocess.run(["chromium", *flags, f"--screenshot={photo}", page.as_uri()], check=True, capture_output=True, timeout=120)  # noqa: S607
    with Image.open(photo) as whole:
        write_small(whole.crop((0, int(TOP * SCALE), *whole.size)), Path(__file__).with_suffix(".png"))
