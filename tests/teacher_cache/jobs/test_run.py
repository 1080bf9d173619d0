"""A job from beginning to end, and everything that may be asked of it again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from conftest import Jobs, tree
from log_files import contents, record_paths

from schemas.errors import BadInput, ClipFailed, CouldNotRun, OutOfTime, RecipeMismatch, SignalMissing, UnknownClip
from schemas.event import Event, Note, RunStarted
from schemas.job import Job
from schemas.report import RunReport, UnitReport
from teacher_cache import open_cache
from teacher_cache.jobs.plan import diff_report, plan_report
from teacher_cache.jobs.portion import portion
from teacher_cache.jobs.run import run_job
from teacher_cache.store.garbage import collect_garbage
from teacher_cache.store.store import open_store, status
from teacher_cache.store.verify import verify

ALL = ["f4d", "depth", "flow", "motion", "camray"]


def run(jobs: Jobs, store: Path, *, retry_failed: bool = False, **changes: Any) -> RunReport:
    """Of depth alone, where nothing is said of other signals: all of them take several times as long."""
    return run_job(Job.model_validate(jobs.value(store, **({"signals": ["depth"]} | changes))), retry_failed=retry_failed)


@pytest.fixture
def three(tmp_path: Path, videos: Path) -> Path:
    """A folder of three videos that a test may change."""
    folder = tmp_path / "three"
    folder.mkdir()
    for seed in range(3):
        shutil.copy(videos / f"scene-{seed}.mp4", folder)
    return folder


def source(folder: Path) -> dict[str, Any]:
    return {"videos": {"glob": f"{folder}/*.mp4"}}


def test_two_runs_of_one_job_give_the_same_bytes(tiny_store: Path, jobs: Jobs, tmp_path: Path) -> None:
    report = run(jobs, tmp_path / "store", signals=ALL)
    assert report.clips.model_dump() == {"planned": 4, "committed": 4, "failed": 0, "pending": 0}
    assert report.done_before == 0
    assert contents(tree(tmp_path / "store")) == contents(tree(tiny_store))


def test_two_runs_at_once_give_the_same_bytes_and_say_that_they_do_the_same_work(jobs: Jobs, tmp_path: Path) -> None:
    job = Job.model_validate(jobs.value(tmp_path / "store", signals=["depth"]))
    others, notes = [], []

    def listen(event: Event) -> None:
        if isinstance(event, RunStarted):  # its work is planned, and nothing of it is done
            others.append(run_job(job))
        elif isinstance(event, Note):
            notes.append(event.text)

    report = run_job(job, listen=listen)
    assert [other.committed for other in others] == [4]
    assert (report.committed, report.clips.committed) == (0, 4)
    (note,) = notes
    assert "another run of this job had committed unit" in note
    assert "--shard" in note
    run(jobs, tmp_path / "alone")
    assert contents(tree(tmp_path / "store")) == contents(tree(tmp_path / "alone"))


def test_a_second_run_writes_nothing(jobs: Jobs, tmp_path: Path) -> None:
    run(jobs, tmp_path / "store")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "store").rglob("*")}
    report = run(jobs, tmp_path / "store")
    assert report.done_before == 4
    assert report.stage_seconds.teach == 0
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "store").rglob("*")} == before


def test_what_is_read_is_what_the_teacher_gave(tiny_store: Path, videos: Path) -> None:
    import torch
    from decoding import decode_clip

    from schemas.job import TeacherJob
    from teacher_cache.teachers.registry import family

    cache = open_cache(str(tiny_store))
    read = cache.read([*ALL, "timestamps", "frame_index"], ["scene-2.mp4", "scene-0.mp4"])
    teacher = family("l4p").load(TeacherJob(preset="tiny"), "cpu")
    for place, name in enumerate(("scene-2.mp4", "scene-0.mp4")):
        clip = decode_clip(str(videos / name), cache.recipe.clips)
        raw = {k: v[0].numpy() for k, v in teacher.raw(torch.from_numpy(clip.frames)[None], ALL).items()}
        assert {k: v.shape[1:] for k, v in read.items() if k in raw} == {k: v.shape for k, v in raw.items()}
        np.testing.assert_allclose(read["depth"][place], np.exp(raw["depth"]), rtol=1e-3)
        np.testing.assert_allclose(read["flow"][place], raw["flow"], atol=1 / 32 + 1e-4)
        np.testing.assert_allclose(read["motion"][place], raw["motion"].clip(-8, 8), atol=1 / 16 + 1e-4)
        np.testing.assert_allclose(read["camray"][place], raw["camray"], atol=1e-4)
        error, power = (np.square(x).mean(axis=(1, 2, 3)) for x in (read["f4d"][place] - raw["f4d"], raw["f4d"]))
        assert (error <= 0.0101**2 * power).all()  # the batch differs from the run's, and with it the order of some sums
        assert tuple(read["frame_index"][place]) == clip.clock.frame_index
        np.testing.assert_array_equal(read["timestamps"][place], clip.clock.timestamps_seconds)
    assert all(v.dtype == np.float32 for k, v in read.items() if k in ALL)


def test_stored_heads_decode_stored_features_to_stored_maps(tiny_store: Path) -> None:
    import torch

    cache = open_cache(str(tiny_store))
    heads = cache.heads()
    assert heads is not None
    read = cache.read(ALL, cache.committed_ids())
    maps = heads.raw(torch.from_numpy(read["f4d"]), ALL[1:])
    spread = np.log(read["depth"]).std()
    assert np.abs(maps["depth"].numpy() - np.log(read["depth"])).mean() < 0.05 * spread


def test_new_videos_are_appended_and_nothing_committed_is_touched(
    jobs: Jobs, three: Path, videos: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    run(jobs, store, **source(three))
    before = tree(store)
    shutil.copy(videos / "scene-3.mp4", three)
    report = run(jobs, store, **source(three))
    assert report.clips.committed == 4
    after = tree(store)
    changed = [key for key, data in before.items() if after[key] != data]
    assert all(key.endswith("/zarr.json") for key in changed)  # the arrays' lengths alone
    rows = {c["clip_id"]: c["row"] for c in open_cache(str(store)).clips.to_pylist()}
    assert rows == {"scene-0.mp4": 0, "scene-1.mp4": 1, "scene-2.mp4": 2, "scene-3.mp4": 4}  # aligned to a shard
    assert np.asarray(zarr.open_group(store, mode="r")["depth"]).shape[0] == 5
    assert not verify(str(store)).findings


def test_a_signal_is_added_over_the_same_rows(jobs: Jobs, three: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    run(jobs, store, **source(three), signals=["depth"])
    before = tree(store)
    with pytest.raises(SignalMissing, match="holds depth; 'flow' is not among them"):
        open_cache(str(store)).read(["flow"], ["scene-0.mp4"])
    plan = plan_report(Job.model_validate(jobs.value(store, **source(three), signals=["depth", "flow"])))
    assert (plan.units, plan.new_clips, plan.bytes_uncompressed["depth"]) == (2, 0, 0)
    assert plan.bytes_uncompressed["flow"] == 3 * 16 * 112 * 112 * 2 * 2
    report = run(jobs, store, **source(three), signals=["depth", "flow"])
    assert report.clips.committed == 3
    assert before.items() <= tree(store).items()
    assert open_cache(str(store)).read(["depth", "flow"], ["scene-1.mp4"])["flow"].shape == (1, 16, 112, 112, 2)
    assert not verify(str(store)).findings


def test_a_failed_clip_is_a_row_with_a_reason_and_can_be_tried_again(
    jobs: Jobs, three: Path, videos: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    (three / "scene-1.mp4").write_text("not a video")
    report = run(jobs, store, **source(three))
    assert report.clips.model_dump() == {"planned": 3, "committed": 2, "failed": 1, "pending": 0}
    assert [(f.clip_id, f.reason) for f in report.failures] == [("scene-1.mp4", "not_a_video")]
    assert (report.committed, report.failed, report.ok) == (2, 1, False)
    cache = open_cache(str(store))
    with pytest.raises(ClipFailed, match=r"'scene-1.mp4' has no targets: not_a_video"):
        cache.read(["depth"], ["scene-0.mp4", "scene-1.mp4"])
    assert cache.committed_ids() == ["scene-0.mp4", "scene-2.mp4"]
    assert len(cache.dataset(["depth"])) == 2
    assert not verify(str(store)).findings

    again = run(jobs, store, **source(three))  # not tried again unasked, and not held against a run that did not try it
    assert (again.clips.failed, again.committed, again.failed, again.ok) == (1, 0, 0, True)
    before = tree(store)
    tolerant = jobs.value(store)["engine"] | {"ok_failed_share": 1}
    tried = run(jobs, store, retry_failed=True, engine=tolerant, **source(three))  # asked, and it fails again
    assert (tried.clips.failed, tried.failed, tried.ok) == (1, 1, True)
    # A mended video has another content, and so is taught again unasked.
    shutil.copy(videos / "scene-1.mp4", three)
    assert run(jobs, store, **source(three)).clips.committed == 3
    assert all(tree(store)[key] == data for key, data in before.items() if not key.endswith("zarr.json"))
    assert not verify(str(store)).findings


def test_a_video_whose_content_changed_is_taught_again_as_a_new_row(
    jobs: Jobs, three: Path, videos: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    run(jobs, store, **source(three))
    old = open_cache(str(store)).read(["depth"], ["scene-0.mp4"])["depth"]
    shutil.copy(videos / "scene-3.mp4", three / "scene-0.mp4")
    assert run(jobs, store, **source(three)).clips.committed == 3
    new = open_cache(str(store))
    assert {c["clip_id"]: c["row"] for c in new.clips.to_pylist()}["scene-0.mp4"] == 4
    assert (new.read(["depth"], ["scene-0.mp4"])["depth"] != old).any()
    events: list[Event] = []  # a superseded row is no obstacle to a new run, and no clip of it
    job = Job.model_validate(jobs.value(store, **source(three), signals=["depth", "motion"]))
    assert run_job(job, listen=events.append).done_before == 0
    assert [event.clips for event in events if isinstance(event, RunStarted)] == [3]
    assert sum(event.committed + event.failed for event in events if isinstance(event, UnitReport)) == 3
    # Of two clips in one unit, a list may have one.
    one = run(jobs, store, videos={"glob": f"{three}/scene-1.mp4"}, signals=["depth", "flow"])
    assert (one.done_before, one.left) == (0, 0)
    assert not verify(str(store)).findings


def test_a_vanished_video_leaves_its_targets_good(jobs: Jobs, three: Path, tmp_path: Path) -> None:
    lines = "\n".join(json.dumps({"uri": f"scene-{i}.mp4"}) for i in range(3))
    (three / "videos.jsonl").write_text(lines)
    listed = {"videos": {"manifest": f"{three}/videos.jsonl"}}
    run(jobs, tmp_path / "store", **listed)
    (three / "scene-2.mp4").unlink()
    assert run(jobs, tmp_path / "store", **listed).clips.committed == 3


def rows_of(store: Path) -> dict[str, int]:
    return {clip["clip_id"]: clip["row"] for clip in open_cache(str(store)).clips.to_pylist()}


@pytest.mark.parametrize("sampling", ["uniform", "dense"])
def test_a_damaged_clip_whose_video_is_gone_fails_and_is_taught_once_it_is_back(
    jobs: Jobs, three: Path, tmp_path: Path, sampling: str
) -> None:
    """Its video's other clips stay as they are."""
    store, gone = tmp_path / "store", three / "scene-1.mp4"
    lines = "\n".join(json.dumps({"uri": f"scene-{i}.mp4", "id": f"scene-{i}"}) for i in range(3))
    (three / "videos.jsonl").write_text(lines)
    changes = {"clips": {"sampling": sampling}, "videos": {"manifest": f"{three}/videos.jsonl"}}
    job = Job.model_validate(jobs.value(store, signals=["depth"], **changes))
    count = run_job(job).committed
    before = rows_of(store)
    number = min(row for clip_id, row in before.items() if clip_id.startswith("scene-1")) // 2
    shard = next(path for path in (store / f"depth/c/{number}").rglob("*") if path.is_file())
    shard.write_bytes(shard.read_bytes()[:-1])
    hit = {clip_id for finding in verify(str(store)).findings for clip_id in finding.clip_ids}
    lost = {clip_id for clip_id in hit if clip_id.startswith("scene-1")}
    assert lost
    held = gone.read_bytes()
    gone.unlink()
    (three / "others.jsonl").write_text("\n".join(line for line in lines.splitlines() if "scene-1" not in line))
    others = job.model_copy(update={"videos": job.videos.model_copy(update={"manifest": f"{three}/others.jsonl"})})
    assert any(f"{len(lost)} clips are to be taught again" in note for note in run_job(others, repair=True).notes)
    plan = plan_report(job)
    assert (plan.new_clips, plan.clips_to_do) == (len(lost), len(lost))

    report = run_job(job)
    assert report.clips.model_dump() == {"planned": count, "committed": count - len(lost), "failed": len(lost), "pending": 0}
    assert {(failure.clip_id, failure.reason) for failure in report.failures} == {(name, "video_missing") for name in lost}
    assert (report.failed, report.ok) == (len(lost), False)
    assert not verify(str(store)).findings
    assert (run_job(job).ok, run_job(job, retry_failed=True).ok) == (True, False)
    gone.write_bytes(held)
    report = run_job(job)
    assert (report.committed, report.clips.committed, report.notes) == (len(lost), count, ())
    now = rows_of(store)
    assert {clip_id for clip_id in now if now[clip_id] != before[clip_id]} == hit
    assert not verify(str(store)).findings


