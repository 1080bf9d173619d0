"""Jobs whose videos give several clips: planned by probing, taught, superseded together."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator, Sequence
from functools import partial, reduce
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import strange_videos
from conftest import Jobs, tree
from decoding import decode_frames

from schemas.clip import Segment, VideoInfo, Window
from schemas.errors import BadInput, ClipFailed, RecipeMismatch, UnknownClip, Unreachable, VideoError
from schemas.event import Event, RunStarted
from schemas.job import Job
from schemas.recipe import ClipRecipe
from schemas.report import RunReport
from student_train.data.frames import StudentFrames
from teacher_cache import join_caches, open_cache
from teacher_cache.clips import probe_cache
from teacher_cache.clips.content import content_digest
from teacher_cache.clips.decoder import Decoder
from teacher_cache.clips.decoder_pool import DecoderPool
from teacher_cache.clips.preprocess import preprocess
from teacher_cache.clips.probe_cache import ProbeCache
from teacher_cache.clips.sampling import frame_indices, spread
from teacher_cache.clips.tables import CLIPS
from teacher_cache.clips.windows import windows_of
from teacher_cache.io.progress import no_progress
from teacher_cache.io.stop import Stop
from teacher_cache.jobs import discovery, planner
from teacher_cache.jobs.discovery import discover
from teacher_cache.jobs.plan import diff_report, plan_report
from teacher_cache.jobs.planner import Planner
from teacher_cache.jobs.portion import portion
from teacher_cache.jobs.run import run_job
from teacher_cache.monitor.progress import RunProgress
from teacher_cache.store.store import create_store
from teacher_cache.store.verify import verify

DENSE = ClipRecipe(frames=16, sampling="dense", preprocessing="l4p", size=56, student_size=None)


def write_video(path: Path, frames: int, seed: int = 0) -> None:
    from teacher_cache.scenes import encode_video

    shades = np.random.default_rng(seed).integers(0, 256, (frames, 4, 6, 3), dtype=np.uint8)
    encode_video(path, shades.repeat(16, 1).repeat(16, 2))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two videos: ``long.mp4`` of 30 frames and ``short.mp4`` of 5, at 24 frames per second."""
    made = tmp_path / "windowed"
    made.mkdir()
    write_video(made / "long.mp4", 30)
    write_video(made / "short.mp4", 5, seed=1)
    return made


def job(jobs: Jobs, folder: Path, store: Path, **changes: Any) -> Job:
    source = {"videos": {"glob": f"{folder}/*.mp4"}, "signals": ["depth", "camray"], "clips": {"sampling": "dense"}}
    return Job.model_validate(jobs.value(store, **(source | changes)))


def run(jobs: Jobs, folder: Path, store: Path, *, retry_failed: bool = False, **changes: Any) -> RunReport:
    return run_job(job(jobs, folder, store, **changes), retry_failed=retry_failed)


def stored_windows(store: Path) -> dict[str, tuple[int | None, int | None]]:
    return {c["clip_id"]: (c["window_start"], c["window_stop"]) for c in open_cache(str(store)).clips.to_pylist()}


