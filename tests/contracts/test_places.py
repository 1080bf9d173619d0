"""Servers that do not do as they should, several of them at once, and what a loss of power finds on a disk."""

from __future__ import annotations

import asyncio
import os
import pickle
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import s3_server
from conftest import Command, Jobs, tree
from s3_proxy import S3Proxy, each_once, proxy
from s3fs import S3FileSystem

from schemas.errors import BadInput, CouldNotRun, Unreachable
from schemas.job import Job
from schemas.storage import StorageOptions
from teacher_cache import open_cache
from teacher_cache.io.patience import PATIENCE_VARIABLE
from teacher_cache.jobs.run import run_job
from teacher_cache.store.objects import Objects
from teacher_cache.store.store import create_store, open_store


class Careless(S3Proxy):
    """A server that overwrites what it was asked to create only if absent. The header is signed, so it cannot just go."""

    filesystem: S3FileSystem

    async def _forwarded(self, request: bytes) -> bytes:
        head, _, body = request.partition(b"\r\n\r\n")
        if b"\r\nif-none-match: *" not in head.lower():
            return await super()._forwarded(request)
        await asyncio.to_thread(self.filesystem.pipe_file, head.split()[1].decode().lstrip("/"), body)
        return b'HTTP/1.1 200 OK\r\nETag: "1"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n'


def test_a_server_that_ignores_create_if_absent_is_refused_by_name(s3: str, tiny_store: Path) -> None:
    recipe = open_store(str(tiny_store)).recipe
    with proxy(os.environ["AWS_ENDPOINT_URL"], kind=Careless) as careless:
        careless.filesystem = S3FileSystem(endpoint_url=os.environ["AWS_ENDPOINT_URL"])
        with pytest.raises(CouldNotRun, match=r"s3://bucket/store: its server ignores If-None-Match.*MinIO or SeaweedFS"):
            create_store(f"{s3}/store", recipe, "test", StorageOptions(endpoint_url=careless.endpoint))
    assert "zarr.json" not in Objects(f"{s3}/store").listing()


def test_a_server_that_keeps_it_is_asked_once(s3: str, tiny_store: Path) -> None:
    recipe = open_store(str(tiny_store)).recipe
    with proxy(os.environ["AWS_ENDPOINT_URL"]) as between:
        reached = StorageOptions(endpoint_url=between.endpoint)
        create_store(f"{s3}/store", recipe, "test", reached)
        made = [line for line in between.requests if line.startswith("PUT")]
        assert len(made) == len(set(made)) + 1
        between.requests.clear()
        create_store(f"{s3}/store", recipe, "test", reached)
        assert not [line for line in between.requests if line.startswith("PUT")]
        between.weather = each_once("lost")  # what a lost answer to the first request leaves is no sign of anything
        create_store(f"{s3}/other", recipe, "test", reached)


@contextmanager
def answering(status: int, headers: dict[str, str], body: bytes) -> Iterator[str]:
    """A server that gives everything the same answer; its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_PUT = do_POST = do_HEAD = do_GET  # noqa: N815  # the names that the base looks for

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


# As AWS answers: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
MOVED = b"<Error><Code>PermanentRedirect</Code><Message>Use the specified endpoint.</Message></Error>"
MALFORMED = b"<Error><Code>AuthorizationHeaderMalformed</Code><Message>wrong</Message><Region>eu-west-1</Region></Error>"


@pytest.mark.parametrize(
    ("status", "headers", "body", "said"),
    [
        (
            301,
            {"x-amz-bucket-region": "eu-west-1"},
            MOVED,
            "lies in the region eu-west-1.*us-east-1.*AWS_DEFAULT_REGION=eu-west-1",
        ),
        (301, {}, MOVED, "lies in another region.*Set AWS_DEFAULT_REGION, or `region`"),
        (400, {}, MALFORMED, "lies in the region eu-west-1"),
    ],
    ids=["moved", "moved to nowhere", "malformed"],
)
def test_another_region_is_final_and_named(s3: str, status: int, headers: dict[str, str], body: bytes, said: str) -> None:
    with answering(status, headers, body) as endpoint:
        objects = Objects(f"{s3}/store", StorageOptions(endpoint_url=endpoint))
        for attempt in (
            lambda: objects.get("a"),
            lambda: objects.create("a", b""),
            objects.listing,
            lambda: objects.delete_many(["a"]),
        ):
            with pytest.raises(Unreachable, match=said):
                attempt()


def test_a_create_that_met_a_delete_is_sent_again(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 answers 409 to it, which says nothing about whether there is an object."""
    monkeypatch.setenv(PATIENCE_VARIABLE, "0.1")
    with answering(409, {}, b"<Error><Code>ConditionalRequestConflict</Code></Error>") as endpoint:
        objects = Objects(f"{s3}/store", StorageOptions(endpoint_url=endpoint))
        with pytest.raises(Unreachable, match="409 Conflict"):
            objects.create("a", b"")


