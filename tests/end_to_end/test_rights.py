"""Every role under exactly the rights that `cluster/iam` gives it: what it needs is allowed, and all else is refused.

Twice: a real S3 server enforces the policies, without the condition ``s3:if-none-match``, which it does not know; and every
request that reaches it is also held against the policies as they are for AWS, the bucket's among them.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import s3_server
from conftest import Command, Jobs, is_one_clear_error
from iam import is_allowed, s3_request
from s3_proxy import S3Proxy, proxy
from s3_server import RIGHTS
from s3fs import S3FileSystem

from schemas.errors import Unreachable
from teacher_cache import open_cache
from teacher_cache.store.objects import Objects
from teacher_cache.store.verify import verify

ActAs = Callable[[str], None]
STORE = "s3://bucket/store"


# --- One request at a time


@dataclass(frozen=True)
class May:
    """What a role may do: the prefixes that it reads, and kinds of the store's objects."""

    read: frozenset[str]
    create: frozenset[str] = frozenset()
    overwrite: frozenset[str] = frozenset()
    delete: frozenset[str] = frozenset()


OBJECTS = {
    "root": "zarr.json",
    "array": "depth/zarr.json",
    "shard": "depth/c/0/0/0/0",
    "heads": "heads/card.json",
    "record": "log/00000000000000000000.json",
}
EVERY = frozenset(OBJECTS)
PREFIXES = frozenset({"store", "raw", "models", "elsewhere", "storehouse"})
INPUTS = frozenset({"store", "raw", "models"})
ROLES = {
    "reader": May(read=frozenset({"store"})),
    "decoder": May(read=frozenset({"raw"})),
    "teacher": May(read=INPUTS, create=frozenset({"shard", "heads"})),
    "writer": May(read=INPUTS, create=EVERY, overwrite=frozenset({"array"})),
    "operator": May(read=INPUTS, create=EVERY, overwrite=EVERY - {"shard"}, delete=EVERY),
}


def allowed_by_aws(identity: str, method: str, prefix: str, key: str, *, is_conditional: bool = False) -> bool:
    """By the role's own policies, with or without the bucket's: neither may need the other."""
    asked = s3_request(f"p4d-{identity}", method, "bucket", f"{prefix}/{key}", is_conditional=is_conditional, prefix=prefix)
    of_role = [json.loads(s3_server.policy(name, "bucket", place)) for name, place in RIGHTS[identity]]
    of_bucket = [json.loads(s3_server.policy("write-once", "bucket", "store"))]
    assert is_allowed(asked, of_role, of_bucket) == is_allowed(asked, of_role, [])
    return is_allowed(asked, of_role, of_bucket)


@cache
def bucket_as(identity: str) -> Objects:
    """Opened under `act_as` of that identity."""
    assert os.environ["AWS_ACCESS_KEY_ID"].startswith(identity)
    return Objects("s3://bucket")


def allowed_by_the_server(identity: str, method: str, prefix: str, key: str, *, is_conditional: bool = False) -> bool:
    bucket, path = bucket_as(identity), f"{prefix}/{key}"
    ask: dict[str, Callable[[], object]] = {
        "LIST": lambda: bucket.listing(f"{prefix}/"),
        "GET": lambda: bucket.get(path),
        "PUT": lambda: bucket.create(path, b"") if is_conditional else bucket.replace(path, b""),
        "DELETE": lambda: bucket.delete_many([path]),
    }
    with contextlib.suppress(Unreachable):
        ask[method]()
        return True
    return False


def found_allowed(judge: Callable[..., bool], identity: str) -> May:
    def objects(method: str, *, is_conditional: bool = False) -> frozenset[str]:
        kinds = (kind for kind, key in OBJECTS.items() if judge(identity, method, "store", key, is_conditional=is_conditional))
        return frozenset(kinds)

    reads = [frozenset(p for p in PREFIXES if judge(identity, method, p, "object")) for method in ("GET", "LIST")]
    assert reads[0] == reads[1]
    for prefix in PREFIXES - {"store"}:
        assert not judge(identity, "PUT", prefix, "object", is_conditional=True)
        assert not judge(identity, "DELETE", prefix, "object")
    return May(reads[0], objects("PUT", is_conditional=True), objects("PUT"), objects("DELETE"))


@pytest.mark.parametrize("identity", RIGHTS)
def test_aws_would_allow_a_role_what_it_needs_and_nothing_else(identity: str) -> None:
    assert found_allowed(allowed_by_aws, identity) == ROLES[identity]


@pytest.mark.parametrize("identity", RIGHTS)
def test_the_server_allows_a_role_what_it_needs_and_nothing_else(s3: str, act_as: ActAs, identity: str) -> None:
    """It cannot tell an overwriting from a creating request, so what may be created may be overwritten there."""
    assert s3
    act_as(identity)
    may = ROLES[identity]
    wanted = May(may.read, may.create, may.create | may.overwrite, may.delete)
    assert found_allowed(allowed_by_the_server, identity) == wanted


