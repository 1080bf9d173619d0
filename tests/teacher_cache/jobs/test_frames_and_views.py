"""What a store holds beside a teacher's targets of a video as it is: the student's frames, and the same clips mirrored."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Jobs

from schemas.errors import BadInput
from schemas.event import Event, TeacherStarted
from schemas.job import Job
from schemas.report import RunReport
from schemas.view import View
from student_train.data.frames import StudentFrames
from teacher_cache import join_caches, open_cache
from teacher_cache.clips.decoder import Decoder
from teacher_cache.io.places import Roots
from teacher_cache.jobs.audit import reteach
from teacher_cache.jobs.plan import diff_report, plan_report
from teacher_cache.jobs.run import run_job
from teacher_cache.report.write import VIDEOS_OPTION, clip_panel
from teacher_cache.store.chunk import encode_chunks
from teacher_cache.store.layout import stored_arrays
from teacher_cache.store.shard import pack_shard
from teacher_cache.store.store import open_store
from teacher_cache.store.verify import verify

BOTH: dict[str, Any] = {"views": ["plain", "flipped"], "student_size": 60}


def run(jobs: Jobs, store: Path, events: list[Event] | None = None, **changes: Any) -> RunReport:
    job = Job.model_validate(jobs.value(store, **{"signals": ["camray"], "clips": {"student_size": 60}} | changes))
    return run_job(job, listen=(events if events is not None else []).append)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, videos: Path) -> Path:
    """Frames, features and maps of the four videos, as they are and flipped."""
    folder = tmp_path_factory.mktemp("both")
    done = run(Jobs(folder, videos), folder / "store", signals=["f4d", "flow", "camray", "frames"], clips=BOTH)
    assert (done.clips.committed, done.failures) == (8, ())
    return folder / "store"


def test_frames_come_into_a_finished_store_by_decoding_alone(jobs: Jobs, tmp_path: Path, videos: Path) -> None:
    store = tmp_path / "store"
    taught = run(jobs, store)
    assert taught.stage_seconds.teach > 0
    events: list[Event] = []
    asked = {"signals": ["camray", "frames"], "engine": {"kind": "local", "gpus_per_teacher": 1}}  # there is none to take
    added = run(jobs, store, events, **asked)
    assert (added.clips.committed, added.stage_seconds.teach, added.fingerprint) == (4, 0, taught.fingerprint)
    assert [event.devices for event in events if isinstance(event, TeacherStarted)] == [("cpu",)]
    assert set(added.bytes_added) == {"camray", "frames"}
    assert added.bytes_added["camray"] == 0
    cache = open_cache(str(store))
    ids = cache.committed_ids()
    found = cache.read(["frames", "frame_index"], ids)
    assert (cache.shape("frames"), found["frames"].dtype) == ((16, 60, 60, 3), np.uint8)
    own = StudentFrames(60, 0)
    for clip_id, frames, index in zip(ids, found["frames"], found["frame_index"], strict=True):
        np.testing.assert_array_equal(frames, own(f"{videos}/{clip_id}", index))
    stored = cache.read_stored(["frames"], ids).decode()["frames"]
    np.testing.assert_array_equal(stored.numpy(), found["frames"])
    assert not verify(str(store)).findings


def test_a_store_has_the_student_s_frames_in_one_size(jobs: Jobs, tmp_path: Path) -> None:
    store = tmp_path / "store"
    run(jobs, store, signals=["frames"])
    other = {"signals": ["frames"], "clips": {"student_size": 64}}
    for act in (run_job, plan_report, lambda job: diff_report(str(store), job)):
        with pytest.raises(
            BadInput, match=r"frames of the shape \(16, 60, 60, 3\), .* \(16, 64, 64, 3\)\. Set `clips\.student_s"
        ):
            act(Job.model_validate(jobs.value(store, **other)))
    apart = run(jobs, tmp_path / "apart", **other)
    assert apart.clips.committed == 4
    joined = join_caches({"small": open_cache(str(store)), "large": open_cache(str(tmp_path / "apart"))})
    found = joined.read(["small:frames", "large:frames"], joined.committed_ids()[:1])
    assert [values.shape[2] for values in found.values()] == [60, 64]


def test_a_report_shows_stored_frames_where_no_video_may_be_read(both: Path) -> None:
    cache = open_cache(str(both))
    for row in cache.clips.to_pylist():
        panel = clip_panel(cache, row, Decoder(None, 60), Roots((), VIDEOS_OPTION))
        np.testing.assert_array_equal(panel.frames, cache.read(["frames"], [row["clip_id"]])["frames"][0])


def test_a_flipped_clip_is_a_row_of_its_own_of_mirrored_frames(both: Path) -> None:
    cache = open_cache(str(both))
    plain = cache.committed_ids()[::2]
    in_order = [each for clip_id in plain for each in (clip_id, f"{clip_id}~flipped")]
    assert cache.clips.sort_by("row")["clip_id"].to_pylist() == in_order  # one span's, so a video is decoded once for both
    flipped = [f"{clip_id}~flipped" for clip_id in plain]
    assert cache.committed_ids() == sorted([*plain, *flipped])
    assert dict(zip(*(cache.clips[name].to_pylist() for name in ("clip_id", "flipped")), strict=True)) == {
        **dict.fromkeys(plain, False), **dict.fromkeys(flipped, True),
    }  # fmt: skip
    names = ["frames", "frame_index"]
    as_it_is, mirrored = cache.read(names, plain, view=View(flip=True)), cache.read(names, flipped)
    for name in names:
        np.testing.assert_array_equal(as_it_is[name], mirrored[name])
    assert (cache.read(["frames"], plain)["frames"] != mirrored["frames"]).any()
    f4d = cache.read(["f4d"], [plain[0], flipped[0]])["f4d"]
    assert not np.allclose(f4d[0][..., ::-1, :], f4d[1], rtol=0.1)  # why they are taught, and not computed
    _, findings = reteach(str(both), 8, videos=[str(Path(cache.clips["video"][0].as_py()).parent)])
    assert not findings


@pytest.mark.parametrize("sampling", ["uniform", "dense"])
def test_a_view_is_added_to_a_finished_store_and_what_is_there_stays(jobs: Jobs, tmp_path: Path, sampling: str) -> None:
    store = tmp_path / "store"
    first = run(jobs, store, clips={"sampling": sampling})
    count = first.clips.committed
    for check in ("new", "content"):
        source = {"videos": {"glob": f"{jobs.videos}/*.mp4", "check": check}}
        views = {"sampling": sampling, "views": ["plain", "flipped"]}
        added = run(jobs, store, **source, clips=views)
        assert added.clips.committed == 2 * count
        assert added.fingerprint == first.fingerprint
    assert (added.committed, added.done_before) == (0, 2 * count)
    cache = open_cache(str(store))
    assert sum(cache.clips["flipped"].to_pylist()) == count
    again = run(jobs, store, clips={"sampling": sampling, "views": ["flipped"]})
    assert (again.committed, again.clips.committed) == (0, 2 * count)
    if sampling == "dense":
        video = cache.clips["video_id"][0].as_py()
        whole = cache.read_video(["camray"], video)  # of the plain windows alone
        assert whole["frame_index"].tolist() == sorted(set(whole["frame_index"].tolist()))
    assert not verify(str(store)).findings


def test_an_id_that_a_flipped_clip_could_have_is_refused(jobs: Jobs, tmp_path: Path, videos: Path) -> None:
    (tmp_path / "list.jsonl").write_text(f'{{"uri": "{videos}/scene-0.mp4", "id": "a~flipped"}}')
    source = {"videos": {"manifest": f"{tmp_path}/list.jsonl"}}
    assert run(jobs, tmp_path / "plain", **source).clips.committed == 1
    with pytest.raises(BadInput, match="'a~flipped' ends as those of flipped clips do"):
        run(jobs, tmp_path / "store", **source, clips={"views": ["flipped"]})


@pytest.mark.parametrize(("value", "said"), [(["plain", "plain"], "twice"), ([], "at least 1"), (["mirrored"], "flipped")])
def test_views_that_make_no_sense_are_refused(jobs: Jobs, value: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Job.model_validate(jobs.value("s", clips={"views": value}))


def test_frames_that_another_worker_wrote_are_taken_if_they_are_the_same(jobs: Jobs, tmp_path: Path, both: Path) -> None:
    """Half of a shard is right, half is not: a driver died before it said so, and the next finds them."""
    done = open_store(str(both))
    (array,) = stored_arrays(done.recipe, "frames", done.shapes)
    cache = open_cache(str(both))
    store = tmp_path / "store"
    run(jobs, store)
    ids = open_cache(str(store)).committed_ids()
    frames = cache.read(["frames"], ids[:2])["frames"]
    wrong = frames[1].copy()
    wrong[3, 5, 7] ^= 1
    chunks = dict(enumerate(chunk for clip in (frames[0], wrong) for chunk in encode_chunks(clip, array)))
    shard = store / "frames/c/0/0/0/0/0"
    shard.parent.mkdir(parents=True)
    shard.write_bytes(pack_shard(chunks, len(chunks)))
    found = run(jobs, store, signals=["camray", "frames"])
    assert [(clip.clip_id, clip.reason) for clip in found.failures] == [(ids[1], "missing_in_shard")]
    assert run(jobs, store, signals=["camray", "frames"]).clips.committed == 4  # in a row of its own
    now = open_cache(str(store)).read(["frames"], ids[:2])["frames"]
    np.testing.assert_array_equal(now, frames)
    shutil.rmtree(store)
