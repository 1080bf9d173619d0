"""A plan held against what the job then used."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Command, Jobs, is_one_clear_error
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from s3_proxy import CountingProxy

from schemas.errors import BadInput
from schemas.job import EngineJob, Job, Prices
from schemas.report import PilotReport, StageSeconds
from schemas.storage import Requests
from teacher_cache.io.remote import filesystem
from teacher_cache.jobs import commit as commit_module
from teacher_cache.jobs import estimate as estimate_module
from teacher_cache.jobs.estimate import SignalWork, cost, estimate, hours
from teacher_cache.jobs.pilot import pilot, plan_with_pilot
from teacher_cache.jobs.plan import plan_report
from teacher_cache.jobs.run import run_job
from teacher_cache.store import log as log_module
from teacher_cache.store.shard import index_length

VIDEOS = 40


def write_video(path: Path, seed: int) -> None:
    from teacher_cache.scenes import encode_video

    noise = np.random.default_rng(seed)
    shades = noise.integers(0, 256, (int(noise.integers(16, 40)), 8, 12, 3), dtype=np.uint8)
    encode_video(path, shades.repeat(8, 1).repeat(8, 2))


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of `VIDEOS` videos of shades that change."""
    folder = tmp_path_factory.mktemp("many")
    for seed in range(VIDEOS):
        write_video(folder / f"{seed:02d}.mp4", seed)
    return folder


@pytest.fixture(scope="module", autouse=True)
def _cold_family() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "packages"))
        yield


def cold_job(store: str | Path, videos: dict[str, str], **changes: Any) -> Job:
    """A job of a teacher that takes a batch of four, and no time."""
    base: dict[str, Any] = {
        "videos": videos,
        "store": str(store),
        "teacher": {"family": "cold", "preset": "0"},
        "signals": ["depth", "flow", "motion"],
        "layout": {"clips_per_shard": 8},
        "engine": {"batch": 4, "decoders": 2, "threads_per_teacher": 1},
    }
    return Job.model_validate(base | changes)


def near(predicted: float, used: float, share: float = 0.15) -> bool:
    return abs(predicted - used) <= share * used


@pytest.mark.alone
def test_a_job_uses_what_its_plan_says(counting: CountingProxy, many: Path) -> None:
    fs, _ = filesystem("s3://bucket")
    for video in many.iterdir():
        fs.put_file(str(video), f"bucket/raw/{video.name}")
    from cold_teacher import WARM_UP_BATCHES

    batch_seconds = 0.25  # long beside what a busy machine adds to it
    teacher = {"family": "cold", "preset": "250"}
    job = cold_job("s3://bucket/store", {"glob": "s3://bucket/raw/*.mp4"}, teacher=teacher)
    plan = plan_with_pilot(job, 16)
    assert counting.take("store")["put"] == 0
    assert plan.estimate is not None
    counting.take("raw")

    used = run_job(job)
    assert used.clips.committed == plan.clips_to_do == VIDEOS
    for signal, size in used.bytes_added.items():
        assert size == used.bytes[signal] > 0
        assert near(plan.estimate.bytes[signal], size), signal
    # The plan is of a warm teacher; that the pilot's was cold at first must not show in it.
    assert near(plan.estimate.stage_seconds.teach, used.stage_seconds.teach - WARM_UP_BATCHES * batch_seconds)
    for folder, predicted, counted in (
        ("store", plan.requests.store, used.requests.store),
        ("raw", plan.requests.videos, used.requests.videos),
    ):
        assert counting.take(folder) == counted.model_dump()
        assert_near(predicted, counted)


def assert_near(predicted: Requests, counted: Requests) -> None:
    for kind, count in counted.model_dump().items():
        assert near(getattr(predicted, kind), count), (kind, predicted, counted)


@settings(max_examples=5, phases=[Phase.explicit, Phase.reuse, Phase.generate])  # to shrink one takes minutes
@given(data=st.data())
def test_requests_are_near_for_jobs_of_any_shape(data: st.DataObject, many: Path) -> None:
    """New and begun stores, partial shards, signals added later, clips that fail, checkpoints."""
    draw = data.draw
    signals = st.lists(st.sampled_from(["depth", "flow", "motion"]), min_size=1, max_size=3, unique=True)
    per_shard = draw(st.integers(1, 5), label="clips per shard")
    first, added = draw(st.integers(0, 6), label="videos at first"), draw(st.integers(1, 10), label="videos added")
    starts = {*range(0, first, per_shard), *range(first, first + added, per_shard)}
    # What a unit writes of which no clip can be taught, nothing tells beforehand.
    bad = draw(st.sets(st.integers(0, first + added - 1), max_size=2), label="bad videos") - starts
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        # So that a small store has a checkpoint too, at the end, and that each unit has a record, as in a long run.
        worth = draw(st.sampled_from([2, 128]), label="worth a checkpoint")
        patch.setattr(log_module, "WORTH_A_CHECKPOINT", worth)
        patch.setattr(estimate_module, "WORTH_A_CHECKPOINT", worth)
        patch.setattr(commit_module, "_MOST_ROWS", 1)
        folder = Path(name)
        (folder / "bad.mp4").write_bytes(b"no video")
        uris = [folder / "bad.mp4" if n in bad else many / f"{n:02d}.mp4" for n in range(first + added)]
        lines = [f'{{"uri": "{uri}", "id": "{n}"}}\n' for n, uri in enumerate(uris)]

        def job(videos: int) -> Job:
            manifest = folder / f"{videos}.jsonl"
            manifest.write_text("".join(lines[:videos]))
            teacher = {"family": "cold", "preset": "0"}
            return cold_job(
                folder / "store",
                {"manifest": str(manifest)},
                signals=draw(signals),
                layout={"clips_per_shard": per_shard},
                teacher=teacher,
            )

        for videos in sorted({first, first + added} - {0}):
            planned = job(videos)
            plan, used = plan_report(planned), run_job(planned)
            assert_near(plan.requests.store, used.requests.store)
            assert plan.requests.videos == used.requests.videos == Requests()  # they are on a disk
        again = plan_report(planned), run_job(planned)
        assert again[0].units == 0
        assert_near(again[0].requests.store, again[1].requests.store)


