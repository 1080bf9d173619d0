"""A link of a set speed and latency before a server, as a process of its own: what a reader's network gives it, and no more.

python tests/benchmarks/link.py HOST:PORT GBIT MS      # prints the port that it listens on; GBIT 0 limits nothing

Bytes from the server go from socket to socket in the kernel (`splice`), since a real link takes nothing of a reader's cores.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

_PIECE = 256 * 1024
Carry = Callable[[socket.socket, socket.socket], None]


class Link:
    """Bytes from the server to all clients together take as long as the speed says; what they send arrives a latency later."""

    def __init__(self, host: str, port: int, gbit: float, latency_seconds: float) -> None:
        self._server, self._seconds_per_byte, self._latency_seconds = (host, port), gbit and 8 / (gbit * 1e9), latency_seconds
        self._free_at = time.monotonic()
        self._lock = threading.Lock()

    def connect(self, client: socket.socket) -> None:
        server = socket.create_connection(self._server)
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for carry, source, target in ((self._requests, client, server), (self._answers, server, client)):
            threading.Thread(target=_until_closed, args=(carry, source, target), daemon=True).start()

    def _requests(self, source: socket.socket, target: socket.socket) -> None:
        while piece := source.recv(_PIECE):  # a request fits one piece, and a connection has one at a time
            time.sleep(self._latency_seconds)
            target.sendall(piece)

    def _answers(self, source: socket.socket, target: socket.socket) -> None:
        taken, given = os.pipe()
        with os.fdopen(taken, "rb"), os.fdopen(given, "wb"):
            fcntl.fcntl(given, fcntl.F_SETPIPE_SZ, _PIECE)
            while count := os.splice(source.fileno(), given, _PIECE):
                if self._seconds_per_byte:
                    self._wait_for(count)
                while count:
                    count -= os.splice(taken, target.fileno(), count)

    def _wait_for(self, count: int) -> None:
        """Until the link has carried so many bytes, after all that came before them."""
        with self._lock:
            now = time.monotonic()
            self._free_at = max(now, self._free_at) + count * self._seconds_per_byte
            seconds = self._free_at - now
        time.sleep(seconds)


def _until_closed(carry: Carry, source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        carry(source, target)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def _serve(address: str, gbit: float, latency_ms: float) -> None:
    host, _, port = address.partition(":")
    link = Link(host, int(port), gbit, latency_ms / 1e3)
    with socket.create_server(("127.0.0.1", 0), backlog=128) as server:
        sys.stdout.write(f"{server.getsockname()[1]}\n")
        sys.stdout.flush()
        while True:
            link.connect(server.accept()[0])


@dataclass(frozen=True)
class Started:
    """A link in a process of its own."""

    endpoint: str
    pid: int
    """Its CPU time is told apart: a real link takes none of this machine's."""


@contextlib.contextmanager
def link(endpoint: str, gbit: float, latency_ms: float = 0) -> Iterator[Started]:
    """Such a link before an endpoint."""
    with subprocess.Popen(
        [sys.executable, str(Path(__file__)), urlsplit(endpoint).netloc, str(gbit), str(latency_ms)],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield Started(f"http://127.0.0.1:{int(process.stdout.readline())}", process.pid)
        finally:
            process.kill()


if __name__ == "__main__":
    _serve(sys.argv[1], float(sys.argv[2]), float(sys.argv[3]))
