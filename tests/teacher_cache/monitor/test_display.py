"""What people and machines see of a run: a terminal, a log, lines of JSON; and that no reader of it can harm the run."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest
from conftest import Command, Jobs, is_one_clear_error
from rich.console import Console
from terminal import HIDE_CURSOR, SHOW_CURSOR, Terminal, paced

from schemas.event import RunStarted, Stopping, TeacherLost, TeacherStarted
from schemas.export import FOLDER
from schemas.report import FailedClip, StageSeconds, UnitReport
from teacher_cache.monitor.display import _screen, duration, flowed, log_line
from teacher_cache.monitor.event_log import event_log, line
from teacher_cache.monitor.progress import RunProgress

PROGRAM = str(Path(sys.executable).parent / "teacher-cache")
SECRET = "https://user:wJalrXUt@host/v.mp4"

EVENTS = [
    RunStarted(store=f"s3://bucket/{'long/' * 20}store", fingerprint="f", clips=100, units=50, done_before=3),
    *[TeacherStarted(teacher=f"teacher-{i}", node=f"10.0.0.{i}", devices=("cuda:0",)) for i in range(2)],
    UnitReport(
        unit="u", teacher="teacher-0", committed=30, failed=2, bytes=3_000_000,
        seconds=StageSeconds(decode=9, decode_wait=1, teach=6, encode=3, put=1),
        failures=tuple(
            FailedClip(clip_id=f"a[{r}]\x1b[2J", video="v", reason=r, detail=SECRET) for r in ("not_a_video", "no_frames")
        ),
    ),
    TeacherLost(teacher="teacher-1", node="10.0.0.1", reason="its machine is gone", units=2),
    Stopping(reason="SIGTERM", grace_seconds=20),
]  # fmt: skip


@pytest.mark.parametrize("width", [40, 80])
def test_the_view_fits_its_terminal(width: int) -> None:
    progress = RunProgress(0)
    for second, event in enumerate(EVENTS):
        progress = progress.after(event, 2.0 * second)
    shown = io.StringIO()
    Console(file=shown, width=width, force_terminal=True, color_system=None).print(
        _screen(EVENTS[0].store, progress.figures(12))
    )
    lines = shown.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) <= (12 if width == 80 else 16)
    text = "\n".join(lines)
    for part in ("stopping → s3://bucket/long", "32/100 clips (32%)", "0:00:12", "3.2 clips/s", "1 teacher", "2 failed"):
        assert part in text
    # 6 s of teaching; one device from second 2 on, and another from 4 to 8
    assert f"busy {6 / (10 + 4):.0%}" in text
    assert "\x1b" not in text
    assert "wJalrXUt" not in text


def test_a_flow_breaks_between_parts_alone() -> None:
    assert flowed(["12 clips", "3 clips/s", "ETA 1:00"], 21) == ["12 clips   3 clips/s", "ETA 1:00"]
    assert flowed(["a part wider than the line", "b"], 10) == ["a part wider than the line", "b"]
    assert flowed([], 10) == []


@pytest.mark.parametrize(("seconds", "shown"), [(0, "0:00:00"), (59.9, "0:00:59"), (3661, "1:01:01"), (200_000, "2 d 7:33:20")])
def test_durations(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_nothing_done_yet_is_said_without_numbers_that_nobody_has() -> None:
    progress = RunProgress(0).after(EVENTS[0], 0)
    said = log_line(progress.figures(0))
    assert said == "0/100 clips (0%), – clips/s (– in the last minute), –/s, ETA –, 0 teachers"


# --- a program that shows a run as `teacher-cache run` does

TOLD = """
import sys, time
from pydantic import TypeAdapter
from schemas.event import Event
from teacher_cache.io.command_line import reported_errors
from teacher_cache.monitor.display import run_display

pause = float(sys.argv[1])
with reported_errors(False), run_display(log_seconds=0.3) as listen:
    for text in sys.stdin:
        listen(TypeAdapter(Event).validate_json(text))
        time.sleep(pause)
