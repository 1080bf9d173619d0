"""A web server by https on this machine, which this process and those that it starts trust."""

from __future__ import annotations

import functools
import os
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import aiohttp


@functools.cache
def _certificate() -> tuple[Path, Path]:
    """(certificate, key) for ``localhost``."""
    folder = Path(tempfile.mkdtemp())
    asked = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2", "-nodes"]
    files = ["-keyout", f"{folder}/key.pem", "-out", f"{folder}/cert.pem"]
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", *asked, *files], check=True, capture_output=True)
    os.environ["SSL_CERT_FILE"] = f"{folder}/cert.pem"  # for processes that this one starts
    aiohttp.connector._SSL_CONTEXT_VERIFIED.load_verify_locations(f"{folder}/cert.pem")
    return folder / "cert.pem", folder / "key.pem"


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler] | functools.partial[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The server's URL."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*_certificate())
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"https://localhost:{server.server_port}"
        server.shutdown()
        thread.join()
