"""A real S3 server (SeaweedFS) on loopback: started once, stopped by its process id, emptied between tests.

It knows an administrator, and one identity for each of the policies that users are given in `cluster/iam`.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import s3fs

ACCESS_KEY, SECRET_KEY = "test-access", "test-secret-9f2c"

IAM = Path(__file__).resolve().parents[1] / "cluster/iam"
# identity → its policies, each with the prefix of the bucket it is about; as the deploy page gives them to roles
RIGHTS = {
    "reader": (("reader", "store"),),
    "writer": (("writer", "store"), ("reader", "raw"), ("reader", "models")),
    "teacher": (("teacher", "store"), ("reader", "raw"), ("reader", "models")),
    "decoder": (("reader", "raw"),),
    "operator": (("operator", "store"), ("reader", "raw"), ("reader", "models")),
}
# identity → its open connections; like s3fs's own, they live as long as the process
CONNECTIONS: dict[str, dict[str, s3fs.S3FileSystem]] = {}


@dataclass(frozen=True)
class S3Server:
    endpoint: str
    process: subprocess.Popen[bytes]
    folder: Path
    command: tuple[str, ...]

    @property
    def environment(self) -> dict[str, str]:
        """What an administrator's shell holds to reach this server."""
        return {"AWS_ENDPOINT_URL": self.endpoint, "AWS_DEFAULT_REGION": "us-east-1", **_keys(ACCESS_KEY, SECRET_KEY)}

    def environment_of(self, identity: str) -> dict[str, str]:
        """What the shell of one of `RIGHTS` holds."""
        return self.environment | _keys(f"{identity}-access", f"{identity}-{SECRET_KEY}")

    @cached_property
    def filesystem(self) -> s3fs.S3FileSystem:
        return s3fs.S3FileSystem(
            key=ACCESS_KEY, secret=SECRET_KEY, endpoint_url=self.endpoint, use_listings_cache=False, skip_instance_cache=True
        )


def _keys(access: str, secret: str) -> dict[str, str]:
    return {"AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": secret}


def policy(name: str, bucket: str, prefix: str) -> str:
    """A policy of `cluster/iam` for a place, as its users fill it in."""
    text = (IAM / f"{name}.json").read_text()
    return text.replace("BUCKET", bucket).replace("PREFIX", prefix).replace("ACCOUNT", "123456789012")


def policy_without_conditional_writes(name: str, bucket: str, prefix: str) -> str:
    """The same for a server that does not know ``s3:if-none-match``, by the deploy page's ``grep``."""
    return "\n".join(line for line in policy(name, bucket, prefix).splitlines() if "s3:if-none-match" not in line)


def _configuration(bucket: str) -> dict[str, Any]:
    """SeaweedFS's own form of identities and policies; a policy's content is the AWS document, as text."""
    identities: list[dict[str, Any]] = [
        {"name": "tests", "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}], "actions": ["Admin"]}
    ]
    for identity, rights in RIGHTS.items():
        key = {"accessKey": f"{identity}-access", "secretKey": f"{identity}-{SECRET_KEY}"}
        identities.append({"name": identity, "credentials": [key], "policyNames": ["-".join(right) for right in rights]})
    policies = [
        {"name": f"{name}-{prefix}", "content": policy_without_conditional_writes(name, bucket, prefix)}
        for name, prefix in sorted({right for rights in RIGHTS.values() for right in rights})
    ]
    return {"identities": identities, "policies": policies}


def _free_ports(count: int) -> list[int]:
    """Ports P so that P and P + 10000 (the server's gRPC twin) are both free.

    Test processes that start together look in ranges of their own: a port is only taken once the server listens on it.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = 20000 + worker % 8 * 1000
    start = os.getpid() % 900
    free = (p for p in range(first + start, first + 1000) if _is_free(p) and _is_free(p + 10000))
    return [port for port, _ in zip(free, range(count), strict=False)]


def _is_free(port: int) -> bool:
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def start(folder: Path, weed: str = "weed") -> S3Server:
    """Start a server whose data lie under ``folder``, and wait until it serves. Stop it with `stop`."""
    (folder / "data").mkdir(parents=True)
    (folder / "identities.json").write_text(json.dumps(_configuration("bucket")))
    master, volume, filer, s3 = _free_ports(4)
    command = (
        weed, "-logtostderr=true", "server", "-filer", "-s3", f"-dir={folder / 'data'}",
        f"-s3.config={folder / 'identities.json'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
        f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}",
        f"-s3.port={s3}", "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false", "-master.electionTimeout=1s",
        "-master.volumeSizeLimitMB=256", "-volume.max=100", "-volume.minFreeSpace=1",
    )  # fmt: skip
    return _serving(f"http://127.0.0.1:{s3}", folder, command)


def start_again(server: S3Server) -> S3Server:
    """A server that was stopped, over the same data and on the same ports."""
    return _serving(server.endpoint, server.folder, server.command)


def _serving(endpoint: str, folder: Path, command: tuple[str, ...]) -> S3Server:
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    server = S3Server(endpoint, process, folder, command)
    deadline = time.monotonic() + 60
    while True:
        try:
            with socket.create_connection((urlsplit(endpoint).hostname, urlsplit(endpoint).port)):
                pass  # the client below is slow to try again
            server.filesystem.ls("/")
        except Exception as error:  # the server answers in its own way while it starts
            if time.monotonic() > deadline or process.poll() is not None:
                stop(server)
                raise RuntimeError(f"the S3 server did not start: {(folder / 'server.log').read_text()[-3000:]}") from error
            time.sleep(0.2)
        else:
            return server


def stop(server: S3Server) -> None:
    """At once: a graceful end takes it ten seconds, and nothing it holds is wanted."""
    server.process.kill()
    server.process.wait()
