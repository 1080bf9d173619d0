"""A user's mistake costs one clear message or one failed row: no traceback, the right status, nothing half-written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Command, Jobs, is_one_clear_error, tree
from s3fs import S3FileSystem


@pytest.fixture
def no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has asked S3 nothing yet: s3fs shares open connections, which keep the keys that they began with."""
    monkeypatch.setattr(S3FileSystem, "_cache", {})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"signls": ["depth"]}, "signls: unknown key; did you mean `signals`?"),
        ({"videos": {"glob": "/nowhere/*.mp4"}}, "the glob /nowhere/*.mp4 matches no video"),
        ({"videos": {"manifest": "/nowhere/videos.jsonl"}}, "there is no manifest /nowhere/videos.jsonl"),
        ({"teacher": {"family": "l4p", "preset": "huge"}}, "huge"),
        ({"teacher": {"family": "l4p", "weights": "/nowhere/l4p.ckpt"}}, "/nowhere/l4p.ckpt"),
        ({"store": "teleport://bucket/store"}, "teleport"),
        ({"store": "s3://key:hidden@bucket/store"}, "holds credentials"),
    ],
)
def test_a_job_that_cannot_be_used(
    tmp_path: Path, jobs: Jobs, teacher_cache_command: Command, changes: dict[str, Any], said: str
) -> None:
    store = changes.pop("store", tmp_path / "store")
    for name in ("run", "plan"):
        done = teacher_cache_command(name, jobs.write(store, **changes))
        is_one_clear_error(done, 2, said)
        assert "hidden" not in done.err
    assert not (tmp_path / "store").exists()
    as_json = teacher_cache_command("run", jobs.write(store, **changes), "--json")
    assert as_json.status == 2
    assert said in as_json.json["error"]["message"]


def test_videos_that_cannot_be_decoded_cost_a_row_each(tmp_path: Path, jobs: Jobs, teacher_cache_command: Command) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "text.mp4").write_text("I am a text file")
    (folder / "empty.mp4").touch()
    (folder / "good [1] <b>.mp4").write_bytes((jobs.videos / "scene-0.mp4").read_bytes())
    lines = [{"uri": "text.mp4"}, {"uri": "empty.mp4"}, {"uri": "gone.mp4"}, {"uri": "good [1] <b>.mp4"}]
    (folder / "videos.jsonl").write_text("\n".join(map(json.dumps, lines)))
    store = tmp_path / "store"
    job = jobs.write(store, videos={"manifest": f"{folder}/videos.jsonl"})
    done = teacher_cache_command("run", job, "--json")
    assert done.status == 1
    assert "Traceback" not in done.err
    assert done.json["clips"] == {"planned": 4, "committed": 1, "failed": 3, "pending": 0}
    reasons = {f["clip_id"]: f["reason"] for f in done.json["failures"]}
    assert reasons == {"text.mp4": "not_a_video", "empty.mp4": "video_empty", "gone.mp4": "video_missing"}
    for_people = teacher_cache_command("status", store, COLUMNS="200")
    assert for_people.status == 1
    assert "video_missing" in for_people.out
    assert teacher_cache_command("verify", store).status == 0
    shown = teacher_cache_command("view", store, "--out", tmp_path / "page.html")
    assert shown.status == 0
    page = (tmp_path / "page.html").read_text()
    assert "good [1] &lt;b&gt;.mp4" in page
    assert "<b>.mp4" not in page


def test_a_store_of_another_recipe(tmp_path: Path, jobs: Jobs, teacher_cache_command: Command) -> None:
    store = tmp_path / "store"
    assert teacher_cache_command("run", jobs.write(store)).status == 0
    before = tree(store)
    other = jobs.write(store, clips={"preprocessing": "student"})
    is_one_clear_error(teacher_cache_command("run", other), 2, "clips.preprocessing: store has 'l4p', job asks for 'student'")
    diff = teacher_cache_command("diff", store, other, "--json")
    assert diff.status == 1
    assert diff.json["differences"]["clips.preprocessing"] == ["l4p", "student"]
    assert tree(store) == before


def test_what_is_no_store(tmp_path: Path, teacher_cache_command: Command) -> None:
    for name in ("status", "verify", "gc", "view", "stats"):
        is_one_clear_error(teacher_cache_command(name, tmp_path / "none"), 2, "there is no store at")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    is_one_clear_error(teacher_cache_command("status", foreign), 2, "not a store of teacher targets")
    (foreign / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {"format_version": 99}}')
    is_one_clear_error(teacher_cache_command("status", foreign), 2, "format version 99; this program reads version 2")


@pytest.mark.usefixtures("no_connection")
def test_s3_with_wrong_credentials(
    s3: str, jobs: Jobs, teacher_cache_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = jobs.write(f"{s3}/store")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    for arguments in (("run", job), ("status", f"{s3}/store")):
        done = teacher_cache_command(*arguments)
        is_one_clear_error(done, 3, "was refused", "AWS_SECRET_ACCESS_KEY")
        assert "not-the-secret" not in done.err


@pytest.mark.usefixtures("no_connection")
def test_an_endpoint_that_does_not_answer(
    s3: str, jobs: Jobs, teacher_cache_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    is_one_clear_error(teacher_cache_command("run", jobs.write(f"{s3}/store")), 3, "cannot reach s3://", "127.0.0.1:9")
    is_one_clear_error(teacher_cache_command("status", f"{s3}/store"), 3, "cannot reach s3://", "127.0.0.1:9")


@pytest.mark.usefixtures("s3", "no_connection")
def test_a_bucket_that_is_not_there_and_a_folder_that_cannot_be_written(jobs: Jobs, teacher_cache_command: Command) -> None:
    missing = teacher_cache_command("status", "s3://no-such-bucket/store")
    is_one_clear_error(missing, 3, "there is no bucket 'no-such-bucket'")
    is_one_clear_error(teacher_cache_command("run", jobs.write("/proc/store")), 3, "cannot use /proc/store")


def test_a_mistyped_command(teacher_cache_command: Command) -> None:
    done = teacher_cache_command("rum", "job.yaml")
    assert done.status == 2
    assert "Traceback" not in done.err


@pytest.mark.usefixtures("no_connection")
def test_videos_on_an_endpoint_that_does_not_answer(
    s3: str, jobs: Jobs, teacher_cache_command: Command, tmp_path: Path
) -> None:
    job = jobs.write(tmp_path / "store", videos={"glob": f"{s3}/raw/*.mp4"})
    done = teacher_cache_command("run", job, AWS_ENDPOINT_URL="http://127.0.0.1:9")
    is_one_clear_error(done, 3, "cannot reach s3://bucket/raw/", "127.0.0.1:9")
    (tmp_path / "videos.jsonl").write_text(json.dumps({"uri": f"{s3}/raw/a.mp4"}))
    job = jobs.write(tmp_path / "store", videos={"manifest": f"{tmp_path}/videos.jsonl"})
    done = teacher_cache_command("run", job, AWS_ENDPOINT_URL="http://127.0.0.1:9")
    is_one_clear_error(done, 3, "cannot reach s3://bucket/raw/a.mp4")
    assert not (tmp_path / "store").exists()
