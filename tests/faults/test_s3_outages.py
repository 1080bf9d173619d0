"""S3 answers 5xx, hangs, resets, cuts answers short or goes away: nothing is lost, and what stays wrong is told at once."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import s3_server
from conftest import Jobs, tree
from log_files import contents
from s3_proxy import S3Proxy, Trouble, changeable, each_once, proxy
from s3fs import S3FileSystem
from terminal import paced

from schemas.errors import Unreachable
from schemas.event import Event
from schemas.job import Job
from schemas.log import RowsAdded, RowsRetired, StoreCreated, TableFile, UnitCommitted
from schemas.report import UnitReport
from teacher_cache import open_cache
from teacher_cache.io import patience
from teacher_cache.io.patience import PATIENCE_VARIABLE, expect
from teacher_cache.io.remote import filesystem, reach
from teacher_cache.jobs.run import run_job
from teacher_cache.store.log import Log
from teacher_cache.store.objects import Objects
from teacher_cache.store.store import open_store, status
from teacher_cache.store.verify import verify

SMALL = {"signals": ["camray", "motion"], "layout": {"clips_per_shard": 1}}


@pytest.fixture
def between(s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Proxy]:
    """A proxy before the S3 server; this process, and those that it starts, go through it."""
    assert s3
    with proxy(os.environ["AWS_ENDPOINT_URL"]) as made:
        monkeypatch.setenv("AWS_ENDPOINT_URL", made.endpoint)
        monkeypatch.setenv("P4D_S3_READ_SECONDS", "1")  # what hangs, hangs for a second
        monkeypatch.setattr(S3FileSystem, "_cache", {})  # an open connection keeps the endpoint it began with
        yield made


@pytest.fixture
def remote(s3: str, jobs: Jobs, between: S3Proxy, tmp_path: Path) -> tuple[Job, dict[str, Any]]:
    """A job over videos on S3, and its store as an undisturbed run leaves it."""
    fs = S3FileSystem(use_listings_cache=False)
    for path in sorted(jobs.videos.glob("*.mp4")):
        fs.put_file(str(path), f"{s3}/raw/{path.name}")
    between.requests.clear()
    job = Job.model_validate(jobs.value(f"{s3}/store", videos={"glob": f"{s3}/raw/*.mp4"}, **SMALL))
    undisturbed = tmp_path / "undisturbed"
    run_job(job.model_copy(update={"store": str(undisturbed)}))
    return job, contents(tree(undisturbed))


def _stored(job: Job) -> dict[str, Any]:
    objects = Objects(job.store)
    return contents(objects.get_many(list(objects.listing())))


def test_a_run_and_a_reader_amid_all_kinds_of_trouble(remote: tuple[Job, dict[str, Any]], between: S3Proxy) -> None:
    """Four times the share that is promised, so that a short run meets every kind."""
    job, undisturbed = remote
    between.weather = changeable(0.2, seed=1)
    report = run_job(job)
    assert report.clips.committed == 4
    assert report.clips.failed == 0
    met = Counter(trouble for trouble, _ in between.troubles)
    assert set(met) == set(get_args(Trouble)), met
    assert {line.split()[0] for _, line in between.troubles} >= {"GET", "PUT"}
    assert any("/bucket/raw/" in line for _, line in between.troubles)  # videos too
    assert _stored(job) == undisturbed
    before = len(between.troubles)
    cache = open_cache(job.store)
    for _ in range(3):
        read = cache.read(["camray", "motion"], cache.committed_ids())
    assert len(between.troubles) > before
    between.weather = lambda _: None
    for signal, values in open_cache(job.store).read(["camray", "motion"], cache.committed_ids()).items():
        for one, other in zip(values, read[signal], strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("trouble", ["lost", "500"])
def test_a_create_that_is_sent_twice_is_reported_once(
    remote: tuple[Job, dict[str, Any]], between: S3Proxy, trouble: Trouble
) -> None:
    """Of every object: where the answer was lost, the second request finds the first one's object."""
    job, undisturbed = remote
    between.weather = each_once(trouble)
    events: list[Event] = []
    run_job(job, listen=events.append)
    units = [event for event in events if isinstance(event, UnitReport)]
    assert [(unit.committed, unit.already_done) for unit in units] == [(1, False)] * 4
    assert _stored(job) == undisturbed
    lost = {line.split()[1].partition("?")[0].removeprefix("/bucket/store/") for _, line in between.troubles}
    assert lost >= undisturbed.keys() - {"log"}  # shards, tables, arrays' metadata, heads
    assert {f"log/{number:020d}.json" for number in range(4)} <= lost
    retired = RowsRetired(rows=(0,), found={})
    store = open_store(job.store)
    assert store.log.append(lambda state: [] if state.retired else [retired], "test")
    assert open_store(job.store).version == store.version
    assert verify(job.store).findings == ()
    assert run_job(job).clips.committed == 4