def test_another_recipe_is_refused_with_the_fields_that_differ(jobs: Jobs, tmp_path: Path) -> None:
    store = tmp_path / "store"
    run(jobs, store, signals=ALL)
    before = tree(store)
    changes: dict[str, Any] = {"encoding": "exact", "layout": {"clips_per_shard": 4}}
    with pytest.raises(RecipeMismatch) as caught:
        run(jobs, store, signals=ALL, **changes)
    assert set(caught.value.differences) == {
        "encodings.f4d", "encodings.depth", "encodings.flow", "encodings.motion", "encodings.camray", "layout.clips_per_shard",
    }  # fmt: skip
    assert diff_report(str(store), Job.model_validate(jobs.value(store, **changes))).differences == caught.value.differences
    assert diff_report(str(store), Job.model_validate(jobs.value(store))).units == 0
    assert tree(store) == before


def test_where_and_how_fast_is_not_in_the_recipe(jobs: Jobs, tmp_path: Path) -> None:
    run(jobs, tmp_path / "store")
    moved = tmp_path / "moved"
    shutil.move(tmp_path / "store", moved)
    engine = {"kind": "local", "batch": 4, "decoders": 2}
    assert run(jobs, moved, engine=engine).done_before == 4


def test_the_exact_encoding_is_lossless(jobs: Jobs, three: Path, videos: Path, tmp_path: Path) -> None:
    import torch
    from decoding import decode_clip

    from schemas.job import TeacherJob
    from teacher_cache.teachers.registry import family

    run(
        jobs,
        tmp_path / "store",
        **source(three),
        signals=ALL,
        encoding="exact",
        engine={"kind": "local", "batch": 1, "threads_per_teacher": 1},
    )
    cache = open_cache(str(tmp_path / "store"))
    clip = decode_clip(str(videos / "scene-0.mp4"), cache.recipe.clips)
    raw = family("l4p").load(TeacherJob(preset="tiny"), "cpu").raw(torch.from_numpy(clip.frames)[None], ALL)
    read = cache.read(ALL, ["scene-0.mp4"])
    for signal in ("f4d", "flow", "motion", "camray"):
        np.testing.assert_array_equal(read[signal], raw[signal].numpy())
    np.testing.assert_allclose(read["depth"], raw["depth"].exp().numpy(), rtol=1e-6)


