"""The scripts in `examples/` as a user runs them: each by its own command, on real videos."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"

Example = Callable[..., str]


@pytest.fixture
def example(tmp_path: Path) -> Example:
    """Run an example and give what it printed: ``example("compare_teachers.py", store, other)``."""

    def run(script: str, *arguments: object) -> str:
        command = [sys.executable, "-W", "error", str(EXAMPLES / script), *map(str, arguments)]
        one_thread = os.environ | {"OMP_NUM_THREADS": "1"}  # other tests share the cores
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path, env=one_thread, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_every_example_is_run_here_and_says_how_to_run_it() -> None:
    tests = Path(__file__).read_text(encoding="utf-8")
    scripts = sorted(EXAMPLES.glob("*.py"))
    assert len(scripts) == 3
    for script in scripts:
        text = script.read_text(encoding="utf-8")
        assert f'example("{script.name}"' in tests
        assert f"python examples/{script.name} " in text.split('"""')[1]
        assert len(text.splitlines()) <= 80


def test_precompute_and_compare(example: Example, videos: Path, tiny_store: Path, tmp_path: Path) -> None:
    store = tmp_path / "classical"
    classical = ("--family", "classical", "--preset", "px112", "--signals", "flow", "motion")
    said = example("precompute_folder.py", videos, store, *classical)
    assert "4 of 4 clips committed" in said
    assert re.findall(r"^  (\w+) +[\d.]+ MB a clip$", said, re.MULTILINE) == ["flow", "motion"]

    table = example("compare_teachers.py", tiny_store, store).splitlines()
    rows = {words[0]: words[1:] for line in table if len(words := line.split()) > 3}
    for name in (*(f"scene-{n}.mp4" for n in range(4)), "mean"):
        error = float(rows[name][-2])
        assert 0 < error < 10, (name, rows[name])


def test_precompute_says_what_is_wrong_in_one_line(videos: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "precompute_folder.py"), str(videos), str(tmp_path / "s"), "--preset", "no-such"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "no-such" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_loop_of_ones_own_learns(example: Example, tiny_store: Path, videos: Path) -> None:
    lines = example("train_your_own_loop.py", tiny_store, videos, "--epochs", 6).splitlines()
    shown = [{name: float(value) for name, value in re.findall(r"(\w+) ([\d.]+)(?:,|$)", line)} for line in lines]
    assert len(shown) == 12  # four clips, two at a time
    assert list(shown[0]) == ["loss", "own", "ld", "ed_depth", "ed_flow", "ed_motion", "ed_camray"]
    for part, share in (("loss", 0.8), ("own", 0.6), ("ld", 0.95), ("ed_depth", 0.7)):
        first, last = (sum(batch[part] for batch in epoch) for epoch in (shown[:2], shown[-2:]))
        assert last < share * first, part