seconds = st.floats(0, 100, allow_nan=False)
stages = st.builds(StageSeconds, decode=seconds, teach=st.floats(1e-3, 100), encode=seconds, put=seconds)
pilots = st.builds(
    PilotReport,
    clips=st.just(16),
    failed=st.just({"not_a_video": 4}),
    units=st.just(4),
    bytes=st.fixed_dictionaries({"depth": st.floats(0, 1e9), "flow": st.floats(0, 1e9)}),
    seconds=stages,
    spread=st.just({}),
    video_bytes=st.floats(0, 1e9),
    memory_bytes=st.just(0),
)
gpus = st.sampled_from([0, 0.25, 0.5, 1, 2])


@given(
    pilot_report=pilots, clips=st.integers(1, 10**7), per_gpu=gpus, teachers=st.integers(1, 1000), decoders=st.integers(1, 16)
)
def test_a_sized_node_keeps_its_gpu_busy(
    pilot_report: PilotReport, clips: int, per_gpu: float, teachers: int, decoders: int
) -> None:
    engine = EngineJob(kind="ray", gpus_per_teacher=per_gpu, teachers=teachers, decoders=decoders, threads_per_teacher=1)
    work = {"depth": SignalWork(clips, -(-clips // 32) * index_length(32 * 4)), "flow": SignalWork(0, 0)}
    found = estimate(pilot_report, clips, work, engine)
    # Where a node has what it is said to need, decoding all clips takes as long as teaching them.
    busy_hours = (found.hours.gpu if per_gpu else found.stage_seconds.teach / 3600) / teachers
    hours_at_this_rate = clips / found.node.clips_per_second / 3600 / teachers
    assert busy_hours == pytest.approx(hours_at_this_rate)
    assert found.node.decode_cores * busy_hours * teachers == pytest.approx(found.stage_seconds.decode / 3600)
    assert found.node.encode_cores * busy_hours * teachers == pytest.approx(found.stage_seconds.encode / 3600)
    assert found.node.video_bytes_per_second * busy_hours * 3600 * teachers == pytest.approx(found.video_bytes, rel=1e-9, abs=1)
    assert found.bytes["flow"] == 0
    assert found.bytes["depth"] == pytest.approx(
        pilot_report.bytes["depth"] * clips + -(-clips // 32) * (32 * 4 * 16 + 4), rel=1e-9, abs=1
    )
    assert found.failed_clips == round(clips / 4)
    # No stage takes longer than the job, and one takes as long.
    stage = found.stage_seconds
    walls = {"teach": stage.teach / teachers, "decode": stage.decode / teachers / decoders, "encode": stage.encode / teachers}
    assert found.wall_hours * 3600 == pytest.approx(max(walls.values())) == pytest.approx(walls[found.limited_by])


prices = st.none() | st.floats(0, 1e4, allow_nan=False)


@given(
    pilot_report=pilots, put=prices, get=prices, gpu=prices, core=prices, egress=prices, storage=prices,
    clips=st.integers(1, 10**6), puts=st.integers(0, 10**9),
)  # fmt: skip
def test_what_has_no_price_costs_nothing_and_the_rest_its_price_times_its_amount(  # noqa: PLR0917  # hypothesis names them
    pilot_report: PilotReport,
    put: float | None,
    get: float | None,
    gpu: float | None,
    core: float | None,
    egress: float | None,
    storage: float | None,
    clips: int,
    puts: int,
) -> None:
    listed = Prices(
        put_per_1000=put, get_per_1000=get, gpu_hour=gpu, core_hour=core, egress_gb=egress, storage_gb_month=storage
    )
    engine = EngineJob(gpus_per_teacher=1)
    used = estimate(pilot_report, clips, {"depth": SignalWork(clips, index_length(32))}, engine)
    billed = Requests(put=puts, get=2 * puts)
    amounts = {
        "put": (put, puts / 1000), "get": (get, puts / 500), "gpu": (gpu, used.stage_seconds.teach / 3600),
        "core": (core, (used.stage_seconds.decode + used.stage_seconds.encode) / 3600),
        "egress": (egress, used.video_bytes / 1e9), "storage_month": (storage, used.bytes["depth"] / 1e9),
    }  # fmt: skip
    expected = {item: price * amount for item, (price, amount) in amounts.items() if price is not None}
    assert cost(listed, billed, True, used) == pytest.approx(expected)
    assert cost(listed, billed, True, None) == pytest.approx({k: v for k, v in expected.items() if k in {"put", "get"}})
    assert "egress" not in expected or cost(listed, billed, False, used)["egress"] == 0


def test_a_teacher_on_the_cpu_holds_its_threads() -> None:
    spent = StageSeconds(decode=3600, teach=7200, encode=1800, put=999)
    assert hours(spent, EngineJob(threads_per_teacher=4)).model_dump() == {"gpu": 0, "core": 9.5}
    assert hours(spent, EngineJob(gpus_per_teacher=2, threads_per_teacher=4)).model_dump() == {"gpu": 4, "core": 1.5}


def test_a_pilot_can_be_sent_to_another_machine(many: Path, tmp_path: Path) -> None:
    job = cold_job(tmp_path / "store", {"glob": f"{many}/0*.mp4"})
    seen: list[Any] = []

    def elsewhere(*arguments: Any) -> PilotReport:
        function, sent = pickle.loads(pickle.dumps((pilot, arguments)))
        seen.extend(sent[1])
        return PilotReport.model_validate_json(function(*sent).model_dump_json())

    plan = plan_report(job, pilot_clips=5, run_pilot=elsewhere)
    assert plan.pilot is not None
    assert plan.pilot.clips == 5
    assert plan.pilot.units == 2  # a batch of four, and what is left
    # One of each fifth of the job's ten clips.
    assert [int(clip.clip_id[:2]) // 2 for clip in seen] == [0, 1, 2, 3, 4]
    assert not (tmp_path / "store").exists()


def test_clips_that_fail_in_the_pilot_are_counted(many: Path, tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"bad-{number}.mp4").write_bytes(b"no video" if number else b"")
    good = [str(many / f"{n:02d}.mp4") for n in range(4)]
    uris = [*good, *(str(tmp_path / f"bad-{n}.mp4") for n in range(4))]
    (tmp_path / "videos.jsonl").write_text("".join(f'{{"uri": "{uri}"}}\n' for uri in uris))
    job = cold_job(tmp_path / "store", {"manifest": str(tmp_path / "videos.jsonl")})
    plan = plan_with_pilot(job, 8)
    assert plan.pilot is not None
    assert plan.estimate is not None
    assert plan.pilot.failed == {"not_a_video": 3, "video_empty": 1}
    assert plan.estimate.failed_clips == 4
    used = run_job(job)
    assert all(near(plan.estimate.bytes[signal], size) for signal, size in used.bytes_added.items())


def test_bad_pilots_say_what_is_wrong(many: Path, tmp_path: Path) -> None:
    job = cold_job(tmp_path / "store", {"glob": f"{many}/0*.mp4"})
    with pytest.raises(BadInput, match="a pilot of 0 clips measures nothing"):
        plan_with_pilot(job, 0)
    with pytest.raises(BadInput, match="a pilot of 11 clips was asked for; use a number from 1 to 10"):
        plan_with_pilot(job, 11)
    for number in range(3):
        (tmp_path / f"bad-{number}.mp4").write_bytes(b"no video" if number else b"")
    bad = cold_job(tmp_path / "store", {"glob": f"{tmp_path}/bad-*.mp4"})
    with pytest.raises(BadInput, match=r"none of the pilot's 3 clips could be taught: 2 × not_a_video, 1 × video_empty"):
        plan_with_pilot(bad, 3)
    run_job(job)
    with pytest.raises(BadInput, match="no clip left to teach"):
        plan_with_pilot(job, 1)


def test_people_are_told_what_it_will_take(jobs: Jobs, teacher_cache_command: Command, tmp_path: Path) -> None:
    prices = {"currency": "EUR", "core_hour": 40, "storage_gb_month": 23}
    done = teacher_cache_command("plan", jobs.write(tmp_path / "store", prices=prices), "--pilot", 4)
    assert done.status == 0, done.err
    for told in ("4 clips in 2 units; none failed", "CPU core hours", "EUR", "each teacher", "stored", "LIST"):
        assert told in done.out
    assert "GPU hours" not in done.out  # it has no price
    assert not (tmp_path / "store").exists()
    wrong = teacher_cache_command("plan", jobs.write(tmp_path / "store", prices={"gpu_hour": -1}))
    is_one_clear_error(wrong, 2, "prices.gpu_hour", "greater than or equal to 0", "found -1")
    misspelt = teacher_cache_command("plan", jobs.write(tmp_path / "store", prices={"gpu_hours": 1}))
    is_one_clear_error(misspelt, 2, "did you mean `gpu_hour`?")
