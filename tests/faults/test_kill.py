"""A run killed with SIGKILL at any step, and started again, ends as if nothing had happened."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args

import numpy as np
import pytest
from conftest import FAULTS, Command, Jobs, tree
from hypothesis import given, settings
from hypothesis import strategies as st
from log_files import contents
from s3_proxy import Fault, S3Proxy, proxy
from writer import Outcome, Stop, Writers, writers

from schemas.errors import StoreNotFound
from schemas.job import Job
from teacher_cache import open_cache
from teacher_cache.reader.cache import Values
from teacher_cache.store.garbage import collect_garbage
from teacher_cache.store.objects import Objects
from teacher_cache.store.verify import verify


@dataclass(frozen=True, repr=False)
class Task:
    """A job, the store it is run over, and how that ends undisturbed."""

    workers: Writers
    job: Job
    records_per_checkpoint: int
    before: Path | None
    """The store as the job finds it; None where there is none."""
    undisturbed: Path
    steps: tuple[str, ...] = ()
    """Every change to the store's folder that an undisturbed run makes, as `Outcome` has them."""

    @cached_property
    def end(self) -> dict[str, Any]:
        """Every object of the undisturbed store, and what its log says."""
        return contents(tree(self.undisturbed))

    @cached_property
    def values(self) -> dict[tuple[str, str], Values]:
        """What a reader finds there: (signal, clip id) → values."""
        cache = open_cache(str(self.undisturbed))
        names, ids = [*cache.signals, "timestamps"], cache.committed_ids()
        return {
            (name, i): value for name, values in cache.read(names, ids).items() for i, value in zip(ids, values, strict=True)
        }

    @contextmanager
    def begun(self) -> Iterator[Job]:
        """The job over a store of its own, as an undisturbed run would find it."""
        with TemporaryDirectory(dir=self.undisturbed.parent) as folder:
            store = Path(folder) / "store"
            if self.before is not None:
                shutil.copytree(self.before, store, copy_function=os.link)  # no object is ever written in place
            yield self.job.model_copy(update={"store": str(store)})

    def start(self, job: Job, stop: Stop | None = None) -> int:
        return self.workers.start(job, self.records_per_checkpoint, stop)

    def run(self, job: Job, stop: Stop | None = None) -> Outcome:
        return self.workers.wait(self.start(job, stop))

    def rehearsed(self) -> Task:
        """The task once it has been run undisturbed; its forked runs end with the same bytes."""
        if self.before is not None:
            shutil.copytree(self.before, self.undisturbed)
        self.workers.rehearse(self.job.model_copy(update={"store": str(self.undisturbed)}), self.records_per_checkpoint)
        with self.begun() as job:
            outcome = self.run(job)
            assert outcome.status == "done", outcome.error
            _ends_as_undisturbed(job, self)
        assert verify(str(self.undisturbed)).findings == ()
        assert len(outcome.steps) > 50
        return replace(self, steps=outcome.steps)


@pytest.fixture(scope="module")
def workers() -> Iterator[Writers]:
    with writers() as started:
        yield started


@pytest.fixture(scope="module")
def begin(workers: Writers, folder: Path, two_jobs: tuple[Job, Job]) -> Task:
    """A first run, with a checkpoint in the end."""
    return Task(workers, two_jobs[0], 100, None, folder / "begin").rehearsed()


@pytest.fixture(scope="module")
def grow(workers: Writers, folder: Path, two_jobs: tuple[Job, Job], begin: Task) -> Task:
    return Task(workers, two_jobs[1], 100, begin.undisturbed, folder / "grow").rehearsed()


@pytest.fixture(scope="module")
def checkpoints(workers: Writers, folder: Path, two_jobs: tuple[Job, Job], begin: Task) -> Task:
    """A run that makes a checkpoint after each two records."""
    return Task(workers, two_jobs[1], 2, begin.undisturbed, folder / "checkpoints").rehearsed()


@pytest.fixture(params=["begin", "grow"])
def task(request: pytest.FixtureRequest) -> Task:
    found: Task = request.getfixturevalue(request.param)
    return found


def _differing(job: Job, task: Task) -> set[str]:
    """Objects of the undisturbed store that are gone or other, and anything that is there besides; also what the log says."""
    found = contents(tree(Path(job.store)))
    return {key for key in found.keys() | task.end.keys() if found.get(key) != task.end.get(key)}


def _ends_as_undisturbed(job: Job, task: Task) -> None:
    """Nothing lost, nothing twice, nothing changed; and what is left over is what `gc` says, and gone after it."""
    left_over = _differing(job, task)
    assert left_over.isdisjoint(task.end)
    removed = collect_garbage(job.store).removed
    assert set(removed) == left_over
    assert _differing(job, task) == set()


