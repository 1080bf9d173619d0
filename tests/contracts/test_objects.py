"""What `Objects` promises: on a disk, on a real S3 server and, where they are installed, on servers like GCS and Azure."""

from __future__ import annotations

import mmap
import pickle
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import emulators
import numpy as np
import pytest
import zarr
from s3fs import S3FileSystem

from schemas.errors import BadInput
from schemas.log import LARGEST_OBJECT
from schemas.storage import Requests
from teacher_cache.io.bucket import IN_ONE_PIECE
from teacher_cache.store.objects import Objects, probe_create_if_absent

PLACES = ["disk", "s3", "gs", "az"]


@pytest.fixture(scope="module")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    if (program := emulators.azurite()) is None:
        pytest.skip("no azurite-blob on PATH or in AZURITE")
    with emulators.azure(program, tmp_path_factory.mktemp("azurite")) as environment:
        yield environment


@pytest.fixture(scope="module")
def gcs() -> Iterator[dict[str, str]]:
    if (program := emulators.fake_gcs()) is None:
        pytest.skip("no fake-gcs-server on PATH or in FAKE_GCS_SERVER")
    with emulators.gcs(program) as environment:
        yield environment


@pytest.fixture(params=PLACES)
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where a store may lie, of each kind."""
    name = f"store-{tmp_path.name}"  # the emulators are not emptied between tests
    match request.param:
        case "disk":
            return str(tmp_path / "store")
        case "s3":
            return f"{request.getfixturevalue('s3')}/{name}"
    emulator = {"gs": "gcs", "az": "azure"}[request.param]
    for variable, value in request.getfixturevalue(emulator).items():
        monkeypatch.setenv(variable, value)
    return f"{request.param}://bucket/{name}"


@pytest.fixture
def objects(url: str) -> Objects:
    return Objects(url)


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
    assert objects.get_many([]) == {}
    assert objects.get_many(["nothing", "nothing/else"]) == {}


def test_get_many_range_list(objects: Objects) -> None:
    for key in ("zarr.json", "a/zarr.json", "a/c/0/0", "b/x"):
        objects.create(key, key.encode())
    assert objects.get_many(["a/zarr.json", "b/x", "gone"]) == {"a/zarr.json": b"a/zarr.json", "b/x": b"b/x"}
    assert objects.get_many(["b/x"]) == {"b/x": b"b/x"}
    assert objects.get_range("a/zarr.json", 2, 6) == b"zarr"
    listing = objects.listing()
    assert {key: found.length for key, found in listing.items()} == {"a/c/0/0": 7, "a/zarr.json": 11, "b/x": 3, "zarr.json": 9}
    assert list(listing) == sorted(listing)


def test_replace_and_delete(objects: Objects) -> None:
    objects.create("a", b"1")
    objects.replace("a", b"2")
    assert objects.get("a") == b"2"
    objects.delete_many(["a"])
    assert objects.get("a") is None


def test_many_are_deleted_whether_they_are_there_or_not(objects: Objects) -> None:
    for key in ("a", "b/c", "b/d", "e"):
        objects.create(key, b"1")
    objects.delete_many([])
    objects.delete_many(["none", "a", "b/none", "b/c", "also/none"])
    assert list(objects.listing()) == ["b/d", "e"]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: objects.create(f"many/{n}", b""), range(1001)))
    assert len(objects.listing("many/")) == 1001
    objects.delete_many(list(objects.listing("many/")))
    assert list(objects.listing()) == ["b/d", "e"]


def test_a_listing_takes_any_prefix_of_keys(objects: Objects) -> None:
    keys = ["log/00", "log/01", "log/checkpoint-1", "log/checkpoint-2/a", "log/checkpoint", "log/rows-1", "log2/x", "l", "m"]
    for key in keys:
        objects.create(key, b"")
    for prefix in ("", "l", "lo", "log", "log/", "log/0", "log/00", "log/c", "log/checkpoint", "log/checkpoint-", "log/d", "n"):
        assert list(objects.listing(prefix)) == sorted(key for key in keys if key.startswith(prefix)), prefix


def test_keys_of_any_characters_are_kept(objects: Objects) -> None:
    keys = ["a b/c+d%41", "é/~#&=?", "x-y_z.0/(1),'2'!"]
    for key in keys:
        assert objects.create(key, key.encode())
    assert list(objects.listing()) == sorted(keys)
    assert objects.get_many(keys) == {key: key.encode() for key in keys}
    objects.delete_many(keys)
    assert objects.listing() == {}


def test_a_listing_is_never_old(objects: Objects, url: str) -> None:
    other = Objects(url)
    assert other.listing("a") == {}
    objects.create("a/1", b"1")
    assert list(other.listing("a")) == ["a/1"]
    objects.delete_many(["a/1"])
    assert other.listing("a") == {}


def test_times_are_the_server_s_and_in_a_zone(objects: Objects) -> None:
    objects.create("a", b"1")
    told, listed = objects.modified("a"), objects.listing()["a"].modified
    assert told is not None
    assert told.utcoffset() == listed.utcoffset() == timedelta(0)
    assert abs(told - listed) < timedelta(seconds=1)
    assert abs(told - datetime.now(UTC)) < timedelta(minutes=1)  # it runs on this machine
    assert objects.modified("none") is None


def test_ranges_end_where_the_object_does(objects: Objects) -> None:
    data = random.Random(0).randbytes(IN_ONE_PIECE + 100_000)
    objects.create("a", data)
    for start, stop in (
        (0, 3),
        (7, IN_ONE_PIECE + 7),
        (3, len(data) + 9),
        (len(data) - 2, 2 * len(data)),
        (len(data), len(data) + 9),
    ):
        found = objects.get_range("a", start, stop)
        assert found is not None
        assert found == data[start:stop], (start, stop)
    assert objects.get_range("none", 0, 1) is None
    assert objects.get_range("none", 0, len(data)) is None


def test_a_place_that_keeps_create_if_absent_passes_the_probe(objects: Objects) -> None:
    for _ in range(2):
        probe_create_if_absent(objects, "log/zarr.json", b"{}")
    assert objects.get("log/zarr.json") == b"{}"
    assert list(objects.listing()) == ["log/zarr.json"]


def test_zarr_opens_the_arrays(objects: Objects) -> None:
    group = zarr.open_group(zarr.storage.MemoryStore(), mode="w")
    group.create_array("a", data=np.arange(10), chunks=(4,))
    for key, data in group.store._store_dict.items():  # type: ignore[attr-defined]
        objects.create(key, data.to_bytes())
    opened = zarr.open_group(objects.zarr_store(), mode="r")
    np.testing.assert_array_equal(opened["a"][:], np.arange(10))


def test_an_object_that_one_request_cannot_hold_is_refused(objects: Objects) -> None:
    with mmap.mmap(-1, LARGEST_OBJECT + 1) as sparse:  # takes no memory
        for send in (objects.create, objects.replace):
            with pytest.raises(BadInput, match=r"a/b of .* 5,242,880,001 bytes long.* at most 5,242,880,000"):
                send("a/b", sparse)  # type: ignore[arg-type]
    assert objects.listing() == {}
    assert objects.take_requests() == Requests(list=1)


def test_a_copy_in_another_process_works(objects: Objects) -> None:
    objects.create("a", b"1")
    assert pickle.loads(pickle.dumps(objects)).get("a") == b"1"


def test_placeholders_of_folders_are_no_objects(s3: str) -> None:
    """Consoles make them: empty objects whose keys end in a slash."""
    fs = S3FileSystem()
    for path in ("bucket/store/", "bucket/store/folder/"):
        fs.pipe_file(path, b"")
    objects = Objects(f"{s3}/store")
    objects.create("empty", b"")
    assert list(objects.listing()) == ["empty"]


def test_what_is_no_place_for_a_store_is_refused() -> None:
    for url in ("memory://a", "https://example.org/store", "github://a:b@c/d"):
        with pytest.raises(BadInput, match="a store lies in a folder on a disk, or at an s3://, gs://, az:// or hf:// URL"):
            Objects(url)


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
        lambda: objects.delete_many(["a/own", "a/folder/precious"]),
        lambda: objects.listing("a/folder/"),
        lambda: objects.modified("a/folder/precious"),
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
