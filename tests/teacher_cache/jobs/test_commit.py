"""Drivers that share a store's log keep its growth within bounds, and none waits much longer than the others."""

from __future__ import annotations

import random
from heapq import heapify, heapreplace

import numpy as np
import pytest

from teacher_cache.jobs.commit import seconds_between


@pytest.mark.parametrize(("drivers", "most_a_second"), [(1, 1.0), (4, 4.0), (16, 5.0), (100, 6.0), (1000, 7.5)])
def test_many_drivers_share_the_log_evenly(drivers: int, most_a_second: float) -> None:
    """Reckoned, without the time that an append takes: drivers that always have units, and begin within a second."""
    random.seed(drivers)
    nexts = [(random.random(), driver) for driver in range(drivers)]
    heapify(nexts)
    appended, seen, waits = 0, [0] * drivers, np.ones(drivers)
    times: list[float] = []
    while nexts[0][0] < 3600:
        now, driver = nexts[0]
        appended += 1
        waits[driver] = seconds_between(appended - seen[driver])
        seen[driver] = appended
        times.append(now)
        heapreplace(nexts, (now + waits[driver], driver))
    late = [now for now in times if now >= 1200]
    assert min(drivers, 3.5) <= round(len(late) / 2400, 1) <= most_a_second
    fair = max(1.0, drivers / 4)
    assert np.quantile(waits, 0.9) < 2 * fair
    assert np.quantile(waits, 0.1) > fair / 3
