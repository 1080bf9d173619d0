"""Fixtures that are the real thing: videos that were encoded, an S3 server, committed stores, the installed commands."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import s3_proxy
import s3_server
import yaml
from hypothesis import settings
from kept_decoders import KeptDecoders
from terminal import Terminal

from teacher_cache.io.lock import exclusive

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_prestart_worker_first_driver", "0")  # a worker for each core, of which few are ever used

if "PYTEST_XDIST_WORKER" in os.environ:  # several test processes share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# In CI a property test draws the same examples each time, so that a change is judged by what it changes; elsewhere it searches.
# How long one takes says nothing here: the first imports libraries, and other tests share the cores.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("here", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "here")

# P4D_FAULTS=20 makes the tests that kill writers and damage stores twenty times as long.
FAULTS = int(os.environ.get("P4D_FAULTS", "1"))

# Clips of real footage that lie beside the repository where it is developed; never in it.
SHARED = Path(__file__).resolve().parents[2] / "shared"
REAL_VIDEOS = ("nasa_13013.mp4", "nasa_13013_hdr.mp4", "testsrc2_vp9.webm", "h265_video.mp4", "av1_video.mkv")


# The files that take longest, for three processes: each begins with its own, longest first. All then have short tests left,
# which any can take from another. Ray's clusters are all in the first, so that they are not there twice at once.
LONGEST = (
    (
        "faults/test_ray.py",
        "cluster/test_ray_pool.py",
        "end_to_end/test_s3_ray.py",
        "faults/test_ray_head.py",
        "cluster/test_deploy_page.py",
        "faults/test_ray_growth.py",
        "end_to_end/test_rights.py",
        "faults/test_full_disks.py",
        "teacher_cache/jobs/test_doctor.py",
        "teacher_cache/jobs/test_ray_address.py",
    ),
    (
        "student_train/evaluation/test_evaluate.py",
        "test_readme.py",
        "student_train/test_students.py",
        "faults/test_kill.py",
        "student_train/training/test_distributed.py",
        "student_train/test_export.py",
        "teacher_cache/teachers/test_node_cache.py",
        "student_train/training/test_fit.py",
        "student_train/training/test_resume.py",
        "end_to_end/test_slurm.py",
        "student_train/evaluation/test_answering.py",
        "student_train/test_ablation.py",
        "student_train/test_reuse.py",
    ),
    (
        "end_to_end/test_demo.py",
        "faults/test_s3_outages.py",
        "teacher_cache/reader/test_fetch.py",
        "test_examples.py",
        "teacher_cache/io/test_command_line.py",
        "teacher_cache/jobs/test_run.py",
        "contracts/test_places.py",
        "teacher_cache/clips/test_windows.py",
        "teacher_cache/jobs/test_memory.py",
        "end_to_end/test_bad_input.py",
        "end_to_end/test_hostile_text.py",
        "teacher_cache/teachers/l4p/test_tiny.py",
        "teacher_cache/teachers/l4p/test_cost.py",
        "faults/test_damage.py",
        "simulator/test_store.py",
    ),
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked ``complete`` run only where they are asked for by name, whatever else ``-m`` says."""
    if "complete" not in config.option.markexpr:
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("complete")])
        items[:] = [item for item in items if not item.get_closest_marker("complete")]
    if count := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
        items[:] = _longest_first(items, int(count))
        if os.environ["PYTEST_XDIST_WORKER"] != "gw0":
            os.nice(
                4
            )  # Ray's tests, which are the first process's, wait for processes to start, and others would wait for them


def pytest_collection_finish() -> None:
    """Python's collector need not look again at what all tests share: torch, transformers, and the tests themselves.

    A full collection took 0.8 s, and training asks for one at its start: it was a third of the CPU of test_fit and test_fetch.
    """
    gc.set_threshold(50_000, 20, 20)
    gc.collect()
    gc.freeze()


_begun = False


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Ray's tests wait for processes to start, and take longest: all others give way to the process that begins with them."""
    global _begun  # noqa: PLW0603  # of this process
    if "PYTEST_XDIST_WORKER" in os.environ and not _begun and item.path != Path(__file__).parent / LONGEST[0][0]:
        os.nice(4)
    _begun = True


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """The same after each file, for what it was the first to import."""
    if hasattr(os, "sched_getscheduler"):
        assert os.sched_getscheduler(0) == os.SCHED_OTHER, "this test has left its process, and all that it starts, real-time"
    if nextitem is not None and nextitem.path != item.path:
        gc.collect()
        gc.freeze()


