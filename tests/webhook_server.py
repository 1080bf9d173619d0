"""A chat's webhook, as P4D_WEBHOOK names one."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server(ThreadingHTTPServer):
    answers: list[int]
    """What to answer, first to last; then 200."""
    told: list[dict[str, Any]]
    """The JSON of each request."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        self.server.told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(self.server.answers.pop(0) if self.server.answers else 200)
        self.send_header("Location", f"{self.server.url}/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def webhook_server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), _Handler) as started:
        started.answers, started.told = [], []
        threading.Thread(target=partial(started.serve_forever, 0.05), daemon=True).start()
        yield started
        started.shutdown()
