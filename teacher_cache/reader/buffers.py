"""Reusable memory for batches. The kernel zeroes fresh pages, which costs more than decoding a clip into warm ones."""

from __future__ import annotations

import ctypes
import threading
import weakref
from queue import SimpleQueue
from typing import Any

import numpy as np

# Smaller arrays come from the allocator, which reuses their pages itself.
_SMALLEST = 2**20
# A block is reused only for an array that fills at least this share of it.
_LEAST_USE = 0.5
_IDLE_BYTES = 2**30

Values = np.ndarray[Any, Any]


class BufferPool:
    """Hands out uninitialised arrays and takes their memory back when the last reference is gone. Safe in threads.

    A view, memoryview or tensor over an array counts as a reference to its memory. At most ``idle_bytes`` of unreferenced
    memory are kept; beyond that, the blocks that have been idle longest are freed.
    """

    def __init__(self, idle_bytes: int = _IDLE_BYTES) -> None:
        self._idle_bytes = idle_bytes
        self._idle: list[Values] = []  # the longest idle first
        self._lock = threading.Lock()
        # An array can be collected anywhere, even inside this class while it holds the lock; this queue needs no lock.
        self._returned: SimpleQueue[Values] = SimpleQueue()

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Values:
        """As `numpy.empty`, in C order, from pooled memory."""
        size = int(np.prod(shape)) * dtype.itemsize
        if size < _SMALLEST:
            return np.empty(shape, dtype)
        block = self._take(size)
        # numpy collapses a view's base to the owner of the memory, so a plain array here could be collected while views of it
        # are alive.
        lease = (ctypes.c_char * size).from_buffer(block.data)
        weakref.finalize(lease, self._give_back, block).atexit = False
        return np.frombuffer(memoryview(lease), dtype).reshape(shape)

    @property
    def idle_bytes(self) -> int:
        """Bytes kept for reuse that no array refers to now."""
        with self._lock:
            self._settle()
            return sum(block.nbytes for block in self._idle)

    def _take(self, size: int) -> Values:
        with self._lock:
            self._settle()
            fitting = [index for index, block in enumerate(self._idle) if size <= block.nbytes <= size / _LEAST_USE]
            if fitting:
                return self._idle.pop(min(fitting, key=lambda index: self._idle[index].nbytes))
        return np.empty(size, np.uint8)

    def _give_back(self, block: Values) -> None:
        self._returned.put(block)
        if self._lock.acquire(blocking=False):  # otherwise the lock's holder, or the next caller, settles
            try:
                self._settle()
            finally:
                self._lock.release()

    def _settle(self) -> None:
        while not self._returned.empty():
            self._idle.append(self._returned.get())
        excess = sum(block.nbytes for block in self._idle) - self._idle_bytes
        while excess > 0:
            excess -= self._idle.pop(0).nbytes
