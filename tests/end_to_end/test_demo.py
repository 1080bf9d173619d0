"""The first thing a newcomer runs."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from conftest import Command

from teacher_cache import open_cache

pytestmark = pytest.mark.alone


def test_the_demo_tells_the_whole_story_in_three_minutes(tmp_path: Path, command: Command) -> None:
    start = time.monotonic()
    done = command("teacher-cache", "demo", "--out", "made")
    assert done.status == 0, done.err
    assert time.monotonic() - start < 180
    assert "teacher-cache status made/store" in done.out

    made = tmp_path / "made"
    assert len(list((made / "videos").glob("*.mp4"))) == 8
    cache = open_cache(str(made / "store"))
    assert len(cache.committed_ids()) == 8
    result = json.loads((made / "student/result.json").read_text())
    for part in ("ld", "ed_depth", "ed_flow", "ed_motion", "ed_camray"):
        assert result["last"]["losses"][part] < 0.8 * result["first"]["losses"][part]
    page = (made / "report.html").read_text()
    for clip_id in cache.committed_ids():
        assert clip_id in page
    assert "<svg" in page

    # What it tells the user to run next works as it stands.
    again = command("teacher-cache", "run", "made/job.yaml", "--json")
    assert (again.status, again.json["done_before"]) == (0, 8)
