"""What `Objects` promises, on a disk and on a real S3 server."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from schemas.errors import BadInput
from teacher_cache.store.objects import Objects


@pytest.fixture(params=["disk", "s3"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    if request.param == "disk":
        return Objects(str(tmp_path / "store"))
    return Objects(f"{request.getfixturevalue('s3')}/store")


def test_create_writes_once(objects: Objects) -> None:
    assert objects.create("a/b", b"first")
    assert not objects.create("a/b", b"second")
    assert objects.get("a/b") == b"first"


def test_of_many_creators_at_once_one_wins_and_its_bytes_stay(objects: Objects) -> None:
    payloads = [bytes([i]) * 100_000 for i in range(16)]
    with ThreadPoolExecutor(16) as threads:
        won = list(threads.map(lambda p: objects.create("contested", p), payloads))
    assert won.count(True) == 1
    assert objects.get("contested") == payloads[won.index(True)]
    assert list(objects.listing()) == ["contested"]  # and no temporary is left


def test_reading_what_is_not_there(objects: Objects) -> None:
    assert objects.get("nothing") is None
    assert objects.listing("nothing") == {}
    assert objects.folders() == []
    assert objects.get_many([]) == {}
    assert objects.get_many(["nothing", "nothing/else"]) == {}


def test_get_many_range_list_folders(objects: Objects) -> None:
    for key in ("zarr.json", "a/zarr.json", "a/c/0/0", "b/x"):
        objects.create(key, key.encode())
    assert objects.get_many(["a/zarr.json", "b/x", "gone"]) == {"a/zarr.json": b"a/zarr.json", "b/x": b"b/x"}
    assert objects.get_many(["b/x"]) == {"b/x": b"b/x"}
    assert objects.get_range("a/zarr.json", 2, 6) == b"zarr"
    assert objects.listing() == {"a/c/0/0": 7, "a/zarr.json": 11, "b/x": 3, "zarr.json": 9}
    assert objects.listing("a") == {"a/c/0/0": 7, "a/zarr.json": 11}
    assert objects.folders() == ["a", "b"]


def test_replace_and_delete(objects: Objects) -> None:
    objects.create("a", b"1")
    objects.replace("a", b"2")
    assert objects.get("a") == b"2"
    objects.delete("a")
    objects.delete("a")
    assert objects.get("a") is None


def test_a_copy_in_another_process_works(objects: Objects) -> None:
    objects.create("a", b"1")
    assert pickle.loads(pickle.dumps(objects)).get("a") == b"1"


@pytest.mark.parametrize("key", ["../outside", "a/../../outside", "/etc/passwd"])
def test_no_key_leads_out_of_the_store(objects: Objects, key: str) -> None:
    with pytest.raises(BadInput, match="leads out of the store"):
        objects.create(key, b"")


def test_a_link_on_a_disk_leads_nowhere(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "store"
    outside.mkdir()
    (outside / "precious").write_bytes(b"not ours")
    objects = Objects(str(root))
    objects.create("a/own", b"1")
    (root / "a/folder").symlink_to(outside, target_is_directory=True)
    (root / "a/file").symlink_to(outside / "precious")
    assert set(objects.listing()) == {"a/own", "a/file"}
    for attempt in (
        lambda: objects.get("a/folder/precious"),
        lambda: objects.get_many(["a/own", "a/folder/precious"]),
        lambda: objects.create("a/folder/new", b""),
        lambda: objects.replace("a/file", b""),
        lambda: objects.delete("a/folder/precious"),
        lambda: objects.listing("a/folder"),
    ):
        with pytest.raises(BadInput, match="leads out of the store"):
            attempt()
    assert {path.name: path.read_bytes() for path in outside.iterdir()} == {"precious": b"not ours"}
    (tmp_path / "link").symlink_to(root, target_is_directory=True)  # where the store itself lies is its owner's affair
    assert Objects(str(tmp_path / "link")).get("a/own") == b"1"


def test_credentials_in_a_url_are_refused_and_not_repeated() -> None:
    with pytest.raises(BadInput) as caught:
        Objects("s3://key:very-secret@bucket/store")
    assert "very-secret" not in str(caught.value)
