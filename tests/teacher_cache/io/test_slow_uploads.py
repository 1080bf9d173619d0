"""A shard over a link so slow that to send it takes longer than a server may be silent."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from teacher_cache.store.objects import Objects

LENGTH, PER_SECOND = 6 * 2**20, 3 * 2**20


@pytest.fixture
def slow_server() -> Iterator[str]:
    """Takes each body at that speed, without a pause."""

    def take(client: socket.socket) -> None:
        with client:
            received = b""
            while b"\r\n\r\n" not in received:
                received += client.recv(65536)
            head, _, body = received.partition(b"\r\n\r\n")
            left = next(int(line.split(b":")[1]) for line in head.lower().splitlines() if line.startswith(b"content-length"))
            left -= len(body)
            while left > 0 and (piece := client.recv(65536)):
                left -= len(piece)
                time.sleep(len(piece) / PER_SECOND)
            if not left:
                client.sendall(b'HTTP/1.1 200 OK\r\nETag: "a"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n')

    def serve() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=take, args=(client,), daemon=True).start()

    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        server.bind(("127.0.0.1", 0))
        server.listen()
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


def test_an_upload_that_makes_progress_is_not_cut_off(slow_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ENDPOINT_URL": slow_server,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "P4D_S3_READ_SECONDS": "0.5",
        "P4D_PATIENCE_SECONDS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    began = time.monotonic()
    assert Objects("s3://bucket/store").create("f4d/c/0", bytes(LENGTH))
    assert time.monotonic() - began > 1
