"""What takes in a log stays in step with what comes, whatever has come before; and who asks meanwhile is answered."""

from __future__ import annotations

import sys
import threading
import time

import numpy as np
import pyarrow as pa

from schemas.log import PARTS, FailedRow, RowsAdded, TableFile, UnitCommitted
from teacher_cache.store.state import FAILED, State

DIGEST = f"sha256:{'0' * 64}"


def state_of(rows: int) -> State:
    """Of a store with one clip a shard, and so many."""
    state = State(1)
    table = TableFile(key="log/rows-0", digest=DIGEST, length=16 * rows, footer_length=8, footer_digest=DIGEST)
    state.apply(0, [RowsAdded(first_row=0, rows=rows, table=table)])
    return state


def failed(row: int) -> UnitCommitted:
    return UnitCommitted(
        shard=row, parts=PARTS, rows=1, objects={}, failed=(FailedRow(row=row, reason="no_frames", detail=""),)
    )


def failed_units(rows: range) -> pa.Table:
    """As a checkpoint has them."""
    state = state_of(rows.stop)
    state.apply(1, [failed(row) for row in rows])
    return state.units


def seconds_to_add(state: State, units: pa.Table) -> float:
    begun = time.thread_time()
    state.add_units(units)
    return time.thread_time() - begun


def test_opening_takes_time_in_proportion_to_the_failures() -> None:
    """Were all failures so far copied for each unit, four times as many would take sixteen times as long."""
    few, many = (
        min(seconds_to_add(state_of(rows), units) for _ in range(3))
        for rows in (4_000, 16_000)
        for units in [failed_units(range(rows))]
    )
    assert many < 9 * few


def test_a_record_takes_no_longer_after_many_failures() -> None:
    one_by_one = [failed_units(range(row, row + 1)) for row in range(40)]

    def seconds(before: int) -> float:
        state = state_of(before)
        state.add_units(failed_units(range(40, before)))
        return min(seconds_to_add(state, unit) for unit in one_by_one)

    assert seconds(32_000) < 5 * seconds(500)


def test_failures_are_counted_while_others_come() -> None:
    rows = 600
    state, often = state_of(rows), sys.getswitchinterval()

    def write() -> None:
        for row in range(rows):
            state.apply(row + 1, [failed(row)])
            state.is_done("clock", np.array([row]))  # now it is taken in

    writer = threading.Thread(target=write)
    sys.setswitchinterval(1e-6)
    try:
        writer.start()
        while writer.is_alive():
            so_far = len(state.rows_failed_for("no_frames"))
            assert (state.status(np.arange(rows), PARTS) == FAILED).sum() >= so_far
        writer.join()
    finally:
        sys.setswitchinterval(often)
    assert state.rows_failed_for("no_frames") == list(range(rows))
