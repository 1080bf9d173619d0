"""Decoder processes that a job of this test process has done with in, the next job's out: to start one takes half a second of
CPU. Each is a real one, in its box, as it would be for the rest of a longer job.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from importlib.util import find_spec

import pytest

from teacher_cache.clips import box
from teacher_cache.clips import decoder as module
from teacher_cache.clips.decoder import Decoder

_MOST = 8

Started = tuple[subprocess.Popen[bytes], socket.socket]


class KeptDecoders:
    """Idle processes, by all that they were started with."""

    def __init__(self) -> None:
        self._idle: OrderedDict[int, tuple[Hashable, Started]] = OrderedDict()
        self._is_closed = False

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Here, a decoder that is closed while it is idle leaves its process to the next that would start the same."""
        started, close = Decoder._started, Decoder.close

        def take(decoder: Decoder) -> Started:
            return self._take(decoder) or started(decoder)

        def keep(decoder: Decoder) -> None:
            self._keep(decoder)
            close(decoder)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Decoder, "_started", take)
            patch.setattr(Decoder, "close", keep)
            yield

    def _take(self, decoder: Decoder) -> Started | None:
        if any(find_spec(package) is None for package in ("av", "decord")):
            return None
        wanted = _started_with(decoder)
        for pid, (key, (process, channel)) in list(self._idle.items()):
            if key == wanted:
                del self._idle[pid]
                if process.poll() is None:
                    return process, channel
                _end(process, channel)
        return None

    def _keep(self, decoder: Decoder) -> None:
        if self._is_closed:
            return  # by who kept this way of closing, such as a finalizer that runs after all tests
        if not decoder._using.acquire(blocking=False):
            return  # a thread waits for its answer, and is to see it end
        try:
            process, channel = decoder.process, decoder._channel
            if process is None or channel is None or decoder._is_asked or process.poll() is not None:
                return
            self._idle[process.pid] = _started_with(decoder), (process, channel)
            decoder.process = decoder._channel = None
        finally:
            decoder._using.release()
        while len(self._idle) > _MOST:
            _end(*self._idle.popitem(last=False)[1][1])

    def close(self) -> None:
        """End them all, and keep no more."""
        self._is_closed = True
        while self._idle:
            _end(*self._idle.popitem()[1][1])


def _started_with(decoder: Decoder) -> Hashable:
    finds_shots = decoder.recipe is not None and decoder.recipe.shots is not None
    settings = decoder.device, decoder.memory_bytes, decoder.timeout_seconds, finds_shots
    limits = tuple(resource.getrlimit(limit) for limit in (resource.RLIMIT_DATA, resource.RLIMIT_NOFILE))
    return settings, limits, os.getpid(), module._PROGRAM, tuple(sys.path), tuple(box.environment(decoder.device).items())


def _end(process: subprocess.Popen[bytes], channel: socket.socket) -> None:
    process.kill()
    process.wait()
    channel.close()
    assert process.stdout is not None
    process.stdout.close()