def _reads_right(job: Job, task: Task) -> None:
    """What a reader finds in the middle of a run, or after one was killed, is what it finds in the end."""
    try:
        cache = open_cache(job.store)
    except StoreNotFound:
        return
    ids = cache.committed_ids() if cache.signals else []
    for name, values in cache.read([*cache.signals, "timestamps"], ids).items() if ids else ():
        for clip_id, value in zip(ids, values, strict=True):
            np.testing.assert_array_equal(value, task.values[name, clip_id])


# Which of a task's steps it is killed at: some of every kind, or all.
some_or_all = pytest.mark.parametrize("stride", [9, pytest.param(1, marks=pytest.mark.complete)], ids=["some", "all"])


def sampled(steps: Iterable[tuple[int, str]], stride: int) -> list[tuple[int, str]]:
    """(number, change) of every ``stride``-th step of each kind, beginning elsewhere in each, so of every kind one at least."""
    kinds: dict[str, list[tuple[int, str]]] = {}
    for number, name in steps:
        kinds.setdefault(_kind(name), []).append((number, name))
    return sorted(step for place, of in enumerate(kinds.values()) for step in of[place % min(stride, len(of)) :: stride])


def _kind(change: str) -> str:
    """What is done, and where an object comes to be there, which one."""
    event, _, path = change.partition(" ")
    is_new = event in {"os.link", "os.rename"}
    return f"{event} {re.sub(r'[0-9a-f]{16}|[0-9]+', '#', path.rpartition('/')[2])}" if is_new else event


def test_a_sample_has_every_kind_of_step_and_all_is_all() -> None:
    changes = ["open a/.0.tmp", "os.link a/0", "open a/.1.tmp", "os.link a/1", "open b/zarr.json.tmp", "os.link b/zarr.json"]
    steps = list(enumerate(changes, 1))
    assert sampled(steps, 1) == steps
    assert sampled(steps, 2) == [steps[0], steps[3], steps[4], steps[5]]


@some_or_all
def test_killed_at_every_step(task: Task, stride: int) -> None:
    """Just before each one, and in the middle of every file that one writes."""
    for step, name in sampled(enumerate(task.steps, 1), stride):
        _is_killed(task, step, "kill")
        if name.startswith("open "):
            _is_killed(task, step, "tear")


@some_or_all
def test_killed_at_every_step_in_which_the_log_changes(checkpoints: Task, stride: int) -> None:
    log = [(step, name) for step, name in enumerate(checkpoints.steps, 1) if " log" in name]
    for step, _ in sampled(log, stride):
        _is_killed(checkpoints, step, "kill")


def _is_killed(task: Task, step: int, how: Literal["kill", "tear"]) -> None:
    with task.begun() as job:
        outcome = task.run(job, Stop(step, how))
        assert outcome.status == "killed" or _had_no_such_step(outcome, step, how), (task.steps[step - 1], outcome)
        _reads_right(job, task)
        assert task.run(job).status == "done", task.steps[step - 1]
        _ends_as_undisturbed(job, task)


def _had_no_such_step(outcome: Outcome, step: int, how: Literal["kill", "tear"]) -> bool:
    """Whether a run came to its end because threads that raced for a folder took other steps than in rehearsal."""
    if outcome.status != "done":
        return False
    return len(outcome.steps) < step or (how == "tear" and not outcome.steps[step - 1].startswith("open "))


@some_or_all
def test_a_run_believed_dead_that_finishes_late_changes_nothing(task: Task, stride: int) -> None:
    """It pauses, another run does all there is, and it goes on."""
    for step in range(1, len(task.steps) + 1, 2 * stride):
        with task.begun() as job:
            late = task.start(job, Stop(step, "pause"))
            assert task.workers.wait(late).status == "paused"
            assert task.run(job).status == "done"
            _reads_right(job, task)
            outcome = task.workers.proceed(late)
            assert outcome.status == "done", outcome.error
            _ends_as_undisturbed(job, task)


@some_or_all
def test_a_run_of_before_the_store_grew_finishes_late(begin: Task, grow: Task, stride: int) -> None:
    """Arrays may be left too short for plain Zarr readers, which the next run mends; nothing else is touched."""
    for step in range(1, len(begin.steps) + 1, 2 * stride):
        with begin.begun() as job:
            late = begin.start(job, Stop(step, "pause"))
            assert begin.workers.wait(late).status == "paused"
            assert begin.run(job).status == "done"
            grown = grow.job.model_copy(update={"store": job.store})
            assert grow.run(grown).status == "done"
            assert begin.workers.proceed(late).status == "done"
            _reads_right(grown, grow)
            assert grow.run(grown).status == "done"
            _ends_as_undisturbed(grown, grow)


