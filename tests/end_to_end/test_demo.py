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


def fallen(folder: Path) -> dict[str, float]:
    """Part of the loss → its share that is left after the demo's training."""
    result = json.loads((folder / "student/result.json").read_text())
    return {part: result["last"]["losses"][part] / first for part, first in result["first"]["losses"].items()}


STEPS = 25


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The demo's folder and what it said, of a quarter of its training."""
    folder = tmp_path_factory.mktemp("demo")
    done = run(folder, "demo", "--out", "made", "--steps", str(STEPS))
    assert done.returncode == 0, done.stderr
    return folder / "made", done.stdout


@pytest.mark.complete
def test_the_demo_takes_no_more_than_four_minutes_of_a_core(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = run(tmp_path, "demo", "--out", "made")
    assert done.returncode == 0, done.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 240  # the clock on the wall is others' as well
    left = fallen(tmp_path / "made")
    # A hundred steps teach the text and the coarse of the maps; F4D has only begun to fall.
    shares = {"loss": 0.6, "sft": 0.1, "ed_depth": 0.4, "ed_flow": 0.8, "ed_camray": 0.8, "ed_motion": 0.7, "ld": 0.95}
    assert {part: left[part] for part, share in shares.items() if left[part] >= share} == {}


def test_the_demo_tells_the_whole_story(made: tuple[Path, str]) -> None:
    folder, said = made
    assert "teacher-cache status made/store" in said
    assert len(list((folder / "videos").glob("*.mp4"))) == 8
    cache = open_cache(str(folder / "store"))
    assert len(cache.committed_ids()) == 8
    left = fallen(folder)
    assert (left["loss"] < 0.6, left["sft"] < 0.1) == (True, True), left
    page = (folder / "report.html").read_text()
    for clip_id in cache.committed_ids():
        assert clip_id in page
    assert "<svg" in page
    for title in ("before the first step", "after the last"):
        assert page.count(f"<figcaption>The student {title}</figcaption>") == 1
    assert page.count('style="max-width: 100%"') == 2
    shown = [(folder / f"student/validation/step-{step:08d}/clip-0.png").read_bytes() for step in (0, STEPS)]
    assert all(base64.b64encode(picture).decode() in page for picture in shown)
    assert shown[0] != shown[1]

    # What it tells the user to run next works as it stands.
    again = run(folder.parent, "run", "made/job.yaml", "--json")
    assert (again.returncode, json.loads(again.stdout)["done_before"]) == (0, 8)


def test_its_depth_is_the_scenes_depth(made: tuple[Path, str]) -> None:
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


def test_its_report_plays_in_a_browser(made: tuple[Path, str], dump_dom: Callable[[str], str]) -> None:
    dom = dump_dom((made[0] / "report.html").read_text())
    assert 'data-players="8"' in dom
    assert dom.count('data-shown="') == 8
