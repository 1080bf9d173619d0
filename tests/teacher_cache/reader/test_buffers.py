"""Memory that is used again is never memory that somebody still holds."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from teacher_cache.reader.buffers import BufferPool

MIB = 2**20
BYTE = np.dtype("u1")

Holder = Callable[[np.ndarray], Any]
HOLDERS: dict[str, Holder] = {
    "itself": lambda array: array,
    "view": lambda array: array[3:, ::2].T,
    "view of a view": lambda array: array.view("i1")[1:][5],
    "memoryview": lambda array: memoryview(array)[4:],
    "base": lambda array: array[2].base,
    "tensor": torch.from_numpy,
    "view of a tensor": lambda array: torch.from_numpy(array)[7].view(-1, 2),
    "array of a tensor": lambda array: torch.from_numpy(array).numpy()[1],
    "iterator": lambda array: array.flat,
}


@pytest.mark.parametrize("name", HOLDERS)
def test_whatever_refers_to_an_array_keeps_its_memory(name: str) -> None:
    pool = BufferPool()
    array = pool.empty((1024, 2048), BYTE)
    held = HOLDERS[name](array)
    del array
    gc.collect()
    assert pool.idle_bytes == 0
    del held
    gc.collect()
    assert pool.idle_bytes == 2 * MIB


@given(data=st.data(), idle=st.integers(0, 12))
@settings(max_examples=40)
def test_no_memory_is_handed_out_twice(data: st.DataObject, idle: int) -> None:
    """Whatever is taken and let go, arrays alive hold what was written to them, and no more than the bound lies idle."""
    pool = BufferPool(idle * MIB)
    held: dict[int, Any] = {}
    for number in range(data.draw(st.integers(1, 25))):
        if held and data.draw(st.booleans()):
            del held[data.draw(st.sampled_from(sorted(held)))]
        else:
            array = pool.empty((data.draw(st.integers(1, 4)), MIB // 4 * data.draw(st.integers(1, 8))), BYTE)
            array[...] = number
            held[number] = HOLDERS[data.draw(st.sampled_from(["itself", "view", "memoryview", "tensor"]))](array)
            del array
        assert pool.idle_bytes <= idle * MIB
        for written, values in held.items():
            assert (np.asarray(values) == written).all()


def test_memory_is_used_again_for_what_fits_it() -> None:
    pool = BufferPool()
    first = pool.empty((3, MIB), BYTE)
    address = first.ctypes.data
    del first
    small, large = pool.empty((MIB,), BYTE), pool.empty((4, MIB), BYTE)  # too small for that block, and too large
    assert pool.idle_bytes == 3 * MIB
    again = pool.empty((MIB // 2, 5), BYTE)
    assert again.ctypes.data == address
    assert pool.idle_bytes == 0
    assert len({array.ctypes.data for array in (small, large, again)}) == 3


def test_an_array_is_as_numpy_makes_it() -> None:
    for shape in [(3, 5), (2**19, 4), (0, 7)]:
        array = BufferPool().empty(shape, np.dtype("<f4"))
        assert (array.shape, array.dtype) == (shape, np.float32)
        assert array.flags.c_contiguous
        assert array.flags.writeable
        assert array.flags.aligned


def test_arrays_end_in_other_threads_and_in_cycles() -> None:
    pool = BufferPool(8 * MIB)
    wrong: list[int] = []

    def work(number: int) -> None:
        rng = np.random.default_rng(number)
        for _ in range(40):
            array = pool.empty((int(rng.integers(1, 4)), MIB), BYTE)
            array[...] = number
            cycle: list[Any] = [array]
            cycle.append(cycle)
            if (array != number).any():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gc.collect()
    assert not wrong
    assert 0 < pool.idle_bytes <= 8 * MIB
