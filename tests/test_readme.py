"""README.md, CONTRIBUTING.md and CHANGELOG.md: their links lead somewhere, and README's examples run as written."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from schemas.job import Job
from schemas.train import TrainConfig

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
FENCES = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_to_files(page: str) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text(encoding="utf-8"))
    local = [link for link in links if not link.startswith("https://")]
    assert local
    assert [link for link in local if not (ROOT / link).exists()] == []


def test_readme_is_short_and_its_pictures_are_small() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 150
    pictures = re.findall(r"!\[.+?\]\((\S+\.png)\)", text)
    assert len(pictures) == 2
    assert all((ROOT / picture).stat().st_size < 200_000 for picture in pictures)


def test_the_readmes_settings_at_full_size_are_valid() -> None:
    job, train = (
        text.partition("# At full size")[2].partition("\n")[2]
        for name, text in FENCES.findall(README.read_text(encoding="utf-8"))
        if name == "yaml"
    )
    assert Job.model_validate(yaml.safe_load(job.replace("# ", ""))).engine.kind == "ray"
    student = yaml.safe_load(train.replace("# ", "", 1).replace("\n# ", "\n"))
    assert TrainConfig.model_validate({"store": "s", "output": "o", **student}).model.weights == "/models/NVILA-Lite-8B"


def test_the_readmes_examples_run_as_written(videos: Path, tmp_path: Path) -> None:
    """But for 2 steps of training. The demo has a test of its own; here its videos are those of the tests."""
    shutil.copytree(videos, tmp_path / "demo-out" / "videos")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    said = []
    for language, text in FENCES.findall(README.read_text(encoding="utf-8")):
        if "venv" in text:
            continue
        if language == "yaml":
            quick = text.replace("steps: 20", "steps: 2")
            (tmp_path / text.split()[1].removesuffix(":")).write_text(quick, encoding="utf-8")
            continue
        command = ["bash", "-euc", text] if language == "bash" else [sys.executable, "-c", text]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    assert len(said) == 3  # precompute, read, train
    assert "4" in said[0]
    assert (tmp_path / "my-student" / "README.md").is_file()
