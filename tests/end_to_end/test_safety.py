"""What a store, a log or a message must never hold, and what a store made by someone else must never do."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Command, Jobs, is_one_clear_error, tree
from log_files import rewrite

from schemas.base import sha256_digest
from schemas.errors import BadInput, StoreDamaged
from schemas.log import TableFile
from teacher_cache import open_cache
from teacher_cache.store.garbage import collect_garbage
from teacher_cache.store.objects import Objects
from teacher_cache.store.table import StoredTable
from teacher_cache.store.verify import verify

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
    assert [done.status for done in said] == [1, 0, 1]
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
import teacher_cache.store.verify, teacher_cache.teachers.heads.frozen, teacher_cache.reader.datasets
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
teacher_cache.store.verify.verify({str(store)!r})
assert not found, found
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "key", ["../outside/precious", "/etc/passwd", "depth/../../outside/precious", "depth//c", "./zarr.json"]
)
def test_a_record_that_leads_out_of_the_store_is_refused(store: Path, outside: Path, key: str) -> None:
    def lead_out(unit: dict[str, Any]) -> None:
        unit["objects"][key] = unit["objects"].pop(min(unit["objects"]))

    record = rewrite(store, lead_out)
    before = tree(store)
    with pytest.raises(StoreDamaged, match="not a record of this format"):
        collect_garbage(str(store))
    assert str(record.relative_to(store)) in {f.key for f in verify(str(store)).findings}
    assert tree(store) == before
    assert (outside / "precious").read_bytes() == b"not ours"


@pytest.mark.parametrize(
    ("action", "changes"),
    [
        ("unit_committed", {"rows": None}),
        ("unit_committed", {"rows": "x"}),
        ("unit_committed", {"rows": 0}),
        ("unit_committed", {"shard": -5}),
        ("unit_committed", {"shard": 2**70}),
        ("unit_committed", {"failed": [{"row": 2**50, "reason": "no_frames", "detail": ""}]}),
        ("unit_committed", {"objects": [1]}),
        ("unit_committed", {"objects": {"depth": {}}}),
        ("unit_committed", {"exact": {"depth": [2**40]}}),
        ("rows_added", {"rows": 2**50}),
        ("rows_added", {"first_row": 2**29 + 1}),
        ("part_added", {"shape": ["x"]}),
        ("unit_committed", {"action": "other"}),
    ],
)
def test_a_record_of_another_form_is_a_named_error(store: Path, action: str, changes: dict[str, Any]) -> None:
    record = rewrite(store, lambda found: found.update(changes), action)
    with pytest.raises(StoreDamaged):
        open_cache(str(store)).committed_ids()
    assert str(record.relative_to(store)) in {f.key for f in verify(str(store)).findings}


def test_sizes_that_a_store_only_claims_are_not_allocated(store: Path) -> None:
    """A named error, and not gigabytes of zeros."""
    for shape in ([2**20, 2**20, 2**20], [16, 112, -112], [4], []):
        copy = shutil.copytree(store, store.with_name("copy"))
        rewrite(copy, lambda found, shape=shape: found.update(part="depth", shape=shape), "part_added")
        with pytest.raises(StoreDamaged):
            open_cache(str(copy)).read(["depth"], ["scene-0.mp4"])
        assert verify(str(copy)).findings
        shutil.rmtree(copy)


def test_a_table_of_a_few_bytes_cannot_claim_millions_of_rows(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"row": pa.nulls(2**22, pa.int64())}), buffer, row_group_size=2**22)
    data = buffer.getvalue()
    assert len(data) < 2**14
    objects = Objects(str(tmp_path / "store"))
    objects.create("log/rows-0000000000-0.parquet", data)
    digest = sha256_digest(data)
    file = TableFile(
        key="log/rows-0000000000-0.parquet", digest=digest, length=len(data), footer_length=8, footer_digest=digest
    )
    with pytest.raises(StoreDamaged, match="its row groups have"):
        StoredTable(objects, file, pa.schema({"row": pa.int64()}), range(2**23)).read(["row"])


def test_gc_removes_nothing_through_a_link(store: Path, outside: Path) -> None:
    (store / "depth/c/7").symlink_to(outside, target_is_directory=True)
    (store / "orphans").symlink_to(outside, target_is_directory=True)
    orphan = store / "depth/c/8/0/0/0"
    orphan.parent.mkdir(parents=True)
    orphan.write_bytes(b"an orphan")
    assert collect_garbage(str(store)).removed == ("depth/c/8/0/0/0",)
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
    assert collect_garbage(f"{s3}/store").removed == ()
    fs.pipe_file("bucket/store/depth/c/8/0/0/0", b"an orphan")
    fs.pipe_file("bucket/store/raw/precious", b"not ours either")
    assert collect_garbage(f"{s3}/store").removed == ("depth/c/8/0/0/0",)
    assert fs.cat_file("bucket/storeroom/precious") == b"not ours"
    assert fs.cat_file("bucket/store/raw/precious") == b"not ours either"


def test_names_in_a_store_cannot_command_a_terminal(store: Path, teacher_cache_command: Command) -> None:
    detail = "\x1b[2J\x1b]0;owned\x07\u202e[bold]"
    failed = [{"row": row, "reason": "not_a_video", "detail": detail} for row in (0, 1)]
    rewrite(store, lambda unit: unit.update(failed=failed), shard=0)
    (store / "depth/c/9\x1b[2J").write_bytes(b"an orphan")
    for arguments in (("status", store), ("verify", store), ("gc", store, "--dry-run")):
        done = teacher_cache_command(*arguments, COLUMNS="200")
        assert "Traceback" not in done.err
        assert not {"\x1b", "\x07", "\u202e"} & set(done.out + done.err)
        assert "\\x1b[2J" in done.out
