"""What a store, a log or a message must never hold, and what a store made by someone else must never do."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Command, Jobs, is_one_clear_error, tree

from schemas.errors import BadInput, StoreDamaged
from teacher_cache import open_cache
from teacher_cache.store.objects import Objects
from teacher_cache.store.records import _sealed
from teacher_cache.verify import collect_garbage, verify

SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "5eCr3t-key",
    "AWS_SESSION_TOKEN": "5eCr3t-token",
    "HTTPS_PROXY": "http://proxy-user:5eCr3t-proxy@127.0.0.1:9",
}


@pytest.fixture
def store(tiny_store: Path, tmp_path: Path) -> Path:
    """A store that may be changed."""
    shutil.copytree(tiny_store, tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder beside the store, with a file that is none of its business."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "precious").write_bytes(b"not ours")
    return folder


def test_no_secret_of_the_environment_is_in_what_commands_write(
    jobs: Jobs, tmp_path: Path, teacher_cache_command: Command
) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    shutil.copy(jobs.videos / "scene-0.mp4", videos)
    (videos / "broken.mp4").write_text("no video")
    store = tmp_path / "made"
    job = jobs.write(store, videos={"glob": f"{videos}/*.mp4"}, signals=["depth"])
    said = [teacher_cache_command(*words, **SECRETS) for words in (("run", job), ("run", job, "--json"), ("status", store))]
    assert [done.status for done in said] == [1, 1, 1]
    assert not [key for key, data in tree(store).items() if b"5eCr3t" in data or b"proxy-user" in data]
    assert all("5eCr3t" not in done.out + done.err for done in said)


def test_an_endpoint_s_own_password_is_not_shown(command: Command) -> None:
    endpoint = "http://user:5eCr3t@127.0.0.1:9"
    done = command("teacher-cache", "status", "s3://bucket/store", "--json", **SECRETS, AWS_ENDPOINT_URL=endpoint)
    is_one_clear_error(done, 3, "cannot reach s3://bucket/store", "http://***@127.0.0.1:9")
    assert "5eCr3t" not in done.out + done.err


@pytest.mark.parametrize(
    "changes",
    [
        {"store": "s3://AKIA:5eCr3t/x@bucket/store"},
        {"store": "simplecache::s3://AKIA:5eCr3t@bucket/store"},
        {"videos": {"glob": "https://host/*.mp4?X-Amz-Signature=5eCr3t"}},
        {"videos": {"manifest": "s3://AKIA:5eCr3t@bucket/videos.jsonl"}},
        {"videos": "s3://AKIA:5eCr3t@bucket/videos.jsonl"},
        {"teacher": {"preset": "giant", "weights": "https://host/l4p.ckpt?X-Amz-Signature=5eCr3t"}},
    ],
)
def test_a_job_with_a_secret_is_refused(
    jobs: Jobs, tmp_path: Path, changes: dict[str, Any], teacher_cache_command: Command
) -> None:
    done = teacher_cache_command("run", jobs.write(**({"store": tmp_path / "made"} | changes)), "--json")
    is_one_clear_error(done, 2, "***")
    assert "5eCr3t" not in done.out + done.err
    assert not (tmp_path / "made").exists()


def test_nothing_in_a_store_is_unpickled(store: Path) -> None:
    """Python reports each object that a pickle would make; reading, verifying and the heads make none."""
    code = f"""
import sys
import torch, numpy, zarr, pyarrow.parquet  # libraries may do as they like while they are imported
import teacher_cache.verify, teacher_cache.heads.frozen, teacher_cache.store.dataset
found = []
sys.addaudithook(lambda event, names: found.append(names) if event == "pickle.find_class" else None)
import pickle
pickle.loads(pickle.dumps(torch.Size))
assert found.pop()[1] == "Size"  # the hook is at work
from teacher_cache import open_cache
cache = open_cache({str(store)!r})
cache.read([*cache.signals, "timestamps"], cache.committed_ids())
cache.dataset(["depth"])[0]
assert cache.heads() is not None
teacher_cache.verify.verify({str(store)!r})
assert not found, found
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def change_first_entry(store: Path, change: Callable[[dict[str, Any]], object]) -> str:
    """Change a ledger entry, as someone could who seals it again. Its key."""
    path = min((store / "ledger").rglob("[0-9]*.json"))
    entry = json.loads(path.read_text())
    change(entry)
    del entry["digest"]
    path.write_bytes(_sealed(entry))
    return str(path.relative_to(store))


@pytest.mark.parametrize(
    "key", ["../outside/precious", "/etc/passwd", "depth/../../outside/precious", "depth//c", "./zarr.json"]
)
def test_a_ledger_entry_that_leads_out_of_the_store_is_refused(store: Path, outside: Path, key: str) -> None:
    entry = change_first_entry(store, lambda e: e["objects"].update({key: e["objects"].pop(min(e["objects"]))}))
    before = tree(store)
    with pytest.raises(StoreDamaged, match="not a record of this format"):
        open_cache(str(store)).committed_ids()
    with pytest.raises(StoreDamaged):
        collect_garbage(str(store), older_than_hours=0, dry_run=False)
    assert entry in {f.key for f in verify(str(store)).findings}
    assert tree(store) == before
    assert (outside / "precious").read_bytes() == b"not ours"


def test_gc_removes_nothing_through_a_link(store: Path, outside: Path) -> None:
    (store / "depth/c/7").symlink_to(outside, target_is_directory=True)
    (store / "orphans").symlink_to(outside, target_is_directory=True)
    (store / "depth/c/8").write_bytes(b"an orphan")
    assert collect_garbage(str(store), older_than_hours=0, dry_run=False).removed == ("depth/c/8",)
    assert (outside / "precious").read_bytes() == b"not ours"
    shutil.rmtree(store / "depth/c/0")
    (store / "depth/c/0").symlink_to(outside, target_is_directory=True)
    with pytest.raises(BadInput, match="leads out of the store"):
        verify(str(store))


def test_gc_removes_nothing_beside_a_store_on_s3(s3: str, tiny_store: Path) -> None:
    import s3fs

    for key, data in tree(tiny_store).items():
        Objects(f"{s3}/store").create(key, data)
    fs = s3fs.S3FileSystem()
    fs.pipe_file("bucket/storeroom/precious", b"not ours")
    assert collect_garbage(f"{s3}/store", older_than_hours=0, dry_run=False).removed == ()
    fs.pipe_file("bucket/store/stray", b"an orphan")
    assert collect_garbage(f"{s3}/store", older_than_hours=0, dry_run=False).removed == ("stray",)
    assert fs.cat_file("bucket/storeroom/precious") == b"not ours"


def test_names_in_a_store_cannot_command_a_terminal(store: Path, teacher_cache_command: Command) -> None:
    detail = "\x1b[2J\x1b]0;owned\x07\u202e[bold]"
    failed = {"status": "failed", "reason": "not_a_video", "detail": detail, "errors": {}}
    change_first_entry(store, lambda entry: [row.update(failed) for row in entry["rows"]])
    (store / "depth/c/9\x1b[2J").write_bytes(b"an orphan")
    for arguments in (("status", store), ("verify", store), ("gc", store, "--dry-run", "--older-than", 0)):
        done = teacher_cache_command(*arguments, COLUMNS="200")
        assert "Traceback" not in done.err
        assert not {"\x1b", "\x07", "\u202e"} & set(done.out + done.err)
        assert "\\x1b[2J" in done.out
