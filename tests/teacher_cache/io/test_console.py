"""Text of any origin through the two consoles and standard error: shown as what it says, obeyed by no terminal."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.ansi import AnsiDecoder
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from schemas.report import ErrorMessage, ErrorReport
from teacher_cache.io.console import SafeConsole, print_json, printable, styled

ROOT = Path(__file__).resolve().parents[3]
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
HOSTILE = "\x1b]0;x\x07[red]a[/]:boom:\u202e\x9b\nb\r\udc80"
SHOWN = r"\x1b]0;x\x07[red]a[/]:boom:\u202e\x9b\nb\r\udc80"


def table(text: str) -> Table:
    made = Table(text, title=text, caption=text)
    made.add_row(text)
    return made


@pytest.mark.parametrize(
    "renderable",
    [str, styled, lambda text: styled((text, "red")), table, Tree, lambda text: Panel(text, title=Text(printable(text)))],
)
def test_whatever_is_printed_is_shown_as_it_is_written(renderable: Callable[[str], object]) -> None:
    file = io.StringIO()
    SafeConsole(file).print(renderable(HOSTILE), width=200)
    assert SHOWN in file.getvalue()
    assert not OBEYED.search(file.getvalue())


@given(st.text() | st.text("\x1b]8;\\[m\x07\x9b/a:", min_size=4))
def test_no_text_of_another_program_is_obeyed_even_as_rich_decodes_it(text: str) -> None:
    """During a live view, rich takes what libraries write to standard error for ANSI text, links included."""
    file = io.StringIO()
    console = SafeConsole(file)
    for line in AnsiDecoder().decode(f"\x1b]8;;http://a/{text}\x1b\\link\x1b]8;;\x1b\\ {text}"):
        console.print(line)
    console.print(Text(text), text, [text])
    assert not OBEYED.search(file.getvalue())


@given(st.text())
def test_json_is_exact_and_safe_to_look_at(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", io.StringIO())
        print_json(ErrorReport(error=ErrorMessage(kind="BadInput", message=text + HOSTILE)))
        written = sys.stdout.getvalue()
    assert json.loads(written)["error"]["message"] == text + HOSTILE
    assert not OBEYED.search(written)


SAYING = f"""
import logging, sys, warnings
from teacher_cache.io.command_line import Command, command_line, run_command

app = command_line("x", "y")

@app.command(cls=Command)
def go() -> None:
    warnings.warn({HOSTILE!r})
    logging.getLogger("lib").warning({HOSTILE!r})
    print({HOSTILE!r}, file=sys.stderr)
    raise ValueError({HOSTILE!r})

sys.argv = ["x", "go"]
run_command(app)
"""


def test_what_libraries_write_is_escaped(tmp_path: Path) -> None:
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", SAYING], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 4
    assert done.stderr.count(r"\x1b]0;x\x07[red]a[/]:boom:\u202e\x9b") == 4, done.stderr
    assert not OBEYED.search(done.stderr)
    (log,) = tmp_path.glob("*-fault-*.log")
    assert not OBEYED.search(log.read_text())


def test_nothing_else_writes_to_a_terminal() -> None:
    """What is printed elsewhere would not be escaped. ruff refuses `print`."""
    ways = re.compile(r"\bConsole\(|from_markup|from_ansi|sys\.__?std|\bstd(?:out|err)\.write\(|click\.s?echo|typer\.s?echo")
    allowed = {
        "teacher_cache/io/console.py",
        "teacher_cache/io/command_line.py",  # a version, and text that it escapes itself
    }
    for package in ("schemas", "teacher_cache", "cluster", "student_train"):
        for path in (ROOT / package).rglob("*.py"):
            if str(path.relative_to(ROOT)) not in allowed:
                assert not ways.search(path.read_text()), path
