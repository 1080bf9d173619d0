"""P4D_WEBHOOK is told how a run ended, however it did, and nothing of it changes the run or shows the URL."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Command, Jobs, is_one_clear_error
from webhook_server import Server, webhook_server

from schemas.errors import CouldNotRun, OutOfTime
from teacher_cache.monitor import webhook

SECRET = "T0KEN-of-the-chat"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with webhook_server() as started:
        monkeypatch.setenv("P4D_WEBHOOK", f"{started.url}/{SECRET}")
        monkeypatch.setattr(webhook.time, "sleep", lambda _: None)
        yield started


def test_it_is_told_how_a_run_ended(jobs: Jobs, tmp_path: Path, server: Server, teacher_cache_command: Command) -> None:
    (tmp_path / "bad.mp4").write_text("no video")
    videos = {"glob": [f"{jobs.videos}/*.mp4", f"{tmp_path}/bad.mp4"]}
    job = jobs.write(tmp_path / "store", signals=["camray"], videos=videos)
    server.answers = [503]
    done = teacher_cache_command("run", job, "--set", "engine.ok_failed_share=0.5")
    assert (done.status, "webhook" in done.err) == (0, False)
    told = server.told[1]  # asked again after the 503
    assert server.told == [told, told]
    assert (told["status"], told["committed"], told["failed"], told["ok"]) == ("finished", 4, 1, True)
    assert told["failures"] == {"not_a_video": 1}
    assert told["text"].endswith("s: 4 clips committed, 1 failed")

    is_one_clear_error(teacher_cache_command("run", job, "--set", "clips.frames=8"), 2, "clips.frames is 8")
    assert (server.told[-1]["status"], "clips.frames is 8" in server.told[-1]["message"]) == ("failed", True)


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (OutOfTime("stopped by its deadline"), "stopped", "stopped by its deadline"),
        (KeyboardInterrupt(), "stopped", "KeyboardInterrupt"),
        (CouldNotRun("no server at https://key:secret@host"), "failed", "no server at https://***@host"),
        (ValueError("of the program, with who knows what in it"), "failed", "ValueError"),
    ],
)
def test_whatever_ends_a_run_is_told(server: Server, error: BaseException, status: str, message: str) -> None:
    with pytest.raises(type(error)), webhook.webhook("s3://bucket/store"):
        raise error
    (told,) = server.told
    assert (told["status"], told["message"]) == (status, message)
    assert told["text"] == f"s3://bucket/store: the run {status} after 0 s: {message}"


@pytest.mark.parametrize(
    ("answers", "tries", "said"), [([500] * 9, 3, "answered with status 500"), ([307], 1, "answered with status 307")]
)
def test_a_webhook_that_fails_is_a_line_and_no_more(
    server: Server, capsys: pytest.CaptureFixture[str], answers: list[int], tries: int, said: str
) -> None:
    server.answers = answers
    with webhook.webhook("s3://bucket/store"):
        pass
    assert len(server.told) == tries
    shown = capsys.readouterr().err
    assert f"was not told how the run ended: it {said}" in shown
    assert SECRET not in shown


def test_it_is_asked_of_nobody_who_could_be_overheard(
    monkeypatch: pytest.MonkeyPatch, jobs: Jobs, tmp_path: Path, teacher_cache_command: Command
) -> None:
    job = jobs.write(tmp_path / "store")
    wrong = (
        f"http://chat.example/{SECRET}",
        f"file:///{SECRET}",
        SECRET,
        f"https://chat.example/ö{SECRET}",
        f"http://[::1/{SECRET}",
    )
    for url in (*wrong, f"https://chat.example:x/{SECRET}", f"https://chat.example/ {SECRET}"):
        monkeypatch.setenv("P4D_WEBHOOK", url)
        refused = teacher_cache_command("run", job)
        is_one_clear_error(refused, 2, "P4D_WEBHOOK holds no https:// URL")
        assert SECRET not in refused.out + refused.err
    assert not (tmp_path / "store").exists()


def test_a_server_that_never_ends_its_answer_does_not_keep_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A byte each moment, so that no single wait is too long."""
    monkeypatch.setattr(webhook, "_SECONDS", 1)
    done = threading.Event()

    def drip(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            while not done.wait(0.05):
                connection.sendall(b"H")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        dripping = threading.Thread(target=drip, args=(listener,))
        dripping.start()
        monkeypatch.setenv("P4D_WEBHOOK", f"http://127.0.0.1:{listener.getsockname()[1]}/{SECRET}")
        begun = time.monotonic()
        with webhook.webhook("s3://bucket/store"):
            pass
        assert time.monotonic() - begun < 5
        done.set()
        dripping.join()
    assert "was not told how the run ended: it did not answer within 1 s" in capsys.readouterr().err
