"""RAY_ADDRESS that leads nowhere is one message within seconds, and SIGTERM is obeyed meanwhile."""

from __future__ import annotations

import http.server
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from conftest import Jobs

from schemas.errors import BadInput, CacheError, CouldNotRun
from teacher_cache.io.stop import Stop
from teacher_cache.jobs.ray_address import require_ray


@pytest.fixture
def nobody() -> Iterator[int]:
    """A port that is taken, and on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.fixture
def web_server() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        server.RequestHandlerClass.log_message = lambda *_: None
        threading.Thread(target=partial(server.serve_forever, 0.05), daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.mark.parametrize(
    ("address", "kind", "expected"),
    [
        ("127.0.0.1:{nobody}", CouldNotRun, r"nothing answers at RAY_ADDRESS, 127\.0\.0\.1:\d+ \(.*refused\)\. .*`ray start`"),
        ("127.0.0.1:{web_server}", CouldNotRun, r"what listens at RAY_ADDRESS, 127\.0\.0\.1:\d+, is no Ray"),
        ("ray://127.0.0.1:10001", BadInput, r"a run is a driver of the cluster, .*`ray job submit`"),
        ("127.0.0.1", BadInput, r"RAY_ADDRESS is '127\.0\.0\.1'\. RAY_ADDRESS is HOST:PORT"),
        ("127.0.0.1:99999", CouldNotRun, "nothing answers"),
    ],
)
def test_what_is_wrong_with_an_address_is_said_at_once(
    address: str, kind: type[CacheError], expected: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    ports = {name: request.getfixturevalue(name) for name in ("nobody", "web_server") if name in address}
    monkeypatch.setenv("RAY_ADDRESS", address.format_map(ports))
    with pytest.raises(kind, match=expected):
        require_ray(Stop(), seconds=0.5)


@pytest.mark.parametrize("address", ["", "auto", "local"])
def test_what_ray_finds_by_itself_is_left_to_it(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    require_ray(Stop())


@pytest.mark.usefixtures("ray_cluster")
def test_a_head_that_is_there_answers() -> None:
    require_ray(Stop())


def test_sigterm_ends_a_run_that_waits_for_a_head(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nobody: int
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{nobody}")
    job = jobs.write(tmp_path / "store", engine={"kind": "ray"}, signals=["depth"])
    program, told = str(Path(sys.executable).parent / "teacher-cache"), tmp_path / "events"
    run = subprocess.Popen([program, "run", str(job), "--events", str(told)], stderr=subprocess.PIPE, text=True)
    while not (told.exists() and "run_started" in told.read_text()):
        assert run.poll() is None
        time.sleep(0.05)
    time.sleep(0.5)  # from here it tries to connect
    run.send_signal(signal.SIGTERM)
    _, said = run.communicate(timeout=5)
    assert run.returncode == 143
    assert "stopped by SIGTERM before Ray answered" in said