def test_dense_gives_a_row_for_each_window(jobs: Jobs, folder: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    plan = plan_report(job(jobs, folder, store))
    assert (plan.new_clips, plan.units) == (4, 2)
    assert run(jobs, folder, store).clips.model_dump() == {"planned": 4, "committed": 4, "failed": 0, "pending": 0}
    assert stored_windows(store) == {
        "long.mp4#0000": (0, 16), "long.mp4#0001": (8, 24), "long.mp4#0002": (16, 32), "short.mp4#0000": (0, 16),
    }  # fmt: skip
    cache = open_cache(str(store))
    read = cache.read(["depth", "frame_index", "timestamps"], ["long.mp4#0002", "short.mp4#0000"])
    assert read["frame_index"].tolist() == [
        [16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 28, 27],
        [0, 1, 2, 3, 4, 3, 2, 1, 0, 1, 2, 3, 4, 3, 2, 1],
    ]
    np.testing.assert_allclose(read["timestamps"], read["frame_index"] / 24, atol=1e-3)
    assert not verify(str(store)).findings
    before = tree(store)
    assert run(jobs, folder, store).done_before == 4
    assert tree(store) == before


def test_the_teacher_sees_the_window_s_frames(jobs: Jobs, folder: Path, tmp_path: Path) -> None:
    import torch

    from schemas.job import TeacherJob
    from teacher_cache.teachers.registry import family

    run(jobs, folder, tmp_path / "store", encoding="exact")
    cache = open_cache(str(tmp_path / "store"))
    frames = preprocess(decode_frames(str(folder / "long.mp4"), range(8, 24)), cache.recipe.clips)
    raw = family("l4p").load(TeacherJob(preset="tiny"), "cpu").raw(torch.from_numpy(frames)[None], ["camray"])
    np.testing.assert_allclose(cache.read(["camray"], ["long.mp4#0001"])["camray"], raw["camray"].numpy(), atol=1e-5)


def test_fps_sets_windows_one_after_another_and_is_in_the_recipe(jobs: Jobs, folder: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    assert run(jobs, folder, store, clips={"sampling": "fps", "fps": 12}).clips.committed == 2
    index = open_cache(str(store)).read(["frame_index"], ["long.mp4#0000"])["frame_index"]
    assert index.tolist() == [[*range(0, 30, 2), 26]]
    with pytest.raises(RecipeMismatch) as caught:
        run(jobs, folder, store, clips={"sampling": "fps", "fps": 24})
    assert caught.value.differences == {"clips.fps": (12.0, 24.0)}
    report = diff_report(str(store), job(jobs, folder, store))
    assert set(report.differences) == {"clips.fps", "clips.sampling"}


def test_new_content_supersedes_all_windows_of_a_video(jobs: Jobs, folder: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    run(jobs, folder, store)
    first, old = (folder / "long.mp4").read_bytes(), open_cache(str(store)).read(["depth"], ["long.mp4#0000"])["depth"]
    write_video(folder / "long.mp4", 17, seed=2)
    assert run(jobs, folder, store).clips.committed == 3
    cache = open_cache(str(store))
    assert (cache.read(["depth"], ["long.mp4#0000"])["depth"] != old).any()
    with pytest.raises(UnknownClip):
        cache.read(["depth"], ["long.mp4#0002"])
    assert not verify(str(store)).findings
    more: dict[str, Any] = {"signals": ["depth", "camray", "motion"]}
    report = run(jobs, folder, store, **more)  # rows that are no longer anybody's are no obstacle
    assert report.clips.model_dump() == {"planned": 3, "committed": 3, "failed": 0, "pending": 0}

    (folder / "long.mp4").write_bytes(first)
    assert run(jobs, folder, store, **more).clips.committed == 4
    np.testing.assert_array_equal(open_cache(str(store)).read(["depth"], ["long.mp4#0000"])["depth"], old)
    (folder / "long.mp4").write_text("no video any more")
    assert run(jobs, folder, store, **more).clips.failed == 1
    assert set(stored_windows(store)) == {"long.mp4", "short.mp4#0000"}
    assert not verify(str(store)).findings


def test_a_vanished_video_leaves_its_windows_good(jobs: Jobs, folder: Path, tmp_path: Path) -> None:
    (folder / "videos.jsonl").write_text('{"uri": "long.mp4"}\n{"uri": "short.mp4"}')
    listed = {"videos": {"manifest": f"{folder}/videos.jsonl"}}
    run(jobs, folder, tmp_path / "store", **listed)
    (folder / "long.mp4").unlink()
    assert run(jobs, folder, tmp_path / "store", **listed, retry_failed=True).clips.committed == 4


def test_a_video_that_cannot_be_probed_is_one_failed_row(jobs: Jobs, folder: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    (folder / "short.mp4").write_text("not a video")
    report = run(jobs, folder, store)
    assert [(f.clip_id, f.reason) for f in report.failures] == [("short.mp4", "not_a_video")]
    with pytest.raises(ClipFailed, match="not_a_video"):
        open_cache(str(store)).read(["depth"], ["short.mp4"])
    assert run(jobs, folder, store, retry_failed=True).clips.failed == 1
    assert report.clips.committed == 3
    write_video(folder / "short.mp4", 20)
    assert run(jobs, folder, store).clips.model_dump() == {"planned": 5, "committed": 5, "failed": 0, "pending": 0}
    assert "short.mp4" not in stored_windows(store)
    assert not verify(str(store)).findings


def test_a_video_is_probed_only_where_its_windows_are_unknown(folder: Path) -> None:
    uri = f"{folder}/long.mp4"
    digest = content_digest(uri)

    def cut(known: pa.Table, digest: str | None = digest, *, retry: bool = False, **clash: str) -> pa.Table:
        ids, uris = ["long", *clash], [uri, *clash.values()]
        digests = pa.array([digest] + [None] * len(clash), pa.string())
        nulls = {
            name: pa.nulls(len(ids), CLIPS.field(name).type) for name in ("segment_start", "segment_end", "prompt", "extra")
        }
        videos = pa.table({"id": ids, "uri": uris, "content_digest": digests} | nulls)
        with DecoderPool(DENSE, 1, timeout_seconds=60) as pool, ProbeCache(DENSE) as probed:
            return windows_of(DENSE, videos, known, np.full(known.num_rows, retry), prober=pool, probed=probed)

    def rows(clip_id: str, window: Window | None) -> pa.Table:
        clip = {"clip_id": clip_id, "video": uri, "video_id": "long", "content_digest": digest}
        span = {} if window is None else {"window_start": window.start, "window_stop": window.stop}
        return pa.Table.from_pylist([clip | span], schema=CLIPS)

    found = cut(CLIPS.empty_table())
    assert found["clip_id"].to_pylist() == ["long#0000", "long#0001", "long#0002"]
    assert found["window_start"].to_pylist() == [0, 8, 16]
    known = rows("long#0000", Window(start=0, stop=16))  # not what probing finds, which tells that it is not done
    assert cut(known)["clip_id"].to_pylist() == ["long#0000"]
    assert cut(known, None)["clip_id"].to_pylist() == ["long#0000"]
    unprobed = rows("long", None)
    assert cut(unprobed)["clip_id"].to_pylist() == ["long"]
    assert cut(unprobed, retry=True) == found
    with pytest.raises(BadInput, match="called 'long#0000'"):
        cut(CLIPS.empty_table(), **{"long#0000": f"{folder}/gone.mp4"})


def test_what_was_probed_before_a_run_was_killed_is_not_probed_again(
    jobs: Jobs, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "_PROBED_AT_ONCE", 1)
    monkeypatch.setattr(discovery, "_PROBED_SECONDS", (0, 0))
    store, probed, after = tmp_path / "store", list[str](), 1

    def watched(decoder: Decoder, uri: str, segments: Sequence[Segment | None]) -> list[VideoInfo | VideoError]:
        if len(probed) == after:
            raise KeyboardInterrupt
        probed.append(Path(uri).name)
        return probe(decoder, uri, segments)

    probe = Decoder.probe_segments
    monkeypatch.setattr(Decoder, "probe_segments", watched)
    with pytest.raises(KeyboardInterrupt):
        run(jobs, folder, store)
    assert stored_windows(store).keys() == {"long.mp4#0000", "long.mp4#0001", "long.mp4#0002"}
    after = 2
    assert run(jobs, folder, store).clips.committed == 4
    assert probed == ["long.mp4", "short.mp4"]
    assert not verify(str(store)).findings


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The names of the videos that were probed, on a machine that knows none yet."""
    monkeypatch.setenv("P4D_CACHE_DIR", str(tmp_path / "node"))
    monkeypatch.setattr(probe_cache, "_WAIT_SECONDS", 0.1)
    names, probe = list[str](), Decoder.probe_segments

    def watched(decoder: Decoder, uri: str, segments: Sequence[Segment | None]) -> list[VideoInfo | VideoError]:
        names.append(Path(uri).name)
        return probe(decoder, uri, segments)

    monkeypatch.setattr(Decoder, "probe_segments", watched)
    return names


def test_a_run_opens_no_video_that_a_plan_opened(jobs: Jobs, folder: Path, tmp_path: Path, opened: list[str]) -> None:
    (folder / "none.mp4").write_text("not a video")
    store = tmp_path / "store"
    assert plan_report(job(jobs, folder, store)).new_clips == 5
    assert sorted(opened) == ["long.mp4", "none.mp4", "short.mp4"]
    opened.clear()
    assert run(jobs, folder, store).clips.model_dump() == {"planned": 5, "committed": 4, "failed": 1, "pending": 0}
    assert opened == ["none.mp4"], "an error may be gone at the next try"
    assert stored_windows(store)["long.mp4#0002"] == (16, 32)
    opened.clear()

    write_video(folder / "long.mp4", 17, seed=2)  # other content
    plan_report(job(jobs, folder, tmp_path / "another store"))
    assert sorted(opened) == ["long.mp4", "none.mp4"]
    opened.clear()
    plan_report(job(jobs, folder, tmp_path / "another store", clips={"sampling": "fps", "fps": 12}))
    assert sorted(opened) == ["long.mp4", "none.mp4", "short.mp4"]


@pytest.mark.parametrize("trouble", ["damaged", "other words", "locked", "not private", "no folder"])
def test_videos_are_opened_where_what_was_found_cannot_be_read(
    jobs: Jobs, folder: Path, tmp_path: Path, opened: list[str], trouble: str
) -> None:
    plan = partial(plan_report, job(jobs, folder, tmp_path / "store"))
    before = plan()
    (file,) = (tmp_path / "node" / "probed").iterdir()
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
        if trouble == "damaged":
            file.write_bytes(b"damaged" * 999)
        elif trouble == "other words":
            other.execute("UPDATE probed SET found = '{}'")
        elif trouble == "locked":
            other.execute("BEGIN EXCLUSIVE")
        elif trouble == "not private":
            file.chmod(0o666)
        else:
            shutil.rmtree(tmp_path / "node")
            (tmp_path / "node").touch()
        opened.clear()
        assert plan() == before
        assert sorted(opened) == ["long.mp4", "short.mp4"]
    opened.clear()
    assert plan() == before
    assert len(opened) == {"damaged": 2, "other words": 0, "locked": 0, "not private": 2, "no folder": 2}[trouble]
    if trouble == "damaged":  # removed, and made anew
        opened.clear()
        assert plan() == before
        assert not opened


def test_what_is_kept_of_a_video_is_some_seventy_bytes(tmp_path: Path, opened: list[str]) -> None:
    """As the guide says: 0.7 GB at ten million."""
    names = [{"uri": f"s3://bucket/{n}.mp4", "content_digest": f"etag:9:{n}"} for n in range(20_000)]
    rows = [name | {"segment_start": None, "segment_end": None} for name in names]
    found = VideoInfo(frames=300, fps=29.97, taken=20)
    with ProbeCache(DENSE) as probed:
        probed.put(rows, [found] * len(rows))
        assert probed.get(rows) == [found] * len(rows)
    (file,) = (tmp_path / "node" / "probed").iterdir()
    assert 60 < file.stat().st_size / len(rows) < 80
    assert not opened


def test_what_was_found_and_not_used_for_a_month_is_deleted(
    jobs: Jobs, folder: Path, tmp_path: Path, opened: list[str]
) -> None:
    plan_report(job(jobs, folder, tmp_path / "store"))
    (file,) = (tmp_path / "node" / "probed").iterdir()
    os.utime(file, (0, time.time() - 31 * 24 * 3600))
    plan_report(job(jobs, folder, tmp_path / "store", clips={"sampling": "fps", "fps": 12}))
    assert not file.exists()
    assert len(opened) == 4


def test_runs_of_one_job_probe_each_video_once_together(
    jobs: Jobs, folder: Path, tmp_path: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They take turns. Each begins elsewhere in the list, on a machine of its own, and finds what the other has added."""
    monkeypatch.setattr(discovery, "_PROBED_AT_ONCE", 1)
    monkeypatch.setattr(discovery, "_PROBED_SECONDS", (0, 0))
    for number in range(4):
        shutil.copy(folder / "short.mp4", folder / f"copy-{number}.mp4")
    task = job(jobs, folder, tmp_path / "store")

    def rounds(number: int) -> Iterator[int]:
        monkeypatch.setenv("P4D_CACHE_DIR", str(tmp_path / f"machine-{number}"))
        run = Planner(task, discover(task), no_progress, Stop(), retry_failed=False, portion=portion(f"{number}/2"))
        store = create_store(task.store, discover(task).recipe, "run")
        with run:
            for clips in run._clips:  # as `first` and its thread do, which would not take turns
                run._add(store, clips)
                yield clips.num_rows

    found = [sum(some or 0 for some in each) for each in zip(*itertools.zip_longest(rounds(0), rounds(1)), strict=True)]
    assert opened == ["copy-0.mp4", "copy-3.mp4", "copy-1.mp4", "long.mp4", "copy-2.mp4", "short.mp4"]
    assert found == [8, 8]
    assert len(stored_windows(tmp_path / "store")) == 8


@pytest.fixture
def in_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each video is added by itself, and the first is taught while the others are looked at."""
    monkeypatch.setattr(discovery, "_PROBED_AT_ONCE", 1)
    monkeypatch.setattr(discovery, "_PROBED_SECONDS", (0, 0))
    monkeypatch.setattr(planner, "_FIRST_SECONDS", 0)


@pytest.mark.usefixtures("in_rounds")
def test_the_first_videos_are_taught_while_the_others_are_counted(jobs: Jobs, folder: Path, tmp_path: Path) -> None:
    write_video(folder / "third.mp4", 20, seed=3)
    events: list[Event] = []
    report = run_job(job(jobs, folder, tmp_path / "store"), listen=events.append)
    assert report.clips.model_dump() == {"planned": 6, "committed": 6, "failed": 0, "pending": 0}
    assert (report.committed, report.left, report.done_before) == (6, 0, 0)
    assert [event.clips for event in events if isinstance(event, RunStarted)] == [3, 3]
    shown = reduce(lambda progress, event: progress.after(event, 1.0), events, RunProgress(0.0)).figures(2.0)
    assert (shown.clips, shown.done) == (6, 6)
    assert not verify(str(tmp_path / "store")).findings
    again = run_job(job(jobs, folder, tmp_path / "store"))
    assert (again.committed, again.done_before) == (0, 6)
    limited = run_job(job(jobs, folder, tmp_path / "limited"), portion=portion(limit=4))
    assert (limited.committed, limited.left) == (4, 2)


@pytest.mark.usefixtures("in_rounds")
def test_what_goes_wrong_while_others_are_taught_ends_the_run(
    jobs: Jobs, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(decoder: Decoder, uri: str, segments: Sequence[Segment | None]) -> list[VideoInfo | VideoError]:
        if "short" in uri:
            raise Unreachable(f"cannot reach {uri}")
        return probe(decoder, uri, segments)

    probe = Decoder.probe_segments
    monkeypatch.setattr(Decoder, "probe_segments", lost)
    with pytest.raises(Unreachable, match=r"short\.mp4"):
        run(jobs, folder, tmp_path / "store")
    monkeypatch.undo()
    report = run(jobs, folder, tmp_path / "store")
    assert (report.clips.committed, report.done_before) == (4, 3)


@pytest.mark.parametrize("name", ["late.ts", "late.mkv", "late.mp4"])
def test_a_segment_is_of_the_times_that_a_video_states(name: str, tmp_path: Path) -> None:
    """A recording, a stream's piece or a cut copy may begin at any time: what is before is not in it."""
    stamps = range(3_600_000, 3_602_000, 40)
    video = strange_videos.write(tmp_path / name, strange_videos.pictures(50, 64, 96), stamps=stamps)
    segments = [Segment(start_seconds=s, end_seconds=e) for s, e in ((0, 1), (1, None), (3599, 3600.5), (3601, 3602))]
    with Decoder(None, timeout_seconds=60) as decoder:
        before, whole, first, second = decoder.probe_segments(str(video), segments)
    assert isinstance(before, VideoError)
    assert (before.reason, "begins at 3600 s and ends at 3602 s" in before.detail) == ("segment_outside", True), before.detail
    assert [found.frames for found in (whole, first, second) if isinstance(found, VideoInfo)] == [50, 13, 25]


def test_segments_of_a_video_are_clips_of_their_own(jobs: Jobs, folder: Path, tmp_path: Path) -> None:
    """Of long.mp4, 30 frames at 24 a second: frames 6 to 11; 24 to its end; and what is not in it, which fails alone."""
    rows = [
        {"uri": "long.mp4", "start": 0.25, "end": 0.5, "caption": "early"},
        {"uri": "short.mp4", "caption": "all of it"},
        {"uri": "long.mp4", "start": 1, "caption": "late", "score": 0.5},
        {"uri": "long.mp4", "start": 1, "end": 9, "id": "beyond"},
        {"uri": "long.mp4", "start": 0.3, "end": 0.301, "id": "a moment"},
    ]
    (folder / "list.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    listed = {"videos": {"manifest": f"{folder}/list.jsonl"}}
    wanted = {
        "long.mp4@0.25-0.5": range(6, 12), "long.mp4@1-": range(24, 30), "a moment": range(7, 8), "short.mp4": range(5),
    }  # fmt: skip
    for sampling in ("uniform", "dense"):
        store = tmp_path / sampling
        report = run(jobs, folder, store, clips={"sampling": sampling}, **listed)
        assert (report.clips.committed, report.clips.failed) == (4, 1)
        (failed,) = report.failures
        assert (failed.clip_id, failed.reason) == ("beyond", "segment_outside")
        assert failed.detail == "a segment from 1 s to 9 s was listed, and the video ends at 1.25 s"
        cache = open_cache(str(store))
        for name, frames in wanted.items():
            clip_id = name if sampling == "uniform" else f"{name}#0000"
            read = cache.read(["frame_index", "timestamps"], [clip_id])
            window = None if sampling == "uniform" else Window(start=0, stop=16)
            expected = list(frame_indices(cache.recipe.clips, np.array(frames), window))
            assert read["frame_index"].tolist() == [expected]
            np.testing.assert_allclose(read["timestamps"], np.array([expected]) / 24, atol=1e-3)
        assert set(cache.committed_ids(pc.field("score") > 0.25)) == {
            "long.mp4@1-" + ("" if sampling == "uniform" else "#0000")
        }
        assert not verify(str(store)).findings
    read = cache.read_video(["depth"], "long.mp4@1-")  # of the dense store
    assert read["frame_index"].tolist() == list(range(24, 30))
    assert len(read["depth"]) == 6
    # Another segment of a video that the store has: a new row, and those that are there stay.
    with (folder / "list.jsonl").open("a") as file:
        file.write(json.dumps({"uri": "long.mp4", "end": 0.25}))
    added = diff_report(str(store), job(jobs, folder, store, **listed))
    assert (added.differences, added.new_clips) == ({}, 1)


def test_other_times_for_an_id_are_another_segment(jobs: Jobs, folder: Path, tmp_path: Path) -> None:
    """It is taught anew; of windows, which would stay beside the new ones, it is refused."""
    listed = {"videos": {"manifest": f"{folder}/list.jsonl"}}
    segment = {"uri": "long.mp4", "id": "one", "start": 0.25, "end": 0.5}
    (folder / "list.jsonl").write_text(json.dumps(segment))
    for sampling in ("uniform", "dense"):
        run(jobs, folder, tmp_path / sampling, clips={"sampling": sampling}, **listed)
    (folder / "list.jsonl").write_text(json.dumps(segment | {"end": 1}))
    uniform = {"clips": {"sampling": "uniform"}} | listed
    assert run(jobs, folder, tmp_path / "uniform", **uniform).clips.committed == 1
    cache = open_cache(str(tmp_path / "uniform"))
    assert cache.read(["frame_index"], ["one"])["frame_index"][0].tolist()[-1] == 23
    assert run(jobs, folder, tmp_path / "uniform", **uniform).done_before == 1
    with pytest.raises(BadInput, match=r"windows of 'one', of its seconds 0\.25-0\.5, .*an id of its own"):
        run(jobs, folder, tmp_path / "dense", **listed)


def test_a_row_says_how_many_frames_its_video_lacks(jobs: Jobs, folder: Path, tmp_path: Path) -> None:
    """Of a faststart mp4 that was cut short, the clip is of the frames that are left; a trainer's frames are the same ones."""
    noise = np.random.default_rng(0).integers(0, 256, (20, 64, 96, 3)).astype(np.uint8)
    cut = strange_videos.write(
        folder / "cut.mp4", noise, codec="mjpeg", pixels="yuvj420p", container_options={"movflags": "faststart"}
    )
    cut.write_bytes(cut.read_bytes()[: int(cut.stat().st_size * 0.92)])  # inside of a frame, which does not count
    store = tmp_path / "store"
    assert run(jobs, folder, store, clips={"sampling": "uniform"}, signals=["depth"]).clips.committed == 3
    cache = open_cache(str(store))
    lacking = {clip["clip_id"]: clip["undecodable_tail_frames"] for clip in cache.clips.to_pylist()}
    assert lacking == {"cut.mp4": 3, "long.mp4": 0, "short.mp4": 0}
    assert cache.committed_ids(pc.field("undecodable_tail_frames") == 0) == ["long.mp4", "short.mp4"]
    frames = cache.read(["frame_index"], ["cut.mp4"])["frame_index"][0]
    assert tuple(frames) == spread(16, 17)
    pictures = StudentFrames(24, 0)
    np.testing.assert_array_equal(pictures(str(cut), frames), pictures.watch(str(cut), 16).frames)
    assert not run(jobs, folder, tmp_path / "dense", signals=["depth"]).failures
    dense = open_cache(str(tmp_path / "dense"))
    assert dense.committed_ids(pc.field("undecodable_tail_frames") == 3) == ["cut.mp4#0001"]
    assert dense.read_video(["depth"], "cut.mp4")["frame_index"].tolist() == list(range(17))
    strict = {"sampling": "uniform", "max_undecodable_tail_share": 0.05}
    (failed,) = run(jobs, folder, tmp_path / "strict", clips=strict, signals=["depth"]).failures
    assert (failed.clip_id, failed.reason) == ("cut.mp4", "decode_error")
    assert failed.detail.endswith("do not decode, and clips.max_undecodable_tail_share is 0.05")


def test_what_is_listed_twice_or_not_kept_is_said(jobs: Jobs, folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "long.mp4", folder / "copy.mp4")
    (folder / "link.mp4").symlink_to("short.mp4")
    rows = [{"uri": f"{name}.mp4", "tags": ["a"]} for name in ("long", "copy", "short", "link")]
    rows += [{"uri": "long.mp4", "start": 1}, {"uri": "link.mp4", "end": 0.1}]  # other parts than any of the others
    (folder / "list.json").write_text(json.dumps(rows))
    report = plan_report(job(jobs, folder, tmp_path / "store", clips={}, videos={"manifest": f"{folder}/list.json"}))
    assert report.new_clips == 6
    not_kept, same = report.notes
    assert not_kept == (
        f"{folder}/list.json: 4 values of the column 'tags' are not kept: only texts, numbers and truth values are"
    )
    assert same.startswith(
        "2 clips have the content of others, and each is taught: 'long.mp4' like 'copy.mp4', 'short.mp4' like"
    )


def test_probes_come_in_order_and_damage_costs_its_own_video(folder: Path) -> None:
    (folder / "text.mp4").write_text("no video")
    with DecoderPool(DENSE, 2, timeout_seconds=60) as pool:
        asked = ((f"{folder}/{name}.mp4", [None]) for name in ("long", "text", "short", "none"))
        found = [info for (info,) in pool.probe_segments(asked)]
    assert [f if isinstance(f, VideoInfo) else f.reason for f in found] == [
        VideoInfo(frames=30, fps=24, taken=30), "not_a_video", VideoInfo(frames=5, fps=24, taken=5), "video_missing",
    ]  # fmt: skip


def test_a_video_s_windows_are_read_stitched(jobs: Jobs, folder: Path, tmp_path: Path, tiny_store: Path) -> None:
    store = str(tmp_path / "store")
    run(jobs, folder, tmp_path / "store", signals=["depth", "flow", "motion", "camray"])
    cache = open_cache(store)
    ids = [f"long.mp4#{number:04d}" for number in range(3)]
    one = cache.read(["depth", "flow", "motion", "camray"], ids)
    whole = cache.read_video(["depth", "flow", "motion"], "long.mp4", align="none")
    joined = join_caches({"one": cache}).read_video(["depth", "flow", "motion"], "long.mp4", align="none")
    np.testing.assert_equal(joined, whole)
    assert set(whole) == {"depth", "flow", "motion", "frame_index", "timestamps"}
    assert whole["frame_index"].tolist() == list(range(30))
    np.testing.assert_allclose(whole["timestamps"], np.arange(30) / 24, atol=1e-3)
    np.testing.assert_array_equal(
        whole["depth"], np.concatenate([one["depth"][0][:8], one["depth"][1][:8], one["depth"][2][:14]])
    )
    np.testing.assert_array_equal(whole["flow"][8], one["flow"][0][8])
    np.testing.assert_array_equal(whole["flow"][9], one["flow"][1][1])
    for align in ("disparity", "scale", "joint"):
        both = cache.read_video(["camray", "depth"], "long.mp4", align=align)
        assert both["depth"].shape == (30, 112, 112)
        assert both["camray"].shape == (30, *one["camray"].shape[2:])
        np.testing.assert_array_equal(both["camray"], cache.read_video(["camray"], "long.mp4", align=align)["camray"])
        np.testing.assert_array_equal(both["depth"][:8], one["depth"][0][:8])
    assert len(cache.read_video(["depth"], "short.mp4")["depth"]) == 5
    with pytest.raises(UnknownClip, match=r"no video 'lang.mp4'. Did you mean 'long.mp4'"):
        cache.read_video(["depth"], "lang.mp4")
    with pytest.raises(BadInput, match="'f4d' has no frame axis"):
        cache.read_video(["f4d"], "long.mp4")
    with pytest.raises(BadInput, match="is sampled uniform"):
        open_cache(str(tiny_store)).read_video(["depth"], "scene-0.mp4")