@pytest.mark.parametrize("length", [100_000, 20_000_000])
def test_a_body_cut_short_is_never_taken_for_whole(
    s3: str, between: S3Proxy, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By each client: s3fs in one piece, obstore in one or in many."""
    monkeypatch.setenv("P4D_S3_READ_SECONDS", "30")  # a busy machine takes longer than a second to write the longer one
    data = np.random.default_rng(0).bytes(length)
    objects = Objects(f"{s3}/store")
    assert objects.create("a", data)
    for read in (
        lambda: objects.get("a"),
        lambda: objects.get_many(["a"])["a"],
        lambda: bytes(objects.get_range("a", 0, length) or b""),
    ):
        between.weather = each_once("cut", (b"GET ",))
        between.troubles.clear()
        assert read() == data
        assert [trouble for trouble, _ in between.troubles] == ["cut"]


def test_what_stays_wrong_is_asked_once(s3: str, between: S3Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = Objects(f"{s3}/store")
    objects.create("a", b"1")
    for ask, requests in (
        (lambda: objects.create("a", b"2"), 1),
        (lambda: objects.get("b"), 1),
        (lambda: objects.get_range("b", 0, 1), 1),
    ):
        between.requests.clear()
        assert not ask()
        assert len(between.requests) == requests, between.requests
    between.requests.clear()
    with contextlib.suppress(Unreachable):  # where the server says that the bucket is not there
        assert Objects("s3://no-such-bucket/store").get("a") is None
    assert len(between.requests) == 1, between.requests
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    monkeypatch.setattr(S3FileSystem, "_cache", {})
    between.requests.clear()
    with pytest.raises(Unreachable, match="was refused"):
        Objects(f"{s3}/store").create("c", b"1")
    assert len(between.requests) == 1


NOTHING = f"sha256:{'0' * 64}"


def test_what_a_commit_asks_of_the_server(s3: str, between: S3Proxy) -> None:
    """One request, however many units. No listing: those cost what creations do."""
    log = Log(Objects(f"{s3}/store"), clips_per_shard=1)
    file = TableFile(key="log/rows-0", digest=NOTHING, length=10_000, footer_length=8, footer_digest=NOTHING)
    log.append(lambda _: [StoreCreated(fingerprint="f"), RowsAdded(first_row=0, rows=100, table=file)], "test")
    between.requests.clear()
    units = [UnitCommitted(shard=shard, parts=("clock",), rows=1) for shard in range(100)]
    assert log.append(lambda _: units, "test")
    assert between.requests == [f"PUT /bucket/store/log/{1:020d}.json"]


def test_a_long_operation_among_short_silences_goes_on(s3: str, between: S3Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of its requests is refused for a quarter of the patience, and all of them for longer than all of it."""
    names, silence = [f"bucket/{number}" for number in range(6)], 0.4
    monkeypatch.setenv("P4D_S3_READ_SECONDS", "30")
    fs, _ = filesystem(s3)
    for name in names:
        fs.pipe_file(name, name.encode())
    monkeypatch.setenv(PATIENCE_VARIABLE, "1.6")
    first: dict[bytes, float] = {}

    def weather(request: bytes) -> Trouble | None:
        return "503" if time.monotonic() - first.setdefault(request, time.monotonic()) < silence else None

    between.weather = weather
    began = time.monotonic()
    assert reach(s3, lambda: [fs.cat_file(name) for name in names]) == [name.encode() for name in names]
    assert time.monotonic() - began > 1.6
    assert len(between.troubles) >= 2 * len(names)


@pytest.mark.alone
def test_patience_is_short_with_an_address_that_nobody_is_known_to_answer_at(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(S3FileSystem, "_cache", {})
    assert _seconds_until_unreachable(f"{s3}/store") < 8
    monkeypatch.setenv(PATIENCE_VARIABLE, "5")
    monkeypatch.setattr(patience, "_answering", set())  # other tests of this process ask at that address too
    expect(f"{s3}/store")  # as a worker does, that was sent by one that reached it
    assert 5 < _seconds_until_unreachable(f"{s3}/store") < 20


def _seconds_until_unreachable(store: str) -> float:
    start = time.monotonic()
    with pytest.raises(Unreachable, match=r"cannot reach .*127\.0\.0\.1:9"):
        Objects(store).get("a")
    return time.monotonic() - start


def test_a_video_that_cannot_be_fetched_stops_the_run_and_fails_no_clip(
    remote: tuple[Job, dict[str, Any]], between: S3Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, undisturbed = remote
    fetches = Counter[bytes]()

    def away(line: bytes) -> Trouble | None:
        fetches[line] += line.startswith(b"GET /bucket/raw/")
        return "503" if fetches[line] and fetches.total() > 2 else None  # from the third fetch on the server is away

    between.weather = away
    monkeypatch.setenv(PATIENCE_VARIABLE, "3")  # in which the two that were fetched are taught and committed
    with pytest.raises(Unreachable, match="cannot use s3://bucket/raw/scene-"):
        run_job(job)
    found = status(open_store(job.store))
    assert (found.clips.committed, found.clips.failed) == (2, 0)
    between.weather = lambda _: None
    assert run_job(job).clips.committed == 4
    assert _stored(job) == undisturbed


def test_a_slow_fetch_is_not_a_slow_decoder(
    remote: tuple[Job, dict[str, Any]], between: S3Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The decoder's time does not run while a video's server is silent."""
    job, undisturbed = remote
    monkeypatch.setenv("P4D_S3_READ_SECONDS", "10")
    monkeypatch.setattr(S3FileSystem, "_cache", {})
    asked = Counter[bytes]()

    def silent_once(line: bytes) -> Trouble | None:
        asked[line] += 1
        return "hang" if line == b"GET /bucket/raw/scene-1.mp4" and asked[line] == 1 else None

    between.weather = silent_once
    in_time = job.model_copy(update={"engine": job.engine.model_copy(update={"decode_timeout_seconds": 9})})
    assert run_job(in_time).clips.failed == 0
    assert [trouble for trouble, _ in between.troubles] == ["hang"]
    assert _stored(job) == undisturbed


def test_a_server_stopped_in_the_middle_of_a_run_and_started_again(
    tmp_path: Path, jobs: Jobs, monkeypatch: pytest.MonkeyPatch, single_clips_store: Path
) -> None:
    server = s3_server.start(tmp_path / "s3", _weed())
    try:
        server.filesystem.mkdir("bucket")
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(S3FileSystem, "_cache", {})
        teacher = {"family": "paced", "preset": "tiny"}  # the tiny one, slower
        job = jobs.write("s3://bucket/store", layout={"clips_per_shard": 1}, teacher=teacher)
        program = str(Path(sys.executable).parent / "teacher-cache")
        process = subprocess.Popen([program, "run", str(job)], stdout=subprocess.DEVNULL, env=os.environ | paced(3))
        _wait_for(lambda: _committed("s3://bucket/store") > 0)
        s3_server.stop(server)
        time.sleep(2)
        assert process.poll() is None
        server = s3_server.start_again(server)
        assert process.wait(60) == 0
        assert verify("s3://bucket/store").findings == ()
        objects = Objects("s3://bucket/store")
        shards = {key: data for key, data in tree(single_clips_store).items() if "/c/" in key}
        assert objects.get_many([key for key in objects.listing() if "/c/" in key]) == shards
    finally:
        s3_server.stop(server)


def _weed() -> str:
    weed = Path(sys.executable).parent / "weed"
    return str(weed) if weed.is_file() else "weed"


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _committed(store: str) -> int:
    found = Objects(store).get_many(list(Objects(store).listing("log/0")))
    return sum(data.count(b'"unit_committed"') for data in found.values())