stops = st.builds(Stop, st.integers(1, 90), st.sampled_from(["kill", "tear", "pause"]), torn_bytes=st.integers(0, 300))
# One after another, crews of one or two runs that work at once.
crews = st.lists(st.lists(st.none() | stops, min_size=1, max_size=2), min_size=1, max_size=3)


def _disturbed(job: Job, task: Task, crews: list[list[Stop | None]]) -> None:
    """Runs one after another and two at once, killed, torn or paused; then one to its end; then those that were paused."""
    late = []
    for crew in crews:
        runs = [task.start(job, stop) for stop in crew]
        outcomes = [task.workers.wait(run) for run in runs]
        assert "failed" not in {outcome.status for outcome in outcomes}, outcomes
        late += [run for run, outcome in zip(runs, outcomes, strict=True) if outcome.status == "paused"]
        _reads_right(job, task)
    assert task.run(job).status == "done"
    _reads_right(job, task)
    assert {task.workers.proceed(run).status for run in late} <= {"done"}


@pytest.mark.parametrize("name", ["begin", "grow", "checkpoints"])
def test_any_disturbance_at_any_step(name: str, request: pytest.FixtureRequest) -> None:
    task: Task = request.getfixturevalue(name)

    @settings(max_examples=6 * FAULTS, deadline=None)
    @given(crews)
    def holds(crews: list[list[Stop | None]]) -> None:
        with task.begun() as job:
            _disturbed(job, task, crews)
            _ends_as_undisturbed(job, task)

    holds()


FAULTS_OF_S3: tuple[Fault, ...] = get_args(Fault)


def test_killed_or_misled_over_s3(begin: Task, s3: str) -> None:
    """Requests that the writer never heard of again, that came twice, and that came when all was done."""
    with proxy(os.environ["AWS_ENDPOINT_URL"]) as between:
        through = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        through["AWS_ENDPOINT_URL"] = between.endpoint
        assert _over_s3(begin, f"{s3}/undisturbed", through, between).status == "done"
        changes, trials = between.changes, len(FAULTS_OF_S3) * FAULTS
        assert changes > 15
        for trial in range(trials):
            fault, store = FAULTS_OF_S3[trial % len(FAULTS_OF_S3)], f"{s3}/{trial}"
            at = 1 + trial * changes // trials
            between.expect(at, fault)
            outcome = _over_s3(begin, store, through, between)
            assert outcome.status == ("done" if fault in {"answer lost", "sent twice"} else "killed"), (fault, at, outcome)
            between.expect()
            assert _over_s3(begin, store, through, between).status == "done", (fault, at)
            if fault == "sent late":
                between.release()
            collect_garbage(store)
            assert contents(_tree_of(store)) == begin.end, (fault, at)


def _over_s3(task: Task, store: str, environment: dict[str, str], between: S3Proxy) -> Outcome:
    job = task.job.model_copy(update={"store": store})
    between.writer = task.workers.start(job, task.records_per_checkpoint, None, **environment)
    return task.workers.wait(between.writer)


def _tree_of(store: str) -> dict[str, bytes]:
    objects = Objects(store)
    return objects.get_many(list(objects.listing()))


def test_the_command_killed_with_all_its_processes(
    tmp_path: Path, jobs: Jobs, teacher_cache_command: Command, single_clips_store: Path
) -> None:
    """As a lost machine would end them; `status` then tells what is done, and the same command does the rest."""
    store = tmp_path / "store"
    job = jobs.write(store, layout={"clips_per_shard": 1})  # the most moments between commits
    assert teacher_cache_command("run", job, "--limit", 1).status == 0
    committed = _committed(store)
    program = str(Path(sys.executable).parent / "teacher-cache")
    process = subprocess.Popen([program, "run", str(job)], stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 60
    while len(list(store.glob("depth/c/*"))) < 2:  # some moments before its record
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    between = teacher_cache_command("status", store, "--json").json["clips"]
    assert between["committed"] >= committed
    assert between["pending"] > 0
    report = teacher_cache_command("run", job, "--json")
    assert report.status == 0
    assert report.json["clips"] == {"planned": 4, "committed": 4, "failed": 0, "pending": 0}
    assert report.json["done_before"] == between["committed"]
    assert teacher_cache_command("gc", store).status == 0
    assert contents(tree(store)) == contents(tree(single_clips_store))


def _committed(store: Path) -> int:
    try:
        return len(open_cache(str(store)).committed_ids())
    except StoreNotFound:
        return 0
