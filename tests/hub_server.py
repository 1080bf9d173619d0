"""A stand-in for the Hugging Face Hub: a folder as the data set ``user/set``, by the few endpoints that its clients use.

What is in a Hub's large-file storage is answered by a redirect to a signed URL, which takes ranges. Every request is noted.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

NAME = "user/set"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_" + "Very" * 8
_SMALL = (".json", ".md")
"""Ends of the names of what is kept in git itself."""


class HubServer(ThreadingHTTPServer):
    """Serves a folder."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.folder, self.asked = folder, list[str]()
        self.per_page = 1000
        self.closed_to: str | None = None
        """What is answered without the token: ``RepoNotFound`` (private), ``GatedRepo``; None if it is public."""
        self.takes_ranges = True
        self.signature = "5eCr3t"
        """Of the URLs that are sent on to; no other is taken."""
        self.failing: list[int] = []
        """Statuses of the next answers, in place of what was asked for."""

    @property
    def endpoint(self) -> str:
        """The ``HF_ENDPOINT``."""
        return f"http://127.0.0.1:{self.server_port}"


class _Answers(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None: ...

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self._about_paths(json.loads(body)["paths"])

    def do_GET(self) -> None:
        place = urlsplit(self.path)
        self.server.asked.append(f"{self.command} {place.path}")
        if self.server.failing:
            self._answer(self.server.failing.pop(0))
        elif place.path.startswith("/cdn/"):
            if "Authorization" in self.headers:  # a token that was sent on to another host
                self._answer(400)
                return
            if parse_qs(place.query)["X-Amz-Signature"] != [self.server.signature]:
                self._answer(403)
                return
            self._file(self.server.folder / unquote(place.path.removeprefix("/cdn/")))
        elif self.server.closed_to and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._fail({"RepoNotFound": 401, "GatedRepo": 403}[self.server.closed_to], self.server.closed_to)
        elif found := re.fullmatch(rf"/api/datasets/{NAME}(?:/revision/(.+))?", place.path):
            if found[1] not in {None, "main", "v1", COMMIT}:
                self._fail(404, "RevisionNotFound")
            else:
                about = {"id": NAME, "sha": COMMIT, "lastModified": "2026-11-29T12:00:00.000Z", "private": False}
                self._json(about | {"gated": False, "disabled": False, "downloads": 0, "likes": 0, "tags": [], "siblings": []})
        elif found := re.fullmatch(rf"/api/datasets/{NAME}/tree/[^/]+/?(.*)", place.path):
            self._tree(unquote(found[1]), parse_qs(place.query))
        elif found := re.fullmatch(rf"/datasets/{NAME}/resolve/[^/]+/(.+)", place.path):
            self._resolve(unquote(found[1]))
        else:
            self._fail(404 if self.headers.get("Authorization") else 401, "RepoNotFound")

    def _tree(self, inside: str, query: dict[str, list[str]]) -> None:
        folder = self.server.folder / inside
        if not folder.is_dir():
            self._fail(404, "EntryNotFound")
            return
        is_deep = query.get("recursive", ["false"])[0].lower() == "true"
        found = sorted(folder.rglob("*") if is_deep else folder.iterdir())
        start = int(query.get("cursor", ["0"])[0])
        page = found[start : start + self.server.per_page]
        path = f"{urlsplit(self.path).path}?recursive={is_deep}&cursor={start + self.server.per_page}"
        more = {"Link": f'<{self.server.endpoint}{path}>; rel="next"'} if start + len(page) < len(found) else {}
        self._json([self._about(one) for one in page], more)

    def _about_paths(self, paths: list[str]) -> None:
        self._json([self._about(self.server.folder / path) for path in paths if (self.server.folder / path).exists()])

    def _about(self, path: Path) -> dict[str, object]:
        name = path.relative_to(self.server.folder).as_posix()
        oid = sha1(name.encode()).hexdigest()
        if path.is_dir():
            return {"type": "directory", "path": name, "oid": oid, "size": 0}
        return {"type": "file", "path": name, "oid": oid, "size": path.stat().st_size}

    def _resolve(self, name: str) -> None:
        path = self.server.folder / name
        if not path.is_file():
            self._fail(404, "EntryNotFound")
        elif name.endswith(_SMALL):
            self._file(path)
        else:
            size, etag = path.stat().st_size, sha256(name.encode()).hexdigest()
            headers = {
                "Location": f"http://localhost:{self.server.server_port}/cdn/{quote(name)}?X-Amz-Signature={self.server.signature}",
                "X-Repo-Commit": COMMIT,
            }
            self._answer(302, headers=headers | {"X-Linked-Size": str(size), "X-Linked-Etag": f'"{etag}"'})

    def _file(self, path: Path) -> None:
        data = path.read_bytes()
        headers = {"ETag": f'"{sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None or not self.server.takes_ranges:
            self._answer(200, data, headers)
            return
        start, stop = int(asked[1]), min(int(asked[2] or len(data)) + 1, len(data))
        if start >= len(data):
            self._answer(416, headers={"Content-Range": f"bytes */{len(data)}"})
        else:
            self._answer(206, data[start:stop], headers | {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"})

    def _json(self, value: object, headers: dict[str, str] | None = None) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"} | (headers or {}))

    def _fail(self, status: int, code: str) -> None:
        self._answer(status, headers={"X-Error-Code": code, "X-Error-Message": f"{code} it is"})

    def _answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def hub_server(folder: Path) -> Iterator[HubServer]:
    """A server of the folder in threads of this process."""
    with HubServer(folder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
