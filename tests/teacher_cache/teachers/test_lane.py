"""What of a lane needs no GPU: packing, lending, and the settings that all teachers of a process share."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from overlap import shares

from schemas.job import TeacherJob
from schemas.signal import P4D_SIGNALS
from teacher_cache.teachers.lane import PinnedBuffers, pack, unpack
from teacher_cache.teachers.registry import loaded

DTYPES = [torch.float64, torch.float32, torch.int16, torch.int8, torch.bool]


@given(kinds=st.lists(st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=3)), min_size=1, max_size=12))
@settings(deadline=None)
def test_what_is_brought_over_as_one_is_what_was_sent(kinds: list[tuple[torch.dtype, list[int]]]) -> None:
    sent = [torch.randint(0, 2, shape, dtype=torch.int8).to(dtype).mT for dtype, shape in kinds if len(shape) > 1]
    sent += [torch.randint(0, 2, shape, dtype=torch.int8).to(dtype) for dtype, shape in kinds]
    for one, other in zip(sent, unpack(pack(sent), sent), strict=True):
        assert other.dtype == one.numpy().dtype
        np.testing.assert_array_equal(one.numpy(), other)


def test_so_many_buffers_are_lent_at_once_and_made_anew_only_when_larger() -> None:
    made: list[int] = []

    def allocate(size: int) -> torch.Tensor:
        made.append(size)
        return torch.empty(size, dtype=torch.uint8)

    buffers = PinnedBuffers(2, allocate)

    def lend() -> int:
        with buffers.lent(5) as buffer:
            return len(buffer)

    with ThreadPoolExecutor(1) as beside:
        with buffers.lent(10), buffers.lent(20) as second:
            third = beside.submit(lend)
            assert second.shape == (20,)
            with pytest.raises(TimeoutError):
                third.result(0.2)
        assert third.result(10) == 5
    with pytest.raises(RuntimeError, match="failed"), buffers.lent(25):
        raise RuntimeError("failed")
    with buffers.lent(10), buffers.lent(10):
        pass
    assert made == [10, 20, 25]


def test_teachers_in_two_threads_give_what_one_gives() -> None:
    """The settings are the process's. Whatever they were before, each teacher leaves them as all need them."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    teachers = [loaded(TeacherJob(preset="tiny"), "cpu") for _ in range(2)]
    frames = torch.randint(0, 256, (1, 16, 112, 112, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    wanted = teachers[0].raw(frames, P4D_SIGNALS)
    both, wrong = threading.Barrier(2), set()

    def teach(number: int) -> dict[str, torch.Tensor]:
        both.wait(60)
        raw = teachers[number].raw(frames, P4D_SIGNALS)
        if torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32:
            wrong.add(number)
        return raw

    with ThreadPoolExecutor(2) as threads:
        for found in threads.map(teach, range(2)):
            assert all(torch.equal(found[signal], wanted[signal]) for signal in P4D_SIGNALS)
    assert not wrong
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cudnn.benchmark


def test_a_trace_says_what_overlaps() -> None:
    """The way that the benchmark of a GPU reads it."""

    def event(cat: str, stream: int, start: float, end: float) -> dict[str, object]:
        return {"cat": cat, "ts": start, "dur": end - start, "args": {"stream": stream}}

    events = [
        event("gpu_memcpy", 1, 0, 10),  # nothing runs beside it
        event("kernel", 7, 10, 60),
        event("kernel", 7, 55, 70),
        event("kernel", 9, 65, 90),
        event("gpu_memcpy", 2, 80, 100),  # half of it beside a kernel
        {"cat": "cpu_op", "ts": 0, "dur": 1000},
    ]
    assert shares(events) == pytest.approx({"wall_seconds": 1e-4, "teaching": 0.6, "computing": 0.8, "copies_hidden": 1 / 3})