def _longest_first(items: list[pytest.Item], processes: int) -> list[pytest.Item]:
    """As many equal parts as `--dist worksteal` gives to processes; each begins with its files of `LONGEST`."""
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    tests = Path(__file__).parent
    long: list[list[pytest.Item]] = [[] for _ in range(processes)]
    for number, names in enumerate(LONGEST):
        long[number % processes] += [item for name in names for item in files.pop(tests / name, ())]
    short = iter([item for file in files.values() for item in file])
    ordered: list[pytest.Item] = []
    for number, part in enumerate(long, 1):
        ordered += part
        ordered += islice(short, max(0, len(items) * number // processes - len(ordered)))
    return [*ordered, *short]


@pytest.fixture(scope="session", autouse=True)
def _no_readers_ahead() -> Iterator[None]:
    """In this process: a fit of a few steps reads by itself where a test does not say, since workers take seconds to start."""
    from student_train.data import workers

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "MOST_WORKERS", 0)
        yield


@pytest.fixture(scope="session", autouse=True)
def _node_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Weights that tests fetch or convert stay out of the user's cache."""
    os.environ["P4D_CACHE_DIR"] = str(tmp_path_factory.mktemp("node-cache"))


# Frames and frames per second of each of the test videos: no two alike, so that one clip is never right in another's place.
CLOCKS = ((20, 24), (33, 30), (17, 25), (26, 12))


def made_by_one(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder for reading only, which the first of a session's test processes makes and all of them have."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with exclusive(folder.with_suffix(".lock")):
        if not (made := folder.with_suffix(".made")).exists():
            folder.mkdir(exist_ok=True)
            make(folder)
            made.touch()
    return folder


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four short H.264 videos of moving scenes: scene-0.mp4 to scene-3.mp4, 96×64, each with its own clock."""
    return made_by_one(tmp_path_factory, "videos", _encode_videos)


def _encode_videos(folder: Path) -> None:
    from teacher_cache.scenes import encode_video, frame_times, random_scene, render_scene

    for seed, (frames, fps) in enumerate(CLOCKS):
        truth = render_scene(random_scene(seed), frame_times(frames, fps), height=64, width=96)
        encode_video(folder / f"scene-{seed}.mp4", truth.rgb, fps=fps)


@pytest.fixture(scope="session")
def truth_masks(tmp_path_factory: pytest.TempPathFactory, videos: Path) -> Path:
    """A list of the test videos with their truth masks, DAVIS-like: list.jsonl, and masks/scene-N/00000.png, …, 96×64.

    The numbers are the scene's objects', from 1. Each row has the objects' names as ``phrases``, and one that no scene has.
    """
    return made_by_one(tmp_path_factory, "truth", partial(_write_masks, videos))


def _write_masks(videos: Path, folder: Path) -> None:
    from PIL import Image

    from teacher_cache.scenes import frame_times, random_scene, render_scene

    rows = []
    for seed, (frames, fps) in enumerate(CLOCKS):
        scene = random_scene(seed)
        masks = folder / "masks" / f"scene-{seed}"
        masks.mkdir(parents=True)
        for number, instance in enumerate(render_scene(scene, frame_times(frames, fps), height=64, width=96).instance):
            Image.fromarray((instance + 1).astype("uint8")).convert("P").save(masks / f"{number:05d}.png")
        phrases = [thing.name for thing in scene.objects]
        about = {"phrases": [*phrases, "a unicorn"], "masks": f"masks/scene-{seed}"}
        rows.append({"uri": str(videos / f"scene-{seed}.mp4"), "id": f"scene-{seed}.mp4", **about})
    (folder / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))


def regions_job(folder: Path, truth: Path, store: str | Path, **changes: Any) -> dict[str, Any]:
    """A job that keeps the truth masks of the test videos."""
    of_regions: dict[str, Any] = {
        "videos": {"manifest": str(truth / "list.jsonl")},
        "teacher": {"family": "given", "preset": "px112", "options": {"objects": 12}},
        "signals": ["regions", "objects"],
    }
    return Jobs(folder, folder).value(store, **(of_regions | changes))


@pytest.fixture(scope="session")
def regions_store(tmp_path_factory: pytest.TempPathFactory, truth_masks: Path) -> Path:
    """A committed store of the four videos' truth masks. For reading only."""
    return made_by_one(tmp_path_factory, "regions", partial(_run_regions_job, truth_masks)) / "store"


def _run_regions_job(truth: Path, folder: Path) -> None:
    from schemas.job import Job
    from teacher_cache.jobs.run import run_job

    report = run_job(Job.model_validate(regions_job(folder, truth, folder / "store")))
    assert report.clips.committed == 4


@pytest.fixture(scope="session")
def real_videos() -> Path:
    """The folder of real footage, where there is one."""
    folder = SHARED / "videos"
    if not all((folder / name).is_file() for name in REAL_VIDEOS):
        pytest.skip(f"no real footage at {folder}")
    return folder


@dataclass(frozen=True)
class Jobs:
    """Writes job files for the tiny teacher."""

    folder: Path
    videos: Path

    def value(self, store: str | Path, **changes: Any) -> dict[str, Any]:
        base: dict[str, Any] = {
            "videos": {"glob": f"{self.videos}/*.mp4"},
            "store": str(store),
            "teacher": {"family": "l4p", "preset": "tiny"},
            "layout": {"clips_per_shard": 2},
            "engine": {"kind": "local", "batch": 2, "threads_per_teacher": 1},
        }
        return base | changes

    def write(self, store: str | Path, **changes: Any) -> Path:
        path = self.folder / f"job-{len(list(self.folder.iterdir()))}.yaml"
        path.write_text(yaml.safe_dump(self.value(store, **changes)))
        return path


@pytest.fixture(scope="session")
def _taught_once() -> Iterator[None]:
    """In this process: what the tiny teacher gave a batch is kept, since hundreds of runs teach the same few videos."""
    from answers import kept_answers

    with kept_answers():
        yield


@pytest.fixture(scope="session")
def _kept_decoders() -> Iterator[KeptDecoders]:
    kept = KeptDecoders()
    yield kept
    kept.close()


@pytest.fixture(autouse=True)
def _decoders_started_once(request: pytest.FixtureRequest, _kept_decoders: KeptDecoders) -> Iterator[None]:
    """In this process: jobs go on with the decoder processes of those before, since hundreds of them decode a few videos.

    Not in a test that is marked ``own_decoders``, which is about when they start and end.
    """
    with contextlib.nullcontext() if request.node.get_closest_marker("own_decoders") else _kept_decoders.in_use():
        yield


@pytest.fixture
def jobs(tmp_path: Path, videos: Path, _taught_once: None) -> Jobs:
    folder = tmp_path / "jobs"
    folder.mkdir()
    return Jobs(folder, videos)


@contextlib.contextmanager
def a_record_for_each_unit() -> Iterator[None]:
    """In this process: as in a long run, in which units come seconds apart."""
    from teacher_cache.jobs import commit

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commit, "_EVERY_SECONDS", 0)
        patch.setattr(commit, "_MOST_ROWS", 1)
        yield


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory: pytest.TempPathFactory, videos: Path) -> Path:
    """A committed store of the four videos, every signal, by the tiny teacher. For reading only: copy it to damage it."""
    return made_by_one(tmp_path_factory, "tiny", partial(_run_tiny_job, videos)) / "store"


