"""`docs/guides/deploy.md`: what it tells a newcomer to do on one machine is done; every other command and job is real.

So is every message of `docs/guides/troubleshooting.md`.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from conftest import Jobs
from s3_server import RIGHTS, policy, policy_without_conditional_writes
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
    assert re.search(r"2 were done before", done.stdout)
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
    named = set(re.findall(r"`([\w-]+\.(?:json|yaml))`", PAGE)) - {"job.yaml", "zarr.json"}
    assert {name for name in named if not list((ROOT / "cluster").rglob(name))} == set()
    filled = set(re.findall(r"\$\(fill ([\w-]+)|^ *give \S+ \S+ ([\w-]+)", PAGE, re.MULTILINE))
    filled = {name for names in filled for name in names if name}
    assert filled >= {"write-once", "operator", "teacher", "writer", "reader"}
    assert {name for name in filled if not (ROOT / f"cluster/iam/{name}.json").exists()} == set()


# Says what it was asked, one argument a line, and answers nothing.
AWS = """#!/bin/bash
printf '%s\\0' "$@" >> "$0.asked"; printf '\\n\\0' >> "$0.asked"
"""


def applied(title: str, folder: Path) -> tuple[dict[str, dict[str, Any]], dict[str, str], dict[str, Any] | None]:
    """Role → its policies, by name; role → who may take it; and the bucket's policy: what a part of the page hands to `aws`."""
    aws = folder / "aws"
    aws.write_text(AWS)
    aws.chmod(0o755)
    script = "\n".join(block for block in blocks("sh", section(title)) if "fill " in block)
    path = f"{folder}:{os.environ['PATH']}"
    subprocess.run(["bash", "-eo", "pipefail", "-c", script], check=True, cwd=ROOT, env=os.environ | {"PATH": path}, timeout=60)
    roles: dict[str, dict[str, Any]] = defaultdict(dict)
    trust: dict[str, str] = {}
    of_bucket = None
    for call in Path(f"{aws}.asked").read_text().split("\n\0")[:-1]:
        words = call.split("\0")[:-1]
        options = dict(zip(words[2::2], words[3::2], strict=False))
        if words[1] == "create-role":
            trust[options["--role-name"]] = options["--assume-role-policy-document"]
        if words[1] == "put-role-policy":
            roles[options["--role-name"]][options["--policy-name"]] = json.loads(options["--policy-document"])
        if words[1] == "put-bucket-policy":
            of_bucket = json.loads(options["--policy"])
    assert not re.search(
        r"\b(ACCOUNT|REGION|CLUSTER|BUCKET|PREFIX|GROUP|OIDC_PROVIDER)\b", json.dumps([roles, trust, of_bucket])
    )
    return roles, trust, of_bucket


@pytest.mark.parametrize(
    ("title", "named"),
    [("AWS, with `ray up`", "p4d-{}"), ("Kubernetes, with KubeRay", "p4d-kubernetes-{}")],
    ids=["aws", "k8s"],
)
def test_the_steps_give_each_role_the_rights_that_are_tested_and_the_bucket_its_policy(
    title: str, named: str, tmp_path: Path
) -> None:
    roles, trust, of_bucket = applied(title, tmp_path)
    prefixes = {"store": "p4d/l4p-giant"}
    who = {"head": "writer", "teach": "teacher", "decode": "decoder"} | ({"operator": "operator"} if of_bucket else {})
    for role, identity in who.items():
        wanted = [policy(name, "my-bucket", prefixes.get(place, place)) for name, place in RIGHTS[identity]]
        given = {name: one for name, one in roles[named.format(role)].items() if name != "autoscaler"}
        assert sorted(map(json.dumps, given.values())) == sorted(json.dumps(json.loads(text)) for text in wanted), role
    assert trust.keys() == roles.keys() == {named.format(role) for role in who}
    if title.startswith("AWS"):
        assert of_bucket == json.loads(policy("write-once", "my-bucket", "p4d/l4p-giant"))
        assert {name for name in roles if "autoscaler" in roles[name]} == {"p4d-head"}
    else:
        assert all(f':p4d-{role}"' in trust[named.format(role)] for role in who), "each by its own pods' account"


def test_the_policies_for_other_servers_are_those_of_the_tests(tmp_path: Path) -> None:
    (command,) = (line for line in "\n".join(blocks("sh")).splitlines() if "grep -v s3:if-none-match" in line)
    subprocess.run(["bash", "-c", command.replace("> ", f"> {tmp_path}/")], check=True, cwd=ROOT)
    made = json.loads((tmp_path / "writer.json").read_text())
    assert made == json.loads(policy_without_conditional_writes("writer", "my-bucket", "p4d/l4p-giant"))


def test_every_message_of_the_page_is_one_that_we_give() -> None:
    table = section("Messages", TROUBLESHOOTING)
    messages = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
    assert len(messages) >= 10
    folders = ("schemas", "teacher_cache", "cluster", "student_train")
    source = "\n".join(path.read_text() for folder in folders for path in sorted((ROOT / folder).rglob("*.py")))
    assert [message for message in messages if message not in source] == []