def test_a_dataset_is_shuffled_by_seed_and_epoch_batched_and_picklable(tiny_store: Path) -> None:
    import torch
    from torch.utils.data import DataLoader

    cache = open_cache(str(tiny_store))
    dataset = cache.dataset(["depth", "camray"], seed=5)
    assert [str(dataset[i]["clip_id"]) for i in range(4)] == cache.committed_ids()
    batches = dataset.batches(2)
    orders = [tuple(key for batch in batches.track(batches) for key in batch) for _ in range(8)]
    assert len(set(orders)) > 1
    assert orders[0] == tuple(key for batch in cache.dataset(["depth"], seed=5).batches(2) for key in batch)
    assert {tuple(sorted(order)) for order in orders} == {tuple(cache.committed_ids())}
    loader = DataLoader(cache.dataset(["depth"], seed=None), batch_size=3, num_workers=1, multiprocessing_context="spawn")
    batches = list(loader)
    assert [tuple(b["depth"].shape) for b in batches] == [(3, 16, 112, 112), (1, 16, 112, 112)]
    truth = cache.read(["depth"], cache.committed_ids())["depth"]
    assert torch.equal(torch.cat([b["depth"] for b in batches]), torch.from_numpy(truth))


def test_misspelt_clips_are_named_and_nothing_asked_gives_nothing(tiny_store: Path) -> None:
    cache = open_cache(str(tiny_store))
    with pytest.raises(UnknownClip, match=r"no clip 'scene-0.mpeg' among its 4. Did you mean 'scene-0.mp4'"):
        cache.read(["depth"], ["scene-0.mpeg"])
    assert cache.read(["depth"], [])["depth"].shape == (0, 16, 112, 112)