print("told all")
"""


def told(pause: float, **how) -> subprocess.CompletedProcess[str]:
    events = "".join(event.model_dump_json() + "\n" for event in EVENTS)
    command = [sys.executable, "-c", TOLD, str(pause)]
    return subprocess.run(command, input=events, stdout=subprocess.PIPE, text=True, timeout=60, check=False, **how)


def test_a_log_has_plain_lines_and_one_for_each_event_worth_it() -> None:
    done = told(0.25, stderr=subprocess.PIPE, env=os.environ | {"FORCE_COLOR": "1", "TERM": "xterm-256color"})
    assert done.stdout == "told all\n"
    *stamped, last = done.stderr.splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ \S", text) for text in stamped)
    said = [text.split(" ", 1)[1] for text in stamped]
    figures = [text for text in said if "/100 clips" in text]
    assert 2 <= len(figures) <= 6  # 0.3 s apart over 1.5 s, on a machine that may be busy
    assert [text for text in said if text not in figures] == [
        "teaching 100 clips",
        "teacher-0 started on 10.0.0.0 (cuda:0)",
        "teacher-1 started on 10.0.0.1 (cuda:0)",
        "first not_a_video: a[not_a_video]\\x1b[2J: https://***@host/v.mp4",
        "first no_frames: a[no_frames]\\x1b[2J: https://***@host/v.mp4",
        "teacher-1 on 10.0.0.1 is lost: its machine is gone; 2 units go to others",
        "stopping: SIGTERM; 20 s to commit what is in work",
    ]
    assert last.startswith("32 of 100 clips in 0:00:0")
    assert "2 failed (no_frames 1, not_a_video 1)" in last
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", done.stderr)


def test_a_reader_that_is_gone_does_not_end_the_run() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = told(0.1, stderr=writer)
    os.close(writer)
    assert (done.returncode, done.stdout) == (0, "told all\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full here")
def test_a_log_on_a_full_disk_does_not_end_the_run() -> None:
    with Path("/dev/full").open("w") as full:
        assert told(0.1, stderr=full).stdout == "told all\n"


# --- the command itself


def validated(path: Path) -> list[dict[str, object]]:
    """The lines of a file of events, each valid by the exported schema of its kind."""
    kinds = {
        schema["properties"]["event"]["const"]: jsonschema.Draft202012Validator(
            schema, format_checker=jsonschema.FormatChecker()
        )
        for schema in (json.loads(file.read_text()) for file in FOLDER.glob("*.json"))
        if "event" in schema.get("properties", {})
    }
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    for value in lines:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", value["time"])
        kinds[value["event"]].validate(value)
    return lines


@pytest.mark.alone
def test_ctrl_c_leaves_terminal_and_events_whole_and_the_next_run_goes_on_in_the_same_file(
    tmp_path: Path, jobs: Jobs, command: Command, terminals: list[Terminal]
) -> None:
    store, events = tmp_path / "store", tmp_path / "events.jsonl"
    teacher = {"family": "paced", "preset": "tiny"}
    footage = tmp_path / "footage"  # for longer than any machine takes to hear the key
    footage.mkdir()
    for i in range(12):
        shutil.copy(jobs.videos / f"scene-{i % 4}.mp4", footage / f"{i:02d}.mp4")
    source = {"videos": {"glob": f"{footage}/*.mp4"}, "layout": {"clips_per_shard": 1}}
    job = jobs.write(store, teacher=teacher, signals=["depth"], **source)
    terminal = Terminal([PROGRAM, "run", str(job), "--events", str(events), "--json"], 80, **paced(1.0))
    terminals.append(terminal)
    terminal.wait_for(r"[1-4]/12 clips \(\d+%\)")  # as many as the first records hold
    drawn = terminal.text.count("/12 clips")
    time.sleep(0.6)
    assert terminal.text.count("/12 clips") > drawn  # it is drawn anew while nothing happens
    assert HIDE_CURSOR in terminal.text
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.end() == b""
    assert terminal.process.returncode == 130
    after = terminal.text[terminal.text.rindex(HIDE_CURSOR) :]
    assert SHOW_CURSOR in after
    assert re.search(r"\d of 12 clips in 0:00:0\d, .*stopped; what was committed stays", after, re.DOTALL)

    with events.open("ab") as file:
        file.write(b'{"time":"2026-01-01T00:0')  # as a run that was killed in a write would leave it
    done = command("teacher-cache", "run", job, "--events", events, "--json", "--log-every", 0.2, **paced(0.3))
    assert done.status == 0
    assert done.json["clips"]["committed"] == 12
    assert re.search(r"Z \d+/\d+ clips \(\d+%\), ", done.err)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", done.err)

    first, rest = events.read_text().split('{"time":"2026-01-01T00:0\n')
    events.write_text(first + rest)
    lines = validated(events)
    kinds = [value["event"] for value in lines if value["event"] in {"run_started", "unit_done", "run_finished"}]
    begun = kinds.index("run_started", 1)
    again = len(kinds) - begun - 2
    assert kinds == ["run_started", *["unit_done"] * (begun - 1), "run_started", *["unit_done"] * again, "run_finished"]
    # What was written as it was stopped may be committed without a line.
    assert 1 <= sum(value["committed"] for value in lines if value["event"] == "unit_done") <= 12
    assert sum(value["done_before"] for value in lines if value["event"] == "run_started") + again == 12


def test_events_on_standard_error_are_all_that_is_there(tmp_path: Path, jobs: Jobs, command: Command) -> None:
    broken = tmp_path / "videos"
    broken.mkdir()
    (broken / "bad.mp4").write_text("no video")
    job = jobs.write(tmp_path / "store", videos={"glob": f"{broken}/*.mp4"}, signals=["depth"])
    done = command("teacher-cache", "run", job, "--events", "-", "--json")
    assert done.status == 1
    assert done.json["clips"]["failed"] == 1
    (tmp_path / "events").write_text(done.err)
    events = validated(tmp_path / "events")
    assert [value["event"] for value in events if "teacher" not in value["event"]] == [
        "run_started", "unit_done", "run_finished"
    ]  # fmt: skip


def test_events_that_cannot_be_written_are_refused_before_any_work(
    tmp_path: Path, jobs: Jobs, teacher_cache_command: Command
) -> None:
    store = tmp_path / "store"
    for path in (tmp_path, tmp_path / "none" / "events", f"s3://key:{'wJalrXUt'}@bucket/events"):
        done = teacher_cache_command("run", jobs.write(store), "--events", path)
        is_one_clear_error(done, 2, "cannot write events to", "--events takes a local file")
        assert "wJalrXUt" not in done.err
    assert not store.exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full here")
def test_a_full_disk_is_reported_once(capsys: pytest.CaptureFixture[str]) -> None:
    with event_log("/dev/full") as listen:
        for event in EVENTS:
            listen(event)
    said = capsys.readouterr().err
    assert said.count("cannot write events to /dev/full: No space left on device; the run goes on") == 1


def test_what_does_not_fit_ends_no_later_line(tmp_path: Path) -> None:
    """A limit on the file's size cuts a line short, as a full disk does; with room again, the next line is whole."""
    path = tmp_path / "events"
    write = (
        "import resource, signal, sys\nfrom pydantic import TypeAdapter\nfrom schemas.event import Event\n"
        "from teacher_cache.monitor.event_log import event_log\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)\n"
        "events = [TypeAdapter(Event).validate_json(text) for text in sys.stdin]\n"
        f"with event_log({str(path)!r}) as listen:\n"
        "    for place, event in enumerate(events):\n"
        "        resource.setrlimit(resource.RLIMIT_FSIZE, (hard if place in (0, 5) else 400, hard))\n"
        "        listen(event)\n"
    )
    sent = "".join(event.model_dump_json() + "\n" for event in EVENTS)
    done = subprocess.run([sys.executable, "-c", write], input=sent, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.count("cannot write events") == 1
    lines = path.read_text().splitlines()
    assert json.loads(lines[0])["event"] == "run_started"
    assert json.loads(lines[-1])["event"] == "stopping"


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.event)
def test_no_line_holds_a_credential(event) -> None:
    fields = {"store": SECRET, "reason": f"lost {SECRET}"}
    secret = event.model_copy(update={name: value for name, value in fields.items() if name in type(event).model_fields})
    text = line(secret)
    assert b"wJalrXUt" not in text
    assert text.count(b"\n") == 1
    json.loads(text)
