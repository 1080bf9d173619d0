"""`docs/guides/deploy.md`: what it tells a newcomer to do on one machine is done; every other command and job is real.

So is every message of `docs/guides/troubleshooting.md`.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from conftest import Jobs
from typer.main import get_command

from schemas.job import Job
from teacher_cache import open_cache
from teacher_cache.cli import app
from teacher_cache.store.objects import Objects

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "guides" / "deploy.md").read_text()
TROUBLESHOOTING = (ROOT / "docs" / "guides" / "troubleshooting.md").read_text()


def blocks(language: str, text: str = PAGE) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def section(title: str, text: str = PAGE) -> str:
    return text.split(f"\n## {title}\n")[1].partition("\n## ")[0]


def command_lines() -> list[str]:
    """Every line of code of the page, comments off and continued lines joined, and each command of a line by itself.

    A block of `bash` is run by a test; one of `sh` is for other machines than a test has.
    """
    code = [block.replace("\\\n", "") for language in ("bash", "sh") for block in blocks(language)]
    lines = [re.sub(r"(^|\s)#\s.*", "", line) for block in code for line in block.splitlines()]
    return [part.strip() for line in lines for part in re.split(r"\s&&\s|\s\|\s|>", line) if part.strip()]


def arguments_of(program: str) -> list[list[str]]:
    """The words after `program`, of each command of the page that runs it, wherever in the command it stands."""
    found = [shlex.split(line) for line in command_lines() if re.search(rf"(^|\s){program}\s", line)]
    return [words[words.index(program) + 1 :] for words in found]


def test_one_machine_s_commands_lead_to_a_committed_store(
    s3: str, jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    raw = Objects(f"{s3}/raw/2024")
    for video in ("scene-0.mp4", "scene-1.mp4"):
        raw.create(video, (jobs.videos / video).read_bytes())
    first = section("One machine")
    Path("job.yaml").write_text(blocks("yaml", first)[0].replace("my-bucket", "bucket"))
    script = "\n".join(blocks("bash", first)).replace("my-bucket", "bucket")
    assert script.count("teacher-cache run") == 2
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        capture_output=True, text=True, timeout=300, env=os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "nothing wrong" in done.stdout
    assert re.search(r"2 clips were done before", done.stdout)
    cache = open_cache(f"{s3}/p4d/tiny")
    assert cache.read(["depth"], cache.committed_ids())["depth"].shape[0] == 2
    assert Path("report.html").stat().st_size > 10_000


@pytest.mark.parametrize("words", arguments_of("teacher-cache"), ids=" ".join)
def test_every_command_of_ours_is_one_that_there_is(words: list[str]) -> None:
    group = get_command(app)
    assert isinstance(group, click.Group) or hasattr(group, "commands")
    command = group.commands[words[0]]
    command.make_context(words[0], words[1:])


@pytest.mark.parametrize("words", arguments_of("ray"), ids=" ".join)
def test_every_command_of_ray_is_one_that_there_is(words: list[str]) -> None:
    from ray.scripts.scripts import cli

    command: Any = cli
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    command.make_context(command.name, list(words))


def test_there_are_commands_to_check() -> None:
    assert len(arguments_of("teacher-cache")) >= 8
    assert len(arguments_of("ray")) >= 8


@pytest.mark.parametrize("words", [["run", "job.yaml", "--no-such"], ["status"]])
def test_a_wrong_command_would_be_found(words: list[str]) -> None:
    with pytest.raises(Exception, match=r"No such option|Missing parameter"):
        test_every_command_of_ours_is_one_that_there_is(words)


@pytest.mark.parametrize("text", blocks("yaml"))
def test_every_job_of_the_page_is_a_job(text: str) -> None:
    assert Job.model_validate(yaml.safe_load(text)).engine.kind == "ray"


def test_the_aws_job_is_the_kubernetes_job() -> None:
    on_aws = Job.model_validate(yaml.safe_load(blocks("yaml", section("AWS, with `ray up`"))[0]))
    config = yaml.safe_load((ROOT / "cluster/kubernetes/config-map.yaml").read_text())["data"]["job.yaml"]
    assert on_aws == Job.model_validate(yaml.safe_load(config.replace("BUCKET", "my-bucket")))


def test_every_file_that_the_page_names_is_there() -> None:
    files = set(re.findall(r"\bcluster/[\w./-]*\w", PAGE)) - {"cluster/iam/"}
    assert len(files) > 5
    assert [name for name in files if not (ROOT / name).exists()] == []
    named = set(re.findall(r"`([\w-]+\.(?:json|yaml))`", PAGE)) - {"job.yaml"}
    assert {name for name in named if not list((ROOT / "cluster").rglob(name))} == set()
    filled = set(re.findall(r"\$\(fill ([\w-]+)", PAGE))
    assert {name for name in filled if not (ROOT / f"cluster/iam/{name}.json").exists()} == set()


def test_every_message_of_the_page_is_one_that_we_give() -> None:
    table = section("Messages", TROUBLESHOOTING)
    messages = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
    assert len(messages) >= 10
    folders = ("schemas", "teacher_cache", "cluster", "student_train")
    source = "\n".join(path.read_text() for folder in folders for path in sorted((ROOT / folder).rglob("*.py")))
    assert [message for message in messages if message not in source] == []