@pytest.fixture
def second(tmp_path: Path) -> Iterator[str]:
    """The endpoint of another S3 server, of which the environment says nothing."""
    server = s3_server.start(tmp_path / "second", s3_server_program())
    server.filesystem.mkdir("bucket")
    yield server.endpoint
    s3_server.stop(server)


def s3_server_program() -> str:
    weed = Path(sys.executable).parent / "weed"
    return str(weed) if weed.is_file() else "weed"


def test_one_process_reads_and_writes_at_two_servers(
    s3: str, second: str, jobs: Jobs, tiny_store: Path, teacher_cache_command: Command
) -> None:
    url, there = f"{s3}/store", {"endpoint_url": second}
    for key, data in tree(tiny_store).items():
        Objects(url).create(key, data)
    few = {"videos": {"glob": f"{jobs.videos}/scene-0.mp4"}, "signals": ["camray"], "storage_options": there}
    assert run_job(Job.model_validate(jobs.value(url, **few))).clips.committed == 1
    here, elsewhere = open_cache(url), open_cache(url, storage_options=there)
    assert (len(here.committed_ids()), len(elsewhere.committed_ids())) == (4, 1)
    for _ in range(2):
        for cache in (here, pickle.loads(pickle.dumps(elsewhere))):
            read = cache.read(["camray"], elsewhere.committed_ids())["camray"]
            np.testing.assert_array_equal(read, here.read(["camray"], elsewhere.committed_ids())["camray"])
    for command in ("status", "verify"):
        assert teacher_cache_command(command, url, "--json").json["clips"]["committed"] == 4
        done = teacher_cache_command(command, url, "--storage", f"endpoint_url={second}", "--json")
        assert done.json["clips"]["committed"] == 1


def test_an_anonymous_request_is_unsigned(s3: str, between: S3Proxy) -> None:
    heads: list[bytes] = []
    forward = between._forwarded

    async def recorded(request: bytes) -> bytes:
        heads.append(request.lower())
        return await forward(request)

    between._forwarded = recorded  # type: ignore[method-assign]
    for anonymous in (False, True):
        options = StorageOptions(endpoint_url=between.endpoint, anonymous=anonymous)
        with pytest.raises(Unreachable, match="was refused") if anonymous else pytest.MonkeyPatch.context():
            Objects(f"{s3}/store", options).get("a")
    assert [b"\r\nauthorization: " in head for head in heads] == [True, False]


@pytest.fixture
def between(s3: str) -> Iterator[S3Proxy]:
    assert s3
    with proxy(os.environ["AWS_ENDPOINT_URL"]) as made:
        yield made


def test_storage_options_that_cannot_be_are_refused(tmp_path: Path) -> None:
    for options, said in (
        ({"endpoint": "x"}, "endpoint: unknown key; did you mean `endpoint_url`"),
        ({"endpoint_url": "127.0.0.1:9000"}, "begins with http:// or https://"),
        ({"endpoint_url": "http://key:secret-7f@host"}, "without credentials"),
    ):
        with pytest.raises(BadInput, match=re.escape(said)) as caught:
            open_cache("s3://bucket/store", storage_options=options)
        assert "secret-7f" not in str(caught.value)
    with pytest.raises(BadInput, match="on a disk; leave them out"):
        open_cache(str(tmp_path), storage_options={"anonymous": True})
    with pytest.raises(BadInput, match="`region` and `profile` are for S3"):
        open_cache("gs://bucket/store", storage_options={"region": "x"})


def test_what_is_created_on_a_disk_is_synced_up_to_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file before its name, and then each folder that got a new entry."""
    synced: list[str] = []
    sync = os.fsync

    def recorded(file: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{file}").readlink()).removeprefix(str(tmp_path)))
        sync(file)

    monkeypatch.setattr(os, "fsync", recorded)
    objects = Objects(str(tmp_path / "store"))
    objects.create("a/c/0", b"1")
    *folders, file, folder = synced
    assert folders == ["/store/a", "/store", ""]
    assert re.fullmatch(r"/store/a/c/\.0\.[0-9a-f]{32}\.tmp", file)
    assert folder == "/store/a/c"
    synced.clear()
    objects.create("a/c/1", b"1")
    assert [bool(re.search("tmp$", name)) for name in synced] == [True, False]
    synced.clear()
    assert not objects.create("a/c/1", b"2")
    assert synced == ["/store/a/c"]  # another process may have created it a moment ago
    objects.replace("a/c/1", b"2")
    assert synced[-1] == "/store/a/c"
    assert tree(tmp_path / "store") == {"a/c/0": b"1", "a/c/1": b"2"}
