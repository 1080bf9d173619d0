"""Between clients and an S3 server: lets all requests through, but for one that it loses, repeats or holds back, or for those
that its weather spoils."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import signal
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from typing import Literal, TypeVar, get_args
from urllib.parse import parse_qs, unquote, urlsplit

Fault = Literal["killed before", "killed after", "answer lost", "sent twice", "sent late"]
"""What happens at the request: the writer is killed before the server gets it, or after (and hears nothing); the answer alone
is lost; the server gets it twice, and the second answer is given; the writer is killed, and `S3Proxy.release` sends it."""

Trouble = Literal["500", "503", "hang", "reset", "lost", "cut", "slow"]
"""What spoils a request: an answer of that status, no answer, a connection reset before the server has it or (``lost``) after,
half an answer, or one that takes its time."""

_CHANGES = (b"PUT ", b"POST ", b"DELETE ")
_ANSWERS = {"500": ("Internal Server Error", "InternalError"), "503": ("Service Unavailable", "SlowDown")}
_SLOW_SECONDS = 0.3

Weather = Callable[[bytes], Trouble | None]
"""A request's first bytes, method and path → what spoils it."""


def changeable(share: float, seed: int, kinds: Sequence[Trouble] = get_args(Trouble)) -> Weather:
    """Spoils that share of all requests, in each of the kinds in turn; the same ones in whatever order threads send them."""
    turns, asked = cycle(kinds), Counter[bytes]()

    def weather(request: bytes) -> Trouble | None:
        asked[request] += 1
        chance = random.Random(f"{seed} {request!r} {asked[request]}").random()
        return next(turns) if chance < share else None

    return weather


def each_once(trouble: Trouble, methods: tuple[bytes, ...] = _CHANGES) -> Weather:
    """Spoils every request the first time that it comes."""
    seen: set[bytes] = set()

    def weather(request: bytes) -> Trouble | None:
        is_new = request.startswith(methods) and request not in seen
        seen.add(request)
        return trouble if is_new else None

    return weather


class S3Proxy:
    """One request a connection. The Host header stays the client's: the signature covers it."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = ""
        self.changes = 0
        """Requests so far that change something."""
        self._server = urlsplit(endpoint)
        self.writer = 0
        """Process id of whom to kill."""
        self._at: int = 0
        self._fault: Fault | None = None
        self._held = b""
        self.weather: Weather = lambda _: None
        self.troubles: list[tuple[Trouble, str]] = []
        """What was spoilt so far, how and which request."""
        self.requests: list[str] = []
        """Method and path of all that came."""

    def expect(self, at: int = 0, fault: Fault | None = None) -> None:
        """Count anew, and be ready for the fault at that change, counted from 1. Say `writer` before it comes."""
        self.changes, self._at, self._fault = 0, at, fault

    def release(self) -> None:
        """Send the request that was held back."""
        assert self._held
        asyncio.run(self._forwarded(self._held))
        self._held = b""

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            request = await _request(reader, writer)
            line = request[: request.index(b" HTTP/")]
            self.requests.append(line.decode())
            trouble = self.weather(line)
            if trouble is None:
                writer.write(await self._through(request))
            else:
                self.troubles.append((trouble, line.decode()))
                writer.write(await self._spoilt(trouble, request, reader, writer))
            await writer.drain()
        writer.close()

    async def _spoilt(
        self, trouble: Trouble, request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bytes:
        match trouble:
            case "500" | "503":
                reason, code = _ANSWERS[trouble]
                body = f"<Error><Code>{code}</Code><Message>made by the test</Message></Error>"
                return f"HTTP/1.1 {trouble} {reason}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()
            case "hang":
                await reader.read()  # until the client has had enough
            case "cut":
                answer = await self._forwarded(request)
                return answer[: (answer.index(b"\r\n\r\n") + len(answer)) // 2]
            case "slow":
                await asyncio.sleep(_SLOW_SECONDS)
                return await self._forwarded(request)
            case "lost":
                await self._forwarded(request)
        # Without a farewell: the client's system sees a reset.
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        return b""

    async def _through(self, request: bytes) -> bytes:
        self.changes += request.startswith(_CHANGES)
        if not request.startswith(_CHANGES) or self.changes != self._at:
            return await self._forwarded(request)
        match self._fault:
            case "killed after":
                await self._forwarded(request)
            case "answer lost":
                await self._forwarded(request)
                return b""
            case "sent twice":
                await self._forwarded(request)
                return await self._forwarded(request)
            case "sent late":
                self._held = request
        os.kill(self.writer, signal.SIGKILL)
        return b""

    async def _forwarded(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(self._server.hostname, self._server.port)
        writer.write(request)
        answer = await reader.read()
        writer.close()
        return answer


class CountingProxy(S3Proxy):
    """Counts what comes by, as S3 bills it, apart for the objects under a prefix of their paths and all others."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(endpoint)
        self.asked: Counter[tuple[str, str]] = Counter()
        """(top folder in the bucket, ``put`` | ``get`` | ``list``) → requests so far."""
        self.sent = 0
        """Bytes of all answers so far."""

    async def _forwarded(self, request: bytes) -> bytes:
        method, target, _ = request.split(b" ", 2)
        url = urlsplit(target.decode())
        query = parse_qs(url.query, keep_blank_values=True)
        is_listing = method == b"GET" and "list-type" in query
        path = query["prefix"][0] if is_listing else url.path.strip("/").partition("/")[2]
        kind = "list" if is_listing else {b"PUT": "put", b"GET": "get", b"HEAD": "get"}.get(method, "other")
        self.asked[unquote(path).partition("/")[0], kind] += 1
        answer = await super()._forwarded(request)
        self.sent += len(answer)
        return answer

    def take(self, folder: str) -> dict[str, int]:
        """What was asked of the folder since the last time."""
        return {kind: self.asked.pop((folder, kind), 0) for kind in ("put", "get", "list")}


Proxy = TypeVar("Proxy", bound=S3Proxy)


async def _request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """A whole request, to be sent on a connection of its own."""
    head = await reader.readuntil(b"\r\n\r\n")
    if re.search(rb"(?i)\r\nexpect: 100-continue", head):
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    body = await reader.readexactly(int(length[1])) if length else b""
    if re.search(rb"(?i)\r\ntransfer-encoding: *chunked", head):
        body = await reader.readuntil(b"\r\n0\r\n\r\n")
    head = re.sub(rb"(?i)\r\n(expect|connection):[^\r]*", b"", head)
    return head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + body


@contextlib.contextmanager
def proxy(endpoint: str, port: int = 0, kind: type[Proxy] = S3Proxy) -> Iterator[Proxy]:  # type: ignore[assignment]
    """A proxy before an S3 server, on that port, or on one that is free."""
    made = kind(endpoint)
    loop, ready = asyncio.new_event_loop(), threading.Event()

    async def serve() -> None:
        server = await asyncio.start_server(made._answer, "127.0.0.1", port, limit=1 << 26)
        made.endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        ready.set()
        with contextlib.suppress(asyncio.CancelledError):
            await server.serve_forever()

    task = loop.create_task(serve())
    thread = threading.Thread(target=loop.run_until_complete, args=(task,))
    thread.start()
    ready.wait()
    try:
        yield made
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join()
        loop.close()
