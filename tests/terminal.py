"""A command in a terminal of its own, as a user at a keyboard has it; and teachers that take their time, to look at it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import threading
import time
from pathlib import Path

SHOW_CURSOR, HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"

_PACKAGES = Path(__file__).resolve().parent / "packages"


class Terminal:
    """A command in a terminal of its own, and all that it wrote there."""

    def __init__(self, command: list[str], columns: int, **environment: str) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.settings = termios.tcgetattr(slave)
        environment = {"TERM": "xterm-256color", **environment}
        kept = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES", "NO_COLOR"}}
        # A shell ignores the key for what it starts in the background, and so would whatever that starts in turn.
        before = signal.signal(signal.SIGINT, signal.SIG_DFL)
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=subprocess.PIPE, stderr=slave, start_new_session=True, env=kept | environment
        )
        signal.signal(signal.SIGINT, before)
        self._slave, self._chunks = slave, []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while True:
            try:
                chunk = os.read(self._master, 65536)
            except OSError:
                return
            self._chunks.append(chunk)

    @property
    def text(self) -> str:
        return b"".join(self._chunks).decode(errors="replace")

    def wait_for(self, pattern: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not re.search(pattern, self.text):
            assert time.monotonic() < deadline, self.text
            assert self.process.poll() is None, self.text
            time.sleep(0.02)

    def end(self, seconds: float = 60) -> bytes:
        """Wait for the end; returns what it wrote to standard output."""
        out, _ = self.process.communicate(timeout=seconds)
        time.sleep(0.2)
        return out

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.is_as_before = termios.tcgetattr(self._slave) == self.settings
        os.close(self._slave)
        os.close(self._master)


def paced(seconds: float) -> dict[str, str]:
    """The environment in which ``paced`` is a teacher family, whose forwards take that long at least."""
    path = os.pathsep.join(filter(None, (str(_PACKAGES), os.environ.get("PYTHONPATH"))))
    return {"PYTHONPATH": path, "P4D_PACE": str(seconds)}