@pytest.fixture(scope="session")
def single_clips_store(tmp_path_factory: pytest.TempPathFactory, videos: Path) -> Path:
    """The same, each clip in a shard of its own."""
    return made_by_one(tmp_path_factory, "single", partial(_run_tiny_job, videos, layout={"clips_per_shard": 1})) / "store"


def _run_tiny_job(videos: Path, folder: Path, **changes: Any) -> None:
    from schemas.job import Job
    from teacher_cache.jobs.run import run_job

    with a_record_for_each_unit():
        report = run_job(Job.model_validate(Jobs(folder, videos).value(folder / "store", **changes)))
    assert report.clips.committed == 4


@pytest.fixture(scope="session")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3_server.S3Server]:
    weed = Path(sys.executable).parent / "weed"
    server = s3_server.start(tmp_path_factory.mktemp("s3"), str(weed) if weed.is_file() else "weed")
    yield server
    s3_server.stop(server)


@pytest.fixture
def s3(_server: s3_server.S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of an empty bucket on a running S3 server, with the environment set to reach it."""
    for name, value in _server.environment.items():
        monkeypatch.setenv(name, value)
    fs = _server.filesystem
    if fs.exists("bucket"):
        fs.rm("bucket", recursive=True)
    fs.mkdir("bucket")
    return "s3://bucket"


@pytest.fixture(scope="module")
def ray_cluster(_server: s3_server.S3Server) -> Iterator[str]:
    """Address of a Ray that runs while a module's tests do, to which RAY_ADDRESS leads: one start of it takes seconds.

    Its processes have credentials for the S3 server, as those of a real cluster have; the driver says where it is.
    """
    from ray.cluster_utils import Cluster

    from cluster.ray_environment import SHARED

    with pytest.MonkeyPatch.context() as patch:
        for name, value in (_server.environment | {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"}).items():
            patch.setenv(name, value)
        for name in SHARED:
            patch.delenv(name, raising=False)
        head = {"num_cpus": 4, "include_dashboard": False, "object_store_memory": 100 * 2**20}
        started = Cluster(initialize_head=True, head_node_args=head)
        patch.setenv("RAY_ADDRESS", started.address)
        yield started.address
        started.shutdown()


@pytest.fixture
def act_as(_server: s3_server.S3Server, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Be another identity of the S3 server from here on: ``act_as("reader")``; `s3_server.RIGHTS` says which there are."""
    from s3fs import S3FileSystem

    def become(identity: str) -> None:
        for name, value in _server.environment_of(identity).items():
            monkeypatch.setenv(name, value)
        # s3fs shares connections by their options, and an open one keeps the identity it began with.
        monkeypatch.setattr(S3FileSystem, "_cache", s3_server.CONNECTIONS.setdefault(identity, {}))

    return become


@pytest.fixture
def counting(s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[s3_proxy.CountingProxy]:
    """The S3 server behind a proxy that counts what is asked of the folders of ``s3://bucket``."""
    from s3fs import S3FileSystem

    assert s3
    with s3_proxy.proxy(os.environ["AWS_ENDPOINT_URL"], kind=s3_proxy.CountingProxy) as made:
        monkeypatch.setenv("AWS_ENDPOINT_URL", made.endpoint)
        # s3fs shares connections by their options, and an open one goes past the proxy.
        monkeypatch.setattr(S3FileSystem, "_cache", {})
        yield made


@dataclass(frozen=True)
class Finished:
    """A command that ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Command = Callable[..., Finished]


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Run an installed command as a user does: ``command("teacher-cache", "status", store, "--json")``."""

    def run(program: str, *arguments: object, timeout: float = 300, **environment: str) -> Finished:
        done = subprocess.run(
            [str(Path(sys.executable).parent / program), *map(str, arguments)],
            capture_output=True, text=True, timeout=timeout, cwd=tmp_path, env=os.environ | environment, check=False,
        )  # fmt: skip
        return Finished(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def teacher_cache_command() -> Command:
    """`teacher-cache` as ``command`` runs it, but in this process: no start-up to wait for."""
    from teacher_cache.cli import app

    return _in_process(app)


@pytest.fixture
def student_train_command() -> Command:
    """`student-train`, in this process too."""
    from student_train.cli import app

    return _in_process(app)


def _in_process(app: Any) -> Command:
    from typer.testing import CliRunner

    def run(*arguments: object, **environment: str) -> Finished:
        done = CliRunner().invoke(app, list(map(str, arguments)), env=environment)
        unforeseen = done.exc_info if done.exception is not None and not isinstance(done.exception, SystemExit) else None
        trace = "".join(traceback.format_exception(*unforeseen)) if unforeseen else ""
        return Finished(done.exit_code, done.stdout, done.stderr + trace)

    return run


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    """Where a test puts each terminal that it opens: what was set there must be as before at the end."""
    opened: list[Terminal] = []
    yield opened
    for terminal in opened:
        terminal.close()
        assert terminal.is_as_before


def is_one_clear_error(done: Finished, status: int, *said: str) -> None:
    """A command stopped with one message that says all of ``said``, without a traceback or the S3 server's secret."""
    assert done.status == status, done.err
    assert "Traceback" not in done.err
    # rich wraps nothing here, but a terminal's width must not decide a test
    text = " ".join(done.err.split())
    for part in said:
        assert part in text
    assert s3_server.SECRET_KEY not in done.err + done.out


def tree(folder: Path) -> dict[str, bytes]:
    """Relative path → bytes of every file under a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="session")
def dump_dom(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """A function: HTML text → the DOM, as text, after a real Chromium ran it from a file for some virtual milliseconds."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no chromium on PATH: the page was not tried in a browser")
    folder = tmp_path_factory.mktemp("browser")
    alone = ("quic", "background-networking", "component-update", "sync")  # it asks nothing of the network
    flags = ["--headless", "--no-sandbox", "--no-first-run", "--disable-gpu", "--disable-dev-shm-usage"]
    flags += [f"--disable-{name}" for name in alone] + ["--virtual-time-budget=3000", "--dump-dom"]

    def dump(html: str) -> str:
        page = folder / "page <1>.html"
        page.write_text(html, encoding="utf-8")
        command = [browser, *flags, f"--user-data-dir={folder / 'profile'}", page.as_uri()]
        for _ in range(3):  # on a busy machine it now and then hangs before it has begun
            with subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
            ) as process:
                try:
                    out = process.communicate(timeout=30)[0]
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                else:
                    assert process.returncode == 0
                    return out.decode()
        raise AssertionError("Chromium has hung three times")

    return dump
