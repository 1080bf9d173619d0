"""Memory of batches that is used again. The kernel clears fresh pages, which costs more than decoding a clip into warm ones."""

from __future__ import annotations

import ctypes
import threading
import weakref
from queue import SimpleQueue
from typing import Any

import numpy as np

# Smaller arrays come from the allocator, which keeps their pages itself.
_SMALLEST = 2**20
# A block is not handed out for less than this share of it.
_LEAST_USE = 0.5
_IDLE_BYTES = 2**30

Values = np.ndarray[Any, Any]


class BufferPool:
    """Hands out uninitialised arrays, whose memory comes back when the last reference to it is gone. Safe in threads.

    A view, a memoryview or a tensor over an array refers to its memory as the array does. At most ``idle_bytes`` are kept
    for which there is no array; of more, what lay idle longest goes back to the kernel.
    """

    def __init__(self, idle_bytes: int = _IDLE_BYTES) -> None:
        self._idle_bytes = idle_bytes
        self._idle: list[Values] = []  # the longest idle first
        self._lock = threading.Lock()
        # An array can end anywhere, in the middle of this class too: its block is put where no lock is needed.
        self._returned: SimpleQueue[Values] = SimpleQueue()

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Values:
        """As `numpy.empty`, in C order."""
        size = int(np.prod(shape)) * dtype.itemsize
        if size < _SMALLEST:
            return np.empty(shape, dtype)
        block = self._take(size)
        # numpy takes an array's own base for that of a view of it, and would let a plain array here go with views alive.
        lease = (ctypes.c_char * size).from_buffer(block.data)
        weakref.finalize(lease, self._give_back, block).atexit = False
        return np.frombuffer(memoryview(lease), dtype).reshape(shape)

    @property
    def idle_bytes(self) -> int:
        """Memory that no array refers to."""
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
        if self._lock.acquire(blocking=False):  # else whoever holds it, or comes next, settles
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
