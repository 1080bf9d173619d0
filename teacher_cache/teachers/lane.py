"""A batch's frames on the host in; its encoded arrays on the host out: the way through a device, one copy in each direction.

On a GPU, copying in, teaching, encoding and copying out each have a stream of their own, ordered by events. So while one batch
is taught, the next one's frames arrive, and the last one's arrays are encoded and leave. On a CPU nothing is copied.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from queue import SimpleQueue
from time import perf_counter
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from teacher_cache.teachers.heads import RawSignals

Values = np.ndarray[Any, Any]
Result = TypeVar("Result")
Bring = Callable[[Sequence[Tensor]], list[Values]]
"""Copies tensors of the device to the host, all in one transfer, and waits for it."""


class Lane(Protocol):
    """The way through one device. Thread-safe: the batches of several threads overlap, and one is taught at a time."""

    def through(
        self, frames: Tensor, teach: Callable[[Tensor], RawSignals], encode: Callable[[RawSignals, Bring], Result]
    ) -> tuple[Result, float]:
        """Take a batch of uint8 frames (clip, frame, y, x, rgb) on the host through the device.

        ``teach`` is given them on the device; ``encode`` what that returned, and a function to bring tensors to the host.
        Returns what ``encode`` did, and the seconds for which the teacher held the device. Raises what they raise, and
        `RuntimeError` for an error that the device reports late.
        """


class HostLane:
    """The CPU's: nothing to copy, nothing to wait for."""

    def __init__(self) -> None:
        self._teaching = threading.Lock()

    def through(
        self, frames: Tensor, teach: Callable[[Tensor], RawSignals], encode: Callable[[RawSignals, Bring], Result]
    ) -> tuple[Result, float]:
        """See `Lane.through`."""
        with self._teaching:
            begun = perf_counter()
            raw = teach(frames)
            seconds = perf_counter() - begun
        return encode(raw, lambda tensors: [values.numpy() for values in tensors]), seconds


class CudaLane:
    """A GPU's streams, and the pinned buffers that ``batches`` at once are lent; further ones wait for those."""

    def __init__(self, device: str, batches: int) -> None:
        self._device = torch.device(device)
        self._in, self._teach, self._encode, self._out = (
            torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            for _ in range(4)
        )
        self._teaching = threading.Lock()
        self._frames, self._arrays = PinnedBuffers(batches), PinnedBuffers(batches)
        torch.cuda.synchronize(self._device)  # the weights came by the default stream, which these do not wait for

    def through(
        self, frames: Tensor, teach: Callable[[Tensor], RawSignals], encode: Callable[[RawSignals, Bring], Result]
    ) -> tuple[Result, float]:
        """See `Lane.through`."""
        with self._frames.lent(frames.nbytes) as buffer:
            pinned = buffer.view(frames.shape)
            pinned.copy_(frames)
            with torch.cuda.stream(self._in):
                there = pinned.to(self._device, non_blocking=True)
                arrived = self._in.record_event()
            try:
                raw, begun, done = self._taught(there, arrived, teach)
                with torch.cuda.stream(self._encode):
                    self._encode.wait_event(done)
                    for values in raw.values():
                        values.record_stream(self._encode)
                    result = encode(raw, self._bring)
                done.synchronize()
                return result, begun.elapsed_time(done) / 1000
            finally:
                arrived.synchronize()  # whatever failed: only now may the buffer go to another batch

    def _taught(
        self, frames: Tensor, arrived: torch.cuda.Event, teach: Callable[[Tensor], RawSignals]
    ) -> tuple[RawSignals, torch.cuda.Event, torch.cuda.Event]:
        """The raw signals, not yet computed, and the events at which the teacher begins and has ended."""
        begun, done = (
            torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            for _ in range(2)
        )
        with self._teaching, torch.cuda.stream(self._teach):
            self._teach.wait_event(arrived)
            frames.record_stream(self._teach)  # their memory is not given to another batch before the teacher has read it
            begun.record(self._teach)
            raw = teach(frames)
            done.record(self._teach)
        return raw, begun, done

    def _bring(self, tensors: Sequence[Tensor]) -> list[Values]:
        packed = pack(tensors)
        ready = self._encode.record_event()
        with self._arrays.lent(packed.nbytes) as pinned:
            with torch.cuda.stream(self._out):
                self._out.wait_event(ready)
                packed.record_stream(self._out)
                pinned.copy_(packed, non_blocking=True)
                self._out.record_event().synchronize()
            whole = pinned.clone()  # in memory that compression may keep for as long as it takes
        return unpack(whole, tensors)


def pack(tensors: Sequence[Tensor]) -> Tensor:
    """The bytes of all tensors, uint8 (n,) on their device: the widest first, so that each is at a multiple of its width."""
    return torch.cat([tensors[n].reshape(-1).view(torch.uint8) for n in _by_width(tensors)])


def unpack(packed: Tensor, like: Sequence[Tensor]) -> list[Values]:
    """The arrays that `pack` packed, from its bytes on the host; of tensors of the shapes and dtypes of ``like``."""
    order = _by_width(like)
    parts = torch.split(packed, [like[n].nbytes for n in order])
    arrays = {n: part.view(like[n].dtype).view(like[n].shape).numpy() for n, part in zip(order, parts, strict=True)}
    return [arrays[n] for n in range(len(like))]


def _by_width(tensors: Sequence[Tensor]) -> list[int]:
    return sorted(range(len(tensors)), key=lambda n: -tensors[n].itemsize)


class PinnedBuffers:
    """Page-locked host memory, which a GPU copies to and from by itself: so many buffers, each lent to one batch at a time.

    They are made when they are first needed, and made anew only for a larger batch.
    """

    def __init__(self, count: int, allocate: Callable[[int], Tensor] | None = None) -> None:
        self._free: SimpleQueue[Tensor | None] = SimpleQueue()
        for _ in range(count):
            self._free.put(None)
        self._allocate = allocate or (lambda size: torch.empty(size, dtype=torch.uint8, pin_memory=True))

    @contextmanager
    def lent(self, size: int) -> Iterator[Tensor]:
        """``size`` bytes as uint8 (size,); waits until a buffer is free. Copies to and from it must have ended on return."""
        buffer = self._free.get()
        try:
            if buffer is None or len(buffer) < size:
                buffer = None  # freed before its successor is made
                buffer = self._allocate(size)
            yield buffer[:size]
        finally:
            self._free.put(buffer)


def lane_for(device: str, batches: int) -> Lane:
    """The way through ``cpu`` or ``cuda:n`` for ``batches`` at once; to be made once its teacher is loaded."""
    return CudaLane(device, batches) if device.startswith("cuda") else HostLane()
