"""A decoder that a video's author has taken over: it answers what the video's file holds, byte by byte."""

from __future__ import annotations

import os
import socket
import sys
import time

_, (file, *_), *_ = socket.recv_fds(socket.socket(fileno=0), 1 << 20, 1)
with os.fdopen(file, "rb") as video:
    sys.stdout.buffer.write(video.read())
sys.stdout.buffer.flush()
time.sleep(60)
