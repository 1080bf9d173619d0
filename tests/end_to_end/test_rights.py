"""A writer, a reader and an operator under exactly the rights that `cluster/iam` gives them, which the server enforces."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import unquote

import pytest
import s3_server
from conftest import Command, Jobs, is_one_clear_error
from s3_proxy import S3Proxy, proxy
from s3fs import S3FileSystem

from schemas.errors import Unreachable
from teacher_cache import open_cache
from teacher_cache.store.objects import Objects
from teacher_cache.store.verify import verify

ActAs = Callable[[str], None]
STORE = "s3://bucket/store"


@pytest.fixture
def job(s3: str, jobs: Jobs) -> Path:
    """A job over two videos that lie on S3 as well."""
    raw = Objects(f"{s3}/raw")
    for name in ("scene-0.mp4", "scene-1.mp4"):
        raw.create(name, (jobs.videos / name).read_bytes())
    return jobs.write(STORE, videos={"glob": f"{s3}/raw/*.mp4"}, signals=["depth", "camray"])


def test_a_writer_a_reader_and_an_operator_have_the_rights_they_need_and_no_others(
    job: Path, act_as: ActAs, teacher_cache_command: Command
) -> None:
    act_as("writer")
    assert teacher_cache_command("plan", job).status == 0
    ran = teacher_cache_command("run", job, "--json")
    assert ran.status == 0, ran.err
    assert ran.json["clips"]["committed"] == 2
    again = teacher_cache_command("run", job, "--json")
    assert (again.json["done_before"], again.json["stage_seconds"]["teach"]) == (2, 0)
    store = Objects(STORE)
    committed = store.listing()
    assert store.create("depth/c/9/0/0/0", b"left by a killed run")
    with pytest.raises(Unreachable):
        store.delete_many(["depth/c/9/0/0/0"])
    refused = teacher_cache_command("gc", STORE)
    is_one_clear_error(refused, 3, f"access to {STORE} was refused", "gc s3:DeleteObject")
    for elsewhere in ("s3://bucket/other", "s3://bucket/raw"):
        with pytest.raises(Unreachable):
            Objects(elsewhere).create("object", b"")

    act_as("reader")
    assert teacher_cache_command("status", STORE).status == 0
    assert [(f.kind, f.key) for f in verify(STORE).findings] == [("orphan", "depth/c/9/0/0/0")]
    cache = open_cache(STORE)
    assert cache.read(["depth", "camray"], cache.committed_ids())["depth"].shape[0] == 2
    is_one_clear_error(teacher_cache_command("gc", STORE), 3, "was refused")
    for attempt in (
        lambda: Objects(STORE).create("object", b""),
        lambda: Objects(STORE).replace("depth/zarr.json", b""),
        lambda: Objects("s3://bucket/raw").get("scene-0.mp4"),
        lambda: Objects("s3://bucket").listing(),
    ):
        with pytest.raises(Unreachable):
            attempt()

    act_as("operator")
    collected = teacher_cache_command("gc", STORE, "--json")
    assert collected.json["removed"] == ["depth/c/9/0/0/0"]
    with pytest.raises(Unreachable):
        Objects(STORE).create("object", b"")
    left = Objects(STORE).listing()
    assert {key: about for key, about in left.items() if key in committed} == committed
    assert all(key.startswith("log/0") for key in left.keys() - committed.keys())  # what it deleted is told there


class RecordingProxy(S3Proxy):
    """Keeps (bucket and key, whether it said If-None-Match) of every PutObject."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(endpoint)
        self.puts: list[tuple[str, bool]] = []

    async def _forwarded(self, request: bytes) -> bytes:
        head = request[: request.index(b"\r\n\r\n")].lower()
        if request.startswith(b"PUT "):
            self.puts.append((unquote(request.split()[1].decode()).lstrip("/"), b"\r\nif-none-match: *" in head))
        return await super()._forwarded(request)


@pytest.fixture
def puts(s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, bool]]]:
    """(bucket and key, whether it said If-None-Match) of every PutObject that reaches the server."""
    assert s3
    with proxy(os.environ["AWS_ENDPOINT_URL"], kind=RecordingProxy) as between:
        monkeypatch.setenv("AWS_ENDPOINT_URL", between.endpoint)
        monkeypatch.setattr(S3FileSystem, "_cache", {})  # an open connection goes past the proxy
        yield between.puts


def test_no_request_of_a_run_is_one_that_the_write_once_policy_denies(
    job: Path, teacher_cache_command: Command, puts: list[tuple[str, bool]], jobs: Jobs
) -> None:
    """AWS checks the condition itself. SeaweedFS does not know its key, so what is sent is held against the policy here."""
    (statement,) = json.loads(s3_server.policy("write-once", "bucket", "store"))["Statement"]
    assert statement["Condition"] == {"Null": {"s3:if-none-match": "true"}}
    protected = [resource.removeprefix("arn:aws:s3:::") for resource in statement["Resource"]]

    assert teacher_cache_command("run", job).status == 0
    Objects("s3://bucket/raw").create("scene-2.mp4", (jobs.videos / "scene-2.mp4").read_bytes())
    puts.clear()
    assert teacher_cache_command("run", job).status == 0  # grows the arrays, so it replaces their lengths
    lengths = {f"bucket/store/{array}/zarr.json" for array in ("depth", "depth_exact", "camray", "timestamps", "frame_index")}
    assert {key for key, conditional in puts if not conditional and key.startswith("bucket/store/")} == lengths
    stored = {f"bucket/{key}" for key in Objects("s3://bucket").listing("store/")}
    assert {key for key in stored if not any(fnmatchcase(key, pattern) for pattern in protected)} == lengths
