"""RAY_ADDRESS in; nothing, or an error within seconds if no Ray answers there, out.

Ray itself tries for minutes, says so in lines of its own, and does not listen to SIGTERM meanwhile.
"""

from __future__ import annotations

import os
import socket
import time

from schemas.errors import BadInput, CouldNotRun
from teacher_cache.io.stop import Stop

_TRY_SECONDS = 10
"""How long to try to connect: a head that begins at the same time may take some seconds."""
_ANSWER_SECONDS = 5
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
"""How an HTTP/2 client begins: RFC 9113, section 3.4, with an empty SETTINGS frame. A gRPC server answers with its own."""
_SETTINGS = 4
_ADVICE = (
    "RAY_ADDRESS is HOST:PORT of the cluster's head, as `ray start` prints it (port 6379 unless it was chosen); see "
    "`ray status` there, or unset RAY_ADDRESS to start Ray on this machine"
)


def require_ray(stop: Stop, seconds: float = _TRY_SECONDS) -> None:
    """Raises `CouldNotRun` if nothing listens at RAY_ADDRESS or no Ray answers; `BadInput` if it cannot be one's address.

    `Stopped` once ``stop`` is set. ``seconds``: how long to try to connect.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    if address in {"", "auto", "local"}:  # Ray finds these itself, at once
        return
    if "://" in address:
        raise BadInput(
            f"RAY_ADDRESS is {address}; a run is a driver of the cluster, which Ray's client protocol cannot be. {_ADVICE}; or "
            "start the run on the cluster by `ray job submit`"
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise BadInput(f"RAY_ADDRESS is {address!r}. {_ADVICE}")
    _require_answer(host.strip("[]"), int(port), stop, seconds)


def _require_answer(host: str, port: int, stop: Stop, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            with socket.create_connection((host, port), timeout=2) as connection:
                _require_grpc(connection, f"{host}:{port}")
                return
        except (OSError, OverflowError) as error:
            if stop.is_set:
                raise stop.error("before Ray answered") from None
            if time.monotonic() > deadline or isinstance(error, OverflowError):
                raise CouldNotRun(f"nothing answers at RAY_ADDRESS, {host}:{port} ({error}). {_ADVICE}") from None
        time.sleep(0.2)


def _require_grpc(connection: socket.socket, address: str) -> None:
    """Raises `CouldNotRun` if what listens is another kind of server."""
    if os.environ.get("RAY_USE_TLS", "0") == "1":
        return
    connection.settimeout(_ANSWER_SECONDS)
    connection.sendall(_PREFACE)
    try:
        answer = connection.recv(9)
    except OSError:
        answer = b""
    if len(answer) < 4 or answer[3] != _SETTINGS:
        raise CouldNotRun(f"what listens at RAY_ADDRESS, {address}, is no Ray. {_ADVICE}")