def test_nobody_but_the_operator_overwrites_or_deletes_whatever_their_own_policies_allow() -> None:
    """The bucket's policy alone, against a role that may do everything."""
    everything = {"Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
    of_bucket = [json.loads(s3_server.policy("write-once", "bucket", "store"))]
    for kind, key in OBJECTS.items():
        for method in ("PUT", "DELETE"):
            for role in ("p4d-head", "Administrator", "p4d-operator"):
                asked = s3_request(role, method, "bucket", f"store/{key}")
                is_free = role == "p4d-operator" or (kind, method) == ("array", "PUT")  # arrays grow
                assert is_allowed(asked, [everything], of_bucket) == is_free, (kind, method, role)
    assert is_allowed(s3_request("any", "DELETE", "bucket", "elsewhere/object"), [everything], of_bucket)


@pytest.mark.parametrize("identity", RIGHTS)
def test_a_pilot_s_store_beside_the_job_s_is_its_drivers_and_teachers_alone(identity: str) -> None:
    """Its driver deletes it, and nothing else."""
    may = {"writer": {"LIST", "GET", "PUT", "DELETE"}, "teacher": {"LIST", "GET", "PUT"}}.get(identity, set())
    methods = ("LIST", "GET", "PUT", "DELETE")
    assert {method for method in methods if allowed_by_aws(identity, method, "store.pilot-1a2b3c4d", "log/0")} == may


# --- Whole commands


@dataclass(frozen=True)
class Asked:
    """A request that reached the server; of a deletion of many, one for each key."""

    identity: str
    method: str
    prefix: str
    """The top folder in the bucket."""
    key: str
    is_conditional: bool

    def is_allowed_by_aws(self) -> bool:
        return allowed_by_aws(self.identity, self.method, self.prefix, self.key, is_conditional=self.is_conditional)


class WatchingProxy(S3Proxy):
    """Keeps what each identity asks."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(endpoint)
        self.asked: list[Asked] = []

    def environment_of(self, server: s3_server.S3Server, identity: str) -> dict[str, str]:
        """What the shell of an identity holds whose requests pass here."""
        return server.environment_of(identity) | {"AWS_ENDPOINT_URL": self.endpoint}

    def refused_by_aws(self) -> list[Asked]:
        """Of all that was asked since the last time, what AWS would not have allowed."""
        asked, self.asked = self.asked, []
        return [one for one in asked if not one.is_allowed_by_aws()]

    async def _forwarded(self, request: bytes) -> bytes:
        head, _, body = request.partition(b"\r\n\r\n")
        method, target, _ = head.decode().split(" ", 2)
        query = parse_qs(urlsplit(target).query, keep_blank_values=True)
        keys = [unquote(urlsplit(target).path).strip("/").partition("/")[2]]
        if method == "POST":
            assert "delete" in query
            method, keys = "DELETE", re.findall("<Key>(.*?)</Key>", body.decode())
        elif not keys[0]:
            method, keys = "LIST", query.get("prefix", [""])
        identity = re.search(rb"Credential=(\w+)-access", head)[1].decode()
        for prefix, _, key in (key.partition("/") for key in keys):
            self.asked.append(Asked(identity, method, prefix, key, b"\r\nif-none-match: *" in head.lower()))
        return await super()._forwarded(request)


@pytest.fixture
def watched(s3: str) -> Iterator[WatchingProxy]:
    """A proxy before the server, through which `become` leads."""
    assert s3
    with proxy(os.environ["AWS_ENDPOINT_URL"], kind=WatchingProxy) as between:
        yield between


@pytest.fixture
def become(watched: WatchingProxy, act_as: ActAs, monkeypatch: pytest.MonkeyPatch) -> ActAs:
    """`act_as`, through the proxy."""

    def through(identity: str) -> None:
        act_as(identity)
        monkeypatch.setattr(S3FileSystem, "_cache", {})  # an open connection goes past the proxy
        monkeypatch.setenv("AWS_ENDPOINT_URL", watched.endpoint)

    return through


@pytest.fixture
def add_video(s3: str, _server: s3_server.S3Server, jobs: Jobs) -> Callable[[str], None]:
    """Put a video beside the others, whoever one is just then."""
    return lambda name: _server.filesystem.put_file(str(jobs.videos / name), f"{s3}/raw/{name}")


@pytest.fixture
def settings(add_video: Callable[[str], None]) -> dict[str, Any]:
    """Of a job over two videos that lie on S3 as well."""
    add_video("scene-0.mp4")
    add_video("scene-1.mp4")
    return {"store": STORE, "videos": {"glob": "s3://bucket/raw/*.mp4"}, "signals": ["depth", "camray"]}


@pytest.fixture
def job(settings: dict[str, Any], jobs: Jobs) -> Path:
    return jobs.write(**settings)


def test_a_writer_a_reader_and_an_operator_have_the_rights_they_need_and_no_others(
    job: Path, become: ActAs, watched: WatchingProxy, add_video: Callable[[str], None], teacher_cache_command: Command
) -> None:
    become("writer")
    assert teacher_cache_command("plan", job).status == 0
    ran = teacher_cache_command("run", job, "--json")
    assert ran.status == 0, ran.err
    assert ran.json["clips"]["committed"] == 2
    again = teacher_cache_command("run", job, "--json")
    assert (again.json["done_before"], again.json["stage_seconds"]["teach"]) == (2, 0)
    assert watched.refused_by_aws() == []
    add_video("scene-2.mp4")
    assert teacher_cache_command("run", job).status == 0  # grows the arrays, so it replaces their lengths
    lengths = {f"{array}/zarr.json" for array in ("depth", "depth_exact", "camray", "timestamps", "frame_index")}
    assert {a.key for a in watched.asked if a.method == "PUT" and not a.is_conditional} == lengths
    store = Objects(STORE)
    committed = store.listing()
    assert store.create("depth/c/9/0/0/0", b"left by a killed run")
    assert watched.refused_by_aws() == []
    refused = teacher_cache_command("gc", STORE)
    is_one_clear_error(refused, 3, f"access to {STORE} was refused", "gc s3:DeleteObject")

    become("reader")
    assert watched.refused_by_aws() != []
    assert teacher_cache_command("status", STORE).status == 0
    assert [(f.kind, f.key) for f in verify(STORE).findings] == [("orphan", "depth/c/9/0/0/0")]
    cache = open_cache(STORE)
    assert cache.read(["depth", "camray"], cache.committed_ids())["depth"].shape[0] == 3
    assert watched.refused_by_aws() == []
    is_one_clear_error(teacher_cache_command("gc", STORE), 3, "was refused")

    become("operator")
    assert watched.refused_by_aws() != []
    collected = teacher_cache_command("gc", STORE, "--json")
    assert collected.json["removed"] == ["depth/c/9/0/0/0"]
    left = Objects(STORE).listing()
    assert {key: about for key, about in left.items() if key in committed} == committed
    assert all(key.startswith("log/0") for key in left.keys() - committed.keys())  # what it deleted is told there
    assert watched.refused_by_aws() == []


def test_an_operator_may_repair_all_that_a_repair_mends(
    job: Path, become: ActAs, watched: WatchingProxy, teacher_cache_command: Command
) -> None:
    """A record of the log, metadata and heads are written anew, and a shard's clips are taught again as new rows."""
    assert teacher_cache_command("run", job).status == 0
    objects = Objects(STORE)
    last = max(objects.listing("log/0"))
    damaged = {last, "camray/zarr.json", "heads/card.json"}
    for key in damaged:
        objects.replace(key, b"damaged")
    shard = next(key for key in objects.listing("depth/c/"))
    objects.delete_many([shard])

    become("operator")
    assert teacher_cache_command("run", job, "--repair").status == 0
    assert verify(STORE).findings == ()
    overwritten = {a.key for a in watched.asked if a.method == "PUT" and not a.is_conditional}
    assert damaged <= overwritten
    assert not any("/c/" in key for key in overwritten)
    assert watched.refused_by_aws() == []


@pytest.fixture
def three_nodes(
    _server: s3_server.S3Server, watched: WatchingProxy, become: ActAs, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """A Ray of three nodes, each with its role's keys: the driver's, which is here, a teacher's and a decoder's."""
    from ray.cluster_utils import Cluster

    def node(identity: str, **more: object) -> dict[str, object]:
        return {"env_vars": watched.environment_of(_server, identity), "object_store_memory": 100 * 2**20, **more}

    become("writer")
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "1")
    cluster = Cluster(initialize_head=True, head_node_args=node("writer", num_cpus=0, include_dashboard=False))
    cluster.add_node(**node("teacher", num_cpus=1, resources={"teach": 1}))
    cluster.add_node(**node("decoder", num_cpus=1, resources={"decode": 1}))
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    yield
    cluster.shutdown()


@pytest.mark.usefixtures("three_nodes")
def test_each_node_of_a_cluster_needs_no_more_than_its_own_role(
    settings: dict[str, Any], jobs: Jobs, watched: WatchingProxy, teacher_cache_command: Command
) -> None:
    places = {"teacher_resources": {"teach": 1}, "decoder_resources": {"decode": 1}}
    engine = {"kind": "ray", "batch": 2, "threads_per_teacher": 1, **places}
    ran = teacher_cache_command("run", jobs.write(**settings, engine=engine), "--json")
    assert ran.status == 0, ran.err
    assert ran.json["clips"]["committed"] == 2
    put = {a.key.partition("/")[0] for a in watched.asked if (a.identity, a.method) == ("teacher", "PUT")}
    assert {"depth", "camray", "heads"} <= put
    assert {a.prefix for a in watched.asked if a.identity == "decoder"} == {"raw"}
    assert "raw" not in {a.prefix for a in watched.asked if a.identity == "teacher"}
    assert watched.refused_by_aws() == []
