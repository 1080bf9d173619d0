"""The first thing a newcomer runs."""

from __future__ import annotations

import base64
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from teacher_cache import open_cache
from teacher_cache.scenes import random_scene, render_scene


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`teacher-cache` in that folder, as its paths say, in one thread: others would spin where tests share the cores."""
    program = str(Path(sys.executable).parent / "teacher-cache")
    own = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run([program, *arguments], cwd=folder, capture_output=True, text=True, timeout=600, check=False, env=own)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, float]:
    """The demo's folder, what it said, and the CPU seconds that it took."""
    folder, before = tmp_path_factory.mktemp("demo"), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = run(folder, "demo", "--out", "made")
    assert done.returncode == 0, done.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return folder / "made", done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_the_demo_tells_the_whole_story_in_four_minutes_of_a_core(made: tuple[Path, str, float]) -> None:
    folder, said, seconds = made
    assert seconds < 240  # the clock on the wall is other tests' as well
    assert "teacher-cache status made/store" in said
    assert len(list((folder / "videos").glob("*.mp4"))) == 8
    cache = open_cache(str(folder / "store"))
    assert len(cache.committed_ids()) == 8
    result = json.loads((folder / "student/result.json").read_text())
    # A hundred steps teach the text and the coarse of the maps; F4D has only begun to fall.
    shares = {"loss": 0.6, "sft": 0.1, "ed_depth": 0.4, "ed_flow": 0.8, "ed_camray": 0.8, "ed_motion": 0.7, "ld": 0.95}
    for part, share in shares.items():
        assert result["last"]["losses"][part] < share * result["first"]["losses"][part], part
    page = (folder / "report.html").read_text()
    for clip_id in cache.committed_ids():
        assert clip_id in page
    assert "<svg" in page
    for title in ("before the first step", "after the last"):
        assert page.count(f"<figcaption>The student {title}</figcaption>") == 1
    assert page.count('style="max-width: 100%"') == 2
    shown = [(folder / f"student/validation/step-{step:08d}/clip-0.png").read_bytes() for step in (0, 100)]
    assert all(base64.b64encode(picture).decode() in page for picture in shown)
    assert shown[0] != shown[1]

    # What it tells the user to run next works as it stands.
    again = run(folder.parent, "run", "made/job.yaml", "--json")
    assert (again.returncode, json.loads(again.stdout)["done_before"]) == (0, 8)


def test_its_depth_is_the_scenes_depth(made: tuple[Path, str, float]) -> None:
    cache = open_cache(str(made[0] / "store"))
    errors, constants = [], []
    for seed in range(4):
        found = cache.read(["depth", "timestamps"], [f"scene-{seed}.mp4"])
        depth, times = found["depth"][0], found["timestamps"][0]
        truth = render_scene(random_scene(seed), times, height=depth.shape[1], width=depth.shape[2]).depth
        for values, kept in ((depth, errors), (np.ones_like(depth), constants)):
            aligned = values * np.median(truth) / np.median(values)
            kept.append(np.mean(np.abs(aligned - truth) / truth))
    assert np.mean(errors) < 0.5 * np.mean(constants)


def test_its_report_plays_in_a_browser(made: tuple[Path, str, float], dump_dom: Callable[[str], str]) -> None:
    dom = dump_dom((made[0] / "report.html").read_text())
    assert 'data-players="8"' in dom
    assert dom.count('data-shown="') == 8