def test_the_teacher_must_fit_the_job(jobs: Jobs, tmp_path: Path) -> None:
    for changes, said in (
        ({"clips": {"frames": 8}}, "takes clips of 16 frames"),
        ({"clips": {"size": 224}}, "takes frames of 112 pixels"),
        ({"teacher": {"family": "l5p"}}, "no teacher family is called 'l5p'"),
        ({"teacher": {"family": "l4p", "preset": "giant"}}, "weights"),
        ({"engine": {"kind": "slurm"}}, "no engine is called 'slurm'; installed here: local, ray"),
    ):
        with pytest.raises(BadInput, match=said):
            run(jobs, tmp_path / "store", **changes)
    assert not (tmp_path / "store").exists()


def test_garbage_is_what_nothing_can_come_to_name(jobs: Jobs, three: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    run(jobs, store, **source(three), signals=["depth"])
    committed = tree(store)
    (store / "depth/c/7/0/0").mkdir(parents=True)
    (store / "depth/c/7/0/0/0").write_bytes(b"of rows that do not exist")
    (store / "depth/c/0/0/0/.0.abc.tmp").write_bytes(b"half")
    (store / "flow/c/0/0/0/0").mkdir(parents=True)
    (store / "flow/c/0/0/0/0/0").write_bytes(b"of a unit that a run may be about to commit")
    found = {f.key: f.detail for f in verify(str(store)).findings if f.kind == "orphan"}
    garbage, unfinished = {"depth/c/7/0/0/0", "depth/c/0/0/0/.0.abc.tmp"}, {"flow/c/0/0/0/0/0"}
    assert found.keys() == garbage | unfinished
    assert "the next one takes it over" in found["flow/c/0/0/0/0/0"]
    dry = collect_garbage(str(store), dry_run=True)
    assert (set(dry.removed), set(dry.unfinished)) == (garbage, unfinished)
    assert set(collect_garbage(str(store)).removed) == garbage
    assert collect_garbage(str(store)).removed == ()
    assert set(collect_garbage(str(store), unfinished=True).removed) == unfinished
    assert {key: data for key, data in tree(store).items() if key in committed} == committed
    assert {path.name for path in record_paths(store)} - {Path(key).name for key in committed} == {
        f"{number:020d}.json" for number in range(4, 8)
    }
    # A key was announced, so nothing is ever committed there again: the clips of its unit get new rows.
    report = run(jobs, store, **source(three), signals=["depth", "flow"])
    assert report.clips.model_dump() == {"planned": 3, "committed": 3, "failed": 0, "pending": 0}
    assert min(open_cache(str(store)).clips["row"].to_pylist()) >= 2
    assert not [f for f in verify(str(store)).findings if f.kind != "orphan"]


def test_gc_leaves_another_store_and_videos_below_it(jobs: Jobs, three: Path, videos: Path, tmp_path: Path) -> None:
    outer, inner = tmp_path / "p4d", tmp_path / "p4d/l4p-giant"
    run(jobs, inner, **source(three), signals=["depth"])
    run(jobs, outer, **source(three), signals=["depth"])
    shutil.copytree(videos, outer / "raw")
    before = tree(outer)
    foreign = sorted(key for key in before if key.startswith(("l4p-giant/", "raw/")))
    found = collect_garbage(str(outer), unfinished=True)
    assert (found.removed, found.foreign, found.foreign_example) == ((), len(foreign), foreign[0])
    assert tree(outer) == before
    (told,) = verify(str(outer)).findings
    assert (told.kind, told.key) == ("orphan", foreign[0])
    assert f"{len(foreign)} such objects" in told.detail


def test_what_a_killed_writer_began_is_no_shard(jobs: Jobs, three: Path, tmp_path: Path) -> None:
    """Its announcement bars nothing: the rows that are committed get the new signal too."""
    store = tmp_path / "store"
    run(jobs, store, **source(three), signals=["depth"])
    half = store / "flow/c/0/0/0/0/.0.abc.tmp"
    half.parent.mkdir(parents=True)
    half.write_bytes(b"half")
    assert collect_garbage(str(store)).removed == ("flow/c/0/0/0/0/.0.abc.tmp",)
    before = open_cache(str(store)).clips["row"].to_pylist()
    report = run(jobs, store, **source(three), signals=["depth", "flow"])
    assert report.clips.model_dump() == {"planned": 3, "committed": 3, "failed": 0, "pending": 0}
    assert open_cache(str(store)).clips["row"].to_pylist() == before


def test_only_new_videos_are_looked_at_where_the_job_says_so(jobs: Jobs, three: Path, videos: Path, tmp_path: Path) -> None:
    store, new = tmp_path / "store", {"videos": {"glob": f"{three}/*.mp4", "check": "new"}, "signals": ["depth"]}
    (three / "scene-1.mp4").write_text("not a video")
    assert run(jobs, store, **new).clips.model_dump() == {"planned": 3, "committed": 2, "failed": 1, "pending": 0}
    shutil.copy(videos / "scene-3.mp4", three / "scene-0.mp4")  # other content, which nobody looks at
    (three / "scene-2.mp4").unlink()
    shutil.copy(videos / "scene-3.mp4", three)
    plan = plan_report(Job.model_validate(jobs.value(store, **new)))
    assert (plan.new_clips, plan.units) == (1, 1)
    assert run(jobs, store, **new).done_before == 2  # of the videos that the glob finds now
    shutil.copy(videos / "scene-1.mp4", three)
    report = run(jobs, store, **new, retry_failed=True)  # what is tried again is looked at again
    assert report.clips.model_dump() == {"planned": 4, "committed": 4, "failed": 0, "pending": 0}
    digest = dict(zip(*(open_cache(str(store)).clips[name].to_pylist() for name in ("clip_id", "content_digest")), strict=True))
    assert digest["scene-0.mp4"] != digest["scene-3.mp4"]
    assert run(jobs, store, **source(three)).clips.planned == 4
    digest = dict(zip(*(open_cache(str(store)).clips[name].to_pylist() for name in ("clip_id", "content_digest")), strict=True))
    assert digest["scene-0.mp4"] == digest["scene-3.mp4"]


def test_too_many_failures_stop_the_run_with_their_reasons_counted(tmp_path: Path, videos: Path, jobs: Jobs) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    lines = [{"uri": str(broken if n % 3 else videos / "scene-0.mp4"), "id": f"{n:02d}"} for n in range(60)]
    (tmp_path / "videos.jsonl").write_text("\n".join(map(json.dumps, lines)))
    job = jobs.value(tmp_path / "store", videos={"manifest": str(tmp_path / "videos.jsonl")}, signals=["camray"])
    with pytest.raises(CouldNotRun, match=r"max_failed_share allows \(0.5\):\n  2\d not_a_video, such as '"):
        run_job(Job.model_validate(job))
    assert status(open_store(str(tmp_path / "store"))).clips.pending > 0

    job["engine"]["max_failed_share"] = 1
    report = run_job(Job.model_validate(job))
    assert report.clips.model_dump() == {"planned": 60, "committed": 20, "failed": 40, "pending": 0}


def test_a_run_does_its_portion_and_all_of_them_the_job(jobs: Jobs, single_clips_store: Path, tmp_path: Path) -> None:
    """By one run after another, with another number of them after an interruption."""
    job = Job.model_validate(jobs.value(tmp_path / "store", layout={"clips_per_shard": 1}))
    report = run_job(job, portion=portion("1/3"))
    assert (report.committed, report.left, report.clips.committed) == (1, 3, 1)
    report = run_job(job, portion=portion("0/2", limit=1))
    assert (report.committed, report.left, report.clips.committed) == (1, 2, 2)
    assert sorted(int(path.name) for path in (tmp_path / "store" / "depth" / "c").iterdir()) == [0, 1]
    assert run_job(job, portion=portion("1/3")).committed == 0
    report = run_job(job, portion=portion(limit=100))
    assert (report.committed, report.left, report.clips.pending) == (2, 0, 0)
    assert contents(tree(tmp_path / "store")) == contents(tree(single_clips_store))


def test_a_deadline_ends_a_run_with_a_status_of_its_own(jobs: Jobs, tmp_path: Path) -> None:
    changes = {"signals": ["depth"], "engine": {"kind": "local", "grace_seconds": 0}}
    for clips in ({"sampling": "dense"}, {}):
        job = Job.model_validate(jobs.value(tmp_path / "store", clips=clips, **changes))
        with pytest.raises(
            OutOfTime, match=r"stopped by its deadline, .* UTC before all videos were looked at; the same command"
        ) as out:
            run_job(job, portion=portion(max_hours=0))
        assert out.value.exit_status == 75
        assert not (tmp_path / "store").exists()
    assert run_job(job, portion=portion(deadline="2999-01-01")).clips.committed == 4


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"shard": "3/3"}, "--shard is '3/3'; needed i/n with i from 0 to n - 1"),
        ({"shard": "-1/3"}, "--shard is '-1/3'"),
        ({"shard": "1"}, "--shard is '1'"),
        ({"deadline": "soon"}, "--deadline is 'soon'; needed a time such as"),
        ({"deadline": "0001-01-01"}, "--deadline is '0001-01-01'; needed a time such as"),
        ({"deadline": "0001-01-01T00:00+12:00"}, r"--deadline is '0001-01-01T00:00\+12:00'; needed a time such as"),
        ({"deadline": "9999-12-31T23:59-12:00"}, "--deadline is '9999-12-31T23:59-12:00'; needed a time such as"),
        ({"max_hours": 1e9}, r"--max-hours is 1e\+09; needed hours from now that end before the year 10000"),
        ({"max_hours": float("inf")}, "--max-hours is inf; needed"),
        ({"max_hours": float("nan")}, "--max-hours is nan; needed"),
        ({"deadline": "2999-01-01", "max_hours": 3}, "give one of them"),
    ],
)
def test_a_portion_that_cannot_be_is_named(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(BadInput, match=expected):
        portion(**options)
