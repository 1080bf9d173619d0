"""A store watched from outside while others write to it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from conftest import Jobs
from log_files import record_paths
from s3_proxy import proxy
from s3fs import S3FileSystem
from terminal import HIDE_CURSOR, SHOW_CURSOR, Terminal, paced

from schemas.report import ClipCounts, StatusReport
from teacher_cache.monitor.follow import StoreFollower
from teacher_cache.monitor.progress import StoreCounts, store_figures
from teacher_cache.store.store import open_store, status

PROGRAM = str(Path(sys.executable).parent / "teacher-cache")


def test_one_watches_to_the_end_and_another_until_ctrl_c(tmp_path: Path, jobs: Jobs, terminals: list[Terminal]) -> None:
    store = tmp_path / "store"
    (tmp_path / "videos").mkdir()
    for path in jobs.videos.iterdir():
        shutil.copy(path, tmp_path / "videos")
    (tmp_path / "videos" / "scene-9.mp4").write_text("no video")
    job = jobs.write(
        store, videos={"glob": f"{tmp_path}/videos/*.mp4"}, teacher={"family": "paced", "preset": "tiny"},
        layout={"clips_per_shard": 1}, signals=["depth", "flow"],
    )  # fmt: skip
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([PROGRAM, "run", str(job)], env=os.environ | paced(1.5), **quiet) as run:
        while not (store / "log" / f"{1:020d}.json").exists():
            assert run.poll() is None
            time.sleep(0.01)
        watch = [PROGRAM, "status", str(store), "--watch", "--every", "0.2"]
        terminal = Terminal([*watch], columns=40)
        terminals.append(terminal)
        with subprocess.Popen([*watch, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as logged:
            terminal.wait_for(r"/5 clips")
            terminal.wait_for(r"[2-4]/5 clips[^/]* clips/s")
            terminal.process.send_signal(signal.SIGINT)
            out = terminal.end()
            text, said = logged.communicate(timeout=60)
        assert run.wait(60) == 1
    # Whoever stops watching is told what there is.
    assert b"5 planned: " in out
    assert terminal.process.returncode in {0, 1}
    assert "stopped" not in terminal.text
    assert SHOW_CURSOR in terminal.text[terminal.text.rindex(HIDE_CURSOR) :]

    assert logged.returncode == 1
    report = StatusReport.model_validate_json(text)
    assert report.clips == ClipCounts(planned=5, committed=4, failed=1, pending=0)
    counts = [int(count) for count in re.findall(r"Z (\d+)/5 clips", said)]
    assert counts == sorted(counts)
    assert counts[-1] == 5
    assert len(counts) > 3
    assert said.splitlines()[-1].endswith("ETA 0:00:00, 1 failed (not_a_video 1)")
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", said)


def test_a_look_finds_what_status_finds(tiny_store: Path) -> None:
    found, report = StoreFollower(open_store(str(tiny_store))).look(), status(open_store(str(tiny_store)))
    assert found.clips == report.clips
    assert found.bytes >= sum(report.bytes.values()) > 0


def test_a_store_that_does_not_answer_for_a_while_is_looked_at_again(s3: str, tiny_store: Path, tmp_path: Path) -> None:
    """The way to the server is cut and mended; meanwhile somebody commits what was left."""
    last = record_paths(tiny_store)[-1]
    bucket = S3FileSystem()
    bucket.put(str(tiny_store), f"{s3}/store", recursive=True)
    bucket.rm(f"{s3}/store/log/{last.name}")
    log = tmp_path / "log"

    def wait_for(text: str) -> None:
        deadline = time.monotonic() + 120
        while text not in log.read_text():
            assert time.monotonic() < deadline, log.read_text()
            assert watching.poll() is None, log.read_text()
            time.sleep(0.05)

    server = os.environ["AWS_ENDPOINT_URL"]
    with proxy(server) as way, log.open("w") as written:
        watching = subprocess.Popen(
            [PROGRAM, "status", f"{s3}/store", "--watch", "--every", "0.1"],
            env=os.environ | {"AWS_ENDPOINT_URL": way.endpoint, "P4D_PATIENCE_SECONDS": "1"},
            stdout=subprocess.PIPE, stderr=written, text=True,
        )  # fmt: skip
        wait_for("2/4 clips")
    wait_for("cannot look now, and will try again: ")
    with proxy(server, port=int(way.endpoint.rpartition(":")[2])):
        bucket.put(str(last), f"{s3}/store/log/{last.name}")
        out, _ = watching.communicate(timeout=60)
    assert watching.returncode == 0, log.read_text()
    assert "4 planned: 4 committed" in out
    assert "Z 4/4 clips (100%), " in log.read_text().splitlines()[-1]


def test_watching_ends_when_nobody_reads_it(tiny_store: Path, tmp_path: Path) -> None:
    """As in ``status --watch 2>&1 | head``, on a store that will never be done."""
    store = shutil.copytree(tiny_store, tmp_path / "store")
    record_paths(store)[-1].unlink()
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [PROGRAM, "status", str(store), "--watch", "--every", "0.1", "--json"],
        stdout=subprocess.PIPE, stderr=writer, timeout=60, check=False,
    )  # fmt: skip
    os.close(writer)
    assert done.returncode == 0
    assert StatusReport.model_validate_json(done.stdout).clips.pending == 2


def test_rates_are_those_since_the_watching_began() -> None:
    def counts(committed: int, failed: int, size: int) -> StoreCounts:
        planned = ClipCounts(planned=100, committed=committed, failed=failed, pending=100 - committed - failed)
        return StoreCounts(planned, size, {"a": 1, "b": failed - 1} if failed else {})

    first = counts(40, 0, 1000)
    assert store_figures(first, first, 0).clips_per_second is None
    assert store_figures(first, first, 0).eta_seconds is None
    figures = store_figures(first, counts(55, 5, 3000), 10)
    assert (figures.done, figures.failed, figures.clips_per_second, figures.bytes_per_second) == (60, 5, 2, 200)
    assert figures.eta_seconds == 20
    assert list(figures.failures) == ["b", "a"]
    # Clips that failed and are tried again are pending again.
    again = store_figures(first, counts(30, 0, 1000), 10)
    assert (again.clips_per_second, again.eta_seconds) == (0, None)
    assert store_figures(first, counts(100, 0, 9000), 10).eta_seconds == 0
