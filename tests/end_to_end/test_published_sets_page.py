"""`docs/guides/train-data.md`: every file and command of it, in order, on the published sets in miniature."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import published_sets
import pytest
import yaml
from conftest import Command

from schemas.data import DOUBTS, FAULTS

PAGE = (Path(__file__).parents[2] / "docs" / "guides" / "train-data.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r'^```yaml title="([^"]+)"\n(.*?)^```$', PAGE, re.MULTILINE | re.DOTALL))
COMMANDS = "".join(re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)).splitlines()
CAPTIONS = re.findall(r"`(student-train data convert captions.json [^`]+)`", PAGE)


@pytest.fixture
def downloads(videos: Path, tmp_path: Path) -> Path:
    """The sets where the page has them, each about a video that is there."""
    scan, cube = "scannet/videos/scene0000_00.mp4", "PickCube/grasp/0f3a.mp4"
    published_sets.vsti(tmp_path / "VLM-3R-DATA", scan)
    published_sets.robofac(tmp_path / "RoboFAC-dataset", cube)
    published_sets.sat(tmp_path / "SAT")
    published_sets.wolf(tmp_path).rename(tmp_path / "captions.json")
    for number, path in enumerate((f"VLM-3R-DATA/videos/{scan}", f"RoboFAC-dataset/simulation_data/{cube}")):
        (tmp_path / path).parent.mkdir(parents=True)
        shutil.copy(videos / f"scene-{number}.mp4", tmp_path / path)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


@pytest.mark.usefixtures("_taught_once")
def test_the_page_s_commands_do_what_it_says(
    downloads: Path,
    monkeypatch: pytest.MonkeyPatch,
    teacher_cache_command: Command,
    student_train_command: Command,
) -> None:
    monkeypatch.chdir(downloads)
    programs = {"teacher-cache": teacher_cache_command, "student-train": student_train_command}
    said = {}
    for line in [*COMMANDS, *CAPTIONS]:
        program, *arguments = shlex.split(line, comments=True)
        done = programs[program](*arguments)
        assert done.status == 0, f"{line}: {done.err}"
        said[" ".join(arguments)] = done.out + done.err
    assert len(said) == len(COMMANDS) + len(CAPTIONS) == 7
    assert "sat/conversations.jsonl is about images or text alone" in said["run job.yaml"]
    assert "mixed_answers: 1" in said["data check train.yaml"]
    assert "0 faults, 1 doubts" in said["data check train.yaml"]
    assert "an epoch has 5" in said["fit train.yaml --show"]  # 2 of vsti, half of robofac's 2, and sat's 2
    assert yaml.safe_load(FILES["train.yaml"])["steps"] == 2
    assert (downloads / "runs" / "mixture" / "student").is_dir()


def test_the_page_names_every_kind_of_finding() -> None:
    for kind in (*FAULTS, *DOUBTS):
        assert f"`{kind}`" in PAGE
