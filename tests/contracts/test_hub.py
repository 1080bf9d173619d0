"""A store in a data set of the Hugging Face Hub: read as any other, and only read."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import Command, Finished, Jobs, is_one_clear_error
from hub_server import COMMIT, NAME, TOKEN, HubServer, hub_server

from schemas.errors import BadInput, StoreNotFound, Unreachable
from teacher_cache import Cache, open_cache
from teacher_cache.store.objects import Objects

URL = f"hf://datasets/{NAME}/stores/l4p-tiny"


@pytest.fixture(scope="module")
def _uploaded(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set's files, as `hf upload` puts them there."""
    folder = tmp_path_factory.mktemp("set")
    shutil.copytree(tiny_store, folder / "stores/l4p-tiny")
    (folder / "README.md").write_text("# A data set\n")
    return folder


@pytest.fixture
def hub(_uploaded: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("P4D_PATIENCE_SECONDS", "3")
    with hub_server(_uploaded) as server:
        yield server


def _open(hub: HubServer, url: str = URL) -> Cache:
    return open_cache(url, storage_options={"endpoint_url": hub.endpoint})


def test_it_reads_as_the_folder_that_was_uploaded_does(hub: HubServer, tiny_store: Path) -> None:
    cache, local = _open(hub), open_cache(str(tiny_store))
    ids = local.committed_ids()
    assert (cache.clips, cache.version, cache.committed_ids()) == (local.clips, local.version, ids)
    names = [*cache.signals, "timestamps"]
    for name, values in _open(hub, f"hf://datasets/{NAME}@v1/stores/l4p-tiny").read(names, ids).items():
        np.testing.assert_array_equal(values, local.read([name], ids)[name])
    again = pickle.loads(pickle.dumps(cache))
    np.testing.assert_array_equal(again.read(["flow"], ids)["flow"], local.read(["flow"], ids)["flow"])


def test_what_it_asks_for(hub: HubServer, tiny_store: Path) -> None:
    """One request for the commit, which then stays; one listing, of the log; one for an object's place, and then its
    ranges where that is."""
    objects = Objects(URL, _open(hub)._store.objects.options)
    hub.asked.clear()
    key = next(path.relative_to(tiny_store).as_posix() for path in sorted(tiny_store.glob("depth/c/0/**/0")) if path.is_file())
    data = (tiny_store / key).read_bytes()
    for start, stop in ((0, 3), (5, 900), (len(data) - 2, len(data) + 9), (len(data), len(data) + 9)):
        assert objects.get_range(key, start, stop) == data[start:stop], (start, stop)
    assert objects.get_range("depth/c/9/0", 0, 3) is None
    assert hub.asked[0] == f"GET /api/datasets/{NAME}/revision/main"
    file = f"stores/l4p-tiny/{key}"
    assert hub.asked[1:-1] == [f"GET /datasets/{NAME}/resolve/{COMMIT}/{file}", *[f"GET /cdn/{file}"] * 4]
    hub.signature = "n3w"  # and the place that it was sent on to is no longer good
    hub.asked.clear()
    assert objects.get_range(key, 0, 3) == data[:3]
    assert hub.asked == [f"GET /cdn/{file}", f"GET /datasets/{NAME}/resolve/{COMMIT}/{file}", f"GET /cdn/{file}"]
    hub.asked.clear()
    _open(hub).committed_ids()
    assert [asked for asked in hub.asked if "/tree/" in asked] == [
        f"GET /api/datasets/{NAME}/tree/{COMMIT}/stores%2Fl4p-tiny%2Flog"
    ]


def test_objects_are_cut_listed_and_dated_as_elsewhere(hub: HubServer, tiny_store: Path) -> None:
    options = _open(hub)._store.objects.options
    objects, local = Objects(URL, options), Objects(str(tiny_store))
    hub.per_page = 7
    listed = {key: about.length for key, about in local.listing().items()}
    assert {key: about.length for key, about in objects.listing().items()} == listed
    for prefix in ("log/00", "depth", "heads/", "no"):
        assert list(objects.listing(prefix)) == [key for key in listed if key.startswith(prefix)]
    assert objects.get("zarr.json") == local.get("zarr.json")
    assert objects.get("zarr.json", 10) == (local.get("zarr.json") or b"")[:11]
    assert objects.get("no") is objects.modified("no") is None
    assert str(objects.modified("zarr.json")) == "2026-11-29 12:00:00+00:00"
    hub.takes_ranges = False  # then the whole comes
    assert objects.get_range("zarr.json", 2, 6) == (local.get("zarr.json") or b"")[2:6]
    hub.failing += [503, 429]  # and what passes is waited for
    assert objects.get("log/zarr.json") == local.get("log/zarr.json")


def test_the_client_that_others_use_finds_the_same_there(hub: HubServer, tiny_store: Path) -> None:
    """The server is like the Hub where huggingface_hub's own file system finds in it what we do."""
    from huggingface_hub import HfFileSystem

    fs = HfFileSystem(endpoint=hub.endpoint, token=False, skip_instance_cache=True)
    assert fs.cat_file(f"datasets/{NAME}/stores/l4p-tiny/zarr.json") == (tiny_store / "zarr.json").read_bytes()
    hub.asked.clear()  # but to read a range of a shard it lists the shard's folder, each of which has one
    assert fs.cat_file(f"datasets/{NAME}/stores/l4p-tiny/depth/c/0/0/0/0", start=0, end=3)
    assert any("/tree/" in asked and "depth" in asked for asked in hub.asked)
    found = fs.find(f"datasets/{NAME}/stores/l4p-tiny/log")
    assert len(found) == sum(path.is_file() for path in (tiny_store / "log").rglob("*"))


def test_nothing_is_written_there(hub: HubServer, jobs: Jobs, teacher_cache_command: Command) -> None:
    objects = _open(hub)._store.objects
    for write in (lambda: objects.create("a", b""), lambda: objects.replace("a", b""), lambda: objects.delete_many(["a"])):
        with pytest.raises(BadInput, match=r"cannot write to hf://.*only read.*hf upload USER/NAME"):
            write()
    for name in ("run", "plan"):
        done = teacher_cache_command(name, jobs.write(URL))
        is_one_clear_error(done, 2, "store", "stores on the Hugging Face Hub are only read", "hf upload")
    done = teacher_cache_command("run", jobs.write("no", videos={"glob": f"hf://datasets/{NAME}/*.mp4"}))
    is_one_clear_error(done, 2, "other protocols, and chains of them, are not opened")


def test_what_is_not_there_or_not_open_to_one_is_told(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreNotFound, match=f"no store at hf://datasets/{NAME}/no"):
        _open(hub, f"hf://datasets/{NAME}/no")
    for place in ("user/other/store", f"{NAME}@v9/stores/l4p-tiny"):
        with pytest.raises(Unreachable, match=r"the Hub has no such data set or revision, or it is private.*hf auth login"):
            _open(hub, f"hf://datasets/{place}")
    objects = _open(hub)._store.objects
    hub.failing += [302, 400]
    for status in (302, 400):
        with pytest.raises(Unreachable, match=f"cannot use hf://.*{status}") as caught:
            objects.get("heads/heads.safetensors")
        assert "5eCr3t" not in str(caught.value)
    hub.closed_to = "GatedRepo"
    with pytest.raises(Unreachable, match=r"was refused: 403 GatedRepo it is.*HF_TOKEN.*accept the conditions"):
        _open(hub)
    hub.closed_to = "RepoNotFound"
    with pytest.raises(Unreachable, match="or it is private"):
        _open(hub)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert len(_open(hub).committed_ids()) == 4  # the token goes to the Hub, and not to where it sends on
    anonymous = {"endpoint_url": hub.endpoint, "anonymous": True}
    with pytest.raises(Unreachable, match="or it is private"):
        open_cache(URL, storage_options=anonymous)


def test_a_hub_that_is_away_or_not_to_be_asked_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("P4D_PATIENCE_SECONDS", "0")
    nowhere = {"endpoint_url": "http://127.0.0.1:9"}
    with pytest.raises(
        Unreachable, match=r"cannot reach hf://.*refused.*the Hub answers at http://127.0.0.1:9 \(HF_ENDPOINT\)"
    ):
        open_cache(URL, storage_options=nowhere)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(Unreachable, match="HF_HUB_OFFLINE is set; unset it, or open a copy"):
        open_cache(URL, storage_options=nowhere)


@pytest.mark.parametrize(
    "url",
    [
        "hf://user/model/store", "hf://spaces/a/b/c", "hf://buckets/a/b/c", "hf://datasets/a", "hf://datasets/a/b/../../c/d/e",
        "hf://datasets/a/b/c?x", "hf://datasets/a/b::s3://c", "hf://datasets/a/b@/c", "hf://user:secret@datasets/a/b",
    ],
)  # fmt: skip
def test_other_places_of_it_are_refused(url: str) -> None:
    with pytest.raises(BadInput, match=r"on the Hub, a store lies at|cannot use|holds credentials") as caught:
        Objects(url)
    assert "secret" not in str(caught.value)


def test_commands_read_it_there_and_once_it_was_downloaded(hub: HubServer, command: Command, tmp_path: Path) -> None:
    found: Finished = command("teacher-cache", "status", URL, "--json", HF_ENDPOINT=hub.endpoint)
    assert found.status == 0, found.err
    assert found.json["clips"]["committed"] == 4
    chosen = ("--include", "stores/l4p-tiny/*", "--local-dir", tmp_path / "copy")
    done = command("hf", "download", NAME, "--repo-type", "dataset", *chosen, HF_ENDPOINT=hub.endpoint)
    assert done.status == 0, done.err
    assert open_cache(str(tmp_path / "copy/stores/l4p-tiny")).committed_ids() == _open(hub).committed_ids()
