"""A link of a set speed and latency before a server, as a process of its own: what a reader's network gives it, and no more.

python tests/benchmarks/link.py HOST:PORT GBIT MS      # prints the port that it listens on; GBIT 0 limits nothing
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

_PIECE = 64 * 1024


class Link:
    """Bytes from the server to all clients together take as long as the speed says; what they send arrives a latency later."""

    def __init__(self, host: str, port: int, gbit: float, latency_seconds: float) -> None:
        self._host, self._port, self._bytes_per_second = host, port, gbit * 1e9 / 8 or float("inf")
        self._latency_seconds = latency_seconds
        self._free_at = time.monotonic()

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            from_server, to_server = await asyncio.open_connection(self._host, self._port)
            await asyncio.gather(self._pass(reader, to_server, limited=False), self._pass(from_server, writer, limited=True))

    async def _pass(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, limited: bool) -> None:
        with contextlib.suppress(ConnectionError):
            while piece := await source.read(_PIECE):
                if limited:
                    now = time.monotonic()
                    self._free_at = max(now, self._free_at) + len(piece) / self._bytes_per_second
                    await asyncio.sleep(self._free_at - now)
                elif self._latency_seconds:  # a request fits one piece, and a connection has one at a time
                    await asyncio.sleep(self._latency_seconds)
                target.write(piece)
                await target.drain()
        target.close()


async def _serve(address: str, gbit: float, latency_ms: float) -> None:
    host, _, port = address.partition(":")
    server = await asyncio.start_server(Link(host, int(port), gbit, latency_ms / 1e3).connect, "127.0.0.1", 0, limit=_PIECE)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


@contextlib.contextmanager
def link(endpoint: str, gbit: float, latency_ms: float = 0) -> Iterator[str]:
    """The endpoint of such a link before another endpoint."""
    with subprocess.Popen(
        [sys.executable, str(Path(__file__)), urlsplit(endpoint).netloc, str(gbit), str(latency_ms)],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], float(sys.argv[2]), float(sys.argv[3])))
