"""What both commands share: a version, help that tells exit statuses, completion, and one line for whatever goes wrong."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Command, Jobs, is_one_clear_error
from typer.main import get_command
from typer.testing import CliRunner

from schemas.errors import CacheError
from student_train.cli import app as student_train
from teacher_cache.cli import app as teacher_cache
from teacher_cache.io.command_line import EXIT_STATUSES

APPS = {"teacher-cache": teacher_cache, "student-train": student_train}


def named(command: Any, before: str = "") -> Iterator[str]:
    """The commands of a group, and of the groups in it: ``fit``, ``data check``."""
    for name, one in command.commands.items():
        yield from named(one, f"{before}{name} ") if hasattr(one, "commands") else (f"{before}{name}",)


COMMANDS = [(program, name) for program, app in APPS.items() for name in named(get_command(app))]


@pytest.mark.parametrize("program", APPS)
def test_the_version_is_that_of_the_installed_package(program: str, command: Command) -> None:
    done = command(program, "--version")
    assert (done.status, done.out, done.err) == (0, f"p4d-cache {importlib.metadata.version('p4d-cache')}\n", "")


@pytest.mark.parametrize(("program", "name"), COMMANDS)
def test_every_command_s_help_tells_its_exit_statuses_and_names_arguments_as_they_are(program: str, name: str) -> None:
    done = CliRunner().invoke(APPS[program], [*name.split(), "--help"], env={"COLUMNS": "80"})
    text = " ".join(done.stdout.split())
    assert done.exit_code == 0
    for status, meaning in EXIT_STATUSES.items():
        assert f"{status} {meaning}" in text
    assert "{" not in text


def test_every_error_has_a_status_that_the_help_tells() -> None:
    def kinds(base: type[CacheError]) -> set[type[CacheError]]:
        return {base}.union(*map(kinds, base.__subclasses__()))

    assert {kind.exit_status for kind in kinds(CacheError)} <= set(EXIT_STATUSES)


def test_a_shell_can_complete_commands(command: Command) -> None:
    environment = {"_TEACHER_CACHE_COMPLETE": "complete_bash", "COMP_WORDS": "teacher-cache ver", "COMP_CWORD": "1"}
    done = command("teacher-cache", **environment)
    assert done.out.split() == ["verify"]


@pytest.fixture
def broken(tmp_path: Path) -> str:
    """A folder for PYTHONPATH in which the engine ``broken`` is installed, whose `run` divides by zero."""
    folder = tmp_path / "packages"
    (folder / "broken-0.dist-info").mkdir(parents=True)
    (folder / "broken-0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 0\n")
    (folder / "broken-0.dist-info/entry_points.txt").write_text("[teacher_cache.engines]\nbroken = broken:Engine\n")
    (folder / "broken.py").write_text(
        "class Engine:\n    def run(self, spec, items, stop):\n"
        "        raise ZeroDivisionError(f'no teacher for {spec.store}?AWS_SECRET_ACCESS_KEY=hidden')\n"
    )
    return os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))


def test_a_fault_of_the_program_is_one_line_and_a_file_with_the_traceback(
    tmp_path: Path, jobs: Jobs, command: Command, broken: str
) -> None:
    job = jobs.write(tmp_path / "store", engine={"kind": "broken"})
    done = command("teacher-cache", "run", job, "--json", PYTHONPATH=broken, TMPDIR=str(tmp_path))
    is_one_clear_error(done, 4, "a fault of the program: ZeroDivisionError: no teacher for")
    assert done.json["error"]["kind"] == "ProgramFault"
    (log,) = tmp_path.glob("teacher-cache-fault-*.log")
    assert str(log) in done.err
    kept = log.read_text()
    assert "Traceback" in kept
    assert "ZeroDivisionError" in kept
    assert "hidden" not in done.err + done.out + kept


def test_a_fault_where_no_file_can_be_written_keeps_its_traceback_on_standard_error(
    tmp_path: Path, jobs: Jobs, broken: str
) -> None:
    job = jobs.write(tmp_path / "store", engine={"kind": "broken"})
    code = (
        "import resource, sys, tempfile, teacher_cache.cli as cli\n"
        f"sys.argv = ['teacher-cache', 'run', {str(job)!r}]\n"
        "tempfile.tempdir = '/nowhere'\ncli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": broken}, check=False
    )
    assert done.returncode == 4
    assert "Traceback" in done.stderr
    assert re.search(r"error: a fault of the program: ZeroDivisionError: .* above", done.stderr)


def test_a_torchvision_that_does_not_fit_is_named(tmp_path: Path, tiny_store: Path, command: Command) -> None:
    packages = tmp_path / "packages"
    (packages / "torchvision").mkdir(parents=True)
    (packages / "torchvision/__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    (packages / "torchvision-0.1.dist-info").mkdir()
    (packages / "torchvision-0.1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 0.1\n")
    config = tmp_path / "train.yaml"
    config.write_text(yaml.safe_dump({"store": str(tiny_store), "output": str(tmp_path / "run"), "steps": 1}))
    path = os.pathsep.join(filter(None, (str(packages), os.environ.get("PYTHONPATH"))))
    done = command("student-train", "fit", config, PYTHONPATH=path)
    is_one_clear_error(done, 3, "the torchvision 0.1 installed here", "torchvision::nms does not exist", "pip uninstall")


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_an_endpoint_without_a_scheme_is_named(name: str, jobs: Jobs, teacher_cache_command: Command, tmp_path: Path) -> None:
    for arguments in (
        ["status", "s3://bucket/store"],
        ["run", jobs.write("s3://bucket/store")],
        ["plan", jobs.write(tmp_path / "store", videos={"glob": "s3://bucket/*.mp4"})],
        ["view", "s3://bucket/store"],
    ):
        done = teacher_cache_command(*arguments, **{name: "127.0.0.1:8333"})
        is_one_clear_error(done, 2, f"{name} is '127.0.0.1:8333'", "http://")


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (("--deadline", "2001-01-01T00:00Z"), "the deadline, 2001-01-01 00:00:00 UTC, leaves -"),
        (("--max-hours", "0.001"), "UTC, leaves 4 s"),
    ],
)
def test_a_deadline_too_near_is_refused(
    option: tuple[str, str], said: str, jobs: Jobs, teacher_cache_command: Command, tmp_path: Path
) -> None:
    is_one_clear_error(teacher_cache_command("run", jobs.write(tmp_path / "store"), *option), 2, said, "give a later one")
    assert not (tmp_path / "store").exists()


def test_a_bucket_that_is_not_there_is_told_from_a_store_that_is_not(
    s3: str, jobs: Jobs, teacher_cache_command: Command, tmp_path: Path
) -> None:
    is_one_clear_error(teacher_cache_command("status", f"{s3}/store"), 2, "there is no store at s3://bucket/store")
    missing = "s3://no-such-bucket"
    for arguments in (
        ["status", f"{missing}/store"],
        ["verify", f"{missing}/store"],
        ["plan", jobs.write(f"{missing}/store")],
        ["plan", jobs.write(tmp_path / "store", videos={"glob": f"{missing}/*.mp4"})],
        ["plan", jobs.write(tmp_path / "store", videos={"manifest": f"{missing}/videos.jsonl"})],
    ):
        done = teacher_cache_command(*arguments)
        is_one_clear_error(done, 3, "there is no bucket 'no-such-bucket' at http://127.0.0.1")


def test_a_store_is_the_same_however_many_slashes_its_url_has(s3: str, jobs: Jobs, teacher_cache_command: Command) -> None:
    assert teacher_cache_command("run", jobs.write(f"{s3}//p4d//store/")).status == 0
    for url in (f"{s3}/p4d/store", f"{s3}//p4d/store//", f"{s3}/p4d///store"):
        assert teacher_cache_command("status", url, "--json").json["clips"]["committed"] == 4
    again = teacher_cache_command("run", jobs.write(f"{s3}/p4d/store"), "--json")
    assert again.json["done_before"] == 4


class Refusing(BaseHTTPRequestHandler):
    """An S3 server that answers everything with 400, its message escaped for XML."""

    def do_GET(self) -> None:
        message = b"the key &quot;a&amp;b&#39;s&quot; is not &lt;yet&gt; there"
        body = b"<Error><Code>InvalidArgument</Code><Message>%s</Message></Error>" % message
        self.send_response(400)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


def test_a_server_s_words_come_without_the_escapes_of_its_xml(s3: str, command: Command) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        done = command("teacher-cache", "status", f"{s3}/store", AWS_ENDPOINT_URL=f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
    is_one_clear_error(done, 3, """the key "a&b's" is not <yet> there""")
